"""HAProxy's admin socket: whether it lives, and new certificates without a reload."""

from __future__ import annotations

import re
import socket
from pathlib import Path

from galerne.errors import GalerneError

_TIMEOUT_S = 5.0
_BLOCK = re.compile(r"-----BEGIN ([A-Z ]+)-----\n(?:[A-Za-z0-9+/=]+\n)+-----END \1-----")


class EdgeError(GalerneError):
    """The edge does not run, or did not take what it was told."""

    status = "UNAVAILABLE"

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"TLS edge: {self.reason}"


def ask(path: Path, command: str) -> str:
    """The answer to one command.

    Raises:
        EdgeError: Nobody answers.
    """
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_TIMEOUT_S)
            connection.connect(str(path))
            connection.sendall(command.encode() + b"\n")
            chunks = iter(lambda: connection.recv(65536), b"")
            return b"".join(chunks).decode(errors="replace")
    except OSError as error:
        raise EdgeError(f"its admin socket: {error}") from error


def replace_file(path: Path, kind: str, name: Path, pem: bytes) -> None:
    """Take new content for a file that is in use, for connections from now on.

    Args:
        path: The socket.
        kind: ``cert``: a certificate, those up to its CA, and the key; or ``ca-file``.
        name: The file, as the configuration has it.
        pem: Its content.

    Raises:
        EdgeError: HAProxy refuses it; the old content stays.
    """
    # A command fits in one buffer of HAProxy: CAs, which may be many, go by several.
    parts = blocks(pem) if kind == "ca-file" else ["".join(blocks(pem))]
    told = ""
    for verb, part in zip(("set", *("add",) * len(parts)), parts, strict=False):
        told = ask(path, f"{verb} ssl {kind} {name} <<\n{part}")
        if " created for " not in told and " updated for " not in told:
            break
    else:
        told = ask(path, f"commit ssl {kind} {name}")
        if "Success" in told:
            return
    ask(path, f"abort ssl {kind} {name}")
    raise EdgeError(f"{kind}: {told.strip()[:200]}")


def blocks(pem: bytes) -> list[str]:
    """The objects of a PEM file, without what lies between them. Pure."""
    text = pem.decode("ascii", errors="replace").replace("\r\n", "\n")
    return [f"{match[0]}\n" for match in _BLOCK.finditer(text)]
