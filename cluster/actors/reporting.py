"""How an actor keeps the controller informed."""

from __future__ import annotations

import logging
import os
import threading
import time

import ray

from cluster.actors.controller import HEARTBEAT_S
from cluster.actors.launch_spec import NAMESPACE, LaunchSpec
from galerne.errors import GalerneError

logger = logging.getLogger(__name__)

_PROGRESS_S = 0.2
_REPORT_TIMEOUT_S = 2.0


class Reporter:
    """Sends progress, failures and heartbeats of one part; survives a controller restart."""

    def __init__(self, spec: LaunchSpec, part: str) -> None:
        self._spec = spec
        self._part = part
        self._next_progress_s = 0.0
        self._stop = threading.Event()
        self.num_heartbeats = 0

    def progress(self, what: str, done: int, of: int) -> None:
        """Report loading, at most a few times a second."""
        now = time.monotonic()
        if done == of or now >= self._next_progress_s:
            self._next_progress_s = now + _PROGRESS_S
            self._controller().progress.remote(self._part, what, done, of)

    def failed(self, error: GalerneError) -> None:
        """Report why this part cannot start, before the actor dies of it."""
        ray.get(self._controller().failed.remote(self._part, str(error)), timeout=_REPORT_TIMEOUT_S)

    def start_heartbeats(self, address: str) -> None:
        """Say where this part listens, now and then on."""
        node = ray.get_runtime_context().get_node_id()
        ray.get(self._controller().heartbeat.remote(self._part, address, os.getpid(), node))

        def beat() -> None:
            while not self._stop.wait(HEARTBEAT_S):
                try:
                    controller = self._controller()
                    beat = controller.heartbeat.remote(self._part, address, os.getpid(), node)
                    ray.get(beat, timeout=_REPORT_TIMEOUT_S)
                    self.num_heartbeats += 1
                except (ray.exceptions.RayError, ValueError) as error:
                    logger.warning("heartbeat_failed part=%s reason=%s", self._part, error)

        threading.Thread(target=beat, name="heartbeat", daemon=True).start()

    def stop(self) -> None:
        """No more heartbeats."""
        self._stop.set()

    def _controller(self) -> ray.actor.ActorHandle:
        return ray.get_actor(self._spec.controller_name, namespace=NAMESPACE)
