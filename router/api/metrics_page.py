"""The metrics of a whole deployment as one Prometheus page."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from typing import Final

from galerne.metric_set import MetricSet

logger = logging.getLogger(__name__)

_NAME: Final = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
_COMMENT: Final = re.compile(rf"# (?:HELP|TYPE) ({_NAME}) [^\n]*")
_SAMPLE: Final = re.compile(rf"({_NAME})(?:\{{([^\n]*)\}})? ([^ \n]+)")


def metrics_page(
    own: MetricSet, text_by_process: Mapping[str, bytes], process: str = "frontend"
) -> bytes:
    """Prometheus text of many processes, told apart by the label ``process``.

    ``own`` are those of this ``process``, unless it has told its own with the others: then what it
    told counts, for another frontend may have shown that already, and counters must not go back.

    Labels are put into the lines as they are: parsing and writing all of them anew would take seven
    times as long, and this runs beside the streams of clients. A process whose text has other lines
    than ``generate_latest`` writes is left out.
    """
    lines_by_family: dict[str, list[str]] = {}
    texts = dict(text_by_process)
    if process not in texts:
        texts = {process: own.text(), **texts}
    for process, text in texts.items():
        try:
            families = list(_families(text.decode("utf-8"), process))
        except ValueError:
            logger.warning("metrics_unreadable process=%s", process)
            continue
        for name, comments, samples in families:
            lines_by_family.setdefault(name, comments).extend(samples)
    return "".join(f"{line}\n" for lines in lines_by_family.values() for line in lines).encode()


def _families(text: str, process: str) -> Iterator[tuple[str, list[str], list[str]]]:
    """Name, comments and labelled samples of every family.

    Raises:
        ValueError: A line is none of a page.
    """
    label = f'process="{process}"'
    name, comments, samples = "", list[str](), list[str]()
    for line in text.removesuffix("\n").split("\n"):  # values may have other ends of lines in them
        comment = _COMMENT.fullmatch(line)
        if comment is not None:
            if comment[1] != name and name:
                yield name, comments, samples
            if comment[1] != name:
                name, comments, samples = comment[1], [], []
            comments.append(line)
            continue
        sample = _SAMPLE.fullmatch(line)
        if sample is None or not sample[1].startswith(name) or not name:
            raise ValueError(line)
        labels = f"{sample[2]},{label}" if sample[2] else label
        samples.append(f"{sample[1]}{{{labels}}} {sample[3]}")
    if name:
        yield name, comments, samples
