"""Which image URLs may be fetched, and which addresses may be connected to. No I/O.

A URL is read once, by the library that connects: what was checked is what is asked for.
"""

from __future__ import annotations

import ipaddress
import math
import re
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from yarl import URL

from galerne.errors import ConfigError, InvalidRequestError

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

_MIB = 1024 * 1024
_PORT_BY_SCHEME = {"http": 80, "https": 443}
_ENTRY = re.compile(r"(\*|(?:\*\.)?[a-z0-9_-]+(?:\.[a-z0-9_-]+)*)(?::(\d{1,5}))?")
# What ``ipaddress`` takes for global, at least in some Python: protocol assignments (Teredo among
# them), 6to4 and its relays, NAT64: ways to an IPv4 address that would not be looked at.
_NOT_PUBLIC = tuple(
    map(
        ipaddress.ip_network,
        ("192.0.0.0/24", "192.88.99.0/24", "2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"),
    )
)
_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")  # the only IPv6 that is assigned


class Host(NamedTuple):
    """A name and the port at which it is asked."""

    name: str
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageUrlPolicy:
    """From where images are fetched; from nowhere unless hosts are named."""

    hosts: tuple[str, ...] = ()  # example.org, example.org:8443, *.example.org, * for all
    networks: tuple[str, ...] = ()  # not public, yet allowed: 10.1.0.0/16
    timeout_s: float = 10.0  # of one image, with its redirects
    max_redirects: int = 3
    max_request_bytes: int = 64 * _MIB  # of all images that one request has fetched

    def __post_init__(self) -> None:
        for entry in self.hosts:
            matched = _ENTRY.fullmatch(entry.lower())
            if matched is None or int(matched[2] or 1) not in range(1, 65536):
                problem = "must be a host name with or without port, as example.org, *.example.org"
                raise ConfigError("image_url_hosts", entry, problem)
        for entry in self.networks:
            try:
                ipaddress.ip_network(entry)
            except ValueError as error:
                raise ConfigError("image_url_networks", entry, str(error)) from error
        if not 0 < self.timeout_s < math.inf:
            raise ConfigError("images.timeout_s", self.timeout_s, "must be above 0 seconds")
        if self.max_redirects < 0:
            raise ConfigError("images.max_redirects", self.max_redirects, "must not be negative")
        if self.max_request_bytes < 1:
            problem = "must be at least 1"
            raise ConfigError("images.max_request_bytes", self.max_request_bytes, problem)

    def allows(self, host: Host, scheme: str) -> bool:
        """Whether a host is on the list: without a port, an entry means the scheme's own."""
        for entry in self.hosts:
            name, _, port = entry.lower().partition(":")
            if host.port == int(port or _PORT_BY_SCHEME[scheme]) and _is_named(host.name, name):
                return True
        return False

    def reaches(self, address: str) -> bool:
        """Whether an address may be connected to: it is public, or in ``networks``."""
        parsed = _parse(address)
        if parsed is None:
            return False
        return any(parsed in ipaddress.ip_network(n) for n in self.networks) or _is_public(parsed)


def check_url(text: str, policy: ImageUrlPolicy, field: str) -> tuple[URL, Host]:
    """A URL that may be asked for, and the host behind it.

    Raises:
        InvalidRequestError: It may not; names ``field``.
    """
    try:
        url = URL(text)
        host, port = url.raw_host, url.port
    except ValueError as error:
        raise InvalidRequestError(field, "is not a URL") from error
    if url.scheme not in _PORT_BY_SCHEME or not host or not port:
        raise InvalidRequestError(field, "must be a http or https URL")
    if url.user is not None or url.password is not None:
        raise InvalidRequestError(field, "must not hold a user or password")
    found = Host(host.rstrip(".").lower(), port)
    if not policy.allows(found, url.scheme):
        problem = f"{found.name} at port {found.port} is not among the hosts of image URLs"
        raise InvalidRequestError(field, f"{problem} that this server allows")
    return url.with_fragment(None), found


def _is_named(name: str, pattern: str) -> bool:
    if pattern == "*":
        return True
    if pattern.startswith("*."):
        return name.endswith(pattern[1:]) and len(name) > len(pattern) - 1
    return name == pattern


def _parse(text: str) -> Address | None:
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None)
    return address if mapped is None else mapped


def _is_public(address: Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address) and address not in _GLOBAL_UNICAST:
        return False
    if any(address in network for network in _NOT_PUBLIC):
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved
