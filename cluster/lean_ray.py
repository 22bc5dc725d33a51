"""A local Ray without the processes that serve its dashboard, where there is no dashboard.

``ray.init`` has no options for it. Of the processes that it starts beside ``gcs_server`` and
``raylet``, four only serve the dashboard, the autoscaler of a cloud, and the copying of logs to a
driver that does not want them. Each imports most of Ray, and raylet aborts when its agent is not up
in time, which a busy machine can bring about.

Everything here is private to Ray: where a name is missing, Ray starts as it always does.
"""

from __future__ import annotations

import importlib
import logging
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from cluster.child import ends_with_us

logger = logging.getLogger(__name__)

_RAYLET = "raylet"
_AGENT = "--dashboard_agent_command="
_SESSION, _NODE = "--session_dir=", "--node_id="
_NO_PORT = -1  # what Ray's own agent says in an installation without a dashboard
_NEEDED = (
    ("ray._private.parameter", "RayParams"),
    ("ray._private.services", "start_api_server"),
    ("ray._private.services", "start_ray_process"),
    ("ray._raylet", "persist_port"),
    ("ray._raylet", "METRICS_AGENT_PORT_NAME"),
    ("ray._raylet", "METRICS_EXPORT_PORT_NAME"),
    ("ray._raylet", "DASHBOARD_AGENT_LISTEN_PORT_NAME"),
)


@contextmanager
def lean_start(runtime_env_port: int) -> Iterator[None]:
    """A block in which ``ray.init`` starts no autoscaler, log monitor, dashboard, or its agent.

    ``runtime_env_port``: for the agent of runtime environments; given, nobody waits for it.
    """
    modules = {place: importlib.import_module(place) for place, _ in _NEEDED}
    missing = [name for place, name in _NEEDED if not hasattr(modules[place], name)]
    if missing:
        logger.warning("ray_starts_all_processes missing=%s", ",".join(missing))
        yield
        return
    parameter, services = modules["ray._private.parameter"], modules["ray._private.services"]
    replaced = (
        (parameter, "RayParams", _with_less(parameter.RayParams, runtime_env_port)),
        (services, "start_api_server", lambda *_args, **_options: ("", None)),
        (services, "start_ray_process", _without_agent(services.start_ray_process)),
    )
    originals = [(module, name, getattr(module, name)) for module, name, _ in replaced]
    try:
        for module, name, value in replaced:
            setattr(module, name, value)
        yield
    finally:
        for module, name, value in originals:
            setattr(module, name, value)


def _with_less(create: Callable[..., Any], runtime_env_port: int) -> Callable[..., Any]:
    """``RayParams`` with what ``ray start`` has flags for, and ``ray.init`` has not."""

    def create_with_less(*args: Any, **options: Any) -> Any:  # noqa: ANN401 - Ray's own types
        less = {
            "no_monitor": True,
            "include_log_monitor": False,
            "runtime_env_agent_port": runtime_env_port,
        }
        return create(*args, **(options | less))

    return create_with_less


def _without_agent(start: Callable[..., Any]) -> Callable[..., Any]:
    """``start_ray_process`` that gives the raylet something to watch in the agent's place.

    The raylet insists on a command, ends with it, and waits for the ports that it writes.
    """

    def start_without_agent(command: list[str], process_type: str, **options: Any) -> Any:  # noqa: ANN401
        if process_type == _RAYLET:
            command = replace_agent(command)
            _write_ports(_value(command, _SESSION), _value(command, _NODE))
        return start(command, process_type, **options)

    return start_without_agent


def replace_agent(command: list[str]) -> list[str]:
    """The raylet's command line with a process that sleeps where its agent was. Pure."""
    sleeper = ends_with_us(shutil.which("sleep") or "/bin/sleep", "infinity")
    told = _AGENT + subprocess.list2cmdline(sleeper)
    return [told if argument.startswith(_AGENT) else argument for argument in command]


def _write_ports(session: str, node: str) -> None:
    _raylet = importlib.import_module("ray._raylet")  # has no types
    for name in (
        _raylet.METRICS_AGENT_PORT_NAME,
        _raylet.METRICS_EXPORT_PORT_NAME,
        _raylet.DASHBOARD_AGENT_LISTEN_PORT_NAME,
    ):
        _raylet.persist_port(session, node, name, _NO_PORT)


def _value(command: list[str], flag: str) -> str:
    return next(argument[len(flag) :] for argument in command if argument.startswith(flag))
