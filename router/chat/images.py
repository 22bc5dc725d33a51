"""Images of a prompt: from file to normalised pixels, and where their tokens lie."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from mistral_common.protocol.instruct.chunk import ImageChunk
from mistral_common.tokens.tokenizers.image import (
    ImageConfig,
    ImageEncoder,
    ImageEncoding,
    SpecialImageIDs,
)

from galerne.errors import InvalidRequestError
from router.chat.image_files import ImageLimits, load_image, open_image
from router.chat.tokenizer import ImageTokenIds
from router.engine.request import ImageInput

MAX_PIXEL_BYTES = 500 << 20  # of all images of a prompt: a message to a gateway has 512 MiB


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageGeometry:
    """How the model's vision tower cuts images; sizes in pixels. The tokenizer's may differ."""

    patch_size: int = 14
    spatial_merge_size: int = 2  # patches per token, along each side
    max_image_size: int = 1540  # longest side after resizing

    @property
    def cell_size(self) -> int:
        """Side in pixels of the square behind one [IMG]."""
        return self.patch_size * self.spatial_merge_size

    @property
    def cell_bytes(self) -> int:
        """Of the float32 pixels behind one [IMG]."""
        return 3 * 4 * self.cell_size**2

    def num_tokens(self, width: int, height: int) -> int:
        """Prompt tokens of an image of ``width`` x ``height`` pixels, breaks and end included.

        The resizing rule: model reference, section 3.
        """
        ratio = max(width / self.max_image_size, height / self.max_image_size, 1.0)
        columns, rows = (-(-max(round(n / ratio), 1) // self.cell_size) for n in (width, height))
        return (columns + 1) * rows


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSpan:
    """Tokens of one image: from ``offset``, ``grid_height`` rows of ``grid_width`` and a break."""

    offset: int
    grid_width: int
    grid_height: int

    @property
    def num_tokens(self) -> int:
        """Tokens of the span, breaks and end included."""
        return (self.grid_width + 1) * self.grid_height


class ImagePreprocessor:
    """Resizes and normalises images as mistral-common does, for one model.

    The resizing rule and the constants: model reference, section 3.
    """

    def __init__(
        self,
        geometry: ImageGeometry,
        token_ids: ImageTokenIds,
        limits: ImageLimits | None = None,
        max_tokens: int | None = None,
    ) -> None:
        """``max_tokens``: of all images of a prompt together; None: any number."""
        self.geometry = geometry
        self.token_ids = token_ids
        self._max_tokens = max_tokens
        self.limits = limits if limits is not None else ImageLimits()
        self._encoder = ImageEncoder(
            ImageConfig(
                image_patch_size=geometry.patch_size,
                max_image_size=geometry.max_image_size,
                spatial_merge_size=geometry.spatial_merge_size,
            ),
            SpecialImageIDs(
                img=token_ids.image,
                img_break=token_ids.image_break,
                img_end=token_ids.image_end,
            ),
        )

    def encode(self, data: bytes, field: str, num_before: int = 0) -> ImageEncoding:
        """Tokens and pixels (``[3, height, width]`` float32) of an image file.

        ``num_before``: tokens of the images before it in the prompt.

        Raises:
            InvalidRequestError: The file is refused by ``open_image``, or has more tokens than the
                prompt may have, or more pixels than a gateway can be sent, which is found before
                it is decoded; names ``field``.
        """
        image = open_image(data, field, self.limits)
        num_tokens = num_before + self.geometry.num_tokens(*image.size)
        if self._max_tokens is not None and num_tokens > self._max_tokens:
            problem = f"the images up to here become {num_tokens} tokens, more than the model's"
            raise InvalidRequestError(field, f"{problem} {self._max_tokens}")
        num_bytes = num_tokens * self.geometry.cell_bytes
        if num_bytes > MAX_PIXEL_BYTES:
            problem = f"the images up to here take {num_bytes >> 20} MiB as pixels, more than"
            raise InvalidRequestError(field, f"{problem} {MAX_PIXEL_BYTES >> 20}")
        load_image(image, field, self.limits)
        try:
            return self._encoder(ImageChunk(image=image))
        except ValueError as error:  # pixels that cannot be turned into RGB
            raise InvalidRequestError(field, f"cannot be converted to RGB: {error}") from error

    def inputs(
        self, spans: Sequence[ImageSpan], pixels: Sequence[npt.NDArray[np.float32]], field: str
    ) -> tuple[ImageInput, ...]:
        """Join images with their places in the prompt.

        Raises:
            InvalidRequestError: The prompt lays out other images than these; names ``field``.
        """
        if len(spans) != len(pixels):
            problem = f"{len(pixels)} given, but the prompt lays out {len(spans)}"
            raise InvalidRequestError(field, problem)
        pairs = zip(spans, pixels, strict=True)
        return tuple(
            self._input(span, image, f"{field}[{i}]") for i, (span, image) in enumerate(pairs)
        )

    def _input(self, span: ImageSpan, pixels: npt.NDArray[np.float32], field: str) -> ImageInput:
        cell = self.geometry.cell_size
        grid_height, grid_width = pixels.shape[1] // cell, pixels.shape[2] // cell
        if (grid_width, grid_height) != (span.grid_width, span.grid_height):
            problem = (
                f"becomes {grid_width} x {grid_height} tokens, but the prompt lays out "
                f"{span.grid_width} x {span.grid_height} at token {span.offset}"
            )
            raise InvalidRequestError(field, problem)
        pixels = np.ascontiguousarray(pixels, dtype=np.float32)
        return ImageInput(
            pixels=pixels,
            offset=span.offset,
            grid_width=grid_width,
            grid_height=grid_height,
            content_hash=hash_pixels(pixels),
        )


def hash_pixels(pixels: npt.NDArray[np.float32]) -> bytes:
    """SHA-256 over height and width (uint32, little-endian) and the pixels in C order."""
    _, height, width = pixels.shape
    digest = hashlib.sha256(struct.pack("<II", height, width))
    digest.update(np.ascontiguousarray(pixels, dtype="<f4").data)
    return digest.digest()


def locate_images(
    token_ids: Sequence[int], ids: ImageTokenIds, field: str = "token_ids"
) -> tuple[ImageSpan, ...]:
    """Find the images that a prompt lays out, in order.

    An image is rows of equally many [IMG], each closed by [IMG_BREAK], the last by [IMG_END].

    Raises:
        InvalidRequestError: An image token stands where none can; names ``field`` and position.
    """
    spans: list[ImageSpan] = []
    position = 0
    while position < len(token_ids):
        if token_ids[position] in ids:
            spans.append(_read_span(token_ids, position, ids, field))
            position += spans[-1].num_tokens
        else:
            position += 1
    return tuple(spans)


def _read_span(token_ids: Sequence[int], offset: int, ids: ImageTokenIds, field: str) -> ImageSpan:
    position, num_rows, grid_width = offset, 0, 0
    while True:
        row_start = position
        while position < len(token_ids) and token_ids[position] == ids.image:
            position += 1
        width = position - row_start
        if position == len(token_ids):
            raise InvalidRequestError(field, f"the image at {offset} has no [IMG_END]")
        closing = token_ids[position]
        is_closed = closing in (ids.image_break, ids.image_end)
        if not is_closed or width == 0:
            problem = "expected [IMG]" if width == 0 else "expected [IMG_BREAK] or [IMG_END]"
            raise InvalidRequestError(f"{field}[{position}]", problem)
        if num_rows and width != grid_width:
            problem = f"closes a row of {width} [IMG], but the row above has {grid_width}"
            raise InvalidRequestError(f"{field}[{position}]", problem)
        position, num_rows, grid_width = position + 1, num_rows + 1, width
        if closing == ids.image_end:
            return ImageSpan(offset=offset, grid_width=grid_width, grid_height=num_rows)


def images_for_token_ids(
    token_ids: Sequence[int],
    images: Sequence[bytes],
    preprocessor: ImagePreprocessor | None,
    *,
    token_ids_field: str = "token_ids",
    images_field: str = "images",
) -> tuple[ImageInput, ...]:
    """Images of a prompt that comes as ids, which hold the image tokens, and files in order.

    ``preprocessor`` is None for a model without vision.

    Raises:
        InvalidRequestError: Number or size of the images and the layout in the ids disagree, a
            file is refused, or there are too many; names the field.
    """
    if preprocessor is None:
        if images:
            raise InvalidRequestError(images_field, "this model takes no images")
        return ()
    max_images = preprocessor.limits.max_images
    if len(images) > max_images:
        raise InvalidRequestError(images_field, f"{len(images)} given, at most {max_images}")
    spans = locate_images(token_ids, preprocessor.token_ids, token_ids_field)
    if len(spans) != len(images):  # before any is decoded
        problem = f"{len(images)} given, but the prompt lays out {len(spans)}"
        raise InvalidRequestError(images_field, problem)
    pixels: list[npt.NDArray[np.float32]] = []
    num_tokens = 0
    for i, data in enumerate(images):
        encoding = preprocessor.encode(data, f"{images_field}[{i}]", num_tokens)
        num_tokens += len(encoding.tokens)
        pixels.append(encoding.image)
    return preprocessor.inputs(spans, pixels, images_field)
