"""Deployments that the same Serve application had before: two at once may not fit into memory."""

from __future__ import annotations

import time

import ray
from ray.util import list_named_actors

from cluster.actors.launch_spec import NAMESPACE, LaunchSpec, controller_name
from galerne.errors import ConfigError

_POLL_S = 0.5
_ASK_TIMEOUT_S = 5.0


def wait_for_predecessors(serve_app: str, app_name: str, timeout_s: float) -> None:
    """Return when no other deployment of a Serve application is left.

    Args:
        serve_app: Name of the application.
        app_name: Of the deployment that waits.
        timeout_s: Seconds they may take: they drain, or end as orphans.

    Raises:
        ConfigError: One is left; names it.
    """
    deadline_s = time.monotonic() + timeout_s
    while left := _others(serve_app, controller_name(app_name)):
        if time.monotonic() > deadline_s:
            raise ConfigError("application", serve_app, f"{', '.join(left)} does not end")
        time.sleep(_POLL_S)


def _others(serve_app: str, own_controller: str) -> list[str]:
    """Names of their controllers."""
    named = list_named_actors(all_namespaces=True)
    names = [actor["name"] for actor in named if actor["namespace"] == NAMESPACE]
    suffix = controller_name("")
    return [
        name
        for name in names
        if name.endswith(suffix) and name != own_controller and _is_of(name, serve_app)
    ]


def _is_of(name: str, serve_app: str) -> bool:
    try:
        controller = ray.get_actor(name, namespace=NAMESPACE)
        spec: LaunchSpec = ray.get(controller.spec.remote(), timeout=_ASK_TIMEOUT_S)
    except (ValueError, ray.exceptions.ActorDiedError):
        return False  # it has ended meanwhile
    except ray.exceptions.RayError:
        return True  # it does not answer: whose it is will be seen at the next look
    return spec.serve_app == serve_app
