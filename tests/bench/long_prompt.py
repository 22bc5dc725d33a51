"""``make bench-long``: a prompt of 262,144 tokens over gRPC and HTTP, while others generate.

    python -m tests.bench.long_prompt [TOKENS]

On the tiny preset with one layer and one head, for the cost grows with the square. Four prompts of
a quarter to all of the tokens (the later ones find the earlier ones' blocks) are sent to ``galerne
serve``, in turn over gRPC and HTTP; their top log probabilities must be those of one pass over all.
Meanwhile a short request streams: how long did it wait for a token? Last, one token too many.
"""

import sys
import tempfile
import threading
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import grpc
import httpx
import numpy as np

MOST = 262_144
TOP = 5


def one_pass(path, ids, positions):
    """``[positions, V]`` log probabilities, every token in one step."""
    import torch

    from helpers.fixture_models import BLOCK_SIZE, local_experts
    from router.model.batch import Chunk, build_batch
    from router.model.decoder import Decoder
    from router.model.kv_cache import PagedLatentCache
    from router.profiling import LayerTimer
    from shards.checkpoint.open import open_checkpoint

    source = open_checkpoint(path)
    num_blocks = len(ids) // BLOCK_SIZE + 2
    cache = PagedLatentCache(source.config, num_blocks, BLOCK_SIZE, torch.bfloat16)
    decoder = Decoder(source, torch.bfloat16, 2)
    with torch.inference_mode():
        batch = build_batch([Chunk(ids, 0, list(range(1, num_blocks)), 1)], cache)
        micro = decoder.micro_batch(batch, cache)
        experts = local_experts(source, torch.bfloat16, 2)
        (hidden,) = decoder.forward([micro], experts, LayerTimer())
        return torch.log_softmax(decoder.logits(hidden[np.array(positions) - 1]), 1).numpy()


class Streaming(threading.Thread):
    """Short requests one after the other, until told to stop; the gaps between their tokens."""

    def __init__(self, address):
        super().__init__(daemon=True)
        self.address, self.firsts, self.gaps, self.is_over = address, [], [], False

    def run(self):
        from galerne.v1 import inference_pb2 as pb
        from galerne.v1 import inference_pb2_grpc

        with grpc.insecure_channel(self.address) as channel:
            stub = inference_pb2_grpc.InferenceServiceStub(channel)
            while not self.is_over:
                sampling = pb.SamplingParams(max_tokens=200, ignore_eos=True)
                request = pb.GenerateRequest(text="The Loire ends", sampling=sampling)
                started = time.monotonic()
                times = [
                    time.monotonic()
                    for event in stub.Generate(request)
                    if event.WhichOneof("event") == "tokens"
                ]
                self.firsts.append(times[0] - started)
                self.gaps += [b - a for a, b in pairwise(times)]


def by_grpc(server, ids):
    """Top log probabilities by id of the token after the prompt."""
    from galerne.v1 import inference_pb2 as pb
    from galerne.v1 import inference_pb2_grpc

    with grpc.insecure_channel(server.grpc) as channel:
        sampling = pb.SamplingParams(max_tokens=1, temperature=0, logprobs=TOP)
        prompt = pb.TokenIds(ids=ids)
        request = pb.GenerateRequest(token_ids=prompt, sampling=sampling)
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        for event in stub.Generate(request):
            if event.WhichOneof("event") == "tokens" and event.tokens.logprobs:
                return {t.token_id: t.logprob for t in event.tokens.logprobs[0].top}
    raise AssertionError("no token came")


def by_http(server, ids):
    """The same; HTTP names tokens by their text, so only the values come back, best first."""
    fields = {"model": server.model, "prompt": ids, "max_tokens": 1, "temperature": 0}
    url = f"http://{server.http}/v1/completions"
    reply = httpx.post(url, json=fields | {"logprobs": TOP}, timeout=3600)
    reply.raise_for_status()
    top = reply.json()["choices"][0]["logprobs"]["top_logprobs"][0]
    return sorted(top.values(), reverse=True)


def main():
    from helpers.serve_process import ServeProcess
    from shards.checkpoint.presets import preset
    from shards.checkpoint.random_checkpoint import write_random_checkpoint

    most = int(sys.argv[1]) if len(sys.argv) > 1 else MOST
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "tiny"
        config = replace(preset("tiny", num_layers=1), num_heads=1)
        write_random_checkpoint(path, config, seed=4)
        ids = np.random.default_rng(0).integers(1000, 8192, most).tolist()
        positions = [most // 4, most // 2, most * 3 // 4, most]
        flags = ["--model", str(path), "--max-model-len", str(most + 1), "--kv-memory", "2GiB"]
        flags += ["--transport", "local", "--http-port", "0", "--grpc-port", "0"]
        server = ServeProcess(*flags)
        try:
            others = Streaming(server.grpc)
            others.start()
            found = []
            for number, length in enumerate(positions):
                started = time.monotonic()
                ask = (by_grpc, by_http)[number % 2]
                found.append(ask(server, ids[:length]))
                print(
                    f"{ask.__name__} {length} tokens: {time.monotonic() - started:.1f} s",
                    flush=True,
                )
            others.is_over = True
            others.join()
            fields = {"model": server.model, "prompt": [*ids, 1000], "max_tokens": 1}
            refused = httpx.post(f"http://{server.http}/v1/completions", json=fields, timeout=60)
            print("one token too many:", refused.status_code, refused.json()["error"]["message"])
        finally:
            server.stop()
        gaps = np.array(others.gaps) * 1e3
        print(
            f"others meanwhile: {len(gaps)} tokens, ms between two: median {np.median(gaps):.1f}, "
            f"99 % {np.percentile(gaps, 99):.1f}, longest {gaps.max():.1f}; to the first of "
            f"{len(others.firsts)} answers: longest {max(others.firsts) * 1e3:.0f}",
            flush=True,
        )
        started = time.monotonic()
        want = one_pass(path, ids, positions)
        print(f"one pass: {time.monotonic() - started:.1f} s", flush=True)
        for length, got, row in zip(positions, found, want, strict=True):
            best = np.sort(row)[::-1][:TOP]
            values = sorted(got.values(), reverse=True) if isinstance(got, dict) else got
            if isinstance(got, dict):
                assert all(abs(row[i] - logprob) < 1e-4 for i, logprob in got.items())
            difference = float(np.abs(best - np.array(values)).max())
            print(f"position {length}: largest difference {difference:.1e}")
            assert difference < 1e-4


if __name__ == "__main__":
    main()
