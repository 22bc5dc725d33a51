"""How an actor keeps the controller informed."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from types import MappingProxyType
from typing import NamedTuple, TypeVar

import ray

from cluster.actors.launch_spec import NAMESPACE, LaunchSpec
from cluster.control.members import HEARTBEAT_S, Heartbeat
from cluster.directory import ControllerHandle
from cluster.part_files import of_this_process, write_part_file
from cluster.session_files import session_directory
from galerne.adapters import AdapterInfo
from galerne.errors import GalerneError, NotServingError
from galerne.ids import Epoch
from galerne.topology import Topology
from router.engine.load_counter import LoadTotals

logger = logging.getLogger(__name__)

_T = TypeVar("_T")
_PROGRESS_S = 0.2
_REPORT_TIMEOUT_S = 5.0
_START_TOPOLOGY_S = 120.0


class PartState(NamedTuple):
    """What a part says of itself."""

    address: str
    is_alive: bool
    epochs: tuple[Epoch, ...]
    links: Mapping[str, str] = MappingProxyType({})  # of a gateway: state by shard
    load: LoadTotals | None = None  # of a gateway
    adapters: frozenset[str] = frozenset()


class Reporter:
    """Sends progress, failures and heartbeats of one part; survives a controller restart."""

    def __init__(self, spec: LaunchSpec, part: str) -> None:
        self._spec = spec
        self._part = part
        self._controller = ControllerHandle(spec.controller_name, NAMESPACE)
        self._next_progress_s = 0.0
        self._woken = threading.Event()
        self._is_stopped = False

    def progress(self, what: str, done: int, of: int) -> None:
        """Report loading, at most a few times a second; loading goes on if nobody hears it."""
        now = time.monotonic()
        if done == of or now >= self._next_progress_s:
            self._next_progress_s = now + _PROGRESS_S
            with contextlib.suppress(ray.exceptions.RayError, ValueError):
                self._controller.handle().progress.remote(self._part, what, done, of)

    @contextlib.contextmanager
    def starting(self) -> Iterator[None]:
        """Report why this part cannot start, before the actor dies of it."""
        try:
            yield
        except Exception as error:
            logger.exception("start_failed part=%s", self._part)
            reason = str(error) if isinstance(error, GalerneError) else repr(error)
            with contextlib.suppress(Exception):  # what the caller raises says the same
                report = self._controller.handle().failed.remote(self._part, reason)
                ray.get(report, timeout=_REPORT_TIMEOUT_S)
            if ray.get_runtime_context().was_current_actor_reconstructed:
                os._exit(1)  # Ray tries a process that dies again, a constructor that raises not
            raise

    def start_topology(self, first: Topology) -> Topology:
        """The topology to start in: ``first``, or what serves by now if Ray restarts this part.

        Raises:
            NotServingError: The controller does not say, or wants this part no longer.
        """
        if not ray.get_runtime_context().was_current_actor_reconstructed:
            return first

        def own() -> Topology | None:
            answer = self._controller.handle().wanted_parts.remote()
            topology: Topology | None = ray.get(answer, timeout=_REPORT_TIMEOUT_S).parts.get(
                self._part
            )
            return topology

        return self._ask(own, "wanted no longer")

    def start_adapters(self) -> tuple[AdapterInfo, ...]:
        """Adapters to load before this part serves.

        Raises:
            NotServingError: The controller does not say.
        """

        def loaded() -> tuple[AdapterInfo, ...]:
            answer = self._controller.handle().loaded_adapters.remote()
            adapters: tuple[AdapterInfo, ...] = ray.get(answer, timeout=_REPORT_TIMEOUT_S)
            return adapters

        return self._ask(loaded, "no answer")

    def _ask(self, ask: Callable[[], _T | None], reason: str) -> _T:
        """Until the controller has an answer, for so long that it may restart."""
        deadline = time.monotonic() + _START_TOPOLOGY_S
        while time.monotonic() < deadline:
            try:
                answer = ask()
                if answer is not None:
                    return answer
            except Exception as error:  # noqa: BLE001 - border to Ray: the controller is away
                self._controller.failed(error)
                reason = repr(error)
            time.sleep(HEARTBEAT_S)
        raise NotServingError(f"{self._part}: {reason}")

    def start_heartbeats(self, state: Callable[[], PartState]) -> None:
        """Say where this part listens and what it serves, now and then on, and after ``wake``.

        A part whose threads died ends itself, so that Ray restarts it.
        """
        context = ray.get_runtime_context()
        node, me = context.get_node_id(), context.current_actor
        self._tell_node(state().address)

        def beat() -> None:
            now = state()
            if not now.is_alive:
                logger.critical("part_died part=%s", self._part)
                os._exit(1)
            told = Heartbeat(
                part=self._part,
                address=now.address,
                pid=os.getpid(),
                node=node,
                epochs=now.epochs,
                links=now.links,
                load=now.load,
                adapters=now.adapters,
            )
            answer = self._controller.handle().heartbeat.remote(told, me)
            if ray.get(answer, timeout=_REPORT_TIMEOUT_S) is False:
                logger.critical("part_was_replaced part=%s", self._part)
                os._exit(1)

        def run() -> None:
            while not self._is_stopped:
                self._woken.clear()
                try:
                    beat()
                except Exception as error:  # noqa: BLE001 - the controller may be away for long
                    logger.warning("heartbeat_failed part=%s reason=%r", self._part, error)
                    self._controller.failed(error)
                self._woken.wait(HEARTBEAT_S)

        threading.Thread(target=run, name="heartbeat", daemon=True).start()

    def _tell_node(self, address: str) -> None:
        """Leave word for probes of this node."""
        tls = self._spec.tls
        told = None if tls is None else {k: str(v) for k, v in asdict(tls).items()}
        file = of_this_process(self._spec.app_name, self._part, address, told)
        write_part_file(session_directory(), file)

    def wake(self) -> None:
        """Something has changed that the controller should know at once. From any thread."""
        self._woken.set()

    def stop(self) -> None:
        """No more heartbeats."""
        self._is_stopped = True
        self._woken.set()
