"""What ``galerne serve`` lets images cost, and from where they are fetched."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from router.api.image_urls import ImageUrlPolicy
from router.chat.image_files import ImageLimits
from router.model.vision_limits import VisionLimits


class ImageSettings(BaseModel):
    """Limits of images; unset they are those of the parts that keep them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_bytes: int = Field(
        default=ImageLimits().max_bytes, ge=1, description="bytes of one image file"
    )
    max_pixels: int = Field(
        default=ImageLimits().max_pixels, ge=1, description="pixels of one image, as it is sent"
    )
    max_images: int = Field(
        default=ImageLimits().max_images, ge=0, description="images of one request; 0: none"
    )
    timeout_s: float = Field(
        default=ImageUrlPolicy().timeout_s, gt=0, description="seconds to fetch an image by URL"
    )
    max_redirects: int = Field(
        default=ImageUrlPolicy().max_redirects, ge=0, description="that an image URL may take"
    )
    max_request_bytes: int = Field(
        default=ImageUrlPolicy().max_request_bytes,
        ge=1,
        description="bytes of all images that one request has fetched",
    )
    cache_bytes: int = Field(
        default=VisionLimits().cache_bytes,
        ge=1,
        description="bytes of encoded images that each gateway keeps",
    )
    patches_per_step: int = Field(
        default=VisionLimits().patches_per_step,
        ge=1,
        description="patches' worth of encoding between two steps of the model",
    )
    patches_per_batch: int = Field(
        default=VisionLimits().patches_per_batch,
        ge=1,
        description="patches of images that a gateway encodes together",
    )

    @property
    def limits(self) -> ImageLimits:
        """Of the frontend."""
        return ImageLimits(
            max_bytes=self.max_bytes, max_pixels=self.max_pixels, max_images=self.max_images
        )

    @property
    def vision(self) -> VisionLimits:
        """Of each gateway."""
        return VisionLimits(
            cache_bytes=self.cache_bytes,
            patches_per_step=self.patches_per_step,
            patches_per_batch=self.patches_per_batch,
        )

    def url_policy(self, hosts: tuple[str, ...], networks: tuple[str, ...]) -> ImageUrlPolicy:
        """From where the frontend fetches.

        Raises:
            ConfigError: An entry is no host or network.
        """
        return ImageUrlPolicy(
            hosts=hosts,
            networks=networks,
            timeout_s=self.timeout_s,
            max_redirects=self.max_redirects,
            max_request_bytes=self.max_request_bytes,
        )
