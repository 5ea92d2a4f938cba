"""The launch digest: recorded vectors, an independent implementation, and what cannot be measured."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from hyperpy.attest import hyperbeam, measure, snp, vmsa
from hyperpy.encoding import sha256
from hyperpy.errors import EvidenceError, ParameterError
from tests.attest import tee

FOLDER = tee.DEFAULT / "measure"
VECTORS: dict[str, Any] = json.loads((FOLDER / "vectors.json").read_text("utf-8")) if FOLDER.is_dir() else {}


def machine(row: dict[str, Any]) -> measure.Machine:
    return measure.Machine(row["vcpus"], vmsa.CPU_SIGNATURES[row["vcpu_type"]], row["guest_features"], row["vmm"])


def test_the_vectors_are_there() -> None:
    if not VECTORS:
        pytest.skip(f"no launch-digest vectors in {FOLDER}")
    assert {name: int(value, 16) for name, value in VECTORS["cpu_sigs"].items()} == vmsa.CPU_SIGNATURES


@pytest.mark.parametrize("row", VECTORS.get("hyperbeam", ()), ids=lambda row: row["name"])
def test_from_hashes_and_a_profile(row: dict[str, Any]) -> None:
    boot = measure.Boot(*(bytes.fromhex(row[f"{name}_sha256"]) for name in ("kernel", "initrd", "cmdline")))
    layout = measure.PROFILES[row["profile"]]
    got = measure.launch_digest(machine(row), layout, boot, ovmf_hash=bytes.fromhex(row["ovmf_hash"]))
    assert got.hex() == row["measurement"]


@pytest.mark.parametrize("number", range(len(VECTORS.get("full_firmware", ()))))
def test_from_a_firmware_file(number: int) -> None:
    row = VECTORS["full_firmware"][number]
    image = (FOLDER / row["firmware"]).read_bytes()
    boot = None
    if row["kernel_sha256"] is not None:
        cmdline = sha256(row["cmdline"].encode() + b"\0")
        boot = measure.Boot(bytes.fromhex(row["kernel_sha256"]), bytes.fromhex(row["initrd_sha256"]), cmdline)
    digest = measure.firmware_digest(image)
    got = measure.launch_digest(machine(row), measure.layout_of(image), boot, ovmf_hash=digest)
    assert got.hex() == row["measurement"]


@pytest.mark.parametrize("vmm", ["qemu", "ec2", "gce"])
def test_agrees_with_sev_snp_measure(vmm: str, tmp_path: Path) -> None:
    if not VECTORS:
        pytest.skip(f"no firmware in {FOLDER}")
    guest = pytest.importorskip("sevsnpmeasure.guest", reason="install sev-snp-measure")
    from sevsnpmeasure.vmm_types import VMMType

    theirs_of = {one.name.lower(): one for one in VMMType}
    kernel, initrd = tmp_path / "kernel", tmp_path / "initrd"
    kernel.write_bytes(b"a kernel")
    initrd.write_bytes(b"an initrd")
    file = FOLDER / "ovmf_AmdSev_suffix.bin"
    theirs = guest.snp_calc_launch_digest(
        3, vmsa.CPU_SIGNATURES["EPYC-Milan"], str(file), str(kernel), str(initrd), "quiet", 1, "", theirs_of[vmm]
    )
    image = file.read_bytes()
    boot = measure.Boot.of_files(b"a kernel", b"an initrd", "quiet")
    ours = measure.launch_digest(
        measure.Machine(3, vmsa.CPU_SIGNATURES["EPYC-Milan"], 1, vmm),
        measure.layout_of(image),
        boot,
        ovmf_hash=measure.firmware_digest(image),
    )
    assert ours == theirs


@pytest.mark.parametrize("one", [one for one in tee.cases() if one.get("hyperbeam", {}).get("local_hashes")], ids=str)
def test_hyperbeam_reports_measure_what_they_say(one: tee.Case) -> None:
    report = snp.parse(tee.file(one, "report"))
    assert hyperbeam.measurement(one["hyperbeam"]["local_hashes"]) == report.measurement


def test_what_cannot_be_measured() -> None:
    layout = measure.PROFILES["hyperbeam-ovmf-1.55"]
    good = measure.Machine(1, 0x800F12)
    with pytest.raises(ParameterError, match="vcpus"):
        measure.launch_digest(measure.Machine(0, 1), layout, ovmf_hash=bytes(48))
    with pytest.raises(ParameterError, match="vmm"):
        measure.launch_digest(measure.Machine(1, 1, 1, "xen"), layout, ovmf_hash=bytes(48))
    with pytest.raises(ParameterError, match="48"):
        measure.launch_digest(good, layout, ovmf_hash=b"")
    with pytest.raises(ParameterError, match="4096"):
        measure.firmware_digest(b"x")
    for image in (bytes(4096), b"\xff" * 8192):
        with pytest.raises(ParameterError, match="footer"):
            measure.layout_of(image)
    with pytest.raises(EvidenceError, match="lacks kernel"):
        hyperbeam.measurement({name: 1 for name in hyperbeam.HASHES if name != "kernel"})


def image_asking_for(sections: int, pages: int) -> bytes:
    """Return a small image whose metadata asks for ``sections`` times ``pages`` pages of zeros."""
    size, at = 8192, 1024
    made = bytearray(size)
    rows = b"".join(struct.pack("<III", 0, pages * measure.PAGE, 1) for _ in range(sections))
    made[at : at + 16 + len(rows)] = struct.pack("<4sIII", b"ASEV", 0, 1, sections) + rows

    def entry(guid: bytes, data: bytes) -> bytes:
        return data + struct.pack("<H", len(data) + 18) + guid

    body = entry(measure._RESET, struct.pack("<I", 0)) + entry(measure._METADATA, struct.pack("<I", size - at))
    footer = body + struct.pack("<H", len(body) + 18) + measure._FOOTER
    made[size - 32 - len(footer) : size - 32] = footer
    return bytes(made)


def test_an_image_that_asks_for_more_than_it_may_is_refused_before_anything_is_hashed() -> None:
    most = measure.MAX_FIRMWARE // measure.PAGE
    assert len(measure.layout_of(image_asking_for(2, most // 2)).sections) == 2
    with pytest.raises(ParameterError, match="64 MiB"):
        measure.layout_of(image_asking_for(60, most))
