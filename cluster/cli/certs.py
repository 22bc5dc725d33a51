"""``galerne certs``: a small CA and certificates for trying TLS."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from cluster.certificates import SmallAuthority
from galerne.errors import ConfigError
from galerne.internal_tls import DEFAULT_NAME

_LOCAL = ("localhost", "127.0.0.1", "::1")


def certs(
    directory: Annotated[Path, typer.Argument(help="where the files go; made if missing")],
    host: Annotated[
        list[str] | None, typer.Option(help="name or address that clients use; may be repeated")
    ] = None,
    days: Annotated[int, typer.Option(min=1, max=3650, help="how long they are valid")] = 30,
) -> None:
    """Make a CA, and certificates for clients' TLS, a client, and our own processes.

    For trying: a deployment has a CA of its own (cert-manager, Vault).
    """
    authority = SmallAuthority(days)
    try:
        server = authority.issue("galerne", (*_LOCAL, *(host or ())))
    except ValueError as error:  # such as letters beyond ASCII: written as xn--...
        raise ConfigError("host", ", ".join(host or ()), str(error)) from error
    identities = {
        "server": server,
        "client": authority.issue("client", ("client",)),
        "internal": authority.issue(DEFAULT_NAME, (DEFAULT_NAME,)),
    }
    files = {"ca.pem": authority.certificate, "ca-key.pem": authority.key}
    for name, identity in identities.items():
        files |= {f"{name}.pem": identity.certificate, f"{name}-key.pem": identity.key}
    write_private(directory, files)
    console = Console(highlight=False)
    ca = directory / "ca.pem"
    console.print(f"{len(files)} files in {directory}, valid for {days} days", markup=False)
    for line in (
        f"galerne serve --tls-cert {directory}/server.pem --tls-key {directory}/server-key.pem \\",
        f"    --internal-tls-cert {directory}/internal.pem \\",
        f"    --internal-tls-key {directory}/internal-key.pem --internal-tls-ca {ca}",
        f"curl --cacert {ca} https://localhost:8000/v1/models",
        f"GALERNE_TLS_CA={ca} galerne status --target grpcs://localhost:9000",
    ):
        console.print(line, markup=False, soft_wrap=True)


def write_private(directory: Path, content_by_name: dict[str, bytes]) -> None:
    """Write files for this user alone.

    Raises:
        ConfigError: One is there already, or cannot be written.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in content_by_name:  # before any is written: a CA beside others' certificates
            if (directory / name).exists():
                raise FileExistsError(errno.EEXIST, "exists already", str(directory / name))
        for name, content in content_by_name.items():
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
            with os.fdopen(os.open(directory / name, flags, 0o600), "wb") as file:
                file.write(content)
    except OSError as error:
        raise ConfigError("directory", error.filename or directory, str(error)) from error
