"""Image features in a step: encoded once per content, written over [IMG] embeddings."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import torch

from router.engine.request import ImageInput
from router.model.vision import VisionTower


class ImageFeatures:
    """Encoder outputs by content hash, least recently used dropped first."""

    def __init__(self, tower: VisionTower, max_bytes: int = 256 << 20) -> None:
        self._tower = tower
        self._max_bytes = max_bytes
        self._by_hash: OrderedDict[bytes, torch.Tensor] = OrderedDict()
        self._bytes = 0

    def of(self, image: ImageInput) -> torch.Tensor:
        """``[grid_height * grid_width, H]``."""
        found = self._by_hash.get(image.content_hash)
        if found is not None:
            self._by_hash.move_to_end(image.content_hash)
            return found
        features = self._tower.encode(image.pixels)
        self._by_hash[image.content_hash] = features
        self._bytes += features.nbytes
        while self._bytes > self._max_bytes and len(self._by_hash) > 1:
            _, dropped = self._by_hash.popitem(last=False)
            self._bytes -= dropped.nbytes
        return features

    def overwrite(self, embeddings: torch.Tensor, start: int, images: Sequence[ImageInput]) -> None:
        """Put features into ``[n, H]`` embeddings of positions ``start ..``, in place."""
        for image in images:
            positions, features = image_token_positions(image)
            inside = (positions >= start) & (positions < start + len(embeddings))
            if inside.any():
                rows = torch.from_numpy(positions[inside] - start)
                wanted = self.of(image)[torch.from_numpy(features[inside])]
                embeddings[rows] = wanted.to(embeddings.dtype)


def image_token_positions(image: ImageInput) -> tuple[np.ndarray, np.ndarray]:
    """Prompt positions of an image's [IMG] tokens, and the feature each one takes.

    Every grid row ends in one break (or end) token, which keeps its ordinary embedding.
    """
    features = np.arange(image.grid_width * image.grid_height)
    row, column = np.divmod(features, image.grid_width)
    return image.offset + row * (image.grid_width + 1) + column, features
