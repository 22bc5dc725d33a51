"""How an actor keeps the controller informed."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator

import ray

from cluster.actors.controller import HEARTBEAT_S
from cluster.actors.launch_spec import NAMESPACE, LaunchSpec
from galerne.errors import GalerneError

logger = logging.getLogger(__name__)

_PROGRESS_S = 0.2
_REPORT_TIMEOUT_S = 5.0


class Reporter:
    """Sends progress, failures and heartbeats of one part; survives a controller restart."""

    def __init__(self, spec: LaunchSpec, part: str) -> None:
        self._spec = spec
        self._part = part
        self._next_progress_s = 0.0
        self._stop = threading.Event()

    def progress(self, what: str, done: int, of: int) -> None:
        """Report loading, at most a few times a second; loading goes on if nobody hears it."""
        now = time.monotonic()
        if done == of or now >= self._next_progress_s:
            self._next_progress_s = now + _PROGRESS_S
            with contextlib.suppress(ray.exceptions.RayError, ValueError):
                self._controller().progress.remote(self._part, what, done, of)

    @contextlib.contextmanager
    def starting(self) -> Iterator[None]:
        """Report why this part cannot start, before the actor dies of it."""
        try:
            yield
        except Exception as error:
            logger.exception("start_failed part=%s", self._part)
            reason = str(error) if isinstance(error, GalerneError) else repr(error)
            with contextlib.suppress(Exception):  # what the caller raises says the same
                report = self._controller().failed.remote(self._part, reason)
                ray.get(report, timeout=_REPORT_TIMEOUT_S)
            if ray.get_runtime_context().was_current_actor_reconstructed:
                os._exit(1)  # Ray tries a process that dies again, a constructor that raises not
            raise

    def start_heartbeats(self, address: str, is_alive: Callable[[], bool]) -> None:
        """Say where this part listens, now and then on. A part whose threads died ends itself,
        so that Ray restarts it.
        """
        node = ray.get_runtime_context().get_node_id()

        def beat() -> None:
            call = self._controller().heartbeat.remote(self._part, address, os.getpid(), node)
            ray.get(call, timeout=_REPORT_TIMEOUT_S)

        def run() -> None:
            while True:
                if not is_alive():
                    logger.critical("part_died part=%s", self._part)
                    os._exit(1)
                try:
                    beat()
                except Exception as error:  # noqa: BLE001 - the controller may be away for long
                    logger.warning("heartbeat_failed part=%s reason=%r", self._part, error)
                if self._stop.wait(HEARTBEAT_S):
                    return

        threading.Thread(target=run, name="heartbeat", daemon=True).start()

    def stop(self) -> None:
        """No more heartbeats."""
        self._stop.set()

    def _controller(self) -> ray.actor.ActorHandle:
        return ray.get_actor(self._spec.controller_name, namespace=NAMESPACE)
