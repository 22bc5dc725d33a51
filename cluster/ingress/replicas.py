"""Our replicas as actors, for the case that Serve cannot get at them."""

from __future__ import annotations

import logging
from contextlib import suppress

logger = logging.getLogger(__name__)

_NAMESPACE = "serve"
_PREFIX = "SERVE_REPLICA::"  # then application, deployment and id, with # between them


def kill_frontends(app_name: str) -> None:
    """End the frontends that do not end by themselves: Serve would wait for their streams."""
    import ray

    with suppress(ValueError, ray.exceptions.RayError):  # it has just ended, or Ray's head has
        for actor in ray.util.list_named_actors(all_namespaces=True):
            if actor["namespace"] == _NAMESPACE and is_frontend(actor["name"], app_name):
                logger.warning("frontend_killed name=%s", actor["name"])
                ray.kill(ray.get_actor(actor["name"], namespace=_NAMESPACE))


def is_frontend(actor_name: str, app_name: str) -> bool:
    """Whether Serve has given this name to a replica of the application. Pure."""
    return actor_name.startswith(f"{_PREFIX}{app_name}#")
