"""The engines of the bench: ours in several widths, and peers, each in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.bench.peers import llama_cpp

ROOT = Path(__file__).parents[2]
CORES = os.cpu_count() or 1
NUM_SHARDS = 4
WIDTHS = {"bf16": ("bf16", "bf16"), "int8": ("int8", "int8"), "int4": ("int4", "int4")}
OURS = {"OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1"}


class Process:
    """A worker or shard: one JSON line out for one line in."""

    def __init__(self, module, *args, threads, root=ROOT, **env):
        """``module``: a name, or a file; run in the checkout ``root``."""
        path = os.pathsep.join(str(root / p) for p in (".", "proto", "tests"))
        what = ["-P", str(module)] if isinstance(module, Path) else ["-m", module]
        env = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": path} | env
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", *what, *map(str, args)],
            cwd=root,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.said = self._read()

    def ask(self, command=None):
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self):
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"a bench process ended with {self._process.wait()}")
        return json.loads(line)

    def close(self):
        self._process.stdin.close()
        self._process.wait(30)


class Worker:
    """One of ours, or transformers: stays loaded, idle while another is measured."""

    def __init__(self, *args, shards=(), **options):
        self.process = Process("tests.bench.worker", *args, **options)
        self._shards = shards

    def measure(self, workload, seed):
        """Tokens per second of decoding, or of the prompt if nothing is decoded."""
        first = self.process.ask(workload | {"tokens": 1, "seed": seed})
        if workload["tokens"] == 1:
            speed = workload["streams"] * workload["prompt"] / first["seconds"]
            return {"tok_s": speed, "first": first, "whole": first, "shard_seconds": 0.0}
        before = self._computed()
        whole = self.process.ask(workload | {"seed": seed})
        decoded = workload["streams"] * (workload["tokens"] - 1)
        speed = decoded / max(whole["seconds"] - first["seconds"], 1e-9)
        spent = self._computed() - before
        return {"tok_s": speed, "first": first, "whole": whole, "shard_seconds": spent}

    def _computed(self):
        return sum(shard.ask()["compute_seconds"] for shard in self._shards)

    def close(self):
        self.process.close()


class LlamaCpp:
    """llama.cpp in one width: a process for each measurement."""

    def __init__(self, path, width):
        self._path = llama_cpp.gguf(path, width)

    def measure(self, workload, _seed):
        streams, prompt, tokens = (workload[k] for k in ("streams", "prompt", "tokens"))
        speeds = llama_cpp.decode_speed(self._path, streams, prompt, max(tokens, 2), CORES)
        return {"tok_s": speeds["prefill_tok_s" if tokens == 1 else "tok_s"]}

    def close(self):
        pass


def start(path, *, with_peers):
    """Every engine by its name, "engine width", and the shards that one of them uses."""
    shards = [
        Process("tests.bench.shard", path, i, NUM_SHARDS, threads=1, **OURS)
        for i in range(NUM_SHARDS)
    ]
    addresses = [s.said["address"] for s in shards]
    engines = {}
    for name, (experts, dense) in WIDTHS.items():
        env = OURS | {"GALERNE_EXPERTS": experts, "GALERNE_DENSE": dense, "GALERNE_SPIN_US": "200"}
        engines[f"local {name}"] = Worker("local", path, threads=CORES, **env)
    for kind in ("shm", "grpc"):
        name = f"{kind} bf16"
        env = OURS | {"GALERNE_BESIDE": "1"}
        engines[name] = Worker(kind, path, *addresses, shards=shards, threads=CORES, **env)
    engines["transformers bf16"] = Worker("transformers", path, threads=CORES)
    if with_peers:
        llama_cpp.build()
        engines |= {f"llama.cpp {width}": LlamaCpp(path, width) for width in WIDTHS}
    return engines, shards
