"""Identifiers that must not be mixed."""

from __future__ import annotations

from typing import NewType

ShardId = NewType("ShardId", str)  # "shard-0"; never renumbered
GatewayId = NewType("GatewayId", str)  # "gateway-0"
LogicalExpert = NewType("LogicalExpert", int)  # expert id within a layer
Epoch = NewType("Epoch", int)  # number of an immutable topology, from 1
FrameId = NewType("FrameId", int)  # unique within one gateway incarnation
CallId = NewType("CallId", int)  # one exchange of one micro-batch of one layer
