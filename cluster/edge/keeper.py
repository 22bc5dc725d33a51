"""Runs the edge: starts HAProxy, starts it again when it dies, and takes new certificates."""

from __future__ import annotations

import logging
import os
import subprocess
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from cluster.certificates import read_authorities, read_identity
from cluster.child import ends_with_us
from cluster.edge.admin import EdgeError, ask, replace_file
from cluster.edge.config import (
    CLIENT_CA_PEM,
    CONFIG_FILE,
    LOG_FILE,
    SERVER_PEM,
    SOCKET_FILE,
    EdgeSettings,
    edge_config,
)
from cluster.edge.metrics import EdgeMetrics
from galerne.errors import ConfigError
from galerne.file_watch import FileWatch

logger = logging.getLogger(__name__)

PERIOD_S = 1.0
_READY_S = 10.0
_POLL_S = 0.02
_RETRY_S = 1.0  # between starts of one that dies at once
_END_S = 5.0
_DEATH_POLL_S = 0.1
_MAX_MISSES = 3  # answers that did not come, one after the other: it hangs


class TlsFiles(NamedTuple):
    """What clients are shown, and what they must show, if anything."""

    cert: Path
    key: Path
    client_ca: Path | None = None

    @property
    def paths(self) -> tuple[Path, ...]:
        """All that are there."""
        return tuple(path for path in self if path is not None)


class Edge:
    """A running edge. HAProxy is a child, which the kernel ends with this process."""

    def __init__(
        self,
        settings: EdgeSettings,
        files: TlsFiles,
        directory: Path,
        binary: Path,
        on_metrics: Callable[[bytes], None] = lambda _text: None,
        period_s: float = PERIOD_S,
    ) -> None:
        """Returns when clients can connect.

        Args:
            settings: What it does.
            files: Looked at again every period.
            directory: For this user alone; made here.
            binary: HAProxy with OpenSSL.
            on_metrics: Told the metrics every period.
            period_s: Between two looks.

        Raises:
            ConfigError: A certificate cannot be used.
            EdgeError: HAProxy does not come up; says why.
        """
        self.settings = settings
        self.metrics = EdgeMetrics()
        self._files, self._directory, self._binary = files, directory, binary
        self._on_metrics, self._period_s = on_metrics, period_s
        directory.mkdir(mode=0o700)
        self._watch = FileWatch(files.paths)
        for name, pem in self._read().items():
            self._write(name, pem)
        self._write(CONFIG_FILE, edge_config(settings, directory).encode())
        self._child: subprocess.Popen[bytes] | None = None
        self._failure = ""
        self._num_misses = 0
        self._is_pending = False  # new certificates that were not taken yet
        self._problem = ""  # why, as it was last told
        self._is_up, self._is_leaving = threading.Event(), threading.Event()
        # The kernel ends a child with the thread that started it: this one starts all of them.
        self._thread = threading.Thread(target=self._run, name="tls-edge", daemon=True)
        self._thread.start()
        if not self._is_up.wait(_READY_S + _END_S) or self._failure:
            self.close()
            raise EdgeError(self._failure or f"not up within {_READY_S:g} s")

    @property
    def pid(self) -> int | None:
        """Of HAProxy as it runs now."""
        return None if self._child is None else self._child.pid

    def close(self) -> None:
        """End it; the connections that it has end too."""
        self._is_leaving.set()
        self._thread.join(2 * _END_S)

    def _run(self) -> None:
        try:
            while not self._is_leaving.is_set():
                started_s = time.monotonic()
                self._run_once()
                self.metrics.up.set(0)
                if self._is_leaving.is_set():
                    return
                self.metrics.restarts.inc()
                logger.warning("tls_edge_died status=%s", self._status())
                self._tell_metrics()
                if time.monotonic() - started_s < _RETRY_S:
                    self._is_leaving.wait(_RETRY_S)
        except Exception as error:  # the thread's border: who waits for the start is told
            logger.exception("tls_edge_failed")
            self._failure = str(error)
            self._is_up.set()
        finally:
            self._end()

    def _run_once(self) -> None:
        """Until it ends, or we do.

        Once clients have been answered no error ends the keeper, since nobody else would start
        HAProxy again: there may be no process or no file to be had for a while.
        """
        try:
            self._start()
            self._is_up.set()
            while not self._has_ended():
                self._look()
        except Exception:
            if not self._is_up.is_set():
                raise
            logger.exception("tls_edge_failed")
            self._end()

    def _start(self) -> None:
        """Start it and wait until it answers; only the first failure is told to who waits."""
        self._num_misses = 0
        with (self._directory / LOG_FILE).open("wb") as log:
            self._child = subprocess.Popen(
                ends_with_us(self._binary, "-db", "-f", str(self._directory / CONFIG_FILE)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for us alone
            )
        end_s = time.monotonic() + _READY_S
        while time.monotonic() < end_s and self._child.poll() is None:
            try:
                ask(self._directory / SOCKET_FILE, "show info")
            except EdgeError:
                self._is_leaving.wait(_POLL_S)
                continue
            self.metrics.up.set(1)
            return
        if not self._is_up.is_set():
            raise EdgeError(self._status())

    def _has_ended(self) -> bool:
        """Wait one period for its end, or ours."""
        assert self._child is not None
        end_s = time.monotonic() + self._period_s
        while time.monotonic() < end_s:
            wait_s = min(_DEATH_POLL_S, self._period_s)
            if self._child.poll() is not None or self._is_leaving.wait(wait_s):
                return True
        return False

    def _look(self) -> None:
        self._check_alive()
        self._is_pending = self._watch.look() or self._is_pending
        if self._is_pending:
            self._renew()
        self.metrics.looks.inc()
        self._tell_metrics()

    def _tell_metrics(self) -> None:
        try:
            self._on_metrics(self.metrics.text())
        except Exception as error:  # noqa: BLE001 - a border: who is told must not end the edge
            logger.warning("tls_edge_metrics_not_told reason=%s", error)

    def _check_alive(self) -> None:
        try:
            ask(self._directory / SOCKET_FILE, "show info")
        except EdgeError as error:
            self._num_misses += 1
            self.metrics.up.set(0)
            if self._num_misses >= _MAX_MISSES and self._child is not None:
                logger.warning("tls_edge_hangs pid=%d reason=%s", self._child.pid, error)
                self._child.kill()
        else:
            self._num_misses = 0
            self.metrics.up.set(1)

    def _renew(self) -> None:
        try:
            self._take(self._read())
        except ConfigError as error:  # the old ones go on
            self._is_pending = False
            self.metrics.changes.labels("refused").inc()
            logger.error("tls_certificate_not_taken reason=%s", error)  # noqa: TRY400
        except (EdgeError, OSError) as error:  # HAProxy may be away, or the disk full: again
            if str(error) != self._problem:  # at the next look
                logger.warning("tls_certificate_not_taken_yet reason=%s", error)
            self._problem = str(error)
        else:
            self._is_pending, self._problem = False, ""
            self.metrics.changes.labels("taken").inc()
            logger.warning("tls_certificate_taken")

    def _take(self, pem_by_name: dict[str, bytes]) -> None:
        """To the running one first, then to the files, for the next one."""
        for name, pem in pem_by_name.items():
            kind = "cert" if name == SERVER_PEM else "ca-file"
            if (self._directory / name).read_bytes() != pem:
                replace_file(self._directory / SOCKET_FILE, kind, self._directory / name, pem)
                self._write(name, pem)

    def _read(self) -> dict[str, bytes]:
        files = self._files
        identity = read_identity("tls", files.cert, files.key, datetime.now(tz=UTC))
        found = {SERVER_PEM: identity.certificate.rstrip() + b"\n" + identity.key}
        if files.client_ca is not None:
            found[CLIENT_CA_PEM] = read_authorities("tls.client_ca", files.client_ca)
        self.metrics.expires.set(identity.expires.timestamp())
        return found

    def _write(self, name: str, content: bytes) -> None:
        new = self._directory / f"{name}.new"
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(content)
        new.rename(self._directory / name)

    def _status(self) -> str:
        """How it ended, in its own words."""
        code = None if self._child is None else self._child.poll()
        try:
            said = (self._directory / LOG_FILE).read_text(errors="replace").strip().splitlines()
        except OSError as error:
            said = [str(error)]
        return f"exit {code}: {' / '.join(said[-3:])[:400]}"

    def _end(self) -> None:
        if self._child is None:
            return
        self._child.terminate()
        try:
            self._child.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait(_END_S)
