"""The private directory of one running server."""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import shutil
import tempfile
from pathlib import Path
from types import TracebackType

from galerne.errors import ConfigError

logger = logging.getLogger(__name__)

# HAProxy takes socket paths up to 97 characters, and Serve puts a node id of 56 into them.
MAX_PATH_CHARS = 97 - len("/h/") - 56 - len("/metrics.sock")


def _locked(directory: Path) -> int | None:
    """A descriptor that keeps systemd-tmpfiles from taking files away that nobody reads for days.

    It skips what is locked, see tmpfiles.d(5): else, after ten days, neither HAProxy nor the
    dashboard's user would find theirs. None where directories cannot be locked.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


class RunDirectory:
    """Sockets, tokens and logs; for this user alone, removed at the end.

    Ray gives its own directory to everyone, and HAProxy its admin socket, so both lie inside.
    """

    def __init__(self, parent: Path = Path("/tmp")) -> None:
        """Make it, with a fresh Ray token.

        Raises:
            ConfigError: ``parent`` is too long for the socket paths inside.
        """
        self._elsewhere: list[Path] = []
        self._lock: int | None = None
        self.path = Path(tempfile.mkdtemp(prefix="gl-", dir=parent))
        if len(str(self.path)) > MAX_PATH_CHARS:
            self.close()
            problem = f"paths inside must have at most {MAX_PATH_CHARS} characters for sockets"
            raise ConfigError("run_directory", self.path, problem)
        self._lock = _locked(self.path)
        self.haproxy_dir.mkdir(mode=0o700)
        self.token_file.touch(mode=0o600)
        self.token_file.write_text(secrets.token_hex(32))

    @property
    def haproxy_dir(self) -> Path:
        """Where HAProxy's configuration and sockets lie."""
        return self.path / "h"

    @property
    def edge_dir(self) -> Path:
        """Where the TLS edge's configuration, keys and socket lie; the edge makes it."""
        return self.path / "e"

    @property
    def ray_dir(self) -> Path:
        """Ray's temporary directory; Ray makes it."""
        return self.path / "r"

    @property
    def token_file(self) -> Path:
        """Ray's authentication token, 64 hex digits."""
        return self.path / "token"

    def make_storage(self, parent: Path | None) -> Path:
        """An empty directory for the state of Ray's head, inside ``parent`` or here.

        Raises:
            ConfigError: It cannot be made there.
        """
        try:
            if parent is not None:
                parent.mkdir(parents=True, exist_ok=True)
            made = Path(tempfile.mkdtemp(prefix="galerne-ray-", dir=parent or self.path))
        except OSError as error:
            raise ConfigError("ray_storage", parent, str(error)) from error
        self._elsewhere.append(made)
        return made

    def close(self) -> None:
        """Remove it with all it holds."""
        for path in (self.path, *self._elsewhere):
            shutil.rmtree(path, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def close_unless_in_use(self) -> None:
        """Remove it, unless a proxy that outlives us has its files here; says so then."""
        if any(self.haproxy_dir.iterdir()):
            logger.warning("run_directory_in_use path=%s", self.path)
        else:
            self.close()

    def __enter__(self) -> RunDirectory:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
