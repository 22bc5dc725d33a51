"""A step's details as spans. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from router.tracing.spans import SpanData, nested, within
from router.tracing.step_detail import FrameDetail, Part, StepDetail


def step_span(step: StepDetail, num_layers: int) -> SpanData:
    """One step: the parts of each layer below a span of the layer, with what its shards did.

    Of each layer the shard that answered last, which the gateway waited for, is shown in full; the
    others tell their times in attributes. Times within a shard are its own, as its answers tell
    them, laid into the time that the gateway waited so that the wire has as much before as after.

    Where micro-batches overlap, or native code runs all layers in one call and tells sums only,
    parts are not grouped.
    """
    counts = Counter(part.name for part in step.parts)
    of_layers = {name for name, count in counts.items() if count == num_layers > 1}
    by_layer: dict[int, list[SpanData]] = defaultdict(list)
    spans, seen = [], Counter[str]()
    for part in step.parts:
        if part.name in of_layers:
            by_layer[seen[part.name]].append(_part(part))
            seen[part.name] += 1
        else:
            spans.append(_part(part))
    frames: dict[int, list[FrameDetail]] = defaultdict(list)
    for frame in step.frames:
        frames[frame.layer].append(frame)
    for layer, parts in by_layer.items():
        spans.append(_layer(layer, parts, frames.pop(layer, []), step.end_s))
    loose = [frame for left in frames.values() for frame in left]
    children = (*nested(spans), *_frames(loose, step.end_s))
    whole = SpanData(
        "step",
        step.start_s,
        step.end_s,
        {
            "galerne.step": step.step,
            "galerne.step.sequences": step.num_sequences,
            "galerne.step.tokens": step.num_tokens,
        },
        sorted(children, key=lambda span: span.start_s),
        error=step.error,
    )
    return within(whole, whole.start_s, whole.end_s)


def _part(part: Part) -> SpanData:
    return SpanData(part.name, part.start_s, part.end_s)


def _layer(
    layer: int, parts: Sequence[SpanData], frames: Sequence[FrameDetail], step_end_s: float
) -> SpanData:
    end_s = max(part.end_s for part in parts)
    below = [*nested(parts), *_frames(frames, min(end_s, step_end_s))]
    start_s = min(span.start_s for span in below)
    below.sort(key=lambda span: span.start_s)
    return SpanData(f"layer {layer}", start_s, end_s, {"galerne.layer": layer}, below)


def _frames(frames: Iterable[FrameDetail], end_s: float) -> list[SpanData]:
    frames = list(frames)
    answered = [frame for frame in frames if frame.answered_s is not None]
    last = max(answered, key=lambda frame: frame.answered_s or 0.0, default=None)
    return [_frame(frame, end_s, in_full=frame is last) for frame in frames]


def _frame(frame: FrameDetail, end_s: float, *, in_full: bool) -> SpanData:
    answered_s = frame.answered_s
    queue_s, service_s = frame.times
    attributes: dict[str, str | bool | int | float] = {
        "galerne.shard": frame.shard,
        "galerne.rows": frame.num_rows,
        "galerne.attempt": frame.attempt,
    }
    if answered_s is None:
        error = "no answer within the step"
        return SpanData("experts", frame.sent_s, end_s, attributes, shard=frame.shard, error=error)
    wire_s = max(answered_s - frame.sent_s - queue_s - service_s, 0.0)
    times = (("queue", queue_s), ("service", service_s), ("wire", wire_s))
    attributes |= {f"galerne.{name}_us": round(s * 1e6) for name, s in times}
    children: list[SpanData] = []
    if in_full:
        left_s = answered_s - wire_s / 2
        begun_s = max(left_s - service_s, frame.sent_s)
        arrived_s = min(frame.sent_s + wire_s / 2, begun_s)
        at = (frame.sent_s, arrived_s, begun_s, left_s, answered_s)
        names = ("wire", "shard queue", "expert compute", "wire")
        children = [
            SpanData(name, start, end, shard=frame.shard if name != "wire" else "")
            for name, start, end in zip(names, at, at[1:], strict=False)
        ]
    return SpanData("experts", frame.sent_s, answered_s, attributes, children, shard=frame.shard)
