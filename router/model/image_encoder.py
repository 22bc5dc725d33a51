"""Encodes the images of requests in batches, in bounded shares between two steps of the model."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from galerne.errors import GalerneError, InvalidRequestError
from router.engine.request import GenerationRequest, ImageInput
from router.model.feature_cache import FeatureCache
from router.model.images import image_token_positions
from router.model.vision import EncodeBatch, VisionTower
from router.model.vision_limits import VisionLimits

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class VisionCounters:
    """Totals."""

    hits: int = 0  # images of requests whose features were there, or on their way
    misses: int = 0  # that had to be encoded
    images: int = 0  # encoded
    pixels: int = 0  # of those
    batches: int = 0  # in which they were


class ImageEncodingError(GalerneError):
    """The vision tower failed at an image."""

    def __init__(self) -> None:
        super().__init__()

    def __str__(self) -> str:
        return "an image could not be encoded"


class ImageEncoder:
    """A ``router.engine.preparing.Preparer``; belongs to the engine's thread.

    A request's images are held from ``begin`` to ``release``, so that no step of the model has to
    encode one again. Requests whose images would not fit beside those that are held wait, in order.
    """

    def __init__(self, tower: VisionTower, limits: VisionLimits | None = None) -> None:
        self.counters = VisionCounters()
        self._tower = tower
        self._limits = limits if limits is not None else VisionLimits()
        self.cache = FeatureCache(self._limits.cache_bytes)
        self._without_room: deque[GenerationRequest] = deque()
        self._to_encode: dict[bytes, ImageInput] = {}  # in order
        self._batch: EncodeBatch | None = None
        self._in_batch: tuple[ImageInput, ...] = ()
        self._failed: set[bytes] = set()

    @property
    def num_to_encode(self) -> int:
        """Images that are not encoded yet, but for those of requests that wait for room."""
        return len(self._to_encode) + len(self._in_batch)

    def begin(self, request: GenerationRequest) -> None:
        """See ``Preparer``."""
        for index, image in enumerate(request.images):
            self._check(image, f"images[{index}]")
        self._without_room.append(request)
        self._take_in()

    def is_ready(self, request: GenerationRequest) -> bool:
        """See ``Preparer``."""
        if any(r is request for r in self._without_room):
            return False
        hashes = {image.content_hash for image in request.images}
        if not self._failed.isdisjoint(hashes):
            raise ImageEncodingError
        return all(h in self.cache for h in hashes)

    def work(self) -> bool:
        """See ``Preparer``."""
        self._take_in()
        if self._batch is None and not self._to_encode:
            return False
        try:
            self._advance()
        except Exception:  # a border: it ends the requests of these images, and no others
            logger.exception("vision_batch_failed images=%d", len(self._in_batch))
            self._failed.update(image.content_hash for image in self._in_batch)
            self._drop_batch()
        return True

    def release(self, request: GenerationRequest) -> None:
        """See ``Preparer``."""
        if any(r is request for r in self._without_room):
            self._without_room = deque(r for r in self._without_room if r is not request)
            return
        for content_hash in {image.content_hash for image in request.images}:
            self.cache.release(content_hash)
            if not self.cache.is_held(content_hash):
                self._to_encode.pop(content_hash, None)
                self._failed.discard(content_hash)
        if not any(self.cache.is_held(image.content_hash) for image in self._in_batch):
            self._drop_batch()

    def features_of(self, image: ImageInput) -> torch.Tensor:
        """``[grid_height * grid_width, H]``; encoded now if nobody has begun with it."""
        features = self.cache.get(image.content_hash)
        if features is None:
            features = self._tower.encode(image.pixels)
            self.cache.put(image.content_hash, features)
        return features

    def overwrite(self, embeddings: torch.Tensor, start: int, images: Sequence[ImageInput]) -> None:
        """Put features into ``[n, H]`` embeddings of positions ``start ..``, in place."""
        for image in images:
            positions, features = image_token_positions(image)
            inside = (positions >= start) & (positions < start + len(embeddings))
            if inside.any():
                rows = torch.from_numpy(positions[inside] - start)
                wanted = self.features_of(image)[torch.from_numpy(features[inside])]
                embeddings[rows] = wanted.to(embeddings.device, embeddings.dtype)

    def _check(self, image: ImageInput, field: str) -> None:
        rows, columns = self._tower.token_grid(image.pixels)
        expected = (image.grid_height, image.grid_width)
        if image.pixels.dtype != np.float32 or (rows, columns) != expected or 0 in expected:
            problem = f"{image.pixels.shape} pixels are not {expected[0]} x {expected[1]} tokens"
            raise InvalidRequestError(field, problem)

    def _take_in(self) -> None:
        while self._without_room:
            images = {image.content_hash: image for image in self._without_room[0].images}
            room = {h: self._tower.feature_bytes(i.pixels) for h, i in images.items()}
            if not self.cache.has_room_for(room):
                return
            self._without_room.popleft()
            under_way = {image.content_hash for image in self._in_batch} | self._to_encode.keys()
            for content_hash, image in images.items():
                self.cache.hold(content_hash, room[content_hash])
                if content_hash in self.cache or content_hash in under_way:
                    self.counters.hits += 1
                else:
                    self.counters.misses += 1
                    self._to_encode[content_hash] = image

    def _advance(self) -> None:
        left = float(self._limits.patches_per_step)
        while left > 0:
            if self._batch is None and not self._begin_batch():
                return
            assert self._batch is not None
            worth = self._batch.advance()
            left -= worth
            if not worth:
                self._finish_batch(self._batch)

    def _begin_batch(self) -> bool:
        waiting = tuple(self._to_encode.values())
        sizes = [self._tower.num_patches(image.pixels) for image in waiting]
        self._in_batch = waiting[: batch_length(sizes, self._limits.patches_per_batch)]
        if not self._in_batch:
            return False
        for image in self._in_batch:
            del self._to_encode[image.content_hash]
        self._batch = EncodeBatch(self._tower, [image.pixels for image in self._in_batch])
        self.counters.batches += 1
        return True

    def _finish_batch(self, batch: EncodeBatch) -> None:
        for image, features in zip(self._in_batch, batch.features, strict=True):
            self.counters.images += 1
            self.counters.pixels += image.pixels.shape[1] * image.pixels.shape[2]
            self.cache.put(image.content_hash, features)
        self._batch, self._in_batch = None, ()

    def _drop_batch(self) -> None:
        if self._batch is not None:
            self._batch.abandon()
        self._batch, self._in_batch = None, ()


def batch_length(sizes: Sequence[int], max_patches: int) -> int:
    """How many of the images that wait are encoded together: in order, one at least."""
    total = 0
    for count, size in enumerate(sizes):
        total += size
        if count and total > max_patches:
            return count
    return len(sizes)
