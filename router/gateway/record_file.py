"""A record on disk: a directory of its own, with a header and a file of events. No torch.

    DIR/gateway-0-5f0c6b1f2a9d8e37/header.json    what was run, and how
    DIR/gateway-0-5f0c6b1f2a9d8e37/events.jsonl   one event a line, in the order of the engine

Records hold prompts and answers: they are for the user who runs the server alone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from galerne.errors import ConfigError
from router.engine.scheduler_config import SchedulerConfig
from router.gateway.record_events import RecordLine, from_line

FORMAT = 1

_HEADER = "header.json"
_EVENTS = "events.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordHeader:
    """One gateway from its start to its end, and what it takes to run it again."""

    gateway: str
    incarnation: str  # new at every start of the gateway
    started_at: str  # UTC, ISO 8601
    checkpoint: Path
    fingerprint: str
    numerics_profile: str
    numerics: str
    experts: str  # weight format of routed experts
    dense: str  # and of the dense weights
    epoch: int
    num_blocks: int  # of the KV cache, the null block included
    scheduler: SchedulerConfig
    adapters_root: Path | None = None


def create_record(directory: Path, header: RecordHeader) -> BinaryIO:
    """Make the record's directory inside ``directory``; its file of events, open.

    Raises:
        ConfigError: It cannot be made.
    """
    path = directory / f"{header.gateway}-{header.incarnation}"
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.mkdir(mode=0o700)
        text = json.dumps({"format": FORMAT} | asdict(header), indent=1, default=str)
        with _create(path / _HEADER) as file:
            file.write(text.encode())
        return _create(path / _EVENTS)
    except OSError as error:
        raise ConfigError("record", directory, str(error)) from error


def _create(path: Path) -> BinaryIO:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")


@dataclass(frozen=True, slots=True)
class Record:
    """A record to be read."""

    path: Path
    header: RecordHeader

    def lines(self) -> Iterator[RecordLine]:
        """The events. A last line that was not written to its end is left out.

        Raises:
            ConfigError: A line cannot be read.
        """
        try:
            with (self.path / _EVENTS).open("rb") as file:
                for number, line in enumerate(file, start=1):
                    if not line.endswith(b"\n"):  # the process died in the middle of it
                        return
                    yield from_line(number, line)
        except OSError as error:
            raise ConfigError("record", self.path, str(error)) from error
        except ValueError as error:
            raise ConfigError("record", f"{self.path / _EVENTS}:{number}", str(error)) from error


def read_record(path: Path) -> Record:
    """The record in a directory.

    Raises:
        ConfigError: There is none, or its header cannot be read.
    """
    try:
        fields = json.loads((path / _HEADER).read_bytes())
        if fields.pop("format") != FORMAT:
            raise ConfigError("record", path, f"has a format other than {FORMAT}")
        return Record(path, _header(fields))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError("record", path / _HEADER, f"cannot be read: {error!r}") from error


def _header(fields: dict[str, Any]) -> RecordHeader:
    root = fields.get("adapters_root")  # not in records of before there were any
    changed = {
        "checkpoint": Path(fields["checkpoint"]),
        "scheduler": SchedulerConfig(**fields["scheduler"]),
        "adapters_root": None if root is None else Path(root),
    }
    return RecordHeader(**fields | changed)


def find_records(directory: Path) -> list[Record]:
    """The record in a directory, or all that lie in it, by gateway and start.

    Raises:
        ConfigError: There is none, or one cannot be read.
    """
    paths = [directory, *sorted(directory.glob("*/"))] if directory.is_dir() else []
    found = [read_record(path) for path in paths if (path / _HEADER).exists()]
    if not found:
        raise ConfigError("record", directory, "holds no record")
    return sorted(found, key=lambda record: (record.header.gateway, record.header.started_at))
