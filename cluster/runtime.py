"""Starting, joining and leaving Ray. Imports Ray late: it reads its environment when imported."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from cluster.head import MEMORY_ONLY, HeadKeeper, find_head, head_environment, storage_note
from cluster.lean_ray import lean_start
from cluster.open_head import OpenHead
from cluster.ports import LOOPBACK, check_port, free_ports, is_loopback
from cluster.run_directory import RunDirectory
from galerne.errors import ConfigError, GalerneError

logger = logging.getLogger(__name__)

OBJECT_STORE_BYTES = 100 << 20  # nothing large ever goes through it; Ray wants 75 MiB
_END_TIMEOUT_S = 5.0


class RayStartError(GalerneError):
    """A local Ray did not come up."""

    status = "UNAVAILABLE"

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"Ray did not start: {self.reason}"


@dataclass(frozen=True, slots=True)
class RayRuntime:
    """This process' connection to a Ray cluster."""

    address: str  # of the GCS, host:port
    is_ours: bool  # started by us, and ended with us
    dashboard_url: str = ""
    note: str = ""  # what the loss of Ray's head would cost, where its state is not kept
    _processes: list[psutil.Process] = field(default_factory=list)
    _keeper: HeadKeeper | None = None

    def leave(self) -> None:
        """Disconnect; end what we have started and nothing else. Actors are their owners' duty."""
        import ray

        family = _with_descendants(self._processes)
        if self._keeper is not None:
            self._keeper.let_go()
        ray.shutdown()
        if self._keeper is not None:
            self._keeper.end()
        _end(family)


def local_environment(
    run: RunDirectory, storage: Path | None, head: OpenHead | None = None
) -> dict[str, str]:
    """Variables of a Ray of ours: on loopback with a token of its own, or the head that is given.

    The head's token is that of our environment, which other nodes are started with too.
    """
    common = {
        **_common_environment(),
        **head_environment(free_ports(1)[0] if head is None else head.port, storage),
        "RAY_AUTH_MODE": "token",
        # Else the driver waits for idle workers, before anything has asked for one.
        "RAY_prestart_worker_first_driver": "0",
        # Ray's workers would run at 15: whatever else wants a core would have 28 times their share.
        "RAY_worker_niceness": "0",
    }
    if head is not None:
        return common
    return {
        **common,
        # With the node's address 127.0.0.1 this makes Ray's own servers listen there only.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_AUTH_TOKEN_PATH": str(run.token_file),
    }


def start_local_ray(
    run: RunDirectory,
    *,
    num_cpus: int,
    namespace: str,
    storage: Path | None = None,
    dashboard_port: int | None = None,
    head: OpenHead | None = None,
    deferred: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> RayRuntime:
    """Start a cluster of one node that only this machine can reach, or that others may join.

    Args:
        run: Where its files and token go.
        num_cpus: What it may place by.
        namespace: Of this driver's named actors.
        storage: An empty directory for the head's state: then a head that dies comes back.
        dashboard_port: On loopback; None: no dashboard, and none of the processes that serve it
            unless others may join.
        head: Where other nodes reach it; None: nowhere.
        deferred: ``Shutdown.deferred``: interrupted while it starts, Ray would leave agents behind.

    Raises:
        ConfigError: The dashboard's port is taken.
        RayStartError: Its processes did not come up; Ray gives them 30 s.
    """
    check_port("dashboard_port", LOOPBACK, dashboard_port or 0)
    before = set(psutil.Process().children())

    def start() -> RayRuntime:
        ray = _import_ray(local_environment(run, storage, head))
        has_dashboard = dashboard_port is not None
        is_lean = head is None and not has_dashboard
        try:
            with lean_start(free_ports(1)[0]) if is_lean else nullcontext():
                context = ray.init(
                    address="local",
                    namespace=namespace,
                    num_cpus=num_cpus,
                    object_store_memory=OBJECT_STORE_BYTES,
                    include_dashboard=has_dashboard,
                    dashboard_host=LOOPBACK,
                    dashboard_port=dashboard_port,
                    _node_ip_address=LOOPBACK if head is None else head.host,
                    _temp_dir=str(run.ray_dir),
                    **({} if head is None else head.ray_options()),
                    **_quiet_options(),
                )
        except BaseException as error:  # SystemExit too: inside, SIGTERM is Ray's
            _end(_with_descendants(_children_since(before)), timeout_s=0.0)
            if isinstance(error, Exception):  # bare ones, as when the machine is too busy
                raise RayStartError(str(error).strip()[:500]) from error
            raise
        processes = _children_since(before)
        process = find_head(processes)
        keeper = HeadKeeper(process) if storage is not None and process is not None else None
        return RayRuntime(
            context.address_info["gcs_address"],
            is_ours=True,
            dashboard_url=f"http://{context.dashboard_url}" if context.dashboard_url else "",
            note="" if keeper is not None else MEMORY_ONLY,
            _processes=processes,
            _keeper=keeper,
        )

    return _uninterrupted(start, deferred)


def join_ray(
    address: str,
    *,
    namespace: str,
    deferred: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> RayRuntime:
    """Connect to a cluster that runs: ``host:port`` of its GCS, or ``auto``.

    The token is the one that Ray finds (RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH, ~/.ray/auth_token);
    RAY_AUTH_MODE=disabled in the environment is respected.

    Raises:
        ConfigError: Nothing answers there, or it does not let us in.
    """
    if address.startswith("ray://"):
        problem = "Ray Client is not supported: run galerne serve on the head node, with auto"
        raise ConfigError("address", address, problem)
    environment = _common_environment()
    host = address.rpartition(":")[0]
    if is_loopback(host):  # else Ray would look for its node at the machine's outer address
        environment["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    environment.setdefault("RAY_AUTH_MODE", os.environ.get("RAY_AUTH_MODE", "token"))

    def join() -> RayRuntime:
        ray = _import_ray(environment)
        try:
            context = ray.init(address=address, namespace=namespace, **_quiet_options())
        except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            reason = (
                f"cannot join this Ray cluster: {str(error).strip()[:300]} (a cluster without "
                "token authentication needs RAY_AUTH_MODE=disabled in our environment)"
            )
            raise ConfigError("address", address, reason) from error
        info = context.address_info
        note = storage_note(Path(info["session_dir"]).name)
        return RayRuntime(info["gcs_address"], is_ours=False, note=note)

    return _uninterrupted(join, deferred)


def _uninterrupted(
    connect: Callable[[], RayRuntime], deferred: Callable[[], AbstractContextManager[None]]
) -> RayRuntime:
    """Connect in a deferred block; what it interrupts at its end is undone."""
    runtime = None
    try:
        with deferred():
            runtime = connect()
    except KeyboardInterrupt:
        if runtime is not None:
            runtime.leave()
        raise
    return runtime


def _common_environment() -> dict[str, str]:
    # The second is Ray's default to come; until then it warns at every start.
    return {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


def _quiet_options() -> dict[str, Any]:
    return {"log_to_driver": False, "logging_level": logging.WARNING}


def _import_ray(environment: Mapping[str, str]) -> Any:  # noqa: ANN401 - Ray has no types for us
    late = {key for key, value in environment.items() if os.environ.get(key) != value}
    if late and "ray" in sys.modules:
        raise RuntimeError(f"ray was imported before {', '.join(sorted(late))} were set")
    os.environ.update(environment)
    import ray
    from ray._private import worker

    if hasattr(worker, "print_to_stdstream"):
        # Ray reports the planned end of Serve's controller as a failure, log_to_driver or not.
        worker.print_to_stdstream = lambda *_args, **_kwargs: None
    return ray


def _children_since(before: set[psutil.Process]) -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if child not in before]


def _with_descendants(roots: list[psutil.Process]) -> list[psutil.Process]:
    family = list(roots)
    for root in roots:
        try:
            family += root.children(recursive=True)
        except psutil.Error:
            continue
    return family


def _end(processes: list[psutil.Process], timeout_s: float = _END_TIMEOUT_S) -> None:
    """Let processes end by themselves, then end those that have not."""
    _, alive = psutil.wait_procs(processes, timeout=timeout_s)
    for process in alive:
        logger.warning("ray_process_left_over pid=%d", process.pid)
        try:
            process.kill()
        except psutil.Error:
            continue
    psutil.wait_procs(alive, timeout=_END_TIMEOUT_S)
