"""Attesters against fakes of the kernel: what is asked for, what comes of it, and everything that goes wrong."""

from __future__ import annotations

import base64
import ctypes
import errno
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hyperpy import Message, config
from hyperpy.attest import policy, sealing, statement, verifier
from hyperpy.attest.bundle import Evidence
from hyperpy.attest.snp_policy import SnpPolicy
from hyperpy.attestation import Attestation
from hyperpy.attester import base, certificates, configfs, nvidia, sev_guest
from hyperpy.attester.software import SoftwareAttester
from hyperpy.errors import AttestationError, AttesterError, CodecError, ConfigError
from hyperpy.testing import wallet
from tests.attest import fake_amd, fake_kernel, tee
from tests.attest.fake_amd import NOW, FakeAmd
from tests.attest.fake_kernel import FakeSevGuest, FakeTsm

FIELDS = {
    "purpose": b"node-identity",
    "address": bytes(range(32)),
    "key": b"\x01" + bytes(256),
    "nonce": b"n" * 32,
    "node-message": b"m" * 32,
}
SAID = statement.make(FIELDS)
DATA = SAID.report_data()
POLICY = policy.Policy("mine", snp=SnpPolicy(measurements=frozenset({fake_amd.MEASUREMENT}), vmpls=frozenset({0, 2})))


@pytest.fixture
def amd(monkeypatch: pytest.MonkeyPatch) -> FakeAmd:
    return fake_amd.trusted(monkeypatch)


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    waited: list[float] = []
    for module in (configfs, sev_guest):
        monkeypatch.setattr(module.time, "sleep", waited.append)
    return waited


def verdict(found: Evidence) -> Any:
    expected = verifier.Expected(nonce=b"n" * 32, fields={"purpose": b"node-identity"})
    return verifier.verify(replace(found, statement=SAID.encode()), POLICY, now=NOW, expected=expected)


def code_of(call: Callable[[], object]) -> str:
    with pytest.raises(AttestationError) as caught:
        call()
    assert isinstance(caught.value, AttesterError)
    assert caught.value.status == 503
    return caught.value.code


# -- configfs ------------------------------------------------------------------------------------


def test_a_report_through_configfs_verifies(amd: FakeAmd) -> None:
    tree = fake_kernel.snp(amd)
    found = configfs.Configfs(tree, configfs.provider(tree)).evidence(DATA)
    assert (found.kind, found.vek, found.chain) == ("snp", amd.vek, amd.chain)
    assert verdict(found).word == "affirming"
    assert tree.reports == [DATA]
    assert tree.entries == {}, "every entry is removed"


def test_each_report_has_an_entry_of_its_own(amd: FakeAmd) -> None:
    tree = fake_kernel.snp(amd)
    own = configfs.Configfs(tree, "sev_guest")
    for _ in range(3):
        own.evidence(DATA)
    assert len(set(tree.made)) == 3


def test_a_privilege_level_is_asked_for(amd: FakeAmd) -> None:
    own = configfs.Configfs(fake_kernel.snp(amd), "sev_guest")
    levels = {own.evidence(DATA, level).report[0x30] for level in (None, 2)}
    assert levels == {0, 2}
    low = configfs.Configfs(fake_kernel.snp(amd, floor=2), "sev_guest")
    assert code_of(lambda: low.evidence(DATA, 1)) == "attester/unavailable"


def test_somebody_else_writes_to_the_same_entry(amd: FakeAmd) -> None:
    tree = fake_kernel.snp(amd, meddle=True)
    assert code_of(lambda: configfs.Configfs(tree, "sev_guest").evidence(DATA)) == "attester/race"
    assert tree.entries == {}


@pytest.mark.parametrize(("busy", "tries"), [(1, 2), (4, 5)])
def test_a_busy_kernel_is_asked_again(amd: FakeAmd, busy: int, tries: int, no_pause: list[float]) -> None:
    tree = fake_kernel.snp(amd, busy=busy)
    assert verdict(configfs.Configfs(tree, "sev_guest").evidence(DATA)).word == "affirming"
    assert len(tree.made) == tries
    assert len(no_pause) == busy
    assert tree.entries == {}


def test_a_kernel_that_is_always_busy(amd: FakeAmd) -> None:
    tree = fake_kernel.snp(amd, busy=1000)
    assert code_of(lambda: configfs.Configfs(tree, "sev_guest").evidence(DATA)) == "attester/busy"
    assert len(tree.made) == 5
    assert tree.entries == {}


def test_another_provider_than_expected(amd: FakeAmd) -> None:
    tree = fake_kernel.snp(amd)
    own = configfs.Configfs(tree, "sev_guest")
    tree.provider = "tdx_guest"
    assert code_of(lambda: own.evidence(DATA)) == "attester/provider-mismatch"
    tree.provider = "arm_cca_guest"
    assert code_of(lambda: configfs.provider(tree)) == "attester/provider-mismatch"
    assert tree.entries == {}


@pytest.mark.parametrize("given", [b"", None], ids=["an empty table", "a kernel without auxblob"])
def test_a_host_without_certificates(amd: FakeAmd, given: bytes | None) -> None:
    tree = fake_kernel.snp(amd)
    tree.auxblob = given
    found = configfs.Configfs(tree, "sev_guest").evidence(DATA)
    assert found.vek == b""
    assert verdict(found).codes == ("endorsement/missing",)
    assert verdict(replace(found, vek=amd.vek, chain=amd.chain)).word == "affirming"


@pytest.mark.parametrize("cut", [1183, 0])
def test_a_report_of_another_size_is_refused(amd: FakeAmd, cut: int) -> None:
    tree = fake_kernel.snp(amd)
    tree.make_report = lambda data, level: amd.report(data)[:cut]
    found = configfs.Configfs(tree, "sev_guest").evidence(DATA)
    assert verdict(found).codes[0].startswith("evidence/")


def test_a_quote_through_configfs() -> None:
    quote = tee.file(tee.case("tdx/v4-uptodate-phala"), "quote")
    tree = FakeTsm(lambda data, level: quote, provider="tdx_guest", auxblob=None)
    found = configfs.Configfs(tree, configfs.provider(tree)).evidence(DATA, 1)
    assert (found.kind, found.report, found.vek) == ("tdx", quote, b"")
    assert tree.reports == [DATA]
    assert verdict(found).hardware == "failed", "a quote of somebody else is not bound to our statement"


def test_report_data_has_64_bytes(amd: FakeAmd) -> None:
    for own in (configfs.Configfs(fake_kernel.snp(amd), "sev_guest"), SoftwareAttester(bytes(32))):
        with pytest.raises(AttestationError):
            own.evidence(b"short")


def test_the_folder_of_a_real_kernel_is_used_as_such(tmp_path: Path) -> None:
    tree = configfs.Folder(tmp_path)
    tree.make("one")
    with pytest.raises(FileExistsError):
        tree.make("one")
    with pytest.raises(FileNotFoundError):
        tree.write("one", "inblob", b"x")
    (tmp_path / "one" / "inblob").touch()
    tree.write("one", "inblob", DATA)
    assert tree.read("one", "inblob") == DATA
    with pytest.raises(OSError, match=r"not empty"):  # a folder that is no configfs keeps its files
        tree.remove("one")


def test_a_machine_without_hardware_has_no_attester(tmp_path: Path) -> None:
    assert base.detect(tmp_path) is None
    assert [one.present for one in base.providers(tmp_path)] == [False, False]
    assert code_of(lambda: configfs.find(tmp_path)) == "attester/unavailable"
    assert code_of(lambda: sev_guest.find(tmp_path)) == "attester/unavailable"


# -- /dev/sev-guest ------------------------------------------------------------------------------


def guest(tmp_path: Path, kernel: FakeSevGuest, vmpl: int = 0) -> sev_guest.SevGuest:
    file = tmp_path / "sev-guest"
    file.touch()
    return sev_guest.SevGuest(file, vmpl, kernel)


def test_a_report_through_the_device_verifies(amd: FakeAmd, tmp_path: Path) -> None:
    kernel = FakeSevGuest(amd, certificates.build(amd.vek, amd.chain))
    found = guest(tmp_path, kernel).evidence(DATA)
    assert (found.kind, found.vek, found.chain) == ("snp", amd.vek, amd.chain)
    assert verdict(found).word == "affirming"
    (number, asked) = kernel.record[-1]
    assert number == 0xC0205302
    assert asked[:64] == DATA
    assert not any(asked[64:96])


def test_structures_are_the_kernel_s() -> None:
    sizes = [ctypes.sizeof(one) for one in (sev_guest.Request, sev_guest.ReportRequest, sev_guest.KeyRequest)]
    assert sizes == [32, 112, 32]


def test_a_buffer_for_certificates_that_is_too_short(amd: FakeAmd, tmp_path: Path) -> None:
    big = certificates.build(amd.vek, amd.chain).ljust(3 * 4096 + 1, b"\0")
    kernel = FakeSevGuest(amd, big)
    assert verdict(guest(tmp_path, kernel).evidence(DATA)).word == "affirming"
    rooms = [int.from_bytes(asked[104:108], "little") for _, asked in kernel.record]
    assert rooms == [4096, 4 * 4096]


def test_certificates_that_grow_or_never_fit(amd: FakeAmd, tmp_path: Path) -> None:
    growing = FakeSevGuest(amd, bytes(5000), grow=True)
    assert code_of(lambda: guest(tmp_path, growing).evidence(DATA)) == "attester/race"
    huge = FakeSevGuest(amd, bytes((1 << 20) + 1))
    assert code_of(lambda: guest(tmp_path, huge).evidence(DATA)) == "attester/unavailable"


@pytest.mark.parametrize("outcomes", [["busy"], ["again", "busy", "interrupted"], ["busy"] * 7])
def test_a_busy_host_is_asked_again(amd: FakeAmd, tmp_path: Path, outcomes: list[str], no_pause: list[float]) -> None:
    kernel = FakeSevGuest(amd, certificates.build(amd.vek, amd.chain), outcomes)
    assert verdict(guest(tmp_path, kernel).evidence(DATA)).word == "affirming"
    assert len(no_pause) == len(outcomes)


def test_a_host_that_is_always_busy(amd: FakeAmd, tmp_path: Path) -> None:
    kernel = FakeSevGuest(amd, outcomes=["busy"] * 100)
    assert code_of(lambda: guest(tmp_path, kernel).evidence(DATA)) == "attester/busy"
    assert kernel.record == []


@pytest.mark.parametrize("fault", [{"size": 1183}, {"size": 0}, {"firmware": 0x16}, {"outcomes": ["refused"]}])
def test_what_the_firmware_refuses(amd: FakeAmd, tmp_path: Path, fault: dict[str, Any]) -> None:
    kernel = FakeSevGuest(amd, **fault)
    assert code_of(lambda: guest(tmp_path, kernel).evidence(DATA)) == "attester/unavailable"


def test_the_host_of_a_device_without_certificates(amd: FakeAmd, tmp_path: Path) -> None:
    found = guest(tmp_path, FakeSevGuest(amd)).evidence(DATA, 2)
    assert (found.vek, found.chain, found.report[0x30]) == (b"", (), 2)
    assert verdict(found).codes == ("endorsement/missing",)


def test_a_device_that_cannot_be_opened(amd: FakeAmd, tmp_path: Path) -> None:
    own = sev_guest.SevGuest(tmp_path / "none", 0, FakeSevGuest(amd))
    assert code_of(lambda: own.evidence(DATA)) == "attester/unavailable"


def test_a_derived_key_depends_on_measurement_and_policy(amd: FakeAmd, tmp_path: Path) -> None:
    kernel = FakeSevGuest(amd)
    own = guest(tmp_path, kernel)
    first, again, other = own.derived_key(), own.derived_key(), own.derived_key(tcb=bytes(range(8)))
    assert len(first) == 32
    assert first == again != other
    fields = [int.from_bytes(asked[8:16], "little") for _, asked in kernel.record]
    assert fields == [0b001001, 0b001001, 0b101001]
    assert code_of(lambda: guest(tmp_path, FakeSevGuest(amd, firmware=1)).derived_key()) == "attester/unavailable"


def test_certificates_outside_the_table_are_left_out(amd: FakeAmd) -> None:
    good = certificates.build(amd.vek, amd.chain)
    assert certificates.snp_evidence(b"r", good).chain == amd.chain
    for at in range(16, 96, 24):
        wild = good[:at] + b"\xff\xff\xff\x7f" + good[at + 4 :]
        found = certificates.snp_evidence(b"r", wild)
        assert len(found.chain) + bool(found.vek) == (2 if at < 88 else 3)
    assert certificates.table(b"\1" * 30) == {}


# -- NVIDIA --------------------------------------------------------------------------------------


class FakeNvidiaTools:
    """Stands for ``verifier.cc_admin`` of NVIDIA's package: hands over a genuine report, whatever the nonce is."""

    def __init__(self) -> None:
        one = tee.case("nvidia/h100-545-full-rim")
        self.report, self.chain = tee.file(one, "report"), tee.file(one, "chain")
        self.nonces: list[str] = []

    def collect(self, nonce: str) -> list[dict[str, str]]:
        """See ``collect_gpu_evidence_remote``."""
        self.nonces.append(nonce)
        return [
            {"certificate": base64.b64encode(self.chain).decode(), "evidence": base64.b64encode(self.report).decode()}
        ]


def test_nvidia_s_tools_hand_over_reports() -> None:
    tools = FakeNvidiaTools()
    (found,) = nvidia.Nvidia(tools.collect).evidence(b"n" * 32)
    assert (found.report, found.chain, found.manifests) == (tools.report, tools.chain, ())
    assert tools.nonces == [(b"n" * 32).hex()]


@pytest.mark.parametrize(
    "given",
    [[], [{}], [{"evidence": "A===", "certificate": "AAAA"}], [{"evidence": "", "certificate": ""}], [{}] * 100, None],
)
def test_nvidia_s_tools_give_something_else(given: Any) -> None:
    assert code_of(lambda: nvidia.Nvidia(lambda nonce: given).evidence(bytes(32))) == "attester/unavailable"


def test_nvidia_s_tools_are_not_here_or_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(nonce: str) -> Any:
        raise OSError(errno.ENODEV, "no driver")

    assert code_of(lambda: nvidia.Nvidia(fail).evidence(bytes(32))) == "attester/unavailable"
    monkeypatch.setattr(nvidia, "MODULE", "a_module_that_is_nowhere")
    assert code_of(nvidia.find) == "attester/unavailable"


# -- the key that secrets are sealed to ---------------------------------------------------------


def attestation(attester: Any, name: str = "node", about: str = "1", **flags: Any) -> Attestation:
    settings = config.load(environ={}, flags={"tee.key": "derived", **flags})
    return Attestation(settings, wallet(name), lambda: Message({"a": about}), attester)


def test_a_derived_key_is_the_same_after_a_start_and_another_for_everything_else(amd: FakeAmd, tmp_path: Path) -> None:
    kernel = FakeSevGuest(amd)
    first = attestation(guest(tmp_path, kernel))
    ((_, asked),) = [one for one in kernel.record if one[0] == sev_guest.GET_DERIVED_KEY]
    fields, tcb = int.from_bytes(asked[8:16], "little"), asked[24:32]
    assert (fields, tcb) == (0b101001, fake_amd.TCB), "measurement, policy and the committed firmware"
    again = attestation(guest(tmp_path, FakeSevGuest(amd)))
    sealed = sealing.seal(b"text", first.kem, b"info")
    first.close()
    assert again.unseal(sealed, b"info") == b"text"
    assert again.kem == first.kem
    assert again.derived(b"use") != again.derived(b"other")
    device = tmp_path / "device.py"
    device.write_text("one = 1\n", "utf-8")
    others = [
        attestation(guest(tmp_path, FakeSevGuest(amd, secret=b"another chip"))),
        attestation(guest(tmp_path, FakeSevGuest(amd)), "another node"),
        attestation(guest(tmp_path, FakeSevGuest(amd)), about="other settings"),
        attestation(guest(tmp_path, FakeSevGuest(amd)), **{"devices.files": [str(device)]}),
        attestation(guest(tmp_path, FakeSevGuest(amd)), **{"devices.grant": {"x@1.0": ["attester"]}}),
        attestation(guest(tmp_path, FakeSevGuest(amd)), **{"devices.override": ["confidential@1.0"]}),
        attestation(guest(tmp_path, FakeSevGuest(amd)), **{"tee.secrets": "folder"}),
        attestation(guest(tmp_path, FakeSevGuest(amd)), **{"tee.software": True}),
        attestation(guest(tmp_path, FakeSevGuest(amd)), **{"inference.models": "folder"}),
        attestation(guest(tmp_path, FakeSevGuest(amd)), **{"inference.engine": "reference"}),
        attestation(guest(tmp_path, FakeSevGuest(amd)), **{"tee.key": "run"}),
        attestation(guest(tmp_path, FakeSevGuest(amd)), **{"tee.key": "run"}),
    ]
    assert len({one.kem for one in (first, *others)}) == 1 + len(others)
    device.write_text("one = 2\n", "utf-8")
    changed = attestation(guest(tmp_path, FakeSevGuest(amd)), **{"devices.files": [str(device)]})
    assert changed.kem not in {one.kem for one in others}
    for one in others:
        with pytest.raises(CodecError):
            one.unseal(sealed, b"info")
    for flags in ({"tee.reports": 7}, {"tee.batch": 3}, {"trail.days": 3.0}, {"store.dir": "elsewhere"}):
        assert attestation(guest(tmp_path, FakeSevGuest(amd)), **flags).kem == first.kem, flags


def test_where_no_key_is_derived_a_node_does_not_start(amd: FakeAmd, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="derived"):
        attestation(None)
    with pytest.raises(ConfigError, match="derived"):
        attestation(guest(tmp_path, FakeSevGuest(amd, firmware=1)))
    with pytest.raises(ConfigError, match="derived"):
        attestation(SoftwareAttester(bytes(32)))
