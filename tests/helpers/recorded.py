"""Records of gateways that never ran, for tests of what reads them."""

from dataclasses import replace
from pathlib import Path

from router.engine.scheduler_config import SchedulerConfig
from router.gateway import record_events as events
from router.gateway.record_file import RecordHeader, create_record

HEADER = RecordHeader(
    gateway="gateway-0",
    incarnation="00",
    started_at="2026-01-01T00:00:00+00:00",
    checkpoint=Path("/models/tiny"),
    fingerprint="f",
    numerics_profile="p",
    numerics="bf16",
    experts="int8",
    dense="bf16",
    epoch=1,
    num_blocks=20,
    scheduler=SchedulerConfig(max_num_seqs=4, max_model_len=256),
)
PROMPT = tuple(range(40))


def record(directory, *timed, gateway="gateway-0", second=0):
    """Of a gateway that started at ``second``; ``timed``: seconds since then, and events."""
    started_at = f"2026-01-01T00:00:{second:02d}+00:00"
    with create_record(directory, replace(HEADER, gateway=gateway, started_at=started_at)) as file:
        for step, (at_s, event) in enumerate(timed):
            file.write(events.to_line(step, at_s, event).encode() + b"\n")
    return directory


def planned(request_id, start=0, choice=0):
    entry = events.PlannedEntry(request_id, choice, start, len(PROMPT) - start, samples=True)
    return events.Planned((entry,), ())


def sampled(request_id, offset, num=1, choice=0):
    outcome = events.Outcome(request_id, choice, offset, tuple(range(num)), "", "")
    return events.Sampled((outcome,))
