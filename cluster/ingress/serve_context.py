"""Serve's gRPC context in the shape that servicers for grpc.aio expect."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import NoReturn, Protocol, cast

import grpc
from google.protobuf.message import Message

from galerne.errors import GalerneError
from router.api.grpc_servicer import Context, abort_with
from router.api.grpc_status import REQUEST_ID_KEY

logger = logging.getLogger(__name__)

Metadata = Sequence[tuple[str, str | bytes]]


class RayContext(Protocol):
    """What is used of ``ray.serve.grpc_util.RayServegRPCContext``."""

    def invocation_metadata(self) -> Metadata:
        """What the client has sent."""
        ...

    def set_code(self, code: grpc.StatusCode) -> None:
        """Set the status to end with."""
        ...

    def set_details(self, details: str) -> None:
        """Set its text."""
        ...

    def set_trailing_metadata(self, metadata: Metadata) -> None:
        """Set what the client gets with it."""
        ...


class ServeContext:
    """``abort`` and ``write`` over Serve's context, which has neither."""

    def __init__(self, context: RayContext) -> None:
        self._context = context
        self._outbox: asyncio.Queue[Message | None] = asyncio.Queue()
        self._last: Message | None = None

    def invocation_metadata(self) -> Metadata:
        """What the client has sent."""
        return self._context.invocation_metadata()

    @property
    def for_servicer(self) -> Context:
        """This, for a servicer that uses no more of a context than is here."""
        return cast("Context", self)

    async def abort(
        self, code: grpc.StatusCode, details: str = "", trailing_metadata: Metadata = ()
    ) -> NoReturn:
        """End the call with a status.

        By an exception, since Serve's own proxy loses the status of a stream that just ends. Serve
        then drops the trailing metadata, unless the exception is caught before it gets there.

        Raises:
            AbortError: Always.
        """
        self._context.set_code(code)
        self._context.set_details(details)
        self._context.set_trailing_metadata(list(trailing_metadata))
        raise grpc.aio.AbortError(details)

    def set_trailing_metadata(self, trailing_metadata: Metadata) -> None:
        """What the client gets at the end, unless the call is aborted."""
        self._context.set_trailing_metadata(list(trailing_metadata))

    async def write(self, message: Message) -> None:
        """Send a message of a stream."""
        self._last = message
        self._outbox.put_nowait(message)

    def finish(self, last: Message | None = None) -> None:
        """End the stream, after ``last`` unless that was the last message anyway."""
        if last is not None and last != self._last:
            self._outbox.put_nowait(last)
        self._outbox.put_nowait(None)

    async def written_by(self, method: Awaitable[None]) -> AsyncGenerator[Message, None]:
        """Messages that a running method writes here, until it returns or ``finish`` is called."""
        task = asyncio.ensure_future(method)
        task.add_done_callback(lambda _: self.finish())
        try:
            while (message := await self._outbox.get()) is not None:
                yield message
            if task.done():
                task.result()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def _call_of(context: ServeContext) -> str:
    """The id that a client gave its call."""
    return str(dict(context.invocation_metadata()).get(REQUEST_ID_KEY, ""))


@asynccontextmanager
async def refusing(
    context: ServeContext, enter: Callable[[Metadata], object]
) -> AsyncIterator[None]:
    """Let ``enter`` see who calls, then end the call with the status of what is raised."""
    try:
        enter(context.invocation_metadata())
        yield
    except GalerneError as error:
        await abort_with(context.for_servicer, error)
    except grpc.aio.AbortError:
        raise
    except Exception:  # Serve would send its text, with stack and host, to the client
        logger.exception("rpc_failed call=%s", _call_of(context))
        await context.abort(grpc.StatusCode.INTERNAL, "internal error")
