"""Keeps Serve's gRPC servers on loopback.

Serve 2.60 binds every one of them to all interfaces, whatever its host option says, and has no
setting for it. Both names that are replaced here are private to Ray: ``is_possible`` tells whether
they are where they are expected. What else is private to Ray in a replica is here as well.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from cluster.ports import LOOPBACK

_PROXY_SERVER = ("ray.serve._private.default_impl", "add_grpc_address")
_REPLICA_SERVER = ("ray.serve._private.replica", "add_port_to_grpc_server")
_EVERYWHERE = "[::]:"


def is_possible() -> bool:
    """Whether this version of Serve has what is replaced. Imports ``ray.serve``."""
    return all(
        hasattr(importlib.import_module(m), name) for m, name in (_PROXY_SERVER, _REPLICA_SERVER)
    )


def has_direct_ingress() -> bool:
    """Whether Serve calls replicas of this process without a proxy of its own between."""
    constants = importlib.import_module("ray.serve._private.constants")
    return bool(getattr(constants, "RAY_SERVE_ENABLE_DIRECT_INGRESS", False))


def install_in_proxy() -> list[Any]:
    """Serve's hook in a starting proxy; answers with the list of HTTP middlewares: none."""
    _keep_on_loopback(*_PROXY_SERVER)
    return []


def install_in_replica() -> None:
    """In a replica, before its servers start; whatever the public host is.

    One of them takes pickled calls from Serve's other processes, without asking for a token; the
    other one is behind the proxy on this node. Nobody else has business with either.
    """
    _keep_on_loopback(*_PROXY_SERVER)
    _keep_on_loopback(*_REPLICA_SERVER)


def _keep_on_loopback(module_name: str, name: str) -> None:
    module = importlib.import_module(module_name)
    bind: Callable[[Any, str], Any] = getattr(module, name)
    if getattr(bind, "is_on_loopback", False):
        return

    def bind_on_loopback(server: object, address: str) -> Any:  # noqa: ANN401 - as Ray's own
        return bind(server, address.replace(_EVERYWHERE, f"{LOOPBACK}:"))

    bind_on_loopback.is_on_loopback = True  # type: ignore[attr-defined]
    setattr(module, name, bind_on_loopback)
