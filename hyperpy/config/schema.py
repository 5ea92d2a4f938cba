"""Every setting: what it means, its type, default and range, and its name in the node message.

Nothing here may change the result of a deterministic key.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from hyperpy.message import Message


def _setting(
    default: Any,
    doc: str,
    *,
    wire: str | None = None,
    public: bool = True,
    least: float | None = None,
    most: float | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    """Declare one setting: its default, its meaning, its name in the node message, its range."""
    metadata = {"doc": doc, "wire": wire, "public": public, "least": least, "most": most, "choices": choices}
    if isinstance(default, (list, dict)):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True, kw_only=True)
class Http:
    """How the node is reached, and what its replies carry."""

    host: str = _setting("127.0.0.1", "Address to listen on.", public=False)
    port: int = _setting(8734, "Port to listen on; 0 takes a free one.", wire="port", least=0, most=65535)
    url: str = _setting("", "URL under which others reach this node; used by location@1.0.", wire="url")
    sign: bool = _setting(True, "Sign every reply.", wire="force-signed")
    sign_on_request: bool = _setting(
        False, "Let anybody have the node sign what they like. For development only.", wire="sign-on-request"
    )
    host_with_port: bool = _setting(
        False, "Keep the port in the message key 'host', as the September 2025 reference did.", wire="host-with-port"
    )
    default_request: str = _setting("/~meta@1.0/info", "Where GET / leads.", wire="default-request")
    cors: bool = _setting(True, "Allow browsers of any origin.", wire="cors")
    threads: int = _setting(64, "Worker threads.", wire="worker-threads", least=1, most=4096)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one request may cost."""

    body: int = _setting(64 << 20, "Bytes of a request's body.", least=1)
    header: int = _setting(64 << 10, "Bytes of one header line.", least=1)
    headers: int = _setting(256 << 10, "Bytes of all headers.", least=1)
    path: int = _setting(64 << 10, "Bytes of the path.", least=1)
    parts: int = _setting(256, "Parts of a path.", least=1)
    nesting: int = _setting(64, "Depth of nested messages.", least=1)
    keys: int = _setting(10_000, "Keys of one message.", least=1)
    deadline: float = _setting(30.0, "Seconds until a request is answered with 504.", least=0.001)
    steps: int = _setting(10_000, "Steps of one request, sub-steps included.", least=1)
    recursion: int = _setting(64, "Depth of resolutions inside resolutions.", least=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """Where everything is kept."""

    dir: str = _setting("hyperpy-store", "Folder of the store.", public=False)
    durable: bool = _setting(False, "Sync cache and trail to disk too, at every request.", public=False)
    quota: int = _setting(
        10 * 10**9, "Bytes of cache and trail; oldest unreferenced steps go first.", public=False, least=1 << 20
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Meta:
    """Whose node it is."""

    wallet: str = _setting("hyperpy-wallet.json", "Wallet file (JWK, RSA-4096); made if absent.", public=False)
    operator: str = _setting("", "Address that may change settings; default: that of operator.json.", public=False)
    initialized: str = _setting(
        "true",
        "'true', 'false' (only info is served) or 'permanent' (nobody changes settings).",
        wire="initialized",
        choices=("true", "false", "permanent"),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Devices:
    """Which devices run, and what they may use."""

    files: list[str] = _setting([], "Python files with devices.", public=False)
    override: list[str] = _setting([], "Bundled device names that others may replace.", public=False)
    grant: dict[str, list[str]] = _setting({}, "Capabilities granted to devices that are not bundled.", public=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Relay:
    """Who this node talks to."""

    peers: list[str] = _setting([], "Peers, as scheme://host:port, that relay and push may reach.", wire="relay-peers")
    allow_commit_request: bool = _setting(
        False, "Let the operator have relay sign what it sends (`commit-request`).", wire="relay-allow-commit-request"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Trail:
    """Who may read what was computed, and how long it is kept."""

    public: bool = _setting(True, "Let whoever holds a result ID read its trail.", wire="trail-public")
    days: float = _setting(0.0, "Days that steps are kept; 0: until room is needed.", public=False, least=0.0)
    receipts_only: bool = _setting(
        False, "Keep only what receipts, schedules and snapshots need; other steps go after an hour.", public=False
    )
    receipt_days: float = _setting(
        30.0, "Days that what a receipt of this node needs is never removed.", public=False, least=0.0
    )
    receipt_records: int = _setting(
        100_000, "Records at most that are kept for receipts; later ones are given without.", public=False, least=0
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimit:
    """How often one client address may ask."""

    requests: int = _setting(1000, "Requests per period; 0 turns the limit off.", wire="rate-limit-requests", least=0)
    period: float = _setting(60.0, "Seconds of a period.", wire="rate-limit-period", least=0.001)
    min: int = _setting(-1000, "Lowest balance of a client's bucket.", wire="rate-limit-min")
    exempt: list[str] = _setting([], "Client addresses without limit; loopback always is.", wire="rate-limit-exempt")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cache:
    """Who may write to the store over HTTP."""

    writers: list[str] = _setting([], "Addresses that may write through cache@1.0.", wire="cache-writers")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheduler:
    """Whose schedules count, and what is scheduled."""

    wallets: list[str] = _setting(
        [], "More wallet files (JWK, RSA): schedulers and authorities that this node signs for.", public=False
    )
    unsigned: bool = _setting(
        False, "Schedule messages that nobody signed. For development only.", wire="scheduler-unsigned"
    )
    mode: str = _setting(
        "local",
        "'local' (a slot is on this disk before it is answered) or 'disabled' (nothing is scheduled).",
        wire="scheduler-mode",
        choices=("local", "disabled"),
    )
    follow_redirects: bool = _setting(
        True,
        "Ask a process's scheduler on the client's behalf, where it is an allowed peer; else answer 307.",
        wire="scheduler-follow-redirects",
    )
    follow_hints: bool = _setting(
        True, "Believe the ?hint=URL of a process ID about where its scheduler is.", wire="scheduler-follow-hints"
    )
    schedulers: list[str] = _setting([], "Addresses of schedulers this node believes.", wire="schedulers")
    authorities: list[str] = _setting([], "Addresses that may speak for other processes.", wire="authorities")


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """How processes are computed and kept."""

    snapshot_slots: int = _setting(0, "Take a snapshot at every slot that this divides; 0 never.", least=0)
    snapshot_time: float = _setting(60.0, "Seconds after which the next slot takes a snapshot; 0 never.", least=0)
    now_from_cache: str = _setting(
        "false",
        "What 'now' answers: 'false' computes, 'true' the newest kept state if any, 'always' only kept states.",
        choices=("false", "true", "always"),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Push:
    """How far the messages of processes are delivered in one request."""

    depth: int = _setting(32, "Messages sent because of messages sent, one inside another.", least=0, most=1000)
    fan_out: int = _setting(256, "Messages of one slot that are delivered.", least=1)
    messages: int = _setting(
        1000, "Messages that one message leads to through push, however often it is pushed.", least=1
    )
    always_sign: bool = _setting(True, "Sign with the node's key what no authority of the target signs here.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cron:
    """Who may have paths resolved later, and how often."""

    tasks: int = _setting(1000, "Timed tasks at a time; a tenth is kept for the operator.", least=1)
    per_caller: int = _setting(
        16, "Timed tasks, and pushes for later, at a time of one address or process; the operator is exempt.", least=0
    )
    min_interval: float = _setting(0.1, "Shortest interval in seconds; for the operator 0.01.", least=0.01)


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """How names become messages."""

    resolvers: list[Any] = _setting([], "Messages, or IDs, that name@1.0 asks in turn.", wire="name-resolvers")


@dataclass(frozen=True, slots=True, kw_only=True)
class Routes:
    """Where paths lead that this node does not answer itself."""

    table: list[dict[str, Any]] = _setting(
        [], "Routes {template, node or nodes, strategy}; may be written as [[routes]].", wire="routes"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Hooks:
    """What runs before and after requests."""

    on: dict[str, Any] = _setting({}, "Handlers by event: start, request, step, response.", wire="on")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tee:
    """Evidence of the machine that this node runs on (docs/attestation.md)."""

    attest: str = _setting(
        "asked",
        "Which replies carry an attestation: 'asked', 'always' (evidence of the node's key, made once) or 'hardware' "
        "(evidence for every result).",
        choices=("asked", "always", "hardware"),
    )
    software: bool = _setting(
        False,
        "Without hardware, make evidence that proves nothing, and accept it where a policy says so. For development.",
        public=False,
    )
    reports: int = _setting(120, "Reports that the hardware is asked for in a minute at most.", public=False, least=1)
    key: str = _setting(
        "run",
        "The key that secrets are sealed to: 'run' (a new one at every start) or 'derived' (SEV-SNP: by the firmware, "
        "the same for this software and the settings that docs/attestation.md lists, on this chip; "
        "confidential processes then outlive a start).",
        choices=("run", "derived"),
        public=False,
    )
    batch: int = _setting(
        64,
        "Results that one report of the hardware stands for at most, where several wait for it; 1: each has its own.",
        public=False,
        least=1,
    )
    certificates: list[str] = _setting(
        [],
        "Files (DER): certificate of the SEV-SNP chip, its issuer, the root; used if the host gives none.",
        public=False,
    )
    collateral: str = _setting("", "File (JSON): Intel's collateral, sent along with TDX quotes.", public=False)
    secrets: str = _setting(
        "",
        "Folder of secrets for measured machines: NAME.secret, and NAME.toml, the policy that says who may have it.",
        public=False,
    )
    manifests: list[str] = _setting(
        [], "Files (XML): NVIDIA's manifests (RIM) of driver and VBIOS, sent along with GPU reports.", public=False
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Snp:
    """Which machines with SEV-SNP this node believes, in the reference's form (`snp@1.0`)."""

    trusted: list[dict[str, Any]] = _setting(
        [],
        "Trusted configurations, as `local-hashes` has them: vcpus, vcpu_type, vmm_type, guest_features, "
        "firmware, kernel, initrd, append.",
        wire="snp-trusted",
    )
    enforced_keys: list[str] = _setting(
        ["vcpus", "vcpu_type", "vmm_type", "guest_features", "firmware", "kernel", "initrd", "append"],
        "Keys of `local-hashes` that must equal those of one trusted configuration.",
        wire="snp-enforced-keys",
    )
    policy: dict[str, Any] = _setting(
        {}, "More that a report must be: a table as [snp] of a policy file.", wire="snp-policy"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class GreenZone:
    """A group of attested nodes that share keys (`greenzone@1.0`)."""

    peer_location: str = _setting("", "URL of the zone's keeper, for `join`.", wire="green-zone-peer-location")
    peer_id: str = _setting("", "Address of the zone's keeper, for `join`.", wire="green-zone-peer-id")
    policy: dict[str, Any] = _setting(
        {},
        "What members must be: a table as a whole policy file; without measurements those of [snp] trusted.",
        wire="green-zone-policy",
    )
    required_config: dict[str, Any] = _setting(
        {},
        "Settings that a member's node message must have; `self` stands for this node's own.",
        wire="green-zone-required-config",
    )
    rotation: float = _setting(
        86400.0, "Seconds after which the zone's keeper begins a new epoch.", wire="green-zone-rotation", least=1
    )
    refresh: float = _setting(
        60.0, "Seconds after which a member asks the keeper for news; 0 never.", wire="green-zone-refresh", least=0
    )
    members: int = _setting(256, "Most members.", wire="green-zone-members", least=1, most=10_000)
    compatible: bool = _setting(
        False,
        "Take and make joins as the reference does, and share an identity (`key`, `become`): weaker; see "
        "docs/attestation.md.",
        wire="green-zone-compatible",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Inference:
    """The language models that this node answers with (docs/inference.md)."""

    models: str = _setting(
        "", "Folder of the models; by default what HYPERPY_MODELS names, else hyperpy-models.", public=False
    )
    default: str = _setting("", "Model of requests that name none; by default the first, by name.", public=False)
    engine: str = _setting("", "Engine that computes; by default the fastest that passes its self-test.", public=False)
    preload: bool = _setting(True, "Load the default model when the node starts.", public=False)
    loaded: int = _setting(2, "Models held in memory at once.", public=False, least=1)
    sessions: int = _setting(16, "Answers that are made at once; more wait.", public=False, least=1)
    queue: int = _setting(16, "Answers that may wait; more are refused with 503.", public=False, least=0)
    tokens: int = _setting(4096, "Most tokens of one answer; who asks for more gets 503.", least=1)
    reuse: bool = _setting(
        True,
        "Keep what was read of a prompt for a while, for prompts that begin alike; how fast an answer begins then "
        "tells that somebody asked the like.",
        public=False,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Actors:
    """How what holds state is run: one actor per process, model or wallet."""

    mailbox: int = _setting(256, "Calls that may wait for one actor; one more is answered 503.", public=False, least=1)
    most: int = _setting(10_000, "Actors kept; beyond it the one idle longest is stopped.", public=False, least=1)
    idle: float = _setting(600.0, "Seconds after which an unused actor is stopped.", public=False, least=0.001)
    start: float = _setting(30.0, "Seconds an actor may take to start.", public=False, least=0.001)
    restarts: int = _setting(5, "Crashes of one actor within a period; one more shuts it.", public=False, least=0)
    period: float = _setting(30.0, "Seconds of that period, and of being shut.", public=False, least=0.001)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """All settings of a node.

    ``extra`` holds the free-form table ``[node]``: more keys of the node message. ``origins`` says where
    each setting that is not at its default came from.
    """

    http: Http = field(default_factory=Http)
    limits: Limits = field(default_factory=Limits)
    store: Store = field(default_factory=Store)
    meta: Meta = field(default_factory=Meta)
    devices: Devices = field(default_factory=Devices)
    relay: Relay = field(default_factory=Relay)
    trail: Trail = field(default_factory=Trail)
    rate_limit: RateLimit = field(default_factory=RateLimit)
    cache: Cache = field(default_factory=Cache)
    scheduler: Scheduler = field(default_factory=Scheduler)
    process: Process = field(default_factory=Process)
    push: Push = field(default_factory=Push)
    cron: Cron = field(default_factory=Cron)
    names: Names = field(default_factory=Names)
    routes: Routes = field(default_factory=Routes)
    hooks: Hooks = field(default_factory=Hooks)
    tee: Tee = field(default_factory=Tee)
    snp: Snp = field(default_factory=Snp)
    green_zone: GreenZone = field(default_factory=GreenZone)
    inference: Inference = field(default_factory=Inference)
    actors: Actors = field(default_factory=Actors)
    extra: Mapping[str, Any] = field(default_factory=dict)
    origins: Mapping[str, str] = field(default_factory=dict)

    def as_message(self) -> Message:
        """Return the public settings under their ``-`` names."""
        made = {
            wire: getattr(getattr(self, section), item.name)
            for section, item in each()
            if (wire := wire_name(section, item)) is not None
        }
        made["initialized"] = {"true": True, "false": False}.get(self.meta.initialized, self.meta.initialized)
        return Message({**made, **self.extra})

    def rows(self) -> list[tuple[str, Any, str, str]]:
        """Return (name, value, where it came from, meaning) of every setting, for people."""
        return [
            (
                shown(f"{section}.{item.name}"),
                getattr(getattr(self, section), item.name),
                self.origins.get(f"{section}.{item.name}", "default"),
                item.metadata["doc"],
            )
            for section, item in each()
        ]


SECTIONS = tuple(item.name for item in dataclasses.fields(Config) if item.name not in ("extra", "origins"))
CLASSES: dict[str, type] = {name: kind for name, kind in typing.get_type_hints(Config).items() if name in SECTIONS}
KINDS: dict[str, Any] = {
    f"{section}.{key}": kind for section, cls in CLASSES.items() for key, kind in typing.get_type_hints(cls).items()
}


def each() -> Iterator[tuple[str, dataclasses.Field[Any]]]:
    """Yield (section, field) of every setting, in order."""
    for section, cls in CLASSES.items():
        for item in dataclasses.fields(cls):
            yield section, item


def wire_name(section: str, item: dataclasses.Field[Any]) -> str | None:
    """Return a setting's name in the node message, or None if it is not shown there."""
    if not item.metadata["public"]:
        return None
    return item.metadata["wire"] or f"{section}-{item.name}".replace("_", "-")


def shown(name: str) -> str:
    """Return a setting's name as people write it."""
    return name.replace("_", "-")


WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    list[str]: "a list of text",
    list[Any]: "a list",
    list[dict[str, Any]]: "a list of tables",
    dict[str, list[str]]: "a table of lists of text",
    dict[str, Any]: "a table",
}
