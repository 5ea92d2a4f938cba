"""The page of settings, made from what the dataclasses say."""

from __future__ import annotations

import dataclasses

from hyperpy.config.schema import CLASSES, KINDS, WORDS, shown, wire_name


def as_markdown() -> str:
    """Return the table of all settings for docs/configuration.md."""
    lines: list[str] = []
    for section, cls in CLASSES.items():
        lines += [f"### [{shown(section)}]", "", str(cls.__doc__), ""]
        lines += ["| key | type | default | in the node message | meaning |", "| --- | --- | --- | --- | --- |"]
        for item in dataclasses.fields(cls):
            default = item.default if item.default_factory is dataclasses.MISSING else item.default_factory()
            wire = wire_name(section, item)
            cells = (
                f"`{shown(item.name)}`",
                WORDS[KINDS[f"{section}.{item.name}"]],
                f"`{str(default).lower() if isinstance(default, bool) else default if default != '' else chr(34) * 2}`",
                f"`{wire}`" if wire else "",
                item.metadata["doc"].replace("|", "\\|"),
            )
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"
