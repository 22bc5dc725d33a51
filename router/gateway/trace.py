"""Ties a gateway's tracer to its engine and model."""

from __future__ import annotations

from collections.abc import Callable

from router.engine.engine import Engine
from router.gateway.settings import GatewaySettings
from router.model.runner import PagedRunner
from router.profiling import StepWatch
from router.tracing.gateway import GatewayTracer
from router.tracing.tracer import Tracer


def create_tracer(settings: GatewaySettings, num_layers: int) -> GatewayTracer | None:
    """The tracer that a gateway's settings ask for; it is the engine's to close.

    Raises:
        ConfigError: The endpoint cannot be used.
    """
    if settings.tracing is None:
        return None
    tracer = Tracer(settings.tracing, "galerne-gateway", settings.gateway_id)
    return GatewayTracer(tracer, settings.gateway_id, num_layers)


def watching(engine: Engine, runner: PagedRunner) -> Callable[[StepWatch | None], None]:
    """Lets somebody hear of all that a step does, on the engine's thread."""

    def watch(who: StepWatch | None) -> None:
        engine.timer.watch = who
        runner.watch(who)

    return watch
