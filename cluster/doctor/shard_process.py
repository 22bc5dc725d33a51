"""One expert shard in a process of its own, for the time of a measurement.

    python -m cluster.doctor.shard_process < LINES

The first line on stdin is its settings as JSON (they hold a token, so they are no arguments); it
prints its address, then answers every line with its counters. It ends with its input.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import torch

from cluster.doctor.line_process import say
from cluster.doctor.setup import EPOCH, NUMERICS
from galerne.ids import ShardId
from router.gateway.settings import DTYPES, link_profile
from shards.host import ShardHost, ShardSettings
from shards.kernels.formats import FORMATS


def main() -> None:
    """Serve until stdin ends."""
    asked = json.loads(sys.stdin.readline())
    torch.set_num_threads(1)
    experts, dense = FORMATS[asked["experts"]], FORMATS[asked["dense"]]
    host = ShardHost(
        ShardSettings(
            shard_id=ShardId(asked["shard"]),
            checkpoint=Path(asked["checkpoint"]),
            experts_by_layer={int(layer): ids for layer, ids in asked["experts_by_layer"].items()},
            dtype=DTYPES[NUMERICS],
            numerics_profile=link_profile(
                NUMERICS, experts, dense, asked["device"], asked["shard_device"]
            ),
            cluster_token=asked["cluster_token"],
            epochs=(EPOCH,),
            num_threads=1,
            core=asked["core"],
            held=experts,
            device=asked["shard_device"],
        )
    )
    say({"address": host.address})
    for _ in sys.stdin:
        computed_s = host.describe()["compute_seconds"]
        say({"compute_seconds": computed_s, "cpu_seconds": time.process_time()})
    host.stop()


if __name__ == "__main__":
    main()
    os._exit(0)  # gRPC's threads need not be waited for
