"""The tracer that a frontend's settings ask for. OpenTelemetry is loaded only if one does."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from router.tracing.settings import TracingSettings

if TYPE_CHECKING:
    from router.tracing.frontend import FrontendTracer


def create_frontend_tracer(settings: TracingSettings | None) -> FrontendTracer | None:
    """None: nothing is traced.

    Raises:
        ConfigError: The endpoint cannot be used.
    """
    if settings is None:
        return None
    from router.tracing.frontend import FrontendTracer
    from router.tracing.tracer import Tracer

    return FrontendTracer(Tracer(settings, "galerne-frontend", socket.gethostname()))
