"""The epochs that a shard serves: read by every thread, replaced as a whole."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Set


class ServedEpochs(Set[int]):
    """A set that never changes under who walks through it."""

    def __init__(self, epochs: Iterable[int] = ()) -> None:
        self._epochs = frozenset(epochs)

    def replace(self, epochs: Iterable[int]) -> None:
        """Serve exactly these from now on."""
        self._epochs = frozenset(epochs)

    def __contains__(self, epoch: object) -> bool:
        return epoch in self._epochs

    def __iter__(self) -> Iterator[int]:
        return iter(self._epochs)

    def __len__(self) -> int:
        return len(self._epochs)
