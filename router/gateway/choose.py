"""Which gateway a request goes to: least load, then prefix affinity. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from galerne.ids import GatewayId

AFFINITY_TOKENS = 64  # prompts that share these share a gateway, and its prefix cache
SLACK = 2  # requests more than the least loaded that affinity may cost


def choose_gateway(
    in_flight: Mapping[GatewayId, int], prompt_token_ids: Sequence[int], salt: str
) -> GatewayId:
    """Among the gateways near the least load, the one this prefix always goes to.

    Rendezvous hashing: a gateway that comes or goes moves only its own share of prefixes.

    Raises:
        ValueError: There is no gateway.
    """
    if not in_flight:
        raise ValueError("no gateway")
    least = min(in_flight.values())
    near = [gateway for gateway, count in in_flight.items() if count <= least + SLACK]
    prefix = repr((salt, tuple(prompt_token_ids[:AFFINITY_TOKENS]))).encode()
    return max(near, key=lambda g: hashlib.sha256(g.encode() + b"\0" + prefix).digest())
