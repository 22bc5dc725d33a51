"""``grpc.health.v1`` with a true Watch."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

logger = logging.getLogger(__name__)

INFERENCE_SERVICE = "galerne.v1.InferenceService"
POLL_S = 0.5

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
Status: TypeAlias = int  # a value of HealthCheckResponse.ServingStatus

_SERVING: Status = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING: Status = health_pb2.HealthCheckResponse.NOT_SERVING
_SERVICE_UNKNOWN: Status = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class HealthServicer(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # has no types
    """Answers from one question, which a background task asks while anyone watches."""

    def __init__(
        self, unready_reason: Callable[[], Awaitable[str | None]], poll_s: float = POLL_S
    ) -> None:
        """``unready_reason`` tells why requests could not be served, or None if they can."""
        self._unready_reason = unready_reason
        self._poll_s = poll_s
        self._status: Status | None = None
        self._changed = asyncio.Event()
        self._num_watchers = 0
        self._task: asyncio.Task[None] | None = None

    async def Check(  # noqa: N802
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> health_pb2.HealthCheckResponse:
        """The status now; an unknown service is NOT_FOUND."""
        if not _is_known(request.service):
            await context.abort(grpc.StatusCode.NOT_FOUND, f"service: unknown {request.service!r}")
        return health_pb2.HealthCheckResponse(status=await self._ask())

    async def Watch(  # noqa: N802
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> None:
        """The status now and at every change; the stream of an unknown service stays open."""
        if not _is_known(request.service):
            await context.write(health_pb2.HealthCheckResponse(status=_SERVICE_UNKNOWN))
            await asyncio.Event().wait()  # until the client leaves
        self._num_watchers += 1
        try:
            await self._watch(context)
        finally:
            self._num_watchers -= 1
            if self._num_watchers == 0 and self._task is not None:
                self._task.cancel()
                self._task = self._status = None

    async def _watch(self, context: Context) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._poll())
        last: Status | None = None
        while True:
            changed = self._changed
            if self._status is not None and self._status != last:
                last = self._status
                await context.write(health_pb2.HealthCheckResponse(status=last))
            else:
                await changed.wait()

    async def _poll(self) -> None:
        while True:
            status = await self._ask()
            if status != self._status:
                self._status = status
                # A new event for the next change: those who wait on the old one all wake up.
                self._changed, old = asyncio.Event(), self._changed
                old.set()
            await asyncio.sleep(self._poll_s)

    async def _ask(self) -> Status:
        try:
            reason = await self._unready_reason()
        except Exception:  # whatever it is, requests would not fare better
            logger.exception("readiness_unknown")
            return _NOT_SERVING
        return _SERVING if reason is None else _NOT_SERVING


def _is_known(service: str) -> bool:
    return service in ("", INFERENCE_SERVICE)
