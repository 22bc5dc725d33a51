"""Names of KV blocks by content, so that equal prefixes meet in the cache and unequal ones never.

Key of block b = SHA-256(context ‖ key of block b-1 ‖ token ids of b ‖ images that overlap b). The
chain makes a key name the whole prefix; the context keeps apart whatever else decides the bits of
a KV row. Every field is length-prefixed, so no two messages share an encoding.
"""

from __future__ import annotations

import hashlib
import struct
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from router.engine.request import ImageInput

ROOT = b""  # parent of block 0


@dataclass(frozen=True, slots=True, kw_only=True)
class HashContext:
    """What decides the bits of a KV row besides tokens and images, and who may share it."""

    model_fingerprint: str
    numerics_profile: str
    mla_form: str  # "absorbed" or "expanded"
    adapter: str = ""  # LoRA adapter's id, of its content; "" is none
    salt: str = ""  # requests with different salts share nothing


def block_keys(
    token_ids: Sequence[int],
    images: Iterable[ImageInput],
    context: HashContext,
    block_size: int,
    start_block: int = 0,
    parent: bytes = ROOT,
) -> list[bytes]:
    """Keys of the full blocks from ``start_block`` on; a partial last block has none.

    Args:
        token_ids: The sequence from position 0, not only its new part.
        images: All images of the sequence; ``ImageInput.offset`` counts from position 0.
        context: The same for every block of a sequence.
        block_size: Tokens per block.
        start_block: First block to name; the keys before it are known.
        parent: Key of block ``start_block - 1``, or ``ROOT`` iff ``start_block`` is 0.

    Returns:
        One 32-byte key per full block, in order.

    Raises:
        ValueError: ``block_size`` is below 1, or ``parent`` does not go with ``start_block``.
    """
    if block_size < 1:
        raise ValueError(f"block_size must be at least 1, got {block_size}")
    if (start_block == 0) != (parent == ROOT):
        raise ValueError(f"parent must be ROOT iff start_block is 0, got block {start_block}")
    num_full = len(token_ids) // block_size
    if start_block >= num_full:
        return []
    base = hashlib.sha256(_encode_context(context))
    images_by_block = _images_by_block(images, block_size, start_block, num_full)
    keys: list[bytes] = []
    for block in range(start_block, num_full):
        first = block * block_size
        digest = base.copy()
        digest.update(_prefixed(parent))
        digest.update(
            struct.pack(f"<Q{block_size}q", block_size, *token_ids[first : first + block_size])
        )
        digest.update(_encode_images(images_by_block.get(block, ()), first))
        parent = digest.digest()
        keys.append(parent)
    return keys


def _prefixed(data: bytes) -> bytes:
    return struct.pack("<Q", len(data)) + data


def _encode_context(context: HashContext) -> bytes:
    fields = (
        context.adapter,
        context.mla_form,
        context.model_fingerprint,
        context.numerics_profile,
        context.salt,
    )
    # A salt is the caller's text; JSON lets lone surrogates through.
    return b"".join(_prefixed(field.encode("utf-8", "surrogatepass")) for field in fields)


def _encode_images(images: Sequence[ImageInput], first: int) -> bytes:
    """Content and place of each image; the place is negative if it began in an earlier block."""
    ordered = sorted(images, key=lambda image: image.offset)
    parts = [struct.pack("<q", i.offset - first) + _prefixed(i.content_hash) for i in ordered]
    return struct.pack("<Q", len(parts)) + b"".join(parts)


def _images_by_block(
    images: Iterable[ImageInput], block_size: int, start_block: int, end_block: int
) -> Mapping[int, list[ImageInput]]:
    by_block: dict[int, list[ImageInput]] = defaultdict(list)
    for image in images:
        first = max(start_block, image.offset // block_size)
        last = min(end_block - 1, (image.offset + image.num_tokens - 1) // block_size)
        for block in range(first, last + 1):
            by_block[block].append(image)
    return by_block
