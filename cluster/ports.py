"""TCP ports of this machine: which are free, and which addresses are loopback."""

from __future__ import annotations

import ipaddress
import secrets
import socket
from collections.abc import Mapping
from pathlib import Path

from galerne.errors import ConfigError

LOOPBACK = "127.0.0.1"
_EPHEMERAL_FILE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_EPHEMERAL_START = 32768  # Linux' default
_LOWEST = 16384
_ATTEMPTS = 200


def is_loopback(host: str) -> bool:
    """Whether an address, or the name localhost, stays on this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_free(host: str, port: int) -> bool:
    """Whether a server could bind to the port now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As servers do: connections in TIME_WAIT do not count, another listener does.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError:
            return False
    return True


def check_port(key: str, host: str, port: int) -> None:
    """Refuse a port that is taken; port 0 means any and passes.

    Raises:
        ConfigError: Names ``key`` and the port.
    """
    if port and not is_free(host, port):
        raise ConfigError(key, port, f"cannot be bound on {host}: taken, or not an address here")


def check_different(port_by_key: Mapping[str, int | None]) -> None:
    """Refuse one port for two listeners; None and 0 mean none in particular.

    Each is free before the other opens it, and with SO_REUSEPORT, which HAProxy sets, both can:
    then each gets some of the other's connections.

    Raises:
        ConfigError: Names both keys, and the port.
    """
    keys: dict[int, str] = {}
    for key, port in port_by_key.items():
        if port and (other := keys.setdefault(port, key)) != key:
            raise ConfigError(key, port, f"is {other} too: each needs a port of its own")


def free_ports(count: int, host: str = LOOPBACK) -> list[int]:
    """Different ports that are free now, outside the range that outgoing connections take.

    Raises:
        ConfigError: None were found.
    """
    ports: list[int] = []
    for _ in range(count):
        ports.append(free_range(1, host, taken=ports).start)
    return ports


def free_range(size: int, host: str = LOOPBACK, taken: list[int] | None = None) -> range:
    """Neighbouring ports that are free now and not among ``taken``.

    Raises:
        ConfigError: None were found.
    """
    above = _ephemeral_start() - size
    for _ in range(_ATTEMPTS):
        start = _LOWEST + secrets.randbelow(max(1, above - _LOWEST))
        ports = range(start, start + size)
        if not set(ports) & set(taken or ()) and all(is_free(host, port) for port in ports):
            return ports
    raise ConfigError("ports", f"{_LOWEST}-{above + size}", f"no {size} free ports on {host}")


def _ephemeral_start() -> int:
    try:
        return int(_EPHEMERAL_FILE.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return _EPHEMERAL_START
