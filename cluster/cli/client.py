"""A small gRPC client of a running server, for the CLI."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Annotated, Any

import grpc
import typer
from rich.console import Console

from cluster.tls_files import missing_half, tls_of_environment
from galerne.errors import ConfigError
from galerne.v1 import cluster_pb2_grpc, inference_pb2_grpc

CONNECT_TIMEOUT_S = 5.0
CALL_TIMEOUT_S = 20.0
_TLS = "grpcs://"
Target = Annotated[
    str,
    typer.Option(
        help="gRPC address of a running server; grpcs://host:port with TLS, by the files that "
        "GALERNE_TLS_CA, and GALERNE_TLS_CERT and GALERNE_TLS_KEY, name"
    ),
]
ApiKey = Annotated[str, typer.Option(envvar="GALERNE_API_KEY", help="API key, if the server asks")]
DEFAULT_TARGET = "127.0.0.1:9000"
_WIDTH = 160  # where the output is no terminal


def connect_cluster(target: str) -> AbstractContextManager[Any]:
    """``connect``, for ``ClusterService``."""
    return connect(target, cluster_pb2_grpc.ClusterServiceStub)


@contextmanager
def connect(target: str, stub: type = inference_pb2_grpc.InferenceServiceStub) -> Iterator[Any]:
    """A stub on a channel that is up.

    Raises:
        ConfigError: Nothing answers there, or a file for TLS cannot be read.
    """
    options = [("grpc.max_receive_message_length", 64 << 20)]
    with _channel_to(target, options) as channel:
        try:
            grpc.channel_ready_future(channel).result(CONNECT_TIMEOUT_S)
        except grpc.FutureTimeoutError:
            raise ConfigError("target", target, "no server answers there") from None
        try:
            yield stub(channel)
        except grpc.RpcError as error:
            call: Any = error
            raise ConfigError("server", call.code().name, call.details()) from None


def _channel_to(target: str, options: list[tuple[str, int]]) -> grpc.Channel:
    address = target.removeprefix(_TLS)
    if address == target:
        return grpc.insecure_channel(target, options=options)
    if lacks := missing_half():
        raise ConfigError(lacks, "", "must be set where its other half is")
    ca, key, cert = (_read(name, file) for name, file in tls_of_environment().items())
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(ca, key, cert), options)


def _read(name: str, file: str) -> bytes | None:
    """Of a file that a variable names; None: it names none."""
    try:
        return Path(file).read_bytes() if file else None
    except OSError as error:
        raise ConfigError(f"GALERNE_TLS_{name.upper()}", file, str(error)) from error


def metadata(api_key: str) -> tuple[tuple[str, str], ...]:
    """Credentials of a call."""
    return (("authorization", f"Bearer {api_key}"),) if api_key else ()


def wide_console() -> Console:
    """For tables."""
    return Console(width=None if sys.stdout.isatty() else _WIDTH, highlight=False)
