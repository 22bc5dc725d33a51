"""What an HTTP request says beside its address: the body, and how long it may take."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TypeVar

from fastapi import Request
from starlette.requests import ClientDisconnect

from galerne.errors import InvalidRequestError, RequestAbortedError
from router.api.errors import BodyTooLargeError, BodyTooSlowError
from router.api.inputs import ApiLimits, ChatCompletionInput, GenerateInput

TIMEOUT_HEADER = "X-Request-Timeout"  # seconds; the body's ``timeout`` wins

CallT = TypeVar("CallT", GenerateInput, ChatCompletionInput)


async def read_body(request: Request, limits: ApiLimits) -> bytes:
    """The body.

    Raises:
        BodyTooLargeError: It is, or says that it is.
        BodyTooSlowError: It takes longer than it may.
        RequestAbortedError: The client has left in the midst of it.
    """
    try:
        async with asyncio.timeout(limits.body_timeout_s):
            return await _read_all(request, limits.max_body_bytes)
    except TimeoutError:
        raise BodyTooSlowError(limits.body_timeout_s) from None
    except ClientDisconnect:
        raise RequestAbortedError("(http)", "the client has left") from None


async def _read_all(request: Request, max_bytes: int) -> bytes:
    length = request.headers.get("content-length", "0")
    if length.isdecimal() and int(length) > max_bytes:
        raise BodyTooLargeError(max_bytes)
    chunks, num_bytes = [], 0
    async for chunk in request.stream():
        num_bytes += len(chunk)
        if num_bytes > max_bytes:
            raise BodyTooLargeError(max_bytes)
        chunks.append(chunk)
    return b"".join(chunks)


def timed(request: Request, call: CallT) -> CallT:
    """The call, with the timeout that the header asks for.

    Raises:
        InvalidRequestError: The header is no number.
    """
    text = request.headers.get(TIMEOUT_HEADER)
    if text is None or call.timeout_s is not None:
        return call
    try:
        return replace(call, timeout_s=float(text))
    except ValueError:
        raise InvalidRequestError(TIMEOUT_HEADER, "must be a number of seconds") from None
