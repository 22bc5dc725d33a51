"""Which tokens of a step have adapters, as the device computes with it; one copy a step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from shards.adapters.tokens import TokenAdapters


class StepAdapters(NamedTuple):
    """A tokens of a step that have one."""

    keys: tuple[int, ...]  # of the step, ascending
    tokens: torch.Tensor  # [A] int64, ascending
    of: torch.Tensor  # [A] int64, places among the keys


class HostAdapters(NamedTuple):
    """The same in the host's memory."""

    keys: tuple[int, ...]
    tokens: npt.NDArray[np.int64]
    of: npt.NDArray[np.int64]

    def to(self, device: torch.device) -> StepAdapters:
        """Copied, all at once."""
        moved = torch.from_numpy(np.stack([self.tokens, self.of])).to(device)
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

    def places(self, keys: Sequence[int]) -> list[int]:
        """Of adapters; -1 for those that have none."""
        slots = self._slots
        return [slots.get(key, -1) for key in keys]

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
