"""Limits of a gateway's work for images. No torch."""

from __future__ import annotations

from dataclasses import dataclass

from galerne.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionLimits:
    """How much a gateway does for images at one time."""

    cache_bytes: int = 512 << 20  # of features; those of running requests are among them
    patches_per_step: int = 1024  # worth of work for each step of the model
    patches_per_batch: int = 4096  # of images encoded together; one larger image goes alone

    def __post_init__(self) -> None:
        for key in self.__slots__:
            if getattr(self, key) < 1:
                raise ConfigError(f"images.{key}", getattr(self, key), "must be at least 1")
