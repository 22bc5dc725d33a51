"""Who owns which KV block, and which free blocks still hold a prefix worth keeping.

A block is *used* (one or more sequences hold it) or *free*. A free block is *blank*, or *cached*:
it keeps published content until the room is needed. Blank blocks are handed out first, then cached
ones, least recently released first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

NULL_BLOCK = 0  # pads block tables; never handed out, its content means nothing


class BlockPool:
    """Reference counts, free lists and the prefix index of ``num_blocks`` blocks.

    Attributes:
        num_hits: Blocks taken again from the prefix index so far.
        num_evictions: Cached blocks that lost their content to an allocation so far.

    Raises:
        ValueError: ``num_blocks`` is below 2 or ``block_size`` (tokens) below 1.
    """

    def __init__(self, num_blocks: int, block_size: int) -> None:
        if num_blocks < 2:
            raise ValueError(f"num_blocks must be at least 2 (one is the null block): {num_blocks}")
        if block_size < 1:
            raise ValueError(f"block_size must be at least 1, got {block_size}")
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.num_hits = 0
        self.num_evictions = 0
        self._num_refs = [0] * num_blocks
        self._blank = list(range(num_blocks - 1, NULL_BLOCK, -1))
        self._evictable: OrderedDict[int, None] = OrderedDict()  # oldest first
        self._block_by_key: dict[bytes, int] = {}
        self._key_by_block: dict[int, bytes] = {}

    @property
    def num_usable(self) -> int:
        """All blocks but the null block."""
        return self.num_blocks - 1

    @property
    def num_free(self) -> int:
        """Blocks that an allocation may take, cached ones included."""
        return len(self._blank) + len(self._evictable)

    @property
    def num_used(self) -> int:
        """Blocks that some sequence holds."""
        return self.num_usable - self.num_free

    @property
    def num_cached(self) -> int:
        """Blocks that a lookup can find, used or free."""
        return len(self._block_by_key)

    def num_refs(self, block: int) -> int:
        """How many holders ``block`` has."""
        return self._num_refs[block]

    def count_free(self, blocks: Sequence[int]) -> int:
        """How many of ``blocks`` are free: what acquiring them takes off ``num_free``."""
        return sum(block in self._evictable for block in blocks)

    def allocate(self, num_blocks: int) -> list[int] | None:
        """Take blocks with one reference each, or none at all if fewer are free.

        Raises:
            ValueError: ``num_blocks`` is negative.
        """
        if num_blocks < 0:
            raise ValueError(f"num_blocks must not be negative, got {num_blocks}")
        if num_blocks > self.num_free:
            return None
        taken = [self._take() for _ in range(num_blocks)]
        for block in taken:
            self._num_refs[block] = 1
        return taken

    def lookup(self, key: bytes) -> int | None:
        """The block published under ``key`` that still holds its content; takes no reference."""
        return self._block_by_key.get(key)

    def lookup_prefix(self, keys: Sequence[bytes], limit: int) -> list[int]:
        """Blocks of the longest known prefix of ``keys[:limit]``; takes no reference."""
        blocks: list[int] = []
        find = self._block_by_key.get
        for index in range(min(limit, len(keys))):
            block = find(keys[index])
            if block is None:
                break
            blocks.append(block)
        return blocks

    def acquire(self, blocks: Sequence[int]) -> None:
        """Take one more reference to each of ``blocks``, as found by a lookup.

        Raises:
            ValueError: A block is not published; nothing was changed.
        """
        for block in blocks:
            if block not in self._key_by_block:
                raise ValueError(f"block {block} is not published")
        for block in blocks:
            self._evictable.pop(block, None)
            self._num_refs[block] += 1
        self.num_hits += len(blocks)

    def release(self, blocks: Sequence[int]) -> None:
        """Give back one reference to each of ``blocks``, a block table in order of position.

        The tail is freed first and so evicted first: a prefix without its tail can still be hit,
        a tail without its prefix cannot.

        Raises:
            ValueError: A block is not used.
        """
        for block in reversed(blocks):
            if self._num_refs[block] < 1:
                raise ValueError(f"block {block} is not used")
            self._num_refs[block] -= 1
            if self._num_refs[block]:
                continue
            if block in self._key_by_block:
                self._evictable[block] = None
            else:
                self._blank.append(block)

    def publish(self, block: int, key: bytes) -> None:
        """Let lookups of ``key`` find ``block``, whose content is complete from now on.

        If another block has the key, that one stays: the contents are equal, and moving the key
        would leave the block that others already hold without a name.

        Raises:
            ValueError: The block is not used, or is published under another key.
        """
        if self._num_refs[block] < 1:
            raise ValueError(f"block {block} is not used")
        if self._key_by_block.get(block, key) != key:
            raise ValueError(f"block {block} is published under another key")
        if key not in self._block_by_key:
            self._block_by_key[key] = block
            self._key_by_block[block] = key

    def reset_cache(self) -> None:
        """Forget every published block. Used blocks stay with their holders."""
        self._block_by_key.clear()
        self._key_by_block.clear()
        self._blank.extend(reversed(self._evictable))
        self._evictable.clear()

    def _take(self) -> int:
        if self._blank:
            return self._blank.pop()
        block, _ = self._evictable.popitem(last=False)
        del self._block_by_key[self._key_by_block.pop(block)]
        self.num_evictions += 1
        return block
