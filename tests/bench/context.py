"""``make bench-context``: prefill and decode of our engine at long context on the 1b checkpoint.

python -m tests.bench.context [LENGTH ...]      # 1024 8192 32768 unless given
"""

import os
import sys
import time

LENGTHS = (1024, 8192, 32768)
CHUNK = 1024
DECODED = 32


def main():
    import torch

    from helpers.fixture_models import BLOCK_SIZE, local_experts
    from router.model.decoder import Decoder
    from router.model.kv_cache import PagedLatentCache
    from router.model.runner import PagedRunner, SequenceChunk
    from shards.checkpoint.open import open_checkpoint
    from tests.bench.run import one_b

    lengths = [int(a) for a in sys.argv[1:]] or LENGTHS
    threads = os.cpu_count() or 1
    source = open_checkpoint(one_b())
    num_blocks = (max(lengths) + DECODED) // BLOCK_SIZE + 2
    cache = PagedLatentCache(source.config, num_blocks, BLOCK_SIZE, torch.bfloat16)
    experts = local_experts(source, torch.bfloat16, threads)
    runner = PagedRunner(Decoder(source, torch.bfloat16, threads), cache, experts, None)
    per_token = cache.bytes_per_block(source.config, BLOCK_SIZE, torch.bfloat16) // BLOCK_SIZE
    print(f"KV bytes per token: {per_token} = 640 x {per_token // 640} layers")
    blocks = list(range(1, num_blocks))
    ids = torch.randint(1000, 8192, (max(lengths) + DECODED,)).tolist()

    def run(start, count):
        runner.run(0, [SequenceChunk(ids, start, count, blocks, 1)])

    def timed(steps):
        runner.timer.reset()
        started = time.perf_counter()
        for start, count in steps:
            run(start, count)
        seconds = time.perf_counter() - started
        return seconds, runner.timer.seconds["attention"] / seconds

    run(0, CHUNK)
    print("| context | prefill tok/s | attention's share | decode tok/s | attention's share |")
    print("|---:|---:|---:|---:|---:|")
    for length in lengths:
        prefill, share = timed([(at, min(CHUNK, length - at)) for at in range(0, length, CHUNK)])
        decode, decode_share = timed([(length + i, 1) for i in range(DECODED)])
        print(
            f"| {length} | {length / prefill:.0f} | {share:.0%} | {DECODED / decode:.0f} "
            f"| {decode_share:.0%} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
