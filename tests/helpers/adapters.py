"""Adapters of random numbers in the PEFT format, and the checkpoint with one merged into it."""

import json

import torch
from safetensors.torch import save_file

from shards.adapters.adapter import open_adapter
from shards.adapters.names import Target, shape_of
from shards.checkpoint.weights import ExpertWeights, Weight

ATTENTION = {
    "q_a": "self_attn.q_a_proj",
    "q_b": "self_attn.q_b_proj",
    "kv_a": "self_attn.kv_a_proj_with_mqa",
    "kv_b": "self_attn.kv_b_proj",
    "o": "self_attn.o_proj",
}
SHARED = {f"shared_{n}": f"mlp.shared_experts.{n}_proj" for n in ("gate", "up", "down")}
PREFIX = "base_model.model.model.language_model.layers."


def targets(config, *, dense=True, routed=True, layers=None):
    """Module within its layer, by target."""
    found = {}
    for layer in range(config.num_layers) if layers is None else layers:
        if dense:
            names = ATTENTION | SHARED
            found |= {Target(layer, name, None): module for name, module in names.items()}
        for expert in range(config.num_experts) if routed else ():
            for name in ("gate", "up", "down"):
                found[Target(layer, name, expert)] = f"mlp.experts.{expert}.{name}_proj"
    return found


def write_adapter(
    path, config, *, seed=0, rank=4, alpha=8.0, size=0.1, dtype=torch.float32, changes=None, **which
):
    """Write one; ``size`` of its numbers, ``changes`` of its config."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for target, module in targets(config, **which).items():
        num_out, num_in = shape_of(target, config)
        for part, shape in (("A", (rank, num_in)), ("B", (num_out, rank))):
            name = f"{PREFIX}{target.layer}.{module}.lora_{part}.weight"
            tensors[name] = (torch.randn(shape, generator=generator) * size).to(dtype)
    return write_files(path, tensors, {"r": rank, "lora_alpha": alpha} | (changes or {}))


def write_files(path, tensors, config):
    path.mkdir(parents=True)
    save_file(tensors, path / "adapter_model.safetensors")
    fields = {"peft_type": "LORA", "bias": "none", "use_dora": False, **config}
    (path / "adapter_config.json").write_text(json.dumps(fields))
    return path


class Merged:
    """A checkpoint whose weights have an adapter's changes in them, in float32."""

    def __init__(self, source, adapter):
        self.source, self.adapter = source, adapter
        self.config, self.fingerprint, self.bytes_read = source.config, source.fingerprint, 0

    def dense(self, name):
        weight = self.source.dense(name)
        if not name.startswith("layers."):
            return weight
        _, layer, short = name.split(".")
        change = self.adapter.dense.get((int(layer), short))
        if short.startswith("shared_"):
            shared = self.adapter.shared.get(int(layer))
            change = getattr(shared, short.removeprefix("shared_"), None)
        return _merged(weight.to(torch.float32), change)

    def expert(self, layer, expert):
        weights = self.source.expert(layer, expert)
        change = self.adapter.routed.get((layer, expert))
        gate, up = torch.cat([w.to(torch.float32) for w in weights.gate_up]).chunk(2)
        down = weights.down.to(torch.float32)
        parts = zip((gate, up, down), change or (None, None, None), strict=True)
        gate, up, down = (_merged(*part) for part in parts)
        return ExpertWeights((gate, up), down)

    def release(self):
        pass


def _merged(weight, change):
    if change is None:
        return Weight(weight)
    return Weight(weight + change.scale * change.up.float() @ change.down.float())


def opened(path, config, **fields):
    """Write an adapter and open it."""
    return open_adapter(write_adapter(path, config, **fields), config)


def one_of_each_kind(root, config):
    """Of everything; of attention and shared experts; of routed experts; by name."""
    return {
        "all": opened(root / "all", config, seed=1),
        "dense": opened(root / "dense", config, seed=2, rank=5, routed=False),
        "routed": opened(root / "routed", config, seed=3, rank=3, dense=False, layers=[1, 2]),
    }


def with_adapters(model, adapters):
    """A runner whose experts are in this process, with these loaded."""
    for adapter in adapters:
        model.exchange.bank.add_adapter(adapter)
        model.decoder.add_adapter(adapter)
    return model
