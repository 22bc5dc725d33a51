"""Asks a server all requests of a batch, so many at a time."""

from __future__ import annotations

import asyncio
import json
import math
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import httpx

from cluster.batch.lines import BatchRequest, answer_line
from galerne.errors import ConfigError, NotServingError

_RETRIED = frozenset({429, 502, 503})  # the server asks to come back
_FIRST_DELAY_S, _MAX_DELAY_S = 0.25, 15.0
_CONNECT_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSettings:
    """How a batch is asked."""

    url: str  # of the server
    api_key: str = ""
    concurrency: int = 16  # requests at a time
    timeout_s: float = 3600.0  # of one request
    patience_s: float = 60.0  # for a server that is away or full


async def run_batch(
    requests: Iterator[BatchRequest],
    settings: BatchSettings,
    on_answer: Callable[[bytes, int], None],
    transport: httpx.AsyncBaseTransport | None = None,
) -> None:
    """Ask all requests; ``on_answer`` gets each answer's line and HTTP status, as they come.

    A server that is full is asked again until the patience ends, then what it says is the answer.

    Raises:
        ConfigError: The server's address is none.
        NotServingError: It was away for longer than the patience. What it had not answered has no
            line, so the batch can go on later.
    """
    _check_url(settings.url)
    headers = {
        "Content-Type": "application/json",
        "X-Request-Timeout": f"{settings.timeout_s:g}",
    }
    if settings.api_key:
        headers["Authorization"] = f"Bearer {settings.api_key}"
    wait = httpx.Timeout(settings.timeout_s + _CONNECT_S, connect=_CONNECT_S)
    limits = httpx.Limits(max_connections=settings.concurrency)
    async with httpx.AsyncClient(
        base_url=settings.url, headers=headers, timeout=wait, limits=limits, transport=transport
    ) as client:

        async def work() -> None:
            for request in requests:  # shared: each is taken by one worker
                response = await _ask(client, request, settings.patience_s)
                on_answer(_line_of(request, response), response.status_code)

        workers = [asyncio.create_task(work()) for _ in range(settings.concurrency)]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)


def _check_url(url: str) -> None:
    """Raises ConfigError; httpx itself would ask until the patience ends."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ConfigError("server", url, str(error)) from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ConfigError("server", url, "must be http://HOST:PORT or https://HOST:PORT")


async def _ask(
    client: httpx.AsyncClient, request: BatchRequest, patience_s: float
) -> httpx.Response:
    # Escaped, not httpx's own JSON: what a file may say, such as half a surrogate pair or NaN, is
    # for the server to refuse, and must not end the run, and every later one, at this line.
    content = json.dumps(request.body).encode()
    deadline, delay_s = math.inf, _FIRST_DELAY_S
    while True:
        wait_s, problem = delay_s, None
        try:
            response = await client.post(request.url, content=content)
        except httpx.TransportError as error:
            problem = error
        else:
            if response.status_code not in _RETRIED:
                return response
            wait_s = max(delay_s, _retry_after_s(response))
        # From the first failure on: the request may have run for long before.
        deadline = min(deadline, time.monotonic() + patience_s)
        if time.monotonic() + wait_s > deadline:
            if problem is None:
                return response
            reason = f"{client.base_url}: {problem or type(problem).__name__}"
            raise NotServingError(reason) from problem
        await asyncio.sleep(wait_s)
        delay_s = min(2 * delay_s, _MAX_DELAY_S)


def _retry_after_s(response: httpx.Response) -> float:
    text = response.headers.get("retry-after", "")
    return float(text) if text.isdecimal() else 0.0


def _line_of(request: BatchRequest, response: httpx.Response) -> bytes:
    try:
        body = response.json()
    except ValueError:  # of a proxy in between
        body = {"error": {"message": response.text[:1000], "type": "server_error"}}
    request_id = response.headers.get("x-request-id", "")
    answer_id = f"batch_req_{secrets.token_hex(12)}"
    return answer_line(request.custom_id, answer_id, response.status_code, request_id, body)
