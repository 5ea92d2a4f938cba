"""attest verify, attest report, attest policy."""

from __future__ import annotations

import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from hyperpy.cli.app import Json, err, out, show
from hyperpy.errors import AttestationError, ConfigError, HyperpyError, ParameterError

_File = Annotated[Path, typer.Argument(help="Evidence; - reads standard input.")]
_Policy = Annotated[Path | None, typer.Option("--policy", help="TOML or JSON; default: genuine, current hardware.")]
_Nonce = Annotated[str, typer.Option("--nonce", help="What the evidence must answer, base64url.")]
_Now = Annotated[int | None, typer.Option("--now", help="Seconds since 1970; default: this machine's clock.")]
_Data = Annotated[str, typer.Option("--report-data", help="The 64 bytes, in hex, that a report without statement has.")]
_Certificate = Annotated[
    list[Path], typer.Option("--certificate", help="DER file: the chip's, then its issuer's and the root's.")
]
_Insecure = Annotated[
    bool, typer.Option("--insecure-software-tee", help="Believe software evidence, where the policy does too.")
]
_MOST = 8 << 20
_QUOTES = (b"\3\0\2\0", b"\4\0\2\0", b"\5\0\2\0")
_NO_EVIDENCE = 3
_Collateral = Annotated[Path | None, typer.Option("--collateral", help="JSON file: Intel's, for a TDX or SGX quote.")]
_STATUS = {"affirming": 0, "warning": 2, "none": 2, "contraindicated": 1}


def register(app: typer.Typer) -> None:
    """Add the verbs of this file."""
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Evidence of trusted execution environments.")
    group.command()(verify)
    group.command()(report)
    group.command()(policy)
    app.add_typer(group, name="attest")


def verify(
    file: _File,
    policy: _Policy = None,
    nonce: _Nonce = "",
    report_data: _Data = "",
    now: _Now = None,
    certificate: _Certificate = [],  # noqa: B006
    collateral: _Collateral = None,
    insecure_software_tee: _Insecure = False,
    json: Json = False,
) -> None:
    """Verify evidence without any network, and say what is accepted of it.

    The file holds what tee@1.0 or an attested reply gave (base64url, or the bytes), or a bare SEV-SNP report, quote
    or Nitro document. Exit codes: 0 affirming, 1 refused, 2 with a warning, or nothing was claimed, 3 no evidence.

    Example: hyperpy attest verify evidence.txt --policy mine.toml
    """
    from hyperpy.attest import policy as policies
    from hyperpy.attest import verifier

    given = b"" if collateral is None else _read(collateral)
    try:
        evidence = _evidence(_read(file), [_read(one) for one in certificate], given)
    except HyperpyError as error:
        err.print(f"no evidence: {error.message}. {error.next_step()}", style="red", markup=False, highlight=False)
        raise typer.Exit(_NO_EVIDENCE) from None
    rules = policies.BASELINE if policy is None else policies.load(policy)
    at = datetime.now(UTC) if now is None else datetime.fromtimestamp(now, UTC)
    found = verifier.verify(
        evidence, rules, now=at, expected=_expected(nonce, report_data), insecure_software=insecure_software_tee
    )
    if json:
        said = {"verdict": found.word, "status": found.hardware, "errors": list(found.codes)}
        show({**said, **found.ear("hyperpy")}, True)
    else:
        _print(found)
    raise typer.Exit(_STATUS[found.word])


def report(
    nonce: Annotated[str, typer.Option("--nonce", help="The verifier's, 16 to 64 bytes, base64url.")] = "",
    json: Json = False,
) -> None:
    """Print which evidence this machine can make; with --nonce, a report bound to the nonce's 64 bytes.

    The report says that this machine exists, not that a node runs on it: ask the node, /~tee@1.0/attest.

    Example: hyperpy attest report
    """
    import hashlib

    from hyperpy.attester import base
    from hyperpy.codecs import canonical
    from hyperpy.encoding import b64u

    rows = [{"provider": one.name, "present": one.present, "detail": one.detail} for one in base.providers()]
    if not nonce:
        if json:
            show(rows, True)
        for row in () if json else rows:
            out.print(f"{row['provider']:16} {'yes' if row['present'] else 'no':4} {row['detail']}", markup=False)
        return
    found = base.detect()
    if found is None:
        raise ConfigError("this machine has no hardware that makes evidence", hint="Run `hyperpy attest report`.")
    made = found.evidence(hashlib.sha512(_nonce(nonce)).digest())
    print(b64u(canonical.encode(made.message())))


def policy() -> None:
    """Print a policy to begin with; its measurements are placeholders.

    Example: hyperpy attest policy > mine.toml
    """
    from hyperpy.attest.advice import WORKED

    print(WORKED, end="")


def _read(file: Path) -> bytes:
    try:
        data = sys.stdin.buffer.read(_MOST + 1) if str(file) == "-" else file.read_bytes()
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}") from None
    if len(data) > _MOST:
        raise ParameterError(f"{file} is too long for evidence")
    return data


def _evidence(data: bytes, certificates: list[bytes], collateral: bytes) -> Any:
    """Return the evidence of a file: bare, or the message of evidence or of an attestation."""
    from hyperpy import attested
    from hyperpy.attest import bundle, snp
    from hyperpy.attest.bundle import Evidence
    from hyperpy.codecs import canonical
    from hyperpy.encoding import b64u_decode
    from hyperpy.message import Message

    if len(data) == snp.SIZE and data[:4] in (b"\2\0\0\0", b"\3\0\0\0", b"\4\0\0\0", b"\5\0\0\0"):
        made = Evidence("snp", data)
    elif len(data) > snp.SIZE - 200 and data[:4] in _QUOTES:
        made = Evidence("tdx" if data[4:8] == b"\x81\0\0\0" else "sgx", data)
    elif data[:1] in (b"\x84", b"\xd2") and b"SHA384" in data[:4096]:
        made = Evidence("nitro", data)
    else:
        try:
            found = canonical.decode(data if data[:1] >= b"\x80" else b64u_decode(data.strip()))
            if not isinstance(found, Message):
                raise ParameterError("no message")
            whole = "level" in found
            made = attested.decode(canonical.encode(found)).evidence if whole else bundle.read(found)
        except AttestationError:
            raise
        except (HyperpyError, ValueError):
            raise ParameterError("the file holds no evidence", hint="Give what /~tee@1.0/attest answered.") from None
    if certificates:
        made = replace(made, vek=certificates[0], chain=tuple(certificates[1:]))
    return replace(made, collateral=collateral) if collateral else made


def _expected(nonce: str, report_data: str) -> Any:
    from hyperpy.attest.verifier import Expected

    try:
        data = bytes.fromhex(report_data) if report_data else None
    except ValueError:
        raise ParameterError("--report-data is 64 bytes in hex", name="report-data") from None
    if not nonce and data is None:
        return None
    return Expected(nonce=_nonce(nonce) if nonce else None, report_data=data)


def _nonce(text: str) -> bytes:
    from hyperpy.encoding import b64u_decode

    try:
        found = b64u_decode(text)
    except (HyperpyError, ValueError):
        found = b""
    if not 16 <= len(found) <= 64:
        raise ParameterError("a nonce has 16 to 64 bytes, in base64url", name="nonce")
    return found


def _print(found: Any) -> None:
    from hyperpy.attest.advice import ADVICE

    out.print(f"{found.word}  policy {found.policy}", markup=False, highlight=False, soft_wrap=True)
    for name, part in found.parts.items():
        checks = ", ".join(f"{check} {outcome}" for check, outcome in part.checks)
        out.print(f"  {name}  {part.kind}  {checks}; revocation {part.revocation}", markup=False, soft_wrap=True)
        for code in part.codes:
            meaning, then = ADVICE[code]
            text = f"  {name}  {code}: {meaning}; {then}"
            err.print(text, style="red", markup=False, highlight=False, soft_wrap=True)
    if not found.codes and found.word != "affirming":
        text = "  genuine, but the policy does not say which software may run: see `hyperpy attest policy`"
        err.print(text, markup=False, highlight=False, soft_wrap=True)
