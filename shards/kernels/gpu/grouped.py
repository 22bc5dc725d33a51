"""Grouped expert MLP: rows of many experts in two launches, whatever the number of experts.

Rows are laid out expert after expert and cut into tiles of one expert each. A row's bits depend on
the row and the weights alone: tiles are fixed or verified (``launch.verified``).
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from shards.kernels.formats import WeightFormat
from shards.kernels.gpu.code import grouped as code
from shards.kernels.gpu.code import route
from shards.kernels.gpu.launch import NO_FUSION, Tile, block, packed, room, split, upcasts
from shards.kernels.gpu.linear import in_parts
from shards.kernels.gpu.weights import DeviceWeight, wide_on_device

# Numbers of two bytes, and of one. So many outputs of gate and of up, and twice as many of down:
# few, so that one token's experts fill a GPU; of large tiles two programs fit a multiprocessor, of
# which one multiplies while the other turns codes into numbers.
TILES_WIDE: Final = (Tile(32, 16, 64, 4, 5), Tile(64, 64, 64, 8, 3), Tile(64, 128, 64, 8, 3))
TILES_NARROW: Final = (Tile(32, 16, 128, 4, 5), Tile(64, 64, 64, 8, 4), Tile(64, 128, 64, 8, 4))
_SMALL_STEPS: Final = (16, 64, 256)  # rows that one program lays out, compiled for so many each


class ExpertTables(NamedTuple):
    """Addresses of weights and scales by expert id, ``[E]`` int64 each, and what they share."""

    gate_up: torch.Tensor
    gate_up_scales: torch.Tensor
    down: torch.Tensor
    down_scales: torch.Tensor
    width: int
    hidden: int
    form: int


class Layout(NamedTuple):
    """R rows by expert: token and place in the result of each; tiles (expert, first row, end)."""

    row_token: torch.Tensor  # [R] int32
    row_out: torch.Tensor  # [R] int32
    tiles: torch.Tensor  # [n, 3] int32; expert -1: unused


def tiles_of(held: WeightFormat) -> tuple[Tile, ...]:
    """Candidates, the first one defines the bits."""
    return TILES_WIDE if held is WeightFormat.BF16 else TILES_NARROW


def grouped_mlp(
    x: torch.Tensor, tables: ExpertTables, layout: Layout, out: torch.Tensor, tile: Tile
) -> None:
    """``out[row_out[r]] = down_e(silu(gate_e x) * up_e x)``, ``x`` the row's token.

    Args:
        x: ``[T, H]``.
        tables: The weights.
        layout: For tiles of ``tile.rows``.
        out: ``[R, H]`` of the dtype of ``x``, to write to.
        tile: Shape of a program.

    Source: model reference, section 2, step 11. The activation is float32, rounded once.
    """
    active = x.new_empty((len(layout.row_token), tables.width))
    shape = _shape(tables.width, tables.hidden, tables.form, x.dtype, tile)
    code.gate_up[(-(-tables.width // tile.outputs), len(layout.tiles))](
        *(x, x.stride(0), tables.gate_up, tables.gate_up_scales),
        *(layout.tiles, layout.row_token, active),
        BN=tile.outputs,
        **shape,
    )
    code.down[(-(-tables.hidden // (2 * tile.outputs)), len(layout.tiles))](
        *(active, tables.down, tables.down_scales, layout.tiles, layout.row_out, out),
        BN=2 * tile.outputs,
        **shape,
    )


def _shape(width: int, hidden: int, form: int, dtype: torch.dtype, tile: Tile) -> dict[str, object]:
    return {
        "WIDTH": width,
        "HIDDEN": hidden,
        "BT": tile.rows,
        "REST": max(tile.rows // 4, 16),
        "BK": tile.inputs,
        "FORMAT": form,
        "UPCAST": upcasts(dtype),
        "num_warps": tile.num_warps,
        "num_stages": tile.num_stages,
        **NO_FUSION,
    }


def grouped_product(
    rows: torch.Tensor,
    weights: torch.Tensor,
    scales: torch.Tensor,
    form: int,
    tiles: torch.Tensor,
    places: torch.Tensor,
    out: torch.Tensor,
    tile: Tile,
) -> None:
    """``out[places[r]] = w_e rows[r]``, rows by expert.

    Args:
        rows: ``[R, K]`` contiguous.
        weights: ``[E]`` int64 addresses of weights ``[N, K]``.
        scales: ``[E]`` int64 of their scales.
        form: How they are held, see ``DeviceWeight.form``.
        tiles: ``[n, 3]`` int32 of ``tile.rows`` rows: expert, first row, end; expert -1: unused.
        places: ``[R]`` int32.
        out: ``[., N]`` contiguous, to write to.
        tile: Shape of a program.
    """
    code.down[(-(-out.shape[1] // (2 * tile.outputs)), len(tiles))](
        *(rows, weights, scales, tiles, places, out),
        BN=2 * tile.outputs,
        **_shape(rows.shape[1], out.shape[1], form, rows.dtype, tile),
    )


def gated(sums: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """``[R, I]`` of ``dtype``: silu of the first half of ``[R, 2 I]`` float32 times the second."""
    width = sums.shape[1] // 2
    out = sums.new_empty((len(sums), width), dtype=dtype)
    columns = min(block(width), 1024)
    code.gated[(len(sums), -(-width // columns))](
        *(sums, out), WIDTH=width, BLOCK=columns, UPCAST=upcasts(dtype), num_warps=4, **NO_FUSION
    )
    return out


def host_layout(
    expert_ids: npt.NDArray[np.int64],
    num_rows_by_group: npt.NDArray[np.int64],
    row_token: npt.NDArray[np.int64],
    tile_rows: int,
    device: torch.device,
) -> Layout:
    """Of rows that lie by group already, as a frame has them; one copy to the device."""
    num_rows = len(row_token)
    per_group = -(-num_rows_by_group // tile_rows)
    group = np.repeat(np.arange(len(expert_ids)), per_group)
    ends = np.cumsum(num_rows_by_group)
    in_group = np.arange(len(group)) - np.repeat(np.cumsum(per_group) - per_group, per_group)
    first = (ends - num_rows_by_group)[group] + in_group * tile_rows
    tiles = np.stack([expert_ids[group], first, ends[group]], axis=1)
    parts = row_token, np.arange(num_rows), tiles
    moved = torch.from_numpy(packed(parts, np.int32)).to(device)
    row_token_, row_out, tiles_ = split(moved, [part.size for part in parts])
    return Layout(row_token_, row_out, tiles_.view(-1, 3))


def device_layout(
    expert_ids: torch.Tensor, num_experts: int, tile_rows: int, *, has_shared: bool = False
) -> Layout:
    """Of ``[T, K]`` int32 ids on the device, without asking it: shapes depend on T alone.

    Rows of an id that no expert has are in no tile. ``has_shared``: T more rows, one a token, of
    expert ``num_experts``.
    """
    num_rows, top_k = expert_ids.numel(), expert_ids.shape[1]
    max_tiles = most_tiles(num_rows, num_experts, tile_rows)
    if num_rows > _SMALL_STEPS[-1]:
        routed = sorted_layout(expert_ids, num_experts, tile_rows, max_tiles)
        return _with_shared(routed, num_experts, tile_rows, top_k) if has_shared else routed
    more_rows = num_rows // top_k if has_shared else 0
    all_tiles = max_tiles + -(-more_rows // tile_rows)
    sizes = num_rows + more_rows, num_rows + more_rows, 3 * all_tiles
    row_token, row_out, tiles = split(expert_ids.new_empty(room(sizes)), sizes)
    found = Layout(row_token, row_out, tiles.view(-1, 3))
    route.layout[(1,)](
        *(expert_ids, num_rows, found.row_token, found.row_out, found.tiles, max_tiles, tile_rows),
        NUM_EXPERTS=num_experts,
        TOP_K=top_k,
        ROWS=next(rows for rows in _SMALL_STEPS if rows >= num_rows),
        EXPERTS=block(num_experts),
        HAS_SHARED=has_shared,
        num_warps=8,
    )
    return found


def _with_shared(routed: Layout, num_experts: int, tile_rows: int, top_k: int) -> Layout:
    num_rows = len(routed.row_token)
    tokens = torch.arange(num_rows // top_k, dtype=torch.int32, device=routed.tiles.device)
    first = num_rows + tokens[::tile_rows]
    end = torch.full_like(first, num_rows + len(tokens))
    return Layout(
        torch.cat([routed.row_token, tokens]),
        torch.cat([routed.row_out, num_rows + tokens]),
        torch.cat([routed.tiles, torch.stack([end * 0 + num_experts, first, end], dim=1)]),
    )


def most_tiles(num_rows: int, num_experts: int, tile_rows: int) -> int:
    """Tiles that so many rows may need, wherever they go."""
    return min(num_rows, num_experts + num_rows // tile_rows)


def sorted_layout(
    expert_ids: torch.Tensor, num_experts: int, tile_rows: int, max_tiles: int
) -> Layout:
    """``device_layout`` for any number of rows and experts; rows of no expert come last.

    ``max_tiles``: of ``most_tiles``, for as many experts as may be among them.
    """
    flat = expert_ids.reshape(-1)
    by_expert, order = torch.sort(flat, stable=True)
    experts = torch.arange(num_experts + 1, device=flat.device, dtype=flat.dtype)
    starts = torch.searchsorted(by_expert, experts)
    num_tiles = (starts.diff() + tile_rows - 1) // tile_rows
    ends = num_tiles.cumsum(0)
    tile = torch.arange(max_tiles, device=flat.device)
    owner = torch.searchsorted(ends, tile, right=True)
    is_used = owner < num_experts
    known = owner.clamp_max(num_experts - 1)
    first = starts[known] + (tile - (ends - num_tiles)[known]) * tile_rows
    tiles = torch.stack([torch.where(is_used, owner, -1), first, starts[known + 1]], dim=1)
    row_token = order // expert_ids.shape[1]
    return Layout(row_token.int(), order.int(), tiles.int())


def choose(
    logits: torch.Tensor, top_k: int, scaling_factor: float, slots: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """``choose_experts`` of ``router/model/gate.py`` in one launch: ids int32, weights float32.

    A token whose ``[T]`` int32 slot is below 0 is padding: its ids are E, which no expert has.
    The logits may be in parts, see ``DeviceLinear.parts``.
    """
    logits = in_parts(logits)
    num_parts, num_tokens, num_experts = logits.shape
    expert_ids = torch.empty((num_tokens, top_k), dtype=torch.int32, device=logits.device)
    weights = torch.empty((num_tokens, top_k), device=logits.device)
    route.top_k[(num_tokens,)](
        *(logits, logits.stride(0), logits if slots is None else slots),
        *(expert_ids, weights, scaling_factor),
        PARTS=num_parts,
        NUM_EXPERTS=num_experts,
        BLOCK=block(num_experts),
        TOP_K=top_k,
        HAS_SLOTS=slots is not None,
        num_warps=1,
        **NO_FUSION,
    )
    return expert_ids, weights


def reference(x: torch.Tensor, gate_up: DeviceWeight, down: DeviceWeight) -> torch.Tensor:
    """``[T, H]`` float32 of one expert by torch; the activation is rounded to the dtype of x."""
    gate, up = (x.float() @ wide_on_device(gate_up).T).chunk(2, dim=-1)
    active = (functional.silu(gate) * up).to(x.dtype).float()
    return active @ wide_on_device(down).T
