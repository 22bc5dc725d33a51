"""A Ray of ours that nodes of other hosts join: where it is reached, and waiting for them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.config import ServeConfig
from cluster.nodes import ROLE_LABEL, Node, alive_nodes
from cluster.ports import check_port
from galerne.errors import ConfigError

_TOKEN_VARIABLES = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
_POLL_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenHead:
    """How other nodes find the head, and what the node beside it is for."""

    host: str
    port: int
    num_cpus: int | None
    num_gpus: int | None
    role: str | None
    metrics_port: int | None

    def ray_options(self) -> dict[str, Any]:
        """For ``ray.init``."""
        labels = {} if self.role is None else {ROLE_LABEL: self.role}
        return {
            "num_gpus": self.num_gpus,
            "labels": labels,
            "_metrics_export_port": self.metrics_port,
        }


def open_head_of(config: ServeConfig) -> OpenHead | None:
    """What the settings say; None: our Ray is for this machine alone."""
    told = config.ray_head
    if told is None:
        return None
    return OpenHead(
        host=told.host,
        port=told.port,
        num_cpus=told.num_cpus,
        num_gpus=told.num_gpus,
        role=told.role,
        metrics_port=told.metrics_port,
    )


def check_open_head(config: ServeConfig, environment: Mapping[str, str]) -> None:
    """Before anything starts.

    Raises:
        ConfigError: The head could not be reached safely, or not at all; or a setting is of a Ray
            that is not ours, or that nobody joins.
    """
    head = config.ray_head
    if head is None:
        _check_without(config)
        return
    if config.address is not None:
        raise ConfigError("ray_head", head.host, "starts a Ray; address joins another: one of them")
    if not any(environment.get(name) for name in _TOKEN_VARIABLES):
        problem = f"needs {' or '.join(_TOKEN_VARIABLES)} in the environment, the same on all nodes"
        raise ConfigError("ray_head", head.host, problem)
    if config.internal_tls is None and not config.insecure_network:
        problem = "other nodes join (ray_head) and internal_tls is not set"
        raise ConfigError("insecure_network", config.insecure_network, problem)
    check_port("ray_head.port", head.host, head.port)


def _check_without(config: ServeConfig) -> None:
    """Settings that would be ignored."""
    if config.address is None:
        if (config.await_nodes or 1) > 1:
            problem = "other nodes join with ray_head, or are there with address: set one of them"
            raise ConfigError("await_nodes", config.await_nodes, problem)
        return
    for name in ("ray_storage", "dashboard_port"):
        value = getattr(config, name)
        if value is not None:
            problem = f"is set where the Ray at {config.address} is started"
            raise ConfigError(name, value, problem)


def token_place(environment: Mapping[str, str]) -> str:
    """Where the token is that such a head, and all that join it, are started with."""
    value, path = _TOKEN_VARIABLES
    return value if environment.get(value) else environment.get(path, "")


def wait_for_nodes(
    count: int | None,
    timeout_s: float,
    on_step: Callable[[str], None],
    look: Callable[[], Sequence[Node]] = alive_nodes,
) -> Sequence[Node]:
    """All nodes, as soon as so many of them have room for parts. Ray must be connected.

    Args:
        count: None: those that are there.
        timeout_s: Until it is given up.
        on_step: Told whenever another one has come.
        look: Nodes that live now.

    Raises:
        ConfigError: They did not come in time; says how many did.
    """
    deadline, told = time.monotonic() + timeout_s, -1
    while True:
        nodes = look()
        ready = sum(node.num_cpus > 0 for node in nodes)
        if count is None or ready >= count:
            return nodes
        if time.monotonic() > deadline:
            problem = f"only {ready} have joined in {timeout_s:g} s (start_timeout_s)"
            raise ConfigError("await_nodes", count, problem)
        if ready != told:
            on_step(f"waiting for nodes: {ready} of {count}")
            told = ready
        time.sleep(_POLL_S)
