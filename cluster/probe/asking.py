"""Asks servers by gRPC whether they live, with one deadline for all. No Ray, no torch."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import grpc
from grpc_health.v1 import health_pb2

_CHECK = "/grpc.health.v1.Health/Check"
SERVING = "SERVING"


class HealthQuestion(NamedTuple):
    """Whom to ask by gRPC."""

    address: str  # host:port
    tls: Mapping[str, str] | None = None  # ca, key, cert and name, all files but the last
    application: str = ""  # of a Serve with several
    service: str = ""


def ask_health(questions: Sequence[HealthQuestion], timeout_s: float) -> list[str]:
    """Ask all at once; SERVING, NOT_SERVING, or why there is no answer."""
    deadline_s = time.monotonic() + timeout_s
    channels = [_channel(question) for question in questions]
    futures = []
    for question, channel in zip(questions, channels, strict=True):
        call = channel.unary_unary(
            _CHECK,
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        metadata = (("application", question.application),) if question.application else ()
        request = health_pb2.HealthCheckRequest(service=question.service)
        futures.append(call.future(request, timeout=timeout_s, metadata=metadata))
    answers = []
    for future in futures:
        try:
            status = future.result(max(0.0, deadline_s - time.monotonic())).status
            answers.append(health_pb2.HealthCheckResponse.ServingStatus.Name(status))
        except grpc.FutureTimeoutError:
            answers.append(f"no answer in {timeout_s:g} s")
        except grpc.RpcError as error:
            answers.append(f"{error.code().name}: {error.details()}")
    for channel in channels:
        channel.close()
    return answers


def _channel(question: HealthQuestion) -> grpc.Channel:
    if question.tls is None:
        return grpc.insecure_channel(question.address)
    ca, key, cert = (
        Path(question.tls[name]).read_bytes() if question.tls.get(name) else None
        for name in ("ca", "key", "cert")
    )
    options = []
    if question.tls.get("name"):
        options.append(("grpc.ssl_target_name_override", question.tls["name"]))
    credentials = grpc.ssl_channel_credentials(ca, key, cert)
    return grpc.secure_channel(question.address, credentials, options)
