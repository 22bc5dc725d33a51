"""What every gRPC call ends with: an error as ``google.rpc.Status``, and the call's id."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, NamedTuple, TypeAlias

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from galerne.errors import GalerneError, InvalidRequestError
from router.api.errors import retry_after_s
from router.api.request_ids import request_id_from

Metadata: TypeAlias = Iterable[tuple[str, str | bytes]]

REQUEST_ID_KEY = "x-request-id"
_DOMAIN = "galerne"
# Of a message. It is sent three times, once with three bytes for each that is not ASCII, twice in
# base 64, and trailers may have 8 KiB in all.
_MAX_BYTES = 800


class Ending(NamedTuple):
    """How a call ends."""

    code: grpc.StatusCode
    text: str
    trailers: tuple[tuple[str, str | bytes], ...]


def ending_of(error: GalerneError, metadata: Metadata | None) -> Ending:
    """The status of an error, with details that say which field, or when to come back.

    ``metadata`` is what the client has sent.
    """
    text = _cut(str(error))
    request_id = request_id_of(metadata)
    code = grpc.StatusCode[error.status]
    status = status_pb2.Status(code=code.value[0], message=text)
    for detail in _details(error, text, request_id):
        status.details.add().Pack(detail)
    packed: Any = rpc_status.to_status(status)
    trailers = [*packed.trailing_metadata, (REQUEST_ID_KEY, request_id)]
    seconds = retry_after_s(error)
    if seconds is not None:
        trailers.append(("retry-after", str(seconds)))
    return Ending(code, text, tuple(trailers))


def request_id_of(metadata: Metadata | None) -> str:
    """The id that a client gave its call, or a new one."""
    given = dict(metadata or ()).get(REQUEST_ID_KEY)
    return request_id_from(given if isinstance(given, str) else None)


def _cut(text: str) -> str:
    return text.encode("utf-8", "replace")[:_MAX_BYTES].decode("utf-8", "ignore")


def _details(error: GalerneError, text: str, request_id: str) -> Iterable[Message]:
    name = type(error).__name__.removesuffix("Error")
    reason = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).upper()
    yield error_details_pb2.ErrorInfo(reason=reason, domain=_DOMAIN)
    yield error_details_pb2.RequestInfo(request_id=request_id)
    if isinstance(error, InvalidRequestError):
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=error.field, description=_cut(error.problem)
        )
        yield error_details_pb2.BadRequest(field_violations=[violation])
    seconds = retry_after_s(error)
    if seconds is not None:
        info = error_details_pb2.RetryInfo()
        info.retry_delay.FromSeconds(seconds)
        yield info
