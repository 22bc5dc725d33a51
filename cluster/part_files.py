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
_STARTED_FIELD = 22 - 3  # of those behind the program's name, of which the first is the third


@dataclass(frozen=True, slots=True, kw_only=True)
class PartFile:
    """One part."""

    deployment: str
    part: str
    address: str  # host:port of its internal port
    pid: int
    # Of the process, since the machine's boot: pids come again. By the wall clock it would change
    # with every correction of that, and who lives would count as dead.
    started_s: float
    tls: dict[str, str] | None = None  # cert, key, ca and name; None: plain text

    @property
    def is_running(self) -> bool:
        """Whether its process lives; a zombie does not."""
        try:
            is_same = abs(started_since_boot_s(self.pid) - self.started_s) < 1.0
            return is_same and psutil.Process(self.pid).status() != psutil.STATUS_ZOMBIE
        except (OSError, ValueError, psutil.Error):
            return False


def started_since_boot_s(pid: int) -> float:
    """When a process was started, by the clock that nobody sets.

    Raises:
        OSError: There is no such process.
    """
    # The name of the program, in parentheses, may hold anything; see proc(5) for the fields.
    fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    return int(fields[_STARTED_FIELD]) / os.sysconf("SC_CLK_TCK")


def of_this_process(
    deployment: str, part: str, address: str, tls: dict[str, str] | None
) -> PartFile:
    """The file of the part that runs here."""
    return PartFile(
        deployment=deployment,
        part=part,
        address=address,
        pid=os.getpid(),
        started_s=started_since_boot_s(os.getpid()),
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
