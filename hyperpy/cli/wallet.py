"""wallet new, wallet show."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hyperpy.cli.app import Json, show


def register(app: typer.Typer) -> None:
    """Add the verbs of this file."""
    group = typer.Typer(no_args_is_help=True, help="Wallets: RSA-4096 keys in JWK files.")
    group.command("new")(new)
    group.command("show")(show_wallet)
    app.add_typer(group, name="wallet")


_File = Annotated[Path, typer.Argument(help="Wallet file.")]


def new(file: _File = Path("hyperpy-wallet.json"), json: Json = False) -> None:
    """Make a wallet file, readable by you alone; an existing file is never overwritten.

    Example: hyperpy wallet new mine.json
    """
    from hyperpy.keys import RsaKey

    key = RsaKey.create(file)
    show({"file": str(file), "address": key.address}, json)


def show_wallet(file: _File = Path("hyperpy-wallet.json"), json: Json = False) -> None:
    """Print a wallet's address.

    Example: hyperpy wallet show mine.json
    """
    from hyperpy.keys import RsaKey

    show({"file": str(file), "address": RsaKey.load(file).address}, json)
