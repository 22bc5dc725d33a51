"""Adapters as messages of ``galerne.v1`` and back."""

from __future__ import annotations

from galerne.adapters import AdapterInfo
from galerne.v1 import inference_pb2 as pb
from galerne.v1 import internal_pb2 as internal
from shards.adapters.adapter import Adapter


def decode_adapter(message: pb.AdapterInfo) -> AdapterInfo:
    """As it was."""
    return AdapterInfo(**{name: getattr(message, name) for name in AdapterInfo.__slots__})


def adapter_report(adapter: Adapter) -> internal.AdapterReport:
    """What a part says of one that it has loaded."""
    return internal.AdapterReport(id=adapter.id, rank=adapter.rank, num_bytes=adapter.num_bytes)
