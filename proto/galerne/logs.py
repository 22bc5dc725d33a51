"""Logs of every process: one event a line, as logfmt or JSON, through the standard library.

A call names an event and its fields: ``logger.warning("link_down shard=%s reason=%s", ...)``. The
fields are taken from the call itself, not from the finished text: a value may hold anything.
Lines with a ``request`` get the id of its trace too, while it is traced here.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TextIO

from galerne.errors import ConfigError

FORMATS = ("logfmt", "json")
LEVELS = ("debug", "info", "warning", "error", "critical")
OURS = ("galerne", "router", "shards", "cluster")  # whose level changes; others stay at warning
AUDIT = "galerne.audit"  # who changed the cluster, and whose key was refused

trace_ids: dict[str, str] = {}  # by request, of those that are traced in this process

_EVENT = re.compile(r"[a-z][a-z0-9_]*")
_FIELD = re.compile(r" ([a-z][a-z0-9_]*)=(%[-+ #0]*\d*(?:\.\d+)?[a-zA-Z])")
_PLAIN = re.compile(r"[!#-<>-\[\]-~]+")  # printable, without quotes, = and backslash
_RESERVED = ("at", "level", "process", "logger", "event", "trace", "error")


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSettings:
    """How a process logs.

    Raises:
        ConfigError: A value is none of those that there are.
    """

    format: str = "logfmt"
    level: str = "warning"

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            problem = f"must be one of {', '.join(FORMATS)}"
            raise ConfigError("log_format", self.format, problem)
        check_level(self.level)


def check_level(level: str) -> str:
    """A level's name.

    Raises:
        ConfigError: It is none; names ``log_level``.
    """
    if level not in LEVELS:
        raise ConfigError("log_level", level, f"must be one of {', '.join(LEVELS)}")
    return level


def set_level(level: str) -> None:
    """What our code logs from now on.

    Raises:
        ConfigError: There is no such level.
    """
    number = _number(check_level(level))
    for name in OURS:
        logging.getLogger(name).setLevel(number)


def _number(level: str) -> int:
    return logging.getLevelNamesMapping()[level.upper()]


def set_up(settings: LogSettings, process: str, stream: TextIO | None = None) -> None:
    """Log from now on, in place of earlier ways; ``process`` is who this one is.

    To standard error as the process was given it: Ray Serve puts something else in its place, which
    drops what is no Serve message of a warning's level.
    """
    handler = logging.StreamHandler(stream or sys.__stderr__ or sys.stderr)
    handler.setFormatter(Formatter(settings.format, process))
    root = logging.getLogger()
    for earlier in list(root.handlers):
        root.removeHandler(earlier)
    root.addHandler(handler)
    root.setLevel(max(logging.WARNING, _number(settings.level)))
    set_level(settings.level)
    logging.getLogger(AUDIT).setLevel(logging.INFO)  # whatever the level: it is no chatter


class Formatter(logging.Formatter):
    """One line an event."""

    def __init__(self, format_: str, process: str) -> None:
        super().__init__()
        self._write = _json_line if format_ == "json" else _logfmt_line
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record, without its end."""
        event, fields = event_of(record)
        at = datetime.fromtimestamp(record.created, tz=UTC).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {
            "at": at.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "process": self._process,
            "logger": record.name,
            "event": event,
        }
        for name, value in fields.items():
            line[f"{name}_" if name in _RESERVED else name] = value
        trace = trace_ids.get(str(fields.get("request", "")))
        if trace is not None:
            line["trace"] = trace
        if record.exc_info and record.exc_info[0] is not None:
            line["error"] = "".join(traceback.format_exception(*record.exc_info)).strip()
        return self._write(line)


def event_of(record: logging.LogRecord) -> tuple[str, Mapping[str, object]]:
    """Name and fields of a record; what is no event of ours is ``log`` with a ``message``."""
    template, args = str(record.msg), record.args
    found = _EVENT.match(template)
    values = list(args) if isinstance(args, tuple) else []
    if found is not None:
        fields: dict[str, object] = {}
        at = found.end()
        while (field := _FIELD.match(template, at)) is not None and values:
            fields[field[1]] = _value(field[2], values.pop(0))
            at = field.end()
        if at == len(template) and not values:
            return found[0], fields
    return "log", {"message": record.getMessage()}


def _value(conversion: str, value: object) -> object:
    """Numbers stay numbers; all else is the text that the call asks for."""
    if conversion in ("%d", "%s") and type(value) in (int, float, bool):
        return value
    return conversion % (value,)


def _json_line(line: Mapping[str, object]) -> str:
    return json.dumps(line, default=str)


def _logfmt_line(line: Mapping[str, object]) -> str:
    return " ".join(f"{name}={_logfmt_value(value)}" for name, value in line.items())


def _logfmt_value(value: object) -> str:
    text = str(value)
    if _PLAIN.fullmatch(text):
        return text
    return json.dumps(text, ensure_ascii=not text.isprintable())
