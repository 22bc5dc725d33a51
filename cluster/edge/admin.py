"""HAProxy's admin socket: whether it lives, and new certificates without a reload."""

from __future__ import annotations

import socket
from pathlib import Path

from galerne.errors import GalerneError

_TIMEOUT_S = 5.0


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
        kind: ``cert`` or ``ca-file``.
        name: The file, as the configuration has it.
        pem: Its content.

    Raises:
        EdgeError: HAProxy refuses it; the old content stays.
    """
    # A blank line ends what is given to a command.
    lines = [line for line in pem.decode("ascii", errors="replace").splitlines() if line.strip()]
    told = ask(path, f"set ssl {kind} {name} <<\n" + "\n".join(lines) + "\n")
    if "ransaction" not in told:
        raise EdgeError(f"{kind}: {told.strip()[:200]}")
    told = ask(path, f"commit ssl {kind} {name}")
    if "Success" not in told:
        ask(path, f"abort ssl {kind} {name}")
        raise EdgeError(f"{kind}: {told.strip()[:200]}")
