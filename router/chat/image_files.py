"""Images as clients send them: data URLs and files, checked before anything is decoded."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO

from PIL import Image, UnidentifiedImageError

from galerne.errors import ConfigError, InvalidRequestError

ACCEPTED_FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
ACCEPTED_MIME_TYPES = ("image/png", "image/jpeg", "image/jpg", "image/webp", "image/gif")
MAX_SIDE = 65_535  # pixels: the most of JPEG and GIF; a PNG may claim 2^31, which OpenCV refuses

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
    if is_web_url(url):
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


def is_web_url(url: str) -> bool:
    """Whether a URL names an image of another server."""
    return url.partition(":")[0].lower() in ("http", "https")


def open_image(data: bytes, field: str, limits: ImageLimits) -> Image.Image:
    """A PNG, JPEG, WebP or GIF file, of which only the header has been read.

    Raises:
        InvalidRequestError: Larger than ``limits`` allow, another format, or damaged; names
            ``field``.
    """
    if len(data) > limits.max_bytes:
        raise InvalidRequestError(field, f"is larger than {limits.max_bytes} bytes")
    _check_size(webp_size(data), field, limits)
    with _damages_named(field, limits):
        image = Image.open(BytesIO(data), formats=ACCEPTED_FORMATS)
    _check_size(image.size, field, limits)
    return image


def load_image(image: Image.Image, field: str, limits: ImageLimits) -> None:
    """Decode the pixels; of an animation, the first picture's.

    Raises:
        InvalidRequestError: The file is damaged; names ``field``.
    """
    with _damages_named(field, limits):
        image.load()
    _check_size(image.size, field, limits)  # a GIF's first picture may be larger than it said


def webp_size(data: bytes) -> tuple[int, int] | None:
    """Width and height that a WebP file claims; None for any other.

    Its decoder takes memory for the whole canvas when it is made, which Pillow does to read the
    header. Source: RFC 9649, sections 2.5 to 2.7.
    """
    if len(data) < 30 or data[:4] != b"RIFF" or data[8:12] != b"WEBP":
        return None
    match data[12:16]:
        case b"VP8X":
            width, height = (int.from_bytes(data[at : at + 3], "little") for at in (24, 27))
            return width + 1, height + 1
        case b"VP8L":
            bits = int.from_bytes(data[21:25], "little")
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        case b"VP8 ":
            width, height = struct.unpack_from("<HH", data, 26)
            return width & 0x3FFF, height & 0x3FFF
        case _:
            return None


@contextmanager
def _damages_named(field: str, limits: ImageLimits) -> Iterator[None]:
    try:
        yield
    except _BOMBS as error:
        raise _too_many_pixels(field, limits) from error
    except UnidentifiedImageError as error:
        problem = f"is not an image in one of the formats {', '.join(ACCEPTED_FORMATS)}"
        raise InvalidRequestError(field, problem) from error
    except _DECODING_ERRORS as error:
        raise InvalidRequestError(field, f"is a damaged image: {error}") from error


def _check_size(size: tuple[int, int] | None, field: str, limits: ImageLimits) -> None:
    if size is None:
        return
    width, height = size
    if width * height > limits.max_pixels:
        raise _too_many_pixels(field, limits, f"{width} x {height}: ")
    if min(size) < 1:
        raise InvalidRequestError(field, f"{width} x {height}: has no pixels")
    if max(size) > MAX_SIDE:
        raise InvalidRequestError(field, f"{width} x {height}: more than {MAX_SIDE} pixels a side")


def _too_many_pixels(field: str, limits: ImageLimits, size: str = "") -> InvalidRequestError:
    return InvalidRequestError(field, f"{size}more than {limits.max_pixels} pixels")
