"""Which parts of deployments are on this node: a small file of each, in Ray's session directory.

For probes, which must find them without joining Ray. Ray ends parts with SIGKILL, so a file may
outlive its part: it names the process so that nobody is fooled, and the next part sweeps it away.
The session's directory goes with the session.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

logger = logging.getLogger(__name__)

_DIRECTORY = "galerne-parts"
_SUFFIX = ".json"


@dataclass(frozen=True, slots=True, kw_only=True)
class PartFile:
    """One part."""

    deployment: str
    part: str
    address: str  # host:port of its internal port
    pid: int
    started_s: float  # of the process, wall clock: pids come again
    tls: dict[str, str] | None = None  # cert, key, ca and name; None: plain text

    @property
    def is_running(self) -> bool:
        """Whether its process lives; a zombie does not."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started_s) < 1.0
            return same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False


def of_this_process(
    deployment: str, part: str, address: str, tls: dict[str, str] | None
) -> PartFile:
    """The file of the part that runs here."""
    return PartFile(
        deployment=deployment,
        part=part,
        address=address,
        pid=os.getpid(),
        started_s=psutil.Process().create_time(),
        tls=tls,
    )


def write_part_file(session: Path, told: PartFile) -> None:
    """Write it, and sweep away those whose process has ended. It is a help only: errors are logged.

    ``session``: Ray's directory of this session, on this node.
    """
    directory = session / _DIRECTORY
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        for path, other in _found(directory):
            if not other.is_running:
                path.unlink(missing_ok=True)
        path = directory / f"{told.deployment}-{told.part}{_SUFFIX}"
        draft = path.with_suffix(f".{told.pid}")
        draft.write_text(json.dumps(asdict(told)))
        draft.replace(path)  # who reads sees all of it or nothing
    except OSError as error:
        logger.warning("part_file_not_written part=%s reason=%s", told.part, error)


def read_part_files(session: Path) -> list[PartFile]:
    """All that are there, in order of their names."""
    return [told for _, told in _found(session / _DIRECTORY)]


def _found(directory: Path) -> Iterator[tuple[Path, PartFile]]:
    for path in sorted(directory.glob(f"*{_SUFFIX}")):
        # Another part may replace or sweep it meanwhile.
        with contextlib.suppress(OSError, ValueError, TypeError):
            yield path, PartFile(**json.loads(path.read_text()))
