"""Facts about the cluster as messages and as JSON, and requests as values."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from galerne.v1 import cluster_pb2 as pb
from router.api import cluster_port as port

_MESSAGE_BY_FACTS: dict[type, Any] = {
    port.TopologyFacts: pb.TopologyInfo,
    port.EventFacts: pb.ClusterEvent,
    port.ObjectivesFacts: pb.Objectives,
    port.ObservedLoad: pb.ObservedLoad,
    port.CandidateFacts: pb.Candidate,
    port.OutcomeFacts: pb.DecisionOutcome,
    port.DecisionFacts: pb.Decision,
    port.ScalerFacts: pb.ScalerInfo,
    port.WhatIfFacts: pb.WhatIfAnswer,
}


def message_of(facts: Any) -> Any:  # noqa: ANN401 - a class of the table to a class of the table
    """The message whose fields have the same names; None leaves a field unset."""
    fields = {name: _value(getattr(facts, name)) for name in facts.__slots__}
    kind = _MESSAGE_BY_FACTS[type(facts)]
    return kind(**{name: value for name, value in fields.items() if value is not None})


def plain_of(facts: Any) -> dict[str, Any]:  # noqa: ANN401 - any of the facts
    """For JSON, which knows no infinity: null."""
    plain: dict[str, Any] = _finite(dataclasses.asdict(facts))
    return plain


def wish_of(request: pb.SetTopologyRequest) -> port.TopologyWish:
    """The fields that are set."""
    return port.TopologyWish(**_set_fields(request, port.TopologyWish))


def question_of(request: pb.WhatIfRequest) -> port.WhatIfQuestion:
    """The fields that are set.

    Raises:
        InvalidRequestError: One is out of range.
    """
    return port.WhatIfQuestion(**_set_fields(request, port.WhatIfQuestion))


def _set_fields(request: Any, kind: Any) -> dict[str, Any]:  # noqa: ANN401 - messages are untyped
    return {name: getattr(request, name) for name in kind.__slots__ if request.HasField(name)}


def _value(value: object) -> object:
    if type(value) in _MESSAGE_BY_FACTS:
        return message_of(value)
    if isinstance(value, list | tuple):
        return [_value(item) for item in value]
    return value


def _finite(value: object) -> Any:  # noqa: ANN401 - plain values
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
