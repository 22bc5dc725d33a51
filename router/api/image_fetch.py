"""Fetches the images that a request names by URL, from allowed hosts only.

A name is looked up once and the connection made to the addresses that were checked, so a server
of names cannot answer differently the second time. Every redirect is a new URL, checked like the
first. Cookies, proxies and credentials of this process stay out of it.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from galerne.errors import InvalidRequestError
from router.api.image_urls import Host, ImageUrlPolicy, check_url
from router.chat.convert import ImageSource
from router.chat.image_files import ACCEPTED_MIME_TYPES, ImageLimits

Resolve: TypeAlias = Callable[[Host], Awaitable[list[str]]]

_MAX_FETCHES = 16  # of this frontend at one time
_REDIRECTS = (301, 302, 303, 307, 308)
_CHUNK_BYTES = 64 * 1024
_HEADERS = {
    # No compression: what is counted is what was sent.
    "Accept-Encoding": "identity",
    "Accept": ", ".join(ACCEPTED_MIME_TYPES),
    "User-Agent": "galerne",
}


async def look_up(host: Host) -> list[str]:
    """Addresses of a name, IPv4 and IPv6.

    Raises:
        OSError: There are none.
    """
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host.name, host.port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


class ImageFetcher:
    """Fetches for one frontend."""

    def __init__(
        self, policy: ImageUrlPolicy, limits: ImageLimits, resolve: Resolve = look_up
    ) -> None:
        self._policy = policy
        self._limits = limits
        self._resolve = resolve
        self._slots = asyncio.Semaphore(_MAX_FETCHES)

    @property
    def may_fetch(self) -> bool:
        """Whether any host is allowed."""
        return bool(self._policy.hosts)

    async def fetch(self, sources: Sequence[ImageSource]) -> dict[str, bytes]:
        """Files by URL, each fetched once; all at one time.

        Raises:
            InvalidRequestError: A URL is not allowed, or gives no file within the limits; names
                its field.
        """
        field_by_url = {str(s.place): s.field for s in reversed(sources)}
        for url, field in field_by_url.items():
            check_url(url, self._policy, field)  # before any is fetched
        total = _Total(self._policy.max_request_bytes)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = {
                    url: group.create_task(self._fetch(url, field, total))
                    for url, field in field_by_url.items()
                }
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from errors
        return {url: task.result() for url, task in tasks.items()}

    async def _fetch(self, url: str, field: str, total: _Total) -> bytes:
        timeout_s = self._policy.timeout_s
        try:
            async with asyncio.timeout(timeout_s), self._slots:
                return await self._follow(url, field, total)
        except TimeoutError as error:
            raise InvalidRequestError(field, f"was not there within {timeout_s:g} s") from error
        except (OSError, ValueError, aiohttp.ClientError) as error:
            problem = f"cannot be fetched: {type(error).__name__}"
            raise InvalidRequestError(field, problem) from error

    async def _follow(self, text: str, field: str, total: _Total) -> bytes:
        for _ in range(self._policy.max_redirects + 1):
            url, host = check_url(text, self._policy, field)
            async with (
                self._session(await self._addresses(host, field)) as session,
                session.get(url, allow_redirects=False) as answer,
            ):
                if answer.status not in _REDIRECTS:
                    return await self._read(answer, field, total)
                text = _target(url, answer, field)
        problem = f"redirects more than {self._policy.max_redirects} times"
        raise InvalidRequestError(field, problem)

    async def _addresses(self, host: Host, field: str) -> list[str]:
        addresses = await self._resolve(host)
        if not addresses or not all(map(self._policy.reaches, addresses)):
            problem = f"{host.name} has an address to which this server does not connect"
            raise InvalidRequestError(field, problem)
        return addresses

    def _session(self, addresses: Sequence[str]) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(
            resolver=_Checked(addresses), use_dns_cache=False, force_close=True
        )
        return aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=_HEADERS,
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=self._policy.timeout_s),
        )

    async def _read(self, answer: aiohttp.ClientResponse, field: str, total: _Total) -> bytes:
        if answer.status != 200:
            raise InvalidRequestError(field, f"its host answers {answer.status}")
        content = bytearray()
        async for chunk in answer.content.iter_chunked(_CHUNK_BYTES):
            content += chunk
            if len(content) > self._limits.max_bytes:
                raise InvalidRequestError(field, f"is larger than {self._limits.max_bytes} bytes")
            total.add(len(chunk), field)
        return bytes(content)


class _Total:
    """Bytes of all images of a request."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._num_bytes = 0

    def add(self, num_bytes: int, field: str) -> None:
        self._num_bytes += num_bytes
        if self._num_bytes > self._limit:
            problem = f"the request's images are larger than {self._limit} bytes together"
            raise InvalidRequestError(field, problem)


class _Checked(AbstractResolver):
    """Knows the addresses that were checked, and asks nobody."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self._addresses = addresses

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        del family  # that of each address
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST,
            )
            for address in self._addresses
        ]

    async def close(self) -> None:
        pass


def _target(url: URL, answer: aiohttp.ClientResponse, field: str) -> str:
    """Where a redirect leads; never from https to http."""
    location = answer.headers.get("Location", "")
    target = url.join(URL(location))
    if not location or (url.scheme == "https" and target.scheme != "https"):
        raise InvalidRequestError(field, f"its host answers {answer.status} without a usable place")
    return str(target)
