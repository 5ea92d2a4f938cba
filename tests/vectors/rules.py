"""Which reference a vector case is compared with.

Two generations of the reference made the vectors (S: September 2025, F: v0.9-FINAL of May
2026). Where they differ, the overlay of a case names the rules that explain it, and each rule
has a side. ``SIDES`` is the table of docs/compatibility.md. Rules of our own come below it:
each says which cases it covers, by what the case holds, and what we answer instead.
"""

from __future__ import annotations

import base64
import copy
import hmac
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from outcome import Status

Side = Literal["F", "S", "both", "neither"]
Case = dict[str, Any]

_TABLE: dict[Side, str] = {
    "F": "committed-list nested-unsigned-commitments id-keys-percent-escaped nested-content-type-kept long-integers "
    "ans104-anchor-key ans104-bundle-little-endian ans104-committed-no-link id-segment-only-when-bare "
    "host-without-port root-redirect skip-pass-as-ok only-if-cached verify-id-with-path keys-without-commitments "
    "remove-drops-commitments dedup-trie cron-body query-results",
    "S": "hashpath-unsigned-only no-tag-on-literals bare-result-no-hashpath tag-changed ao-result-on-literals "
    "result-cache empty-sf-item",
    "both": "base-hashpath scheduler-location-moved",
    "neither": "path-junk-ignored process-must-verify percent-names-decoded node-signs-on-request ui-page build-info "
    "malformed relay-error",
}
SIDES: dict[str, Side] = {name: side for side, names in _TABLE.items() for name in names.split()}


@dataclass(frozen=True)
class Expected:
    """A case with the references' answers sorted out.

    ``base`` is S's case, ``final`` F's or None. ``case`` is the one to compare with where the
    rules agree on a side (F's keys laid over S's), and for mixed cases the S case. ``label``
    is the status of a case that compares well.
    """

    base: Case
    final: Case | None
    case: Case
    label: Status
    rules: tuple[str, ...]

    @property
    def sides(self) -> frozenset[Side]:
        """The sides of the case's rules."""
        return frozenset(SIDES[name] for name in self.rules)


def expected(case: Case) -> Expected:
    """Sort out one case as read by ``schema.load``; a rule without a side is a KeyError."""
    final = case.get("final")
    if final is None:
        return Expected(case, None, case, "equal", ())
    names = tuple(final["rules"])
    sides = {SIDES[name] for name in names}
    if sides <= {"S"}:
        return Expected(case, final, case, "rule", names)
    if sides <= {"F", "both"}:
        return Expected(case, final, {**case, **final}, "rule", names)
    return Expected(case, final, case, "mixed", names)


# -- rules of our own --------------------------------------------------------------------------


@dataclass(frozen=True)
class OwnRule:
    """A difference we chose. ``applies`` looks at what the case holds, never at its number."""

    name: str
    kind: str
    reason: str
    applies: Callable[[Case], bool]
    instead: Callable[[Case], Case]


_REFUSED = {"error": {"class": "error", "reason": "refused"}}


def _unknown_atom(case: Case) -> bool:
    failed = case["op"] == "decode" and case["msg"].get("error", {}).get("reason") == "badarg"
    return bool(failed and case["tabm"].get("ao-types") == 'alpha="atom"')


def _stray_term(case: Case) -> bool:
    """A value that decodes to one tuple of the structured-field parser."""
    found = case["msg"].get("ok") if case["op"] == "decode" else None
    return isinstance(found, dict) and any(isinstance(x, dict) and "$tuple" in x for x in found.values())


def _unloadable(case: Case) -> bool:
    reason = case.get("json_bundle", {}).get("error", {}).get("reason", "")
    return str(reason).startswith("necessary_message_not_found")


def _keep_link(case: Case) -> Case:
    links = {key[:-5]: {"$link": found} for key, found in case["msg"].items() if key.endswith("+link")}
    others = {key: found for key, found in case["msg"].items() if not key.endswith("+link")}
    return {**case, "json_bundle": case["json"], "back": {"ok": {**others, **links}}}


def _repeated_tags(case: Case) -> bool:
    names = [name for name, _ in case["tx"]["$tx"]["tags"]] if case["op"] == "ans104_item" else []
    return len(set(names)) < len(names) and all(isinstance(name, str) and name == name.lower() for name in names)


def _keep_tags(case: Case) -> Case:
    tags = {str(n): {"name": name, "value": value} for n, (name, value) in enumerate(case["tx"]["$tx"]["tags"], 1)}
    for holder in (case["tabm"]["ok"], case["msg"]):
        for commitment in holder["commitments"].values():
            commitment["original-tags"] = tags
    return {**case, "msg_verify": {"ok": {"$atom": "true"}}}


_WITH_SIGNATURE_KEY = (
    b'"alpha": world\n"signature": hello\n'
    b'"@signature-params": ("alpha" "signature");alg="hmac-sha256";keyid="constant:ao"'
)


def _keep_signature_key(case: Case) -> Case:
    mac = hmac.digest(b"constant:ao", _WITH_SIGNATURE_KEY, "sha256")
    name = {"ok": base64.urlsafe_b64encode(mac).rstrip(b"=").decode()}
    return {
        **case,
        "sig_base": {"ok": _WITH_SIGNATURE_KEY.decode()},
        "id_none": name,
        "id_all": name,
        "hashpath": name,
    }


def _escaped_in_committed(case: Case) -> bool:
    found = ((case.get("final") or {}).get("decoded_tabm") or {}).get("ok") or {}
    lists = [one["committed"] for one in found.get("commitments", {}).values()]
    return case["op"] == "commit" and "%20" not in str(lists) and any("%" in name for one in lists for name in one)


def _unescape_committed(case: Case) -> Case:
    found = case["final"]["decoded_tabm"]["ok"]
    for one in found["commitments"].values():
        one["committed"] = [urllib.parse.unquote(name) for name in one["committed"]]
    case["final"]["decoded_verify"] = {"ok": {"$atom": "true"}}
    return case


OWN: tuple[OwnRule, ...] = (
    OwnRule(
        "escaped-part-name-read",
        "httpsig",
        "A bundled map under a key that has the form of an ID: the reference escapes the part's name, reads the key "
        "back, leaves the escaped name in the committed list, and then judges its own signature bad. We read both.",
        _escaped_in_committed,
        _unescape_committed,
    ),
    OwnRule(
        "signature-key-in-id",
        "ids",
        "A key named signature makes the reference fail, as it takes it for the header. It has an ID like any other "
        "key, else messages with and without it would share one. It cannot be signed.",
        lambda case: case["op"] == "unsigned" and case["msg"] == {"alpha": "world", "signature": "hello"},
        _keep_signature_key,
    ),
    OwnRule(
        "apply-names-the-map",
        "http",
        "Given a map where the name of a key belongs, the reference goes on and complains about the next name. We "
        "name the parameter that is wrong.",
        lambda case: "~apply@1.0" in case["request"]["path"] and "&base=(" in case["request"]["path"],
        lambda case: {**case, "response": {**case["response"], "body": "'base' must be text"}},
    ),
    OwnRule(
        "sub-path-member",
        "http",
        "A path member in parentheses fails in the reference's own request hook (400, an HTML page); without the hook "
        "it resolves (ao-core 10.4). We resolve it.",
        lambda case: case["request"]["path"].startswith("/("),
        lambda case: {**case, "final": None, "response": {"malformed": "its hook fails", "headers": []}},
    ),
    OwnRule(
        "unknown-atom-accepted",
        "structured",
        "The reference refuses atoms its virtual machine has not seen yet, so that its answer depends on what ran "
        "before. We have no such table: every atom's name is accepted (ao-core 2.2).",
        _unknown_atom,
        lambda case: {**case, "msg": {"ok": {"alpha": {"$atom": case["tabm"]["alpha"]}}}},
    ),
    OwnRule(
        "stray-term-refused",
        "structured",
        "A text that is no integer under the type integer becomes an internal term of the reference's parser, which "
        "has no wire form. We refuse it (v0.9-final 1, row 13).",
        _stray_term,
        lambda case: {**case, "msg": _REFUSED},
    ),
    OwnRule(
        "unloadable-link-kept",
        "codecs",
        "Asked for a bundle, the reference fails as a whole if one linked message is not in its store. We keep the "
        "link, which says the same and can be followed elsewhere.",
        _unloadable,
        _keep_link,
    ),
    OwnRule(
        "repeated-tags-kept",
        "codecs",
        "The reference forgets how often and where a lower-case tag name was repeated, and then cannot verify the "
        "item it just read. We keep the tags, as it does itself for names with capitals.",
        _repeated_tags,
        _keep_tags,
    ),
)
OWN_NAMES = frozenset(rule.name for rule in OWN)


def own(kind: str, case: Case) -> tuple[Case, str | None]:
    """Return the case as a rule of ours rewrites it, and the rule's name (None if none applies)."""
    for rule in OWN:
        if rule.kind == kind and rule.applies(case):
            return rule.instead(copy.deepcopy(case)), rule.name
    return case, None
