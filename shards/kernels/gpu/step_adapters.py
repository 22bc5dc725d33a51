"""Which tokens of a step have adapters, as the device computes with it; one copy a step."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from galerne.adapters import MAX_ADAPTERS
from shards.adapters.tokens import TokenAdapters


class StepAdapters(NamedTuple):
    """Room for A tokens of a step of T: those that have an adapter, then padding."""

    keys: tuple[int, ...] | None  # of the step, ascending; None: any, where steps are recorded
    tokens: torch.Tensor  # [A] int64; T: padding
    key_of: torch.Tensor  # [A] int64, the bits of the adapter's key; 0: padding

    @property
    def most_keys(self) -> int:
        """Different adapters, at most."""
        return MAX_ADAPTERS if self.keys is None else len(self.keys)


class HostAdapters(NamedTuple):
    """The same in the host's memory."""

    keys: tuple[int, ...]
    tokens: npt.NDArray[np.int64]
    of: npt.NDArray[np.int64]

    def to(self, device: torch.device) -> StepAdapters:
        """Copied, all at once."""
        key_of = np.array(self.keys, dtype=np.uint64)[self.of].view(np.int64)
        moved = torch.from_numpy(np.stack([self.tokens, key_of])).to(device)
        return StepAdapters(self.keys, moved[0], moved[1])


def adapted_tokens(adapters: TokenAdapters) -> HostAdapters | None:
    """Of ``[T]`` keys; None where nobody has one."""
    tokens = np.flatnonzero(adapters)
    if not len(tokens):
        return None
    keys, of = np.unique(adapters[tokens], return_inverse=True)
    return HostAdapters(tuple(map(int, keys)), tokens, of)


def step_adapters(adapters: TokenAdapters, device: torch.device) -> StepAdapters | None:
    """``adapted_tokens`` on the device."""
    found = adapted_tokens(adapters)
    return None if found is None else found.to(device)


def as_signed(key: int) -> int:
    """The bits of a key as int64 has them."""
    return key - (1 << 64) if key >> 63 else key


class Slots:
    """Small numbers for adapters' keys, so that tables on the device have a row for each."""

    def __init__(self, num_slots: int) -> None:
        """At most so many adapters at one time."""
        self._num_slots = num_slots
        self._slots: dict[int, int] = {}

    def __contains__(self, key: int) -> bool:
        return key in self._slots

    def __getitem__(self, key: int) -> int:
        return self._slots[key]

    def take(self, key: int) -> int:
        """The adapter's number, a free one if it is new.

        Raises:
            ValueError: All are taken.
        """
        if key not in self._slots:
            free = set(range(self._num_slots)) - set(self._slots.values())
            if not free:
                raise ValueError(f"more than {self._num_slots} adapters at one time")
            self._slots = {**self._slots, key: min(free)}  # readers see one or the other
        return self._slots[key]

    def release(self, key: int) -> int | None:
        """Forget an adapter; its number, if it had one."""
        slot = self._slots.get(key)
        self._slots = {k: s for k, s in self._slots.items() if k != key}
        return slot
