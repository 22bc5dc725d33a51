"""What adapters change of the projections on a GPU, and which rows of a step they change."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from galerne.adapters import MAX_ADAPTERS
from shards.adapters.adapter import Adapter
from shards.adapters.low_rank import LowRank, stacked
from shards.adapters.tokens import TokenAdapters
from shards.checkpoint.config import ModelConfig
from shards.kernels.gpu.grouped import Layout, host_layout, most_tiles
from shards.kernels.gpu.low_rank import ROWS, ChangeTable
from shards.kernels.gpu.step_adapters import Slots, StepAdapters, adapted_tokens


class AdaptedTokens(NamedTuple):
    """Tokens of a step that have adapters, on the device."""

    of_experts: StepAdapters
    rows: Layout  # rows of the step by adapter, for projections

    @classmethod
    def empty(cls, num_tokens: int, device: torch.device) -> AdaptedTokens:
        """Room for any of a step of so many tokens; so far none has an adapter."""
        ints = torch.zeros((2, num_tokens), dtype=torch.int32, device=device)
        num_tiles = most_tiles(num_tokens, MAX_ADAPTERS, ROWS)
        tiles = torch.full((num_tiles, 3), -1, dtype=torch.int32, device=device)
        tokens = torch.full((num_tokens,), num_tokens, dtype=torch.int64, device=device)
        of_experts = StepAdapters(None, tokens, torch.zeros_like(tokens))
        return cls(of_experts, Layout(ints[0], ints[1], tiles))

    def fill(self, given: AdaptedTokens) -> None:
        """Take another step's, with as many tokens at most; this one is ``empty``'s."""
        room, count = self.of_experts, len(given.of_experts.tokens)
        room.tokens[:count], room.tokens[count:] = given.of_experts.tokens, len(room.tokens)
        room.key_of[:count], room.key_of[count:] = given.of_experts.key_of, 0
        num_tiles = len(given.rows.tiles)
        self.rows.row_token[:count] = given.rows.row_token
        self.rows.row_out[:count] = given.rows.row_out
        self.rows.tiles[:num_tiles], self.rows.tiles[num_tiles:] = given.rows.tiles, -1


def _layer_tables(dtype: torch.dtype, device: torch.device) -> dict[str, ChangeTable]:
    """Changes of one layer's projections by name, by slot of their adapters.

    W_uk' = W_uk + B_uk A: a head's query goes through its B_uk, then through A, to the space of the
    latents. W_uv' = W_uv + B_uv A: what is mixed of latents goes the other way.
    """
    held = MAX_ADAPTERS, dtype, device
    return {
        **{name: ChangeTable(*held) for name in ("qkv_a", "q_b", "o")},
        "keys": ChangeTable(*held, first_of_each=True),
        "values": ChangeTable(*held, second_of_each=True),
    }


class DenseChanges:
    """Of all layers. Shared experts keep their own."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype, device: torch.device) -> None:
        """None yet; for rows of ``dtype``."""
        self._config, self._dtype, self._device = config, dtype, device
        self._layers: list[dict[str, ChangeTable]] = []
        self._slots = Slots(MAX_ADAPTERS)

    def add_adapter(self, adapter: Adapter) -> None:
        """Hold an adapter's; steps of others may run meanwhile."""
        if not self._layers:  # made by the first one
            layers = range(self._config.num_layers)
            self._layers = [_layer_tables(self._dtype, self._device) for _ in layers]
        slot = self._slots.take(adapter.key)
        for layer, tables in enumerate(self._layers):
            q_a, q_b, kv_a, kv_b, o = (
                adapter.dense.get((layer, name)) for name in ("q_a", "q_b", "kv_a", "kv_b", "o")
            )
            widths = [self._config.q_lora_rank, self._config.latent_dim]
            tables["qkv_a"].put_low_rank(slot, stacked([q_a, kv_a], widths))
            tables["q_b"].put_low_rank(slot, q_b)
            tables["o"].put_low_rank(slot, o)
            if kv_b is not None:
                self._put_kv_b(tables, slot, kv_b)

    def _put_kv_b(self, tables: dict[str, ChangeTable], slot: int, change: LowRank) -> None:
        nope, rank = self._config.qk_nope_head_dim, len(change.down)
        of_heads = change.up.view(self._config.num_heads, -1, rank)
        keys = of_heads[:, :nope].transpose(1, 2), change.down.t()[None]
        tables["keys"].put(slot, *keys, change.scale)
        tables["values"].put(slot, change.down[None], of_heads[:, nope:], change.scale)

    def drop_adapter(self, key: int) -> None:
        """Forget an adapter's; no step runs meanwhile."""
        slot = self._slots.release(key)
        if slot is not None:
            for tables in self._layers:
                for table in tables.values():
                    table.remove(slot)

    @property
    def rooms(self) -> tuple[int, ...]:
        """See ``ExpertChanges``; of all projections."""
        return tuple(t.max_rank for tables in self._layers for t in tables.values())

    def table(self, layer: int, name: str) -> ChangeTable:
        """Changes of ``qkv_a``, ``q_b``, ``o``, ``keys`` or ``values`` of a layer."""
        return self._layers[layer][name]

    def tokens_of(self, adapters: TokenAdapters | None) -> AdaptedTokens | None:
        """Copy to the device which of a step's tokens have adapters; None: nobody has one."""
        found = None if adapters is None else adapted_tokens(adapters)
        if found is None:
            return None
        slots = np.array([self._slots[key] for key in found.keys])[found.of]
        order = np.argsort(slots, kind="stable")
        used, counts = np.unique(slots, return_counts=True)
        layout = host_layout(used, counts, found.tokens[order], ROWS, self._device)
        return AdaptedTokens(found.to(self._device), layout._replace(row_out=layout.row_token))
