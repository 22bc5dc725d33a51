"""The recorder that a gateway's settings ask for."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime

from galerne.clock import MonotonicClock
from router.engine.gateway_port import ModelFacts
from router.engine.recording import NULL_RECORDER, StepRecorder
from router.engine.scheduler_config import SchedulerConfig
from router.gateway.record_file import RecordHeader, create_record
from router.gateway.record_writer import RecordWriter
from router.gateway.settings import GatewaySettings


def create_recorder(
    settings: GatewaySettings, facts: ModelFacts, num_blocks: int, scheduler: SchedulerConfig
) -> StepRecorder:
    """A writer of a new record, or nothing.

    Raises:
        ConfigError: The record cannot be made.
    """
    if settings.record is None:
        return NULL_RECORDER
    header = RecordHeader(
        gateway=settings.gateway_id,
        incarnation=secrets.token_hex(8),
        started_at=datetime.now(UTC).isoformat(),
        checkpoint=settings.checkpoint,
        fingerprint=facts.fingerprint,
        numerics_profile=facts.numerics_profile,
        numerics=settings.numerics,
        experts=settings.experts.label,
        dense=settings.dense.label,
        epoch=settings.topology.epoch,
        num_blocks=num_blocks,
        scheduler=scheduler,
        adapters_root=settings.adapters_root,
    )
    return RecordWriter(create_record(settings.record, header), MonotonicClock())
