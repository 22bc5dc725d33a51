"""Where finished spans go: a collector by OTLP, or a file of JSON lines."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TextIO
from urllib.parse import unquote

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SpanExporter

from galerne.errors import ConfigError
from router.tracing.settings import TracingSettings

EXPORT_TIMEOUT_S = 10.0
_TRACES_PATH = "/v1/traces"


def create_exporter(settings: TracingSettings, process: str) -> SpanExporter:
    """The exporter that an endpoint asks for; ``process`` names this one's file.

    Headers, certificates and compression of OTLP are read from OpenTelemetry's own environment
    variables (OTEL_EXPORTER_OTLP_HEADERS and the like).

    Raises:
        ConfigError: The directory cannot be written.
    """
    url = settings.url
    match url.scheme:
        case "file":
            return _FileExporter(_open(Path(unquote(url.path)), process))
        case "grpc" | "grpcs":
            from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import (
                OTLPSpanExporter as GrpcExporter,
            )

            return GrpcExporter(
                endpoint=url.netloc, insecure=url.scheme == "grpc", timeout=EXPORT_TIMEOUT_S
            )
        case _:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import (
                OTLPSpanExporter as HttpExporter,
            )

            path = url.path if url.path not in ("", "/") else _TRACES_PATH
            endpoint = f"{url.scheme}://{url.netloc}{path}"
            return HttpExporter(endpoint=endpoint, timeout=EXPORT_TIMEOUT_S)


class _FileExporter(ConsoleSpanExporter):
    """One line a span, as OpenTelemetry's JSON of it."""

    def __init__(self, file: TextIO) -> None:
        super().__init__(out=file, formatter=_line)

    def shutdown(self) -> None:
        """No span comes any more."""
        self.out.close()


def _line(span: ReadableSpan) -> str:
    return f"{span.to_json(indent=None)}\n"


def _open(directory: Path, process: str) -> TextIO:
    """A file of this process alone, for its owner: ids of requests are in it."""
    path = directory / f"{process}-{os.getpid()}.jsonl"
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        number = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    except OSError as error:
        raise ConfigError("tracing.endpoint", str(directory), str(error)) from error
    return os.fdopen(number, "a")
