"""Images as clients send them: data URLs and files, checked before anything is decoded."""

from __future__ import annotations

import base64
import struct
import zlib
from dataclasses import dataclass
from io import BytesIO

from PIL import Image, UnidentifiedImageError

from galerne.errors import ConfigError, InvalidRequestError

ACCEPTED_FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
ACCEPTED_MIME_TYPES = ("image/png", "image/jpeg", "image/jpg", "image/webp", "image/gif")

_BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)
# What the four decoders raise on damaged files.
_DECODING_ERRORS = (
    OSError,
    ValueError,
    SyntaxError,
    TypeError,
    LookupError,
    EOFError,
    OverflowError,
    struct.error,
    zlib.error,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageLimits:
    """What one request may ask of the image decoder."""

    max_bytes: int = 20 * 1024 * 1024  # of one file
    max_pixels: int = 33_554_432  # of one image, as its header says
    max_images: int = 32  # of one request

    def __post_init__(self) -> None:
        for key in ("max_bytes", "max_pixels"):
            if getattr(self, key) < 1:
                raise ConfigError(f"images.{key}", getattr(self, key), "must be at least 1")
        if self.max_images < 0:
            raise ConfigError("images.max_images", self.max_images, "must not be negative")


def read_data_url(url: str, field: str, limits: ImageLimits) -> bytes:
    """The file inside ``data:image/...;base64,...``.

    Raises:
        InvalidRequestError: Another kind of URL, not an image type that is accepted, bad base64,
            or more than ``limits.max_bytes``; names ``field``.
    """
    scheme, _, rest = url.partition(":")
    if scheme.lower() in ("http", "https"):
        raise InvalidRequestError(field, "image URLs are not fetched here; send a data: URL")
    if scheme.lower() != "data":
        raise InvalidRequestError(field, "must be a data: URL")
    header, comma, payload = rest.partition(",")
    mime_type, *parameters = (part.strip().lower() for part in header.split(";"))
    if not comma or not parameters or parameters[-1] != "base64":
        raise InvalidRequestError(field, "must have the form data:image/png;base64,...")
    if mime_type not in ACCEPTED_MIME_TYPES:
        raise InvalidRequestError(field, f"must be one of {', '.join(ACCEPTED_MIME_TYPES)}")
    if len(payload) > 4 * (limits.max_bytes // 3 + 1):
        raise InvalidRequestError(field, f"is larger than {limits.max_bytes} bytes")
    try:
        return base64.b64decode(payload, validate=True)
    except ValueError as error:
        raise InvalidRequestError(field, f"is not valid base64: {error}") from error


def open_image(data: bytes, field: str, limits: ImageLimits) -> Image.Image:
    """Decode a PNG, JPEG, WebP or GIF file; of an animation, the first picture.

    Size and format are read from the header first, so a small file cannot become a large image.

    Raises:
        InvalidRequestError: Larger than ``limits`` allow, another format, or damaged; names
            ``field``.
    """
    if len(data) > limits.max_bytes:
        raise InvalidRequestError(field, f"is larger than {limits.max_bytes} bytes")
    try:
        image = Image.open(BytesIO(data), formats=ACCEPTED_FORMATS)
        width, height = image.size
        if width * height <= limits.max_pixels:
            image.load()
    except _BOMBS as error:
        raise _too_many_pixels(field, limits) from error
    except UnidentifiedImageError as error:
        problem = f"is not an image in one of the formats {', '.join(ACCEPTED_FORMATS)}"
        raise InvalidRequestError(field, problem) from error
    except _DECODING_ERRORS as error:
        raise InvalidRequestError(field, f"is a damaged image: {error}") from error
    if width * height > limits.max_pixels:
        raise _too_many_pixels(field, limits, f"{width} x {height}: ")
    return image


def _too_many_pixels(field: str, limits: ImageLimits, size: str = "") -> InvalidRequestError:
    return InvalidRequestError(field, f"{size}more than {limits.max_pixels} pixels")
