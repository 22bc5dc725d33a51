"""One engine of the bench in a process of its own: reads commands, answers with JSON lines.

    python -m tests.bench.worker local|shm|grpc|transformers CHECKPOINT [SHARD_ADDRESS ...]

A command is ``{"streams": 16, "prompt": 64, "tokens": 48, "seed": 1}``; the answer holds the
seconds that the whole batch took, and for our engines the seconds by part.
"""

import json
import os
import resource
import sys
import time

THREADS = int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1))


def prompts(command, vocab_size):
    import numpy as np

    rng = np.random.default_rng(command["seed"])
    return rng.integers(1000, vocab_size, (command["streams"], command["prompt"])).tolist()


def exchange_with(source, kind, addresses):
    """With shards of ``tests.bench.shard`` by ``kind`` of link, "shm" or "grpc"."""
    from helpers.cluster import TOKEN, hello
    from helpers.fixture_models import exchange_over, topology
    from router.exchange.grpc_transport import GrpcTransport
    from router.exchange.shm_transport import ShmTransport

    names = [f"shard-{i}" for i in range(len(addresses))]
    shape = topology(source.config, names)
    book = type("Book", (), {"address_of": lambda _, s: addresses[names.index(s)]})()
    links = (shape.shards, hello(source, shape), TOKEN, book)
    transport = ShmTransport(*links, 8 << 20) if kind == "shm" else GrpcTransport(*links)
    return exchange_over(transport, shape)


class Galerne:
    """Our engine, driven by its own submit; no API in between."""

    def __init__(self, kind, path, addresses):
        import threading
        from pathlib import Path

        import torch

        from helpers.fixture_models import local_experts
        from shards.checkpoint.open import open_checkpoint
        from shards.kernels.formats import FORMATS

        torch.set_num_threads(THREADS)
        self.source = open_checkpoint(Path(path))
        if addresses:
            exchange = exchange_with(self.source, kind, addresses)
        else:
            held = FORMATS[os.environ.get("GALERNE_EXPERTS", "bf16")]
            exchange = local_experts(self.source, torch.bfloat16, THREADS, held)
        self._ended = threading.Semaphore(0)
        self._open = self._engine(exchange)
        self._count = 0

    def _engine(self, exchange):
        from helpers.gateways import engine
        from shards.kernels.formats import FORMATS

        context = engine(
            self.source,
            exchange=exchange,
            num_blocks=int(os.environ.get("GALERNE_BLOCKS", "1024")),
            threads=THREADS,
            beside=int(os.environ.get("GALERNE_BESIDE", THREADS)),
            dense=FORMATS[os.environ.get("GALERNE_DENSE", "bf16")],
            max_num_seqs=64,
            max_batched_tokens=1024,
            max_chunk_tokens=1024,
            max_model_len=2048,
            enable_prefix_cache=False,
        )
        self.engine, self.collector = context.__enter__()
        return context

    def run(self, command):
        from helpers.gateways import request

        ids = []
        self.engine.timer.reset()
        model = self.engine._runner.model
        model.timer.reset()
        steps = self.engine.num_steps
        batch = prompts(command, self.source.config.vocab_size)
        started = time.perf_counter()
        for prompt in batch:
            self._count += 1
            ids.append(f"r{self._count}")
            self.engine.submit(request(ids[-1], prompt, max_tokens=command["tokens"]))
        for name in ids:
            self.collector.wait(name, timeout=600)
        seconds = time.perf_counter() - started
        return {
            "seconds": seconds,
            "steps": self.engine.num_steps - steps,
            "parts": dict(model.timer.seconds),
            "engine": dict(self.engine.timer.seconds),
            "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10,
        }


class Transformers:
    """The peer: transformers' generate, eager experts, bf16."""

    def __init__(self, path):
        import torch
        import transformers

        torch.set_num_threads(THREADS)
        transformers.logging.set_verbosity_error()
        self.torch = torch
        self.model = transformers.Mistral4ForCausalLM.from_pretrained(
            path, dtype=torch.bfloat16, experts_implementation="eager"
        ).eval()

    def run(self, command):
        torch, count = self.torch, command["tokens"]
        x = torch.tensor(prompts(command, self.model.config.vocab_size))
        started = time.perf_counter()
        with torch.inference_mode():
            self.model.generate(
                x,
                attention_mask=torch.ones_like(x),
                max_new_tokens=count,
                min_new_tokens=count,
                do_sample=False,
                eos_token_id=None,
                pad_token_id=11,
            )
        return {"seconds": time.perf_counter() - started}


def main():
    kind, path, *addresses = sys.argv[1:]
    runner = Transformers(path) if kind == "transformers" else Galerne(kind, path, addresses)
    print(json.dumps({"ready": kind}), flush=True)
    for line in sys.stdin:
        print(json.dumps(runner.run(json.loads(line))), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
