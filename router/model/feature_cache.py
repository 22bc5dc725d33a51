"""Features of images by content hash, within a number of bytes; what is in use stays."""

from __future__ import annotations

from collections import Counter, OrderedDict

import torch


class FeatureCache:
    """Least recently used first to go. Who holds an image has its bytes set aside beforehand."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._by_hash: OrderedDict[bytes, torch.Tensor] = OrderedDict()
        self._holders: Counter[bytes] = Counter()
        self._held_bytes: dict[bytes, int] = {}
        self._free_bytes = 0  # of features that nobody holds

    @property
    def held_bytes(self) -> int:
        """Set aside for images that are in use, encoded or not."""
        return sum(self._held_bytes.values())

    @property
    def num_bytes(self) -> int:
        """Of all features that are here, or will be for their holders."""
        return self.held_bytes + self._free_bytes

    def __contains__(self, content_hash: bytes) -> bool:
        return content_hash in self._by_hash

    def get(self, content_hash: bytes) -> torch.Tensor | None:
        """Features ``[tokens, H]``, if they are here."""
        found = self._by_hash.get(content_hash)
        if found is not None:
            self._by_hash.move_to_end(content_hash)
        return found

    def has_room_for(self, bytes_by_hash: dict[bytes, int]) -> bool:
        """Whether these images may be held too. One request may, however large it is."""
        if not self._held_bytes:
            return True
        held = self._held_bytes | bytes_by_hash
        return sum(held.values()) <= self._max_bytes

    def hold(self, content_hash: bytes, num_bytes: int) -> None:
        """Keep an image, or the room for it, until ``release``."""
        self._holders[content_hash] += 1
        if content_hash not in self._held_bytes:
            self._held_bytes[content_hash] = num_bytes
            if content_hash in self._by_hash:
                self._free_bytes -= self._by_hash[content_hash].nbytes
        self._evict()

    def is_held(self, content_hash: bytes) -> bool:
        """Whether anybody holds an image."""
        return content_hash in self._held_bytes

    def release(self, content_hash: bytes) -> None:
        """One holder less."""
        self._holders[content_hash] -= 1
        if self._holders[content_hash] == 0:
            del self._holders[content_hash], self._held_bytes[content_hash]
            if content_hash in self._by_hash:
                self._free_bytes += self._by_hash[content_hash].nbytes
        self._evict()

    def put(self, content_hash: bytes, features: torch.Tensor) -> None:
        """Add features ``[tokens, H]``."""
        if content_hash in self._by_hash:
            return
        self._by_hash[content_hash] = features
        if content_hash not in self._held_bytes:
            self._free_bytes += features.nbytes
        self._evict()

    def _evict(self) -> None:
        """Let go of what nobody holds, the longest unused first."""
        if self.num_bytes <= self._max_bytes:
            return
        for content_hash in [h for h in self._by_hash if h not in self._held_bytes]:
            self._free_bytes -= self._by_hash.pop(content_hash).nbytes
            if self.num_bytes <= self._max_bytes:
                return
