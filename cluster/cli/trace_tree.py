"""Spans of a trace, as the file exporter wrote them: as a tree, and a step's time by part."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

# Parts of a step that follow one another; all else of it is "rest".
PARTS = (
    *("embed", "projections", "attention", "gate", "dispatch", "shared expert"),
    *("experts and wire", "combine", "head", "sample", "draft"),
)
# What the slowest shard of each layer says of the wait for it.
SHARD_PARTS = ("wire", "shard queue", "expert compute")


@dataclass(slots=True)
class Node:
    """One span, and those below it by start."""

    name: str
    process: str
    start_s: float
    end_s: float
    attributes: Mapping[str, Any]
    error: str
    children: list[Node] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.end_s - self.start_s

    def walk(self) -> Iterator[Node]:
        """It and all below it."""
        yield self
        for child in self.children:
            yield from child.walk()

    def as_json(self, origin_s: float) -> dict[str, Any]:
        """Plain values; times in milliseconds since ``origin_s``."""
        told: dict[str, Any] = {
            "name": self.name,
            "process": self.process,
            "at_ms": round((self.start_s - origin_s) * 1e3, 3),
            "ms": round(self.seconds * 1e3, 3),
            "attributes": dict(self.attributes),
        }
        if self.error:
            told["error"] = self.error
        return told | {"children": [child.as_json(origin_s) for child in self.children]}


def read_spans(directory: Path, trace_id: str) -> list[dict[str, Any]]:
    """Spans of a trace from all files of a directory; a line that is being written is left out."""
    found = []
    for path in sorted(directory.glob("*.jsonl")):
        for line in path.read_text().splitlines():
            if trace_id not in line:
                continue
            try:
                span = json.loads(line)
            except ValueError:
                continue
            if span["context"]["trace_id"] == f"0x{trace_id}":
                found.append(span)
    return found


def trees(spans: Iterable[Mapping[str, Any]]) -> list[Node]:
    """Spans below one another; roots are those whose parent is not among them."""
    spans = list(spans)
    by_id = {span["context"]["span_id"]: _node(span) for span in spans}
    roots: list[Node] = []
    for span in spans:
        node, parent = by_id[span["context"]["span_id"]], by_id.get(span["parent_id"] or "")
        (roots if parent is None else parent.children).append(node)
    for node in by_id.values():
        node.children.sort(key=lambda child: child.start_s)
    return sorted(roots, key=lambda node: node.start_s)


def split_of(step: Node) -> dict[str, float]:
    """Seconds of a step by part, summed over its layers; shards' parts lie within their wait."""
    sums: dict[str, float] = {}
    for node in step.walk():
        if node.name in (*PARTS, *SHARD_PARTS):
            sums[node.name] = sums.get(node.name, 0.0) + node.seconds
    split = {name: sums[name] for name in (*PARTS, *SHARD_PARTS) if name in sums}
    split["rest"] = step.seconds - sum(sums.get(name, 0.0) for name in PARTS)
    return split


def find(nodes: Sequence[Node], *path: str) -> Node | None:
    """The first node below ``nodes`` of the last name, inside one of the first name, and so on."""
    found: Node | None = None
    for name in path:
        found = next((n for root in nodes for n in root.walk() if n.name == name), None)
        if found is None:
            return None
        nodes = found.children
    return found


def _node(span: Mapping[str, Any]) -> Node:
    resource = span["resource"]["attributes"]
    return Node(
        name=span["name"],
        process=f"{resource['service.name']} {resource['service.instance.id']}",
        start_s=datetime.fromisoformat(span["start_time"]).timestamp(),
        end_s=datetime.fromisoformat(span["end_time"]).timestamp(),
        attributes=span["attributes"] or {},
        error=span["status"].get("description", "")
        if span["status"]["status_code"] == "ERROR"
        else "",
    )
