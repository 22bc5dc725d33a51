"""One expert shard of the bench in a process of its own.

    python -m tests.bench.shard CHECKPOINT INDEX COUNT

Prints its address, then answers every line on stdin with its counters.
"""

import json
import os
import sys
from pathlib import Path


def main():
    import torch

    from helpers.cluster import PROFILE, TOKEN
    from helpers.fixture_models import topology
    from shards.checkpoint.open import open_checkpoint
    from shards.host import ShardHost, ShardSettings

    threads = int(os.environ["OMP_NUM_THREADS"])
    torch.set_num_threads(threads)
    path, index, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    shape = topology(open_checkpoint(path).config, [f"shard-{i}" for i in range(count)])
    host = ShardHost(
        ShardSettings(
            shard_id=shape.shards[index],
            checkpoint=path,
            experts_by_layer=shape.placement.experts_of(shape.shards[index]),
            dtype=torch.bfloat16,
            numerics_profile=PROFILE,
            cluster_token=TOKEN,
            epochs=(1,),
            num_threads=threads,
            core=index,
        )
    )
    print(json.dumps({"address": host.address}), flush=True)
    for _ in sys.stdin:
        facts = {k: v for k, v in host.describe().items() if k != "metrics"}
        print(json.dumps(facts), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
