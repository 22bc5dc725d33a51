"""Ray's head process, ``gcs_server``: where it keeps its state, and its restart when it dies.

While it is away nothing can be placed or restarted; whatever runs goes on. Ray's other processes
give up when it is away for RAY_gcs_rpc_server_reconnect_timeout_s (60), and a head that comes back
without its state knows none of them.
"""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import os
import select
import subprocess
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import psutil

from cluster.child import ends_with_us

logger = logging.getLogger(__name__)

_EXECUTABLE = "gcs_server"
_STORAGE, _STORAGE_PATH = "gcs_storage", "gcs_storage_path"
_POLL_S = 0.1
_RETRY_S = 1.0  # between starts of a head that dies at once
_END_TIMEOUT_S = 5.0

MEMORY_ONLY = (
    "Ray's head keeps its state in memory only: when its process dies, this server and all its "
    "streams end within a minute"
)
_HOW_TO_KEEP = (
    "; started with RAY_gcs_storage=rocksdb and RAY_gcs_storage_path, or with Redis, it keeps it"
)
UNKNOWN = (
    "the process of Ray's head cannot be seen from here, so it is not known whether its state "
    "is kept; if it is in memory only, this server ends within a minute of the head"
)


def head_environment(port: int, storage: Path | None) -> dict[str, str]:
    """Ray's variables: where its head listens, at every start, and keeps its state.

    Args:
        port: Of the head.
        storage: An empty directory; None: in memory only.
    """
    return {
        "RAY_GCS_SERVER_PORT": str(port),
        f"RAY_{_STORAGE}": "memory" if storage is None else "rocksdb",
        f"RAY_{_STORAGE_PATH}": str(storage or ""),
    }


def find_head(processes: Iterable[psutil.Process], session: str = "") -> psutil.Process | None:
    """The head's process among these; of the Ray session of that name."""
    for process in processes:
        try:
            command = process.cmdline()
        except psutil.Error:
            continue
        is_head = bool(command) and Path(command[0]).name == _EXECUTABLE
        if is_head and (not session or f"--session-name={session}" in command):
            return process
    return None


def storage_note(session: str) -> str:
    """What to say about the head of a cluster that we join; nothing if its state is kept."""
    head = find_head(psutil.process_iter(), session)
    try:
        storage = storage_of(head.cmdline(), head.environ()) if head is not None else None
    except psutil.Error:  # another user's
        storage = None
    if storage is None:
        return UNKNOWN
    return MEMORY_ONLY + _HOW_TO_KEEP if storage == "memory" else ""


def storage_of(command: Sequence[str], environment: Mapping[str, str]) -> str:
    """``rocksdb``, ``redis`` or ``memory``, as the head chooses by how it was started. Pure."""
    options = dict(argument.partition("=")[::2] for argument in command[1:])
    encoded = options.get("--config_list", "")
    settings = json.loads(base64.b64decode(encoded)) if encoded else {}
    chosen = settings.get(_STORAGE) or environment.get(f"RAY_{_STORAGE}")
    if chosen == "rocksdb":
        return "rocksdb"
    return "redis" if options.get("--redis_address") else "memory"


class HeadKeeper:
    """Starts our local Ray's head again whenever it dies: the same command, the same storage."""

    def __init__(self, head: psutil.Process) -> None:
        """Keep a running one, a child of this process."""
        self._command, self._environment = head.cmdline(), head.environ()
        self._directory = head.cwd()
        self._pid = head.pid
        self._child: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._is_leaving = threading.Event()
        self._thread = threading.Thread(target=self._run, name="head-keeper", daemon=True)
        self._thread.start()

    def let_go(self) -> None:
        """Start none again; a start that goes on is finished."""
        self._is_leaving.set()
        with self._lock:
            pass

    def end(self) -> None:
        """End one that was started here, after ``let_go``."""
        if self._child is not None:
            self._child.terminate()
            try:
                self._child.wait(_END_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._child.kill()
                self._child.wait(_END_TIMEOUT_S)

    def _run(self) -> None:
        """Lives as long as its last child, which the kernel ends with this thread."""
        while True:
            started_s = time.monotonic()
            self._wait_for_end()
            if self._is_leaving.is_set():
                return
            logger.warning("ray_head_died pid=%d", self._pid)
            if time.monotonic() - started_s < _RETRY_S:
                self._is_leaving.wait(_RETRY_S)
            with self._lock:
                if self._is_leaving.is_set():
                    return
                try:
                    self._start()
                except OSError as error:  # no process to be had just now: again after a while
                    logger.warning("ray_head_not_restarted reason=%s", error)

    def _wait_for_end(self) -> None:
        if self._child is not None:
            self._child.wait()
            return
        try:
            ended = os.pidfd_open(self._pid)  # only looks: Ray reaps its own children
        except ProcessLookupError:
            return
        except OSError:  # an old kernel, or a sandbox that lacks the call
            self._poll_for_end()
            return
        try:
            select.select([ended], [], [])
        finally:
            os.close(ended)

    def _poll_for_end(self) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(self._pid)
            while process.status() != psutil.STATUS_ZOMBIE:
                time.sleep(_POLL_S)

    def _start(self) -> None:
        self._child = subprocess.Popen(
            ends_with_us(*self._command),
            env=self._environment,
            cwd=self._directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # it writes logs of its own
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for us alone
        )
        self._pid = self._child.pid
        logger.warning("ray_head_restarted pid=%d", self._pid)
