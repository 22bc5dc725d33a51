"""Low-rank changes as the kernels take them; see ``low_rank.h``."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from shards.adapters.low_rank import ExpertLowRank, LowRank
from shards.adapters.tokens import TokenAdapters, distinct_keys
from shards.kernels.native.packing import COLUMNS

Ints = npt.NDArray[np.int64]

MAX_CHANGES: Final = 64  # adapters of a step
_POINTER, _SIZE = ctypes.c_void_p, ctypes.c_int64


class LowRankStruct(ctypes.Structure):
    """``LowRank`` of ``low_rank.h``."""

    _fields_ = (
        *((name, _POINTER) for name in ("inputs", "outputs")),
        *((name, _SIZE) for name in ("rank", "in_stride", "out_stride")),
        ("scale", ctypes.c_double),
    )


class ExpertStruct(ctypes.Structure):
    """``ExpertChange`` of ``low_rank.h``."""

    _fields_ = tuple((name, LowRankStruct) for name in ExpertLowRank._fields)


class LayerStruct(ctypes.Structure):
    """``LayerChange`` of ``low_rank.h``."""

    _fields_ = (
        *((name, LowRankStruct) for name in ("qkv_a", "q_b", "kv_b", "o")),
        ("shared", ExpertStruct),
        ("routed", _POINTER),
    )


class ChangesStruct(ctypes.Structure):
    """``ExpertChanges`` of ``low_rank.h``."""

    _fields_ = (("max_rank", _SIZE), ("num_changes", _SIZE), ("of", _POINTER), ("tables", _POINTER))


class PackedLowRank(NamedTuple):
    """A change in bf16, padded as the kernels read it."""

    inputs: torch.Tensor  # [rank, K and zeros]
    outputs: torch.Tensor  # [rank, N and zeros]
    scale: float

    def struct(self) -> LowRankStruct:
        """As C takes it; points into this."""
        strides = self.inputs.shape[1], self.outputs.shape[1]
        places = self.inputs.data_ptr(), self.outputs.data_ptr()
        return LowRankStruct(*places, len(self.inputs), *strides, self.scale)


def pack_low_rank(change: LowRank) -> PackedLowRank:
    """For the kernels."""
    return PackedLowRank(_padded(change.down), _padded(change.up.t(), COLUMNS), change.scale)


class ExpertChangeTable:
    """What one adapter changes of a layer's experts, by id, where they live."""

    def __init__(self, num_experts: int) -> None:
        self._structs = (ExpertStruct * num_experts)()
        self._held: dict[int, list[PackedLowRank]] = {}

    def put(self, expert: int, change: ExpertLowRank) -> None:
        """Set an expert's."""
        packed: list[PackedLowRank] = []
        struct = ExpertStruct()
        for name, low in change._asdict().items():
            if low is not None:
                packed.append(pack_low_rank(low))
                setattr(struct, name, packed[-1].struct())
        self._held[expert] = packed
        self._structs[expert] = struct

    def remove(self, expert: int) -> None:
        """Forget an expert's, if there is one."""
        self._structs[expert] = ExpertStruct()
        self._held.pop(expert, None)

    def __getitem__(self, expert: int) -> ExpertStruct:
        return self._structs[expert]

    @property
    def address(self) -> int:
        """Of the table."""
        return ctypes.addressof(self._structs)

    @property
    def max_rank(self) -> int:
        """The largest."""
        held = list(self._held.values())
        return max((len(low.inputs) for packed in held for low in packed), default=0)

    @property
    def num_bytes(self) -> int:
        """Bytes held."""
        held = list(self._held.values())
        return sum(t.nbytes for packed in held for low in packed for t in (low.inputs, low.outputs))


class TableChanges:
    """Changes of a call's tokens, and what they point to."""

    def __init__(self, adapters: TokenAdapters, tables: Mapping[int, ExpertChangeTable]) -> None:
        """``tables`` by key; tokens of adapters without one stay as they are.

        Raises:
            ValueError: More than ``MAX_CHANGES`` adapters.
        """
        keys = [key for key in distinct_keys(adapters) if key in tables]
        self._of = index_of(adapters, keys)
        self._tables = np.array([tables[key].address for key in keys], dtype=np.int64)
        self.max_rank = max((tables[key].max_rank for key in keys), default=0)
        self._struct = ChangesStruct(
            self.max_rank, len(keys), self._of.ctypes.data, self._tables.ctypes.data
        )

    @property
    def pointer(self) -> int:
        """As C takes it."""
        return ctypes.addressof(self._struct)


class StepChanges:
    """Changes of a step's tokens in all layers, and what they point to."""

    def __init__(
        self, adapters: TokenAdapters, layers: Mapping[int, LayerChanges], max_rank: int
    ) -> None:
        """``layers`` by key, all that are there; ``max_rank`` of any of their parts.

        Raises:
            ValueError: More than ``MAX_CHANGES`` adapters.
        """
        keys = distinct_keys(adapters)
        self.of = index_of(adapters, keys)
        self._addresses = np.array([layers[key].address for key in keys], dtype=np.int64)
        self._held = [layers[key] for key in keys]
        # In the order of the fields of ``Step`` in ``layer.h``.
        self.fields = (max_rank, len(keys), self.of.ctypes.data, self._addresses.ctypes.data)


def index_of(adapters: TokenAdapters, keys: Sequence[int]) -> Ints:
    """``[T]`` place of every token's key among ``keys``, -1 where there is none.

    Raises:
        ValueError: More than ``MAX_CHANGES`` of them.
    """
    if len(keys) > MAX_CHANGES:
        raise ValueError(f"{len(keys)} adapters in a step, at most {MAX_CHANGES} go together")
    of = np.full(len(adapters), -1, dtype=np.int64)
    for index, key in enumerate(keys):
        of[adapters == np.uint64(key)] = index
    return of


class LayerChanges:
    """What one adapter changes of all layers but for the routed experts' own parts."""

    def __init__(self, layers: Iterable[tuple[Mapping[str, LowRank | None], ExpertStruct]]) -> None:
        """Of every layer: changes by field of ``LayerStruct``, and of its shared expert."""
        parts = list(layers)
        self._structs = (LayerStruct * len(parts))()
        self._held: list[PackedLowRank] = []
        for struct, (changes, shared) in zip(self._structs, parts, strict=True):
            struct.shared = shared
            for name, low in changes.items():
                if low is not None:
                    self._held.append(pack_low_rank(low))
                    setattr(struct, name, self._held[-1].struct())
        self.max_rank = max((len(low.inputs) for low in self._held), default=0)

    def set_routed(self, addresses: Sequence[int]) -> None:
        """Where the tables of the routed experts are, layer by layer; 0: an adapter has none."""
        for struct, address in zip(self._structs, addresses, strict=True):
            struct.routed = address or None

    @property
    def address(self) -> int:
        """Of the layers' structs."""
        return ctypes.addressof(self._structs)


def _padded(rows: torch.Tensor, spare: int = 0) -> torch.Tensor:
    """bf16 rows, with zeros up to a multiple of ``COLUMNS``, and ``spare`` more."""
    missing = -rows.shape[1] % COLUMNS + spare
    return functional.pad(rows.to(torch.bfloat16), (0, missing)).contiguous()
