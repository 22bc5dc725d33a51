"""A gateway behind its service, and a frontend's pool, in one process: for ``against``.

    python tests/bench/path_worker.py local|shm|grpc CHECKPOINT [SHARD_ADDRESS ...]

Runs in any checkout (its PYTHONPATH says which). A command is a workload, as for ``worker``.
"""

import asyncio
import contextlib
import importlib
import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

THREADS = int(os.environ["OMP_NUM_THREADS"])


class FixedRoster:
    def __init__(self, address):
        try:
            from router.gateway.roster import Roster
        except ImportError:  # an older checkout
            from router.gateway.pool import Roster
        self._roster = Roster(gateways={"gateway-0": address})

    async def roster(self, *, with_metrics=False):
        return self._roster


def agree_on_profile():
    """The bench's shards have a profile of their own."""
    from helpers.cluster import PROFILE
    from router.gateway.settings import GatewaySettings

    if hasattr(GatewaySettings, "link_profile"):
        GatewaySettings.link_profile = property(lambda _: PROFILE)
        return
    for name in ("router.gateway.build", "router.gateway.experts"):
        with contextlib.suppress(ImportError):  # one of them is not in every checkout
            importlib.import_module(name).numerics_profile = lambda *_: PROFILE


def start_gateway(kind, path, addresses, **more):
    """``more``: of ``GatewaySettings``."""
    from galerne.topology import LinkTransport
    from helpers.cluster import TOKEN
    from helpers.fixture_models import topology
    from router.gateway.host import GatewayHost
    from router.gateway.settings import GatewaySettings
    from shards.checkpoint.open import open_checkpoint

    names = [f"shard-{i}" for i in range(max(len(addresses), 1))]
    shape = topology(open_checkpoint(Path(path)).config, names)
    shape = replace(shape, transport=LinkTransport(kind), max_num_seqs=64, max_batched_tokens=1024)
    book = type("Book", (), {"address_of": lambda _, s: addresses[names.index(s)]})()
    settings = GatewaySettings(
        gateway_id="gateway-0",
        checkpoint=Path(path),
        model_name="m",
        numerics="bf16",
        topology=shape,
        cluster_token=TOKEN,
        max_model_len=2048,
        kv_bytes=256 << 20,
        num_threads=THREADS,
        **more,
    )
    return GatewayHost(settings, book), TOKEN


async def run(pool, vocab_size, command, count):
    from helpers.gateways import request
    from tests.bench.worker import prompts

    async def one(number, prompt):
        tokens = 0
        asked = request(
            f"r{count}-{number}", prompt, max_tokens=command["tokens"], cache_salt=str(count)
        )
        async for delta in pool.submit(asked):
            tokens += len(delta.token_ids)
        assert tokens == command["tokens"]

    batch = prompts(command, vocab_size)
    started = time.perf_counter()
    await asyncio.gather(*(one(i, prompt) for i, prompt in enumerate(batch)))
    return time.perf_counter() - started


async def main():
    import torch

    from router.gateway.pool import GatewayPool

    torch.set_num_threads(THREADS)
    agree_on_profile()
    kind, path, *addresses = sys.argv[1:]
    host, token = start_gateway(kind, path, addresses)
    pool = GatewayPool(FixedRoster(host.address), token)
    await pool.start(30.0)
    print(json.dumps({"ready": True}), flush=True)
    count = 0
    while line := await asyncio.to_thread(sys.stdin.readline):
        count += 1
        seconds = await run(pool, host.facts.vocab_size, json.loads(line), count)
        print(json.dumps({"seconds": seconds}), flush=True)
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(main())
