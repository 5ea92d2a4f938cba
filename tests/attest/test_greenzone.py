"""greenzone@1.0: real nodes over loopback make a zone and put one out; and what each attacker would try."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hyperpy.devices.greenzone import admission, epochs, keys

from hyperpy import Message, commitments, config, hashpath
from hyperpy.attest import software
from hyperpy.attest.bundle import Evidence
from hyperpy.attestation import Attestation
from hyperpy.attester import certificates, configfs, sev_guest
from hyperpy.encoding import b64u, b64u_decode
from hyperpy.errors import AttestationError, ConfigError, InvalidSignature, MessageError
from hyperpy.http.client import Connection, parse_url, request_form
from hyperpy.http.server import Server
from hyperpy.keys import RsaKey
from hyperpy.node import Node
from hyperpy.store.lmdb import LmdbStore
from hyperpy.store.memory import MemoryStore
from hyperpy.testing import wallet
from tests.attest import fake_amd, fake_kernel
from tests.attest.test_snp_device import HASHES, MEASURED

AT = "/~greenzone@1.0/"


@dataclass
class FakeGuest:
    """Stands for the hardware of a machine with the fake chip; or for software."""

    amd: fake_amd.FakeAmd
    measurement: bytes = MEASURED
    software: bool = False
    replay: Evidence | None = None
    provider: str = "fake"
    vmpl: int = 0

    @property
    def hardware(self) -> bool:
        """Whether it stands for hardware."""
        return not self.software

    @property
    def kind(self) -> str:
        """The type of its evidence."""
        return "software" if self.software else "snp"

    def evidence(self, report_data: bytes, level: int | None = None) -> Evidence:
        """Return evidence; a replayed one where the test says so."""
        if self.software:
            return Evidence("software", software.make(Ed25519PrivateKey.generate(), bytes(32), report_data))
        if self.replay is not None:
            return self.replay
        made = self.amd.report(report_data, vmpl=level or self.vmpl, measurement=self.measurement)
        return Evidence("snp", made, vek=self.amd.vek, chain=self.amd.chain)

    def of(self, key: RsaKey, about: Message) -> Attestation:
        """Return what a node with that key shows on this machine."""
        return Attestation(config.load(environ={}), key, lambda: about, self)


class Place:
    """A real node behind a socket."""

    def __init__(
        self,
        stack: ExitStack,
        name: str,
        amd: fake_amd.FakeAmd,
        store: Any = None,
        guest: Any = None,
        **settings: Any,
    ) -> None:
        self.guest = guest or FakeGuest(amd)
        self.key = wallet(name)
        flags = {"snp.trusted": [HASHES], "tee.reports": 10_000, **settings}
        loaded = config.load(environ={}, flags=flags)
        self.operator = wallet(f"operator of {name}")
        self.store = store or MemoryStore()
        self.node = Node(loaded, key=self.key, store=self.store, operator=self.operator.address, attester=self.guest)
        stack.callback(self.node.close)
        self.server = Server(self.node, "127.0.0.1", 0)
        self.server.start()
        stack.callback(self.server.stop)
        self.address, self.url = self.key.address, self.server.url
        self._connection = Connection()
        stack.callback(self._connection.close)

    @property
    def zone(self) -> Any:
        """What the device holds."""
        return self.node.registry.lookup("greenzone@1.0").instance.zone

    def ask(self, key: str, signer: RsaKey | None = None, **items: Any) -> Message:
        """Return the reply to a POST over the socket."""
        message = Message({"path": AT + key, "method": "POST", **items})
        if signer is not None:
            message = commitments.commit(message, signer)
        return self._connection.exchange(parse_url(self.url)[0], request_form(message))

    def order(self, key: str, **items: Any) -> Message:
        """Return the reply to an order of this node's operator."""
        return self.ask(key, self.operator, **items)

    def join(self, keeper: Place) -> Message:
        """Return the reply to the order to join."""
        return self.order("join", **{"peer-location": keeper.url, "peer-id": keeper.address})


class Zone:
    """A keeper and whoever is made beside it."""

    def __init__(self, stack: ExitStack, amd: fake_amd.FakeAmd) -> None:
        self._stack, self._amd = stack, amd
        self.keeper = self.node("keeper")
        made = self.keeper.order("init")
        assert (made["status"], made["body"]) == (200, b"Green zone initialized successfully."), made

    def node(self, name: str, store: Any = None, **settings: Any) -> Place:
        """Return another node, which knows the keeper as a peer."""
        peers = {"relay.peers": [self.keeper.url]} if hasattr(self, "keeper") else {}
        return Place(self._stack, name, self._amd, store, **{**peers, **settings})


@pytest.fixture
def amd(monkeypatch: pytest.MonkeyPatch) -> fake_amd.FakeAmd:
    return fake_amd.trusted(monkeypatch)


@pytest.fixture
def z(amd: fake_amd.FakeAmd) -> Iterator[Zone]:
    with ExitStack() as stack:
        yield Zone(stack, amd)


def refused(reply: Message, code: str = "") -> str:
    """Return what a refusal says."""
    assert reply["status"] != 200, reply
    said = reply.text("body")
    assert code in said, said
    return said


# -- what is right ---------------------------------------------------------------------------------


def test_nodes_share_a_key_and_one_is_put_out(z: Zone) -> None:
    one, two = z.node("one"), z.node("two")
    assert one.join(z.keeper)["body"] == b"Node joined green zone successfully."
    assert two.join(z.keeper)["status"] == 200
    assert one.ask("refresh")["epoch"] == 2
    everybody = sorted(place.address for place in (z.keeper, one, two))
    first = {place.zone.key("volume") for place in (z.keeper, one, two)}
    assert len(first) == 1
    assert z.keeper.zone.key("volume") != z.keeper.zone.key("cookies"), "a purpose has its own key"
    listed = z.keeper.ask("members")
    assert [name.decode() for name in listed["members"]] == everybody

    assert z.keeper.order("remove", address=two.address)["status"] == 200
    assert one.order("refresh")["epoch"] == 3
    assert one.zone.key("volume") == z.keeper.zone.key("volume") not in first
    refused(two.order("refresh"), "no member")
    assert two.zone.key("volume") in first, "it has the old key, and no other"
    assert z.keeper.ask("is_trusted", one.key)["body"] == b"true"
    assert z.keeper.ask("is_trusted", two.key)["body"] == b"false"
    assert z.keeper.ask("is_trusted")["body"] == b"false"
    assert z.keeper.ask("is_trusted", one.key, status=200)["body"] == b"false", "a reply says nothing of its signer"


def test_the_removed_one_cannot_open_what_is_sealed_to_others(z: Zone) -> None:
    one, two = z.node("one"), z.node("two")
    one.join(z.keeper)
    two.join(z.keeper)
    z.keeper.order("remove", address=two.address)
    entry, sealed = z.keeper.zone.grant(one.address, bytes(32))
    for name in (one.address, two.address):
        with pytest.raises((AttestationError, KeyError)):
            keys.unseal(sealed, two.zone.held.kem, keys.grant_info(entry, name))


def test_the_members_stand_in_a_chain_of_signed_messages(z: Zone) -> None:
    one = z.node("one")
    one.join(z.keeper)
    z.keeper.order("rotate")
    z.keeper.order("remove", address=one.address)
    listed = z.keeper.ask("members")
    entries = list(listed["entries"])
    reasons = []
    known = None
    for item in entries:
        known = epochs.read(item, z.keeper.address, known)
        reasons.append(known.reason)
    assert reasons == ["init", "join", "order", "remove"]
    assert known is not None
    assert known.after == listed.text("hashpath")
    again = commitments.content_id(entries[0])
    for item in entries[1:]:
        again = hashpath.combine(again, commitments.content_id(item))
    assert again == known.after, "the chain is that of hashpaths"
    with pytest.raises(MessageError, match="does not follow"):
        epochs.read(entries[2], z.keeper.address, epochs.read(entries[0], z.keeper.address))
    with pytest.raises(InvalidSignature):
        epochs.read(entries[1], one.address)
    forged = Message.make({**entries[1].raw_items(), "body": entries[3]["body"]}, entries[1].commitments)
    with pytest.raises(InvalidSignature):
        epochs.read(forged, z.keeper.address)


def test_a_new_epoch_begins_when_time_is_over(z: Zone, monkeypatch: pytest.MonkeyPatch) -> None:
    before = z.keeper.zone.key("volume")
    entry = z.keeper.zone.held.entry
    assert z.keeper.zone.current(entry.at + 10, 11, "p").epoch == 0
    assert z.keeper.zone.current(entry.at + 11, 11, "p").epoch == 1
    assert z.keeper.zone.held.entry.reason == "time"
    assert z.keeper.zone.key("volume") != before == z.keeper.zone.key("volume", 0)


def test_who_was_away_catches_up(z: Zone) -> None:
    one = z.node("one")
    one.join(z.keeper)
    for _ in range(5):
        z.keeper.order("rotate")
    for _ in range(100):
        z.keeper.zone.change("order", 0, "p")
    assert one.order("refresh")["epoch"] == 106
    assert one.zone.key("x") == z.keeper.zone.key("x")


def test_a_member_asks_for_news_by_itself(z: Zone) -> None:
    one, quiet = z.node("one"), z.node("two", **{"green_zone.refresh": 0})
    one.join(z.keeper)
    quiet.join(z.keeper)
    tasks = one.node.timers.list()
    assert tasks["greenzone-refresh"].text("path") == AT + "refresh"
    assert not quiet.node.timers.list()
    one.order("leave")
    assert not one.node.timers.list()
    assert one.zone.held is None
    refused(one.order("refresh"), "must join")


def test_a_peer_that_is_not_there(z: Zone) -> None:
    one = z.node("one", **{"relay.peers": ["http://127.0.0.1:1"]})
    reply = one.order("join", **{"peer-location": "http://127.0.0.1:1", "peer-id": z.keeper.address})
    assert (reply["status"], reply["body"]) == (503, b"Peer node is unreachable.")


def test_a_keeper_that_starts_again_has_its_members_and_no_key(z: Zone, amd: fake_amd.FakeAmd) -> None:
    one = z.node("one")
    one.join(z.keeper)
    old = z.keeper.zone
    again = type(old)(z.keeper.address, z.keeper.node.sign, old._store)
    assert again.members.keys() == old.members.keys()
    assert again.held.keys == {}
    assert again.current(again.held.entry.at, 1e9, "p").reason == "restart"
    assert again.key("x") != old.key("x")
    member = type(old)(one.address, one.node.sign, one.zone._store)
    assert member.held.keys == {}
    assert member.held.kem is None


def test_a_member_that_starts_again_joins_again(z: Zone, amd: fake_amd.FakeAmd, tmp_path: Path) -> None:
    with ExitStack() as stack:
        peers = {"relay.peers": [z.keeper.url]}
        before = Place(stack, "one", amd, LmdbStore(tmp_path), **peers)
        assert before.join(z.keeper)["status"] == 200
    with ExitStack() as stack:
        after = Place(stack, "one", amd, LmdbStore(tmp_path), **peers)
        assert after.zone.held.entry.epoch == 1, "what it was a member of is known"
        assert not after.ask("members")["has-key"]
        with pytest.raises(ConfigError):
            after.zone.key("volume")
        refused(after.order("refresh"), "must join")
        assert after.join(z.keeper)["epoch"] == 2
        assert after.zone.key("volume") == z.keeper.zone.key("volume")


def test_no_secret_is_stored(z: Zone, caplog: pytest.LogCaptureFixture) -> None:
    one = z.node("one")
    one.join(z.keeper)
    z.keeper.order("rotate")
    one.order("refresh")
    secrets = [next(iter(place.zone.held.keys.values())) for place in (z.keeper, one)]
    secrets += [place.zone.held.kem.private_bytes_raw() for place in (z.keeper, one)]
    secrets += [z.keeper.zone.key("volume")]
    told = [secret for raw in secrets for secret in (raw, b64u(raw).encode(), raw.hex().encode())]
    for place in (z.keeper, one):
        kept = b"\0".join(bytes(part) for table in everything(place.store) for part in table)
        assert len(kept) > 10_000
        assert not [secret for secret in told if secret in kept]
        assert not [secret for secret in told if secret in caplog.text.encode()]
        jwk = place.key.to_jwk()
        assert b64u_decode(jwk["d"]) not in kept
        assert jwk["d"].encode() not in kept


def everything(store: MemoryStore) -> Iterator[tuple[bytes, bytes]]:
    """Yield every row of a store."""
    from hyperpy.store.base import TABLES

    for table in TABLES:
        yield from store.scan(table)


def test_through_the_kernel_s_own_ways(amd: fake_amd.FakeAmd, tmp_path: Path) -> None:
    """One node asks configfs-tsm, the other /dev/sev-guest; both are fakes, and one chip signs for both."""
    (tmp_path / "sev-guest").touch()
    tree = fake_kernel.snp(amd)
    driver = fake_kernel.FakeSevGuest(amd, certificates.build(amd.vek, amd.chain))
    settings = {"green_zone.policy": {"snp": {"measurements": [fake_amd.MEASUREMENT.hex()]}}}
    with ExitStack() as stack:
        keeper = Place(stack, "keeper", amd, guest=configfs.Configfs(tree, "sev_guest"), **settings)
        assert keeper.order("init")["status"] == 200
        assert len(tree.reports) == 1
        peers = {"relay.peers": [keeper.url]}
        own = sev_guest.SevGuest(tmp_path / "sev-guest", ioctl=driver)
        one = Place(stack, "one", amd, guest=own, **settings, **peers)
        two = Place(stack, "two", amd, guest=configfs.Configfs(tree, "sev_guest"), **settings, **peers)
        assert one.join(keeper)["status"] == two.join(keeper)["status"] == 200
        assert one.order("refresh")["status"] == 200
        keys_before = {place.zone.key("volume") for place in (keeper, one, two)}
        assert len(keys_before) == 1
        assert keeper.order("remove", address=two.address)["status"] == 200
        assert one.order("refresh")["status"] == 200
        assert one.zone.key("volume") == keeper.zone.key("volume") not in keys_before
        refused(two.order("refresh"), "no member")
        assert tree.entries == {}


# -- attacks on the keeper -------------------------------------------------------------------------


def challenged(z: Zone) -> tuple[bytes, bytes, str]:
    """Return nonce, the keeper's KEM key and the zone of a challenge."""
    reply = z.keeper.ask("challenge", nonce=b64u(bytes(32)))
    assert reply["status"] == 200, reply
    shown = admission.statement.decode(reply["evidence"]["statement"])  # type: ignore[index, call-overload]
    return b64u_decode(reply.text("nonce")), shown.fields["kem"][2:], reply.text("zone")


def claim(z: Zone, key: RsaKey, guest: Any, *, bound: RsaKey | None = None, **changes: Any) -> dict[str, Any]:
    """Return what a joining node would send, with a challenge of its own; ``bound``: whom the evidence is of."""
    nonce, kem, zone = challenged(z)
    nonce = changes.pop("bind-nonce", nonce)
    about = Message({"operator": "x"})
    evidence = admission.show(guest.of(bound or key, about), X25519PrivateKey.generate(), nonce, about)
    context = keys.SECRET + zone.encode() + nonce + key.address.encode()
    made = {
        "type": "Green-Zone-Join",
        "zone": zone,
        "nonce": b64u(nonce),
        "evidence": evidence.message(),
        "node-message": about,
        "secret": b64u(keys.seal(bytes(32), kem, context)),
    }
    return {**made, **changes}


def test_a_claim_that_is_right_is_admitted(z: Zone, amd: fake_amd.FakeAmd) -> None:
    key = wallet("outsider")
    assert z.keeper.ask("join", key, **claim(z, key, FakeGuest(amd)))["status"] == 200


def test_evidence_of_another_node(z: Zone, amd: fake_amd.FakeAmd) -> None:
    mallory = wallet("mallory")
    items = claim(z, mallory, FakeGuest(amd), bound=wallet("outsider"))
    refused(z.keeper.ask("join", mallory, **items), "binding/key-mismatch")


def test_a_report_replayed_with_a_statement_of_one_s_own(z: Zone, amd: fake_amd.FakeAmd) -> None:
    mallory = wallet("mallory")
    genuine = FakeGuest(amd).evidence(b"somebody else's".ljust(64))
    items = claim(z, mallory, FakeGuest(amd, replay=genuine))
    refused(z.keeper.ask("join", mallory, **items), "binding/report-data-mismatch")


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"address": bytes(32)}, "binding/key-mismatch"),
        ({"key": b"\x01" + bytes(256)}, "binding/key-mismatch"),
        ({"key": b"\x02" + bytes(32)}, "binding/key-mismatch"),
        ({"kem": b"\x00\x10" + bytes(65)}, "binding/key-mismatch"),
        ({"purpose": b"channel"}, "binding/purpose-mismatch"),
        ({"purpose": b"key-release"}, "binding/purpose-mismatch"),
        ({"purpose": b"software/zone-join"}, "binding/purpose-mismatch"),
        ({"node-message": bytes(32)}, "binding/result-mismatch"),
        ({"not-after": bytes(7) + b"\1"}, "freshness/stale"),
    ],
    ids=str,
)
def test_statements_that_say_something_else(
    z: Zone, amd: fake_amd.FakeAmd, monkeypatch: pytest.MonkeyPatch, changes: dict[str, bytes], code: str
) -> None:
    key = wallet("outsider")
    make = admission.statement.make
    guest = FakeGuest(amd)
    nonce, kem, zone = challenged(z)
    with monkeypatch.context() as patch:
        patch.setattr(admission.statement, "make", lambda fields: make({**fields, **changes}))
        about = Message({"operator": "x"})
        shown = admission.show(guest.of(key, about), X25519PrivateKey.generate(), nonce, about)
    context = keys.SECRET + zone.encode() + nonce + key.address.encode()
    items = {"type": "Green-Zone-Join", "zone": zone, "nonce": b64u(nonce), "evidence": shown.message()}
    items |= {"node-message": about, "secret": b64u(keys.seal(bytes(32), kem, context))}
    refused(z.keeper.ask("join", key, **items), code)
    assert len(z.keeper.zone.members) == 1


def test_nonces_are_good_once(z: Zone, amd: fake_amd.FakeAmd) -> None:
    key = wallet("outsider")
    items = claim(z, key, FakeGuest(amd))
    assert z.keeper.ask("join", key, **items)["status"] == 200
    refused(z.keeper.ask("join", key, **items), "freshness/nonce-reused")
    unknown = claim(z, key, FakeGuest(amd)) | {"nonce": b64u(b"n" * 32)}
    refused(z.keeper.ask("join", key, **unknown), "freshness/nonce-mismatch")
    stale = claim(z, key, FakeGuest(amd), **{"bind-nonce": b"o" * 32})
    stale["nonce"] = b64u(challenged(z)[0])
    refused(z.keeper.ask("join", key, **stale), "freshness/nonce-mismatch")


def test_nonces_grow_old_and_few_are_kept() -> None:
    nonces, key = admission.Nonces(), X25519PrivateKey.generate()
    nonces.give(b"a", key, 1000.0)
    with pytest.raises(AttestationError, match="freshness/stale"):
        nonces.take(b"a", 1000.0 + admission.LIFE_S + 1)
    for number in range(admission.MOST + 1):
        nonces.give(b"%d" % number, key, 1000.0)
    with pytest.raises(AttestationError, match="freshness/nonce-mismatch"):
        nonces.take(b"0", 1000.0)
    assert nonces.take(b"1", 1000.0) is key


def test_wrong_software(z: Zone, amd: fake_amd.FakeAmd) -> None:
    key = wallet("outsider")
    items = claim(z, key, FakeGuest(amd, measurement=bytes(48)))
    refused(z.keeper.ask("join", key, **items), "policy/measurement-not-allowed")


def test_a_lower_privilege_level(z: Zone, amd: fake_amd.FakeAmd) -> None:
    key = wallet("outsider")
    refused(z.keeper.ask("join", key, **claim(z, key, FakeGuest(amd, vmpl=2))), "policy/vmpl")


def test_software_evidence_joins_nothing(z: Zone, amd: fake_amd.FakeAmd) -> None:
    key = wallet("outsider")
    items = claim(z, key, FakeGuest(amd, software=True))
    refused(z.keeper.ask("join", key, **items), "policy/software-not-allowed")
    evidence = items["evidence"]
    relabelled = evidence | {"evidence-type": "snp", "hardware": True}
    again = claim(z, key, FakeGuest(amd, software=True), evidence=relabelled)
    refused(z.keeper.ask("join", key, **again), "evidence/malformed")


@pytest.mark.parametrize("name", ["evidence", "node-message", "secret", "nonce", "zone"])
def test_whatever_is_missing(z: Zone, amd: fake_amd.FakeAmd, name: str) -> None:
    key = wallet("outsider")
    items = claim(z, key, FakeGuest(amd))
    del items[name]
    refused(z.keeper.ask("join", key, **items))
    assert len(z.keeper.zone.members) == 1


def test_a_join_must_be_signed_by_the_node(z: Zone, amd: fake_amd.FakeAmd) -> None:
    items = claim(z, wallet("outsider"), FakeGuest(amd))
    assert z.keeper.ask("join", **items)["status"] == 403
    assert z.keeper.ask("join", wallet("outsider"), **items, status=200)["status"] == 403, "a reply is no request"
    assert z.keeper.ask("epoch", wallet("outsider"), **(items | {"after": "0"}))["status"] == 403
    assert len(z.keeper.zone.members) == 1


def test_another_node_message_than_the_one_bound(z: Zone, amd: fake_amd.FakeAmd) -> None:
    key = wallet("outsider")
    items = claim(z, key, FakeGuest(amd), **{"node-message": Message({"operator": "y"})})
    refused(z.keeper.ask("join", key, **items), "binding/result-mismatch")


def test_settings_that_the_zone_requires(amd: fake_amd.FakeAmd) -> None:
    required = {"green_zone.required_config": {"trail-public": "self", "cors": False}, "http.cors": False}
    with ExitStack() as stack:
        keeper = Place(stack, "keeper", amd, **required)
        assert keeper.order("init")["status"] == 200
        peers = {"relay.peers": [keeper.url]}
        unlike = Place(stack, "one", amd, **peers)
        refused(unlike.join(keeper), "cors")
        like = Place(stack, "two", amd, **peers, **{"http.cors": False})
        assert like.join(keeper)["status"] == 200


def test_only_the_operator_orders(z: Zone) -> None:
    one = z.node("one")
    for key in ("init", "remove", "rotate", "leave", "become"):
        for signer in (None, wallet("mallory"), one.key, z.keeper.key):
            assert z.keeper.ask(key, signer, address=one.address)["status"] == 403, (key, signer)
    given = {"peer-location": z.keeper.url, "peer-id": z.keeper.address}
    assert one.ask("join", wallet("mallory"), **given)["status"] == 403
    assert one.ask("join", **given)["status"] == 403


@pytest.mark.parametrize("key", ["remove", "rotate", "leave"])
def test_an_order_is_good_once(z: Zone, key: str) -> None:
    one = z.node("one")
    one.join(z.keeper)
    message = Message({"path": AT + key, "method": "POST", "address": one.address})
    signed = commitments.commit(message, z.keeper.operator)
    origin = parse_url(z.keeper.url)[0]
    assert z.keeper._connection.exchange(origin, request_form(signed))["status"] == 200
    if key == "leave":
        z.keeper.order("init")
    if key == "remove":
        z.keeper.order("readmit", address=one.address)
    assert one.join(z.keeper)["status"] == 200
    entry = z.keeper.zone.held.entry
    assert z.keeper._connection.exchange(origin, request_form(signed))["status"] == 403
    assert z.keeper.zone.held.entry is entry
    again = commitments.commit(message, z.keeper.operator)
    assert z.keeper._connection.exchange(origin, request_form(again))["status"] == 200
    assert z.keeper.zone.held is None or z.keeper.zone.held.entry is not entry


def test_keys_that_the_operator_did_not_sign_are_no_part_of_its_order(z: Zone) -> None:
    one = z.node("one")
    one.join(z.keeper)
    origin = parse_url(z.keeper.url)[0]
    plain = commitments.commit(Message({"path": AT + "remove", "method": "POST"}), z.keeper.operator)
    added = Message.make({**plain.raw_items(), "address": one.address.encode()}, plain.commitments)
    assert z.keeper._connection.exchange(origin, request_form(added))["status"] in (400, 403)
    both = commitments.commit(added, wallet("mallory"), committed=["path", "method", "address"])
    assert z.keeper._connection.exchange(origin, request_form(both))["status"] in (400, 403)
    for name in ("1.address", "2.address", "3.address"):
        numbered = Message.make({**plain.raw_items(), name: one.address.encode()}, plain.commitments)
        assert z.keeper._connection.exchange(origin, request_form(numbered))["status"] in (400, 403)
    assert one.address in z.keeper.zone.members


def test_a_kem_key_that_is_none(z: Zone, amd: fake_amd.FakeAmd, monkeypatch: pytest.MonkeyPatch) -> None:
    key = wallet("outsider")
    made = admission.statement.make

    def weak(fields: Mapping[str, bytes]) -> Any:
        return made({**fields, "kem": keys.KEM + bytes(32)})

    nonce, kem, zone = challenged(z)
    with monkeypatch.context() as patch:
        patch.setattr(admission.statement, "make", weak)
        about = Message({"operator": "x"})
        shown = admission.show(FakeGuest(amd).of(key, about), X25519PrivateKey.generate(), nonce, about)
    context = keys.SECRET + zone.encode() + nonce + key.address.encode()
    items = {"type": "Green-Zone-Join", "zone": zone, "nonce": b64u(nonce), "evidence": shown.message()}
    items |= {"node-message": Message({"operator": "x"}), "secret": b64u(keys.seal(bytes(32), kem, context))}
    refused(z.keeper.ask("join", key, **items), "binding/key-mismatch")
    assert len(z.keeper.zone.members) == 1


def test_the_key_is_for_nobody(z: Zone) -> None:
    one = z.node("one")
    one.join(z.keeper)
    for signer in (None, wallet("mallory"), one.key):
        assert z.keeper.ask("key", signer)["status"] == 403
    assert z.keeper.order("become", **{"peer-location": one.url, "peer-id": one.address})["status"] == 403


def test_whatever_comes_is_refused_in_words(z: Zone, amd: fake_amd.FakeAmd) -> None:
    draw = random.Random(8)
    key = wallet("outsider")
    odd: list[Any] = [
        b"",
        b"x" * 70,
        7,
        -1,
        1.5,
        False,
        ["a", "b"],
        {"a": "b"},
        {"a": {"b": ["c"]}},
        "A" * 43,
        b64u(bytes(32)),
    ]
    for _ in range(120):
        good = claim(z, key, FakeGuest(amd))
        items = dict(good)
        for name in draw.sample(sorted(good), draw.randint(1, 3)):
            items[name] = draw.choice(odd)
        inner = dict(good["evidence"].raw_items())
        inner[draw.choice(sorted(inner.keys() - {"type"}))] = draw.choice(odd)
        items = items if draw.random() < 0.7 else {**good, "evidence": Message(inner)}
        where = draw.choice(["join", "epoch", "challenge"])
        renew = {"type": "Green-Zone-Renew", "after": draw.choice(odd)} if where == "epoch" else {}
        reply = z.keeper.ask(where, key, **{**items, **renew})
        if where != "challenge":
            assert 400 <= reply.get("status") < 500, (where, items, reply)  # type: ignore[operator]
        else:
            assert reply.get("status") in (200, 400), (items, reply)
    assert len(z.keeper.zone.members) == 1


# -- attacks on who joins --------------------------------------------------------------------------


def test_a_keeper_must_be_attested_too(z: Zone) -> None:
    one = z.node("one")
    z.keeper.guest.software = True
    refused(one.join(z.keeper), "policy/software-not-allowed")
    z.keeper.guest.software = False
    z.keeper.guest.measurement = bytes(48)
    refused(one.join(z.keeper), "policy/measurement-not-allowed")
    z.keeper.guest.measurement = MEASURED
    z.keeper.guest.replay = z.keeper.guest.evidence(bytes(64))
    refused(one.join(z.keeper), "binding/report-data-mismatch")
    assert one.zone.held is None


def test_another_keeper_than_the_one_named(z: Zone) -> None:
    one = z.node("one")
    reply = one.order("join", **{"peer-location": z.keeper.url, "peer-id": wallet("mallory").address})
    refused(reply, "binding/key-mismatch")


def test_a_grant_answers_one_request_with_the_epoch_s_own_key(z: Zone) -> None:
    one = z.node("one")
    one.join(z.keeper)
    held, zone, echo = one.zone.held, one.zone, b"e" * 32
    item = z.keeper.zone.change("order", 0, "p").message
    entry, sealed = z.keeper.zone.grant(one.address, echo)
    own = held.kem.public_key().public_bytes_raw()
    other = keys.seal(bytes(32) + echo, own, keys.grant_info(entry, one.address))
    elsewhere = keys.seal(z.keeper.zone.held.keys[entry.epoch] + echo, own, b"another context")
    for given, answer in ((other, echo), (sealed, b"f" * 32), (elsewhere, echo), (b"", echo)):
        with pytest.raises((MessageError, AttestationError)):
            zone.advanced([item], given, answer)
    with pytest.raises(MessageError, match="no key"):
        zone.advanced([item], None, echo)
    with pytest.raises(MessageError, match="follow"):
        zone.advanced([item, item], sealed, echo)
    assert zone.held is held
    assert zone.advanced([item], sealed, echo).epoch == entry.epoch
    with pytest.raises(MessageError, match="over"):
        zone.joined(z.keeper.address, z.keeper.url, item, sealed, held.kem, echo)


def test_every_key_of_an_epoch_is_signed_by_the_keeper_itself(z: Zone) -> None:
    entry = z.keeper.zone.held.entry.message
    bare = entry.with_commitments({})
    partly = commitments.commit(bare, z.keeper.key, committed=[name for name in bare if name != "body"])
    replied = commitments.commit(bare | {"status": 200}, z.keeper.key)
    for item in (partly, replied, bare, commitments.commit(bare, wallet("mallory"))):
        with pytest.raises(InvalidSignature):
            epochs.read(item, z.keeper.address)
    for name in bare:
        with pytest.raises(MessageError):
            epochs.read(commitments.commit(bare.without(name), z.keeper.key), z.keeper.address)
    lines = entry.text("body")
    for body in ("", "x", lines + "\n" + lines, lines + "\n", lines.replace(" ", "  ")):
        with pytest.raises(MessageError):
            epochs.read(commitments.commit(bare | {"body": body}, z.keeper.key), z.keeper.address)


def test_a_peer_that_the_operator_did_not_list(z: Zone) -> None:
    alone = z.node("one", **{"relay.peers": []})
    assert alone.join(z.keeper)["status"] == 403


def test_a_policy_that_names_no_software_admits_nobody(amd: fake_amd.FakeAmd) -> None:
    with ExitStack() as stack:
        keeper = Place(stack, "keeper", amd, **{"snp.trusted": []})
        refused(keeper.order("init"), "policy/measurement-not-allowed")
        named = {"snp.trusted": [], "green_zone.policy": {"snp": {"measurements": [MEASURED.hex()]}}}
        assert Place(stack, "one", amd, **named).order("init")["status"] == 200


def test_no_zone_without_hardware(amd: fake_amd.FakeAmd) -> None:
    with ExitStack() as stack:
        keeper = Place(stack, "keeper", amd, **{"green_zone.policy": {"allow-software": True}})
        keeper.guest.software = True
        refused(keeper.order("init"), "policy/software-not-allowed")


def test_info_says_what_there_is(z: Zone) -> None:
    said: Mapping[str, Any] = z.keeper.ask("info")
    told = said.get("body")
    assert isinstance(told, Message), said
    assert told.text("role") == "keeper"
    assert told["epoch"] == 0


def test_a_removed_node_stays_out_until_it_is_readmitted(z: Zone, amd: fake_amd.FakeAmd) -> None:
    """Its software is still the right one: only the operator's word keeps it out, and that outlives the keeper."""
    two = z.node("two")
    assert two.join(z.keeper)["status"] == 200
    old = z.keeper.zone.key("volume")
    assert z.keeper.order("remove", address=two.address)["status"] == 200
    for _ in range(2):
        refused(two.join(z.keeper), "removed")
    assert two.zone.key("volume") == old != z.keeper.zone.key("volume")
    refused(z.keeper.ask("readmit", two.key, address=two.address))
    refused(z.keeper.order("readmit", address=z.keeper.address), "not removed")
    assert z.keeper.order("readmit", address=two.address)["status"] == 200
    assert two.join(z.keeper)["status"] == 200
    assert two.zone.key("volume") == z.keeper.zone.key("volume")
    z.keeper.order("remove", address=two.address)
    with ExitStack() as stack:
        assert Place(stack, "keeper", amd, store=z.keeper.store).zone.removed(two.address), "after a restart, too"


def test_knocking_leaves_reports_for_results(z: Zone) -> None:
    keeper = z.node("busy", **{"tee.reports": 10})
    assert keeper.order("init")["status"] == 200
    asked = [keeper.ask("challenge", nonce=b64u(bytes([n]) * 32)) for n in range(8)]
    assert [one["status"] for one in asked].count(200) == 4, "half of ten, and one for the beginning"
    assert all(one.text("code") == "attester/rate-limited" for one in asked if one["status"] != 200)
    attester = keeper.node._lend["attester"]
    for _ in range(2):
        assert attester.evidence("channel", nonce=bytes(32)).kind == "snp"
