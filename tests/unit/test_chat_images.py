import base64
import contextlib
import io
import struct
import zlib
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mistral_common.protocol.instruct.chunk import ImageURLChunk
from PIL import Image

from galerne.errors import ConfigError, InvalidRequestError
from galerne.hello import SERVICE_OPTIONS
from router.chat.image_files import (
    MAX_SIDE,
    ImageLimits,
    load_image,
    open_image,
    read_data_url,
    webp_size,
)
from router.chat.images import (
    ImageGeometry,
    ImagePreprocessor,
    ImageSpan,
    hash_pixels,
    images_for_token_ids,
    locate_images,
)
from router.chat.tokenizer import ImageTokenIds, load_tokenizer

IDS = ImageTokenIds(10, 12, 13)
LIMITS = ImageLimits()
SMALL = ImageLimits(max_bytes=3000, max_pixels=1000, max_images=2)


@cache
def preprocessor() -> ImagePreprocessor:
    return ImagePreprocessor(ImageGeometry(), IDS)


def noise(width=50, height=30, mode="RGB") -> Image.Image:
    data = np.random.default_rng(3).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(data).convert(mode)


def file_of(image=None, kind="PNG", **options) -> bytes:
    file = io.BytesIO()
    (image if image is not None else noise()).save(file, kind, **options)
    return file.getvalue()


def url_of(data: bytes, mime="image/png") -> str:
    return f"data:{mime};base64,{base64.b64encode(data).decode()}"


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds no pixels."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    idat = struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    return b"\x89PNG\r\n\x1a\n" + chunk + idat


def webp_bomb(width: int, height: int) -> bytes:
    """An animation that claims a canvas and holds one small picture."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return name + struct.pack("<I", len(data)) + data + bytes(len(data) % 2)

    def number(value: int) -> bytes:
        return value.to_bytes(3, "little")

    picture = file_of(Image.new("RGB", (16, 16)), "WEBP", lossless=True)[12:]
    canvas = chunk(b"VP8X", bytes([2, 0, 0, 0]) + number(width - 1) + number(height - 1))
    frame = number(0) * 2 + number(15) * 2 + number(10) + bytes(1) + picture
    body = b"WEBP" + canvas + chunk(b"ANIM", bytes(6)) + chunk(b"ANMF", frame)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def gif_bomb(width: int, height: int) -> bytes:
    """A GIF that claims a size for a picture of one pixel."""
    data = bytearray(file_of(Image.new("P", (1, 1)), "GIF"))
    data[6:10] = struct.pack("<HH", width, height)
    return bytes(data)


def gif_frame_bomb(width: int, height: int) -> bytes:
    """A GIF of one pixel whose first picture claims a size."""
    data = bytearray(file_of(Image.new("P", (1, 1)), "GIF"))
    at = data.index(b",", 13)
    data[at + 5 : at + 9] = struct.pack("<HH", width, height)
    return bytes(data)


def text_bomb() -> bytes:
    """A PNG with a compressed text that unpacks to 50 MB."""
    packed = b"Comment\0\0" + zlib.compress(bytes(50_000_000), 9)
    chunk = struct.pack(">I", len(packed)) + b"zTXt" + packed
    chunk += struct.pack(">I", zlib.crc32(b"zTXt" + packed))
    data = file_of(Image.new("L", (4, 4)))
    return data[:33] + chunk + data[33:]


def layout(width: int, height: int) -> list[int]:
    tokens = ([10] * width + [12]) * height
    return [*tokens[:-1], 13]


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("http://example.org/a.png", "not fetched"),
        ("HTTPS://example.org/a.png", "not fetched"),
        ("file:///etc/passwd", "data: URL"),
        ("/etc/passwd", "data: URL"),
        ("", "data: URL"),
        ("data:image/png,abc", "form"),
        ("data:image/png;base64", "form"),
        ("data:base64,abc", "form"),
        ("data:image/svg+xml;base64,PHN2Zy8+", "one of image/png"),
        ("data:text/plain;base64,aGVsbG8=", "one of image/png"),
        ("data:image/png;base64,a", "base64"),
        ("data:image/png;base64,aGV%sbG8=", "base64"),
        ("data:image/png;base64,aGVsbéG8=", "base64"),
        ("data:image/png;base64," + "A" * 5000, "larger than 3000 bytes"),
    ],
)
def test_url_that_holds_no_accepted_image_is_refused(url, problem):
    with pytest.raises(InvalidRequestError, match=problem) as caught:
        read_data_url(url, "messages[0]", SMALL)
    assert caught.value.field == "messages[0]"


def test_data_url_gives_its_bytes():
    assert read_data_url("data:image/png;charset=x;base64,aGVsbG8=", "f", LIMITS) == b"hello"
    assert read_data_url("Data:IMAGE/PNG;BASE64,aGVsbG8=", "f", LIMITS) == b"hello"


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "formats PNG, JPEG, WEBP, GIF"),
        (b"hello", "formats"),
        (file_of(kind="BMP"), "formats"),
        (file_of(kind="TIFF"), "formats"),
        (file_of()[:1000], "damaged"),
        (file_of(kind="JPEG")[:400], "damaged"),
        (png_header(40, 20), "damaged"),
        (png_header(7000, 7000), "7000 x 7000: more than 33554432 pixels"),
        (png_header(10_000, 10_000), "more than 33554432 pixels"),
        (png_header(60_000, 60_000), "more than 33554432 pixels"),
    ],
)
def test_file_that_is_no_accepted_image_is_refused(data, problem):
    with pytest.raises(InvalidRequestError, match=problem) as caught:
        load_image(open_image(data, "images[0]", LIMITS), "images[0]", LIMITS)
    assert caught.value.field == "images[0]"


@pytest.mark.parametrize(
    "data",
    [
        png_header(60_000, 60_000),
        png_header(7000, 7000),
        webp_bomb(7000, 7000),
        webp_bomb(16_383, 16_383),
        webp_bomb(65_535, 65_535),
        gif_bomb(65_535, 65_535),
        gif_bomb(7000, 7000),
        gif_frame_bomb(65_535, 65_535),
        text_bomb(),
    ],
    ids=["png", "png small", "webp", "webp full", "webp canvas", "gif", "gif small", "gif frame",
         "png text"],
)  # fmt: skip
def test_bomb_is_refused_before_anything_is_decoded(data, monkeypatch):
    assert len(data) < 100_000
    from PIL import Image as module
    from PIL import ImageFile

    def decode(*_args, **_keys):
        raise AssertionError("began to decode")

    monkeypatch.setattr(ImageFile.ImageFile, "load", decode)
    monkeypatch.setattr(module, "_getdecoder", decode)
    with pytest.raises(InvalidRequestError, match=r"pixels|damaged"):
        preprocessor().encode(data, "f")


def test_canvas_of_a_webp_file_is_checked_before_its_decoder_is_made(monkeypatch):
    assert open_image(webp_bomb(100, 90), "f", LIMITS).size == (100, 90)
    monkeypatch.setattr(Image, "open", None)
    with pytest.raises(InvalidRequestError, match="16383 x 16383: more than"):
        open_image(webp_bomb(16_383, 16_383), "f", LIMITS)


@pytest.mark.parametrize("options", [{"lossless": True}, {"quality": 50}, {"exif": b"Exif\0\0x"}])
@pytest.mark.parametrize("size", [(1, 1), (300, 7), (16_383, 2)])
def test_size_of_a_webp_file_is_what_its_decoder_finds(size, options):
    data = file_of(Image.new("RGB", size, "red"), "WEBP", **options)
    assert webp_size(data) == Image.open(io.BytesIO(data)).size == size
    assert webp_size(file_of()) is webp_size(b"") is None


def test_image_that_is_too_long_for_the_resizer_is_refused():
    line = file_of(Image.new("1", (MAX_SIDE + 1, 1)))
    with pytest.raises(InvalidRequestError, match="more than 65535 pixels a side"):
        preprocessor().encode(line, "f")
    assert preprocessor().encode(file_of(Image.new("1", (MAX_SIDE, 1))), "f").image.shape[1] == 28


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 20_000), st.integers(1, 20_000))
def test_tokens_of_an_image_are_known_from_its_size(width, height):
    class Sized:
        size = (width, height)

    columns, rows = preprocessor()._encoder._image_to_num_tokens(Sized())
    assert ImageGeometry().num_tokens(width, height) == (columns + 1) * rows


def test_images_beyond_the_model_are_refused_before_they_are_decoded(monkeypatch):
    short = ImagePreprocessor(ImageGeometry(), IDS, max_tokens=20)
    files = [file_of(noise(56, 56)), file_of(noise(56, 56)), file_of(noise(200, 90))]
    token_ids = [*layout(2, 2), *layout(2, 2), *layout(8, 4)]
    with pytest.raises(InvalidRequestError, match=r"^images\[2\]: .* 48 tokens, more than .* 20"):
        images_for_token_ids(token_ids, files, short)


def test_limits_hold_for_files_and_are_checked_when_made():
    with pytest.raises(InvalidRequestError, match="larger than 3000 bytes"):
        open_image(file_of(), "f", SMALL)
    with pytest.raises(InvalidRequestError, match="40 x 30: more than 1000 pixels"):
        open_image(file_of(Image.new("L", (40, 30))), "f", SMALL)
    with pytest.raises(ConfigError, match="max_pixels=0"):
        ImageLimits(max_pixels=0)


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from(["PNG", "JPEG", "WEBP", "GIF"]))
def test_damaged_file_is_refused_or_decoded_but_never_fatal(data, kind):
    content = bytearray(file_of(kind=kind))
    for _ in range(data.draw(st.integers(1, 5))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(InvalidRequestError):
        preprocessor().encode(bytes(content), "f")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
def test_pixels_are_those_of_mistral_common(kind):
    data = file_of(noise(3000, 50), kind)
    tokenizer = load_tokenizer(None).mistral.instruct_tokenizer
    expected = tokenizer.image_encoder(ImageURLChunk(image_url=url_of(data)))
    found = preprocessor().encode(data, "f")
    assert found.tokens == expected.tokens
    assert np.array_equal(found.image, expected.image)


def test_animation_gives_its_first_picture():
    pictures = [Image.new("RGB", (28, 28), colour) for colour in ("red", "blue")]
    data = file_of(pictures[0], "GIF", save_all=True, append_images=pictures[1:])
    expected = preprocessor().encode(file_of(pictures[0]), "f").image
    assert np.array_equal(preprocessor().encode(data, "f").image, expected)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "I;16", "CMYK"])
def test_every_colour_mode_becomes_three_channels(mode):
    kind = "JPEG" if mode == "CMYK" else "PNG"
    image = Image.new("I;16", (50, 30), 700) if mode == "I;16" else noise(mode=mode)
    assert preprocessor().encode(file_of(image, kind), "f").image.shape == (3, 56, 56)


def test_hash_depends_on_pixels_and_shape():
    pixels = np.arange(3 * 28 * 56, dtype=np.float32).reshape(3, 28, 56)
    changed = pixels.copy()
    changed[2, 27, 55] += 1
    hashes = {hash_pixels(p) for p in (pixels, changed, pixels.reshape(3, 56, 28))}
    assert len(hashes) == 3
    assert hash_pixels(pixels) == hash_pixels(pixels.transpose(0, 2, 1).copy().transpose(0, 2, 1))


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 5), st.integers(1, 4)) | st.lists(st.integers(1000, 1005)),
        max_size=6,
    )
)
def test_every_layout_is_located(parts):
    token_ids, spans = [], []
    for part in parts:
        if isinstance(part, tuple):
            span = ImageSpan(offset=len(token_ids), grid_width=part[0], grid_height=part[1])
            spans.append(span)
            token_ids += layout(*part)
            assert span.offset + span.num_tokens == len(token_ids)
        else:
            token_ids += part
    assert list(locate_images(token_ids, IDS)) == spans


@pytest.mark.parametrize(
    ("token_ids", "field"),
    [
        ([5, 10, 10], "ids"),
        ([5, 10, 12], "ids"),
        ([5, 10, 5], "ids[2]"),
        ([5, 12], "ids[1]"),
        ([13, 5], "ids[0]"),
        ([10, 12, 12, 10, 13], "ids[2]"),
        ([10, 10, 12, 10, 13], "ids[4]"),
        ([10, 12, 10, 10, 13], "ids[4]"),
        ([10, 13, 12], "ids[2]"),
    ],
)
def test_broken_layout_is_refused_at_its_position(token_ids, field):
    with pytest.raises(InvalidRequestError) as caught:
        locate_images(token_ids, IDS, "ids")
    assert caught.value.field == field


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from([10, 10, 12, 13, 5]), max_size=14))
def test_located_images_account_for_every_image_token(token_ids):
    try:
        spans = locate_images(token_ids, IDS)
    except InvalidRequestError:
        return
    inside = {p for s in spans for p in range(s.offset, s.offset + s.num_tokens)}
    assert inside == {p for p, token_id in enumerate(token_ids) if token_id in IDS}
    for span in spans:
        tokens = token_ids[span.offset : span.offset + span.num_tokens]
        assert tokens == layout(span.grid_width, span.grid_height)


def test_images_of_a_prompt_of_ids_get_their_places():
    token_ids = [1, 7, *layout(2, 2), 9, *layout(1, 1), 4]
    files = [file_of(noise(50, 30)), file_of(noise(20, 20))]
    first, second = images_for_token_ids(token_ids, files, preprocessor())
    assert (first.offset, first.grid_width, first.grid_height) == (2, 2, 2)
    assert (second.offset, second.pixels.shape) == (9, (3, 28, 28))
    assert first.pixels.flags.c_contiguous
    assert first.content_hash == hash_pixels(first.pixels)
    assert images_for_token_ids([1, 2], [], None) == ()


def test_images_that_disagree_with_the_ids_are_refused():
    token_ids = [1, *layout(2, 2), 4]
    limited = ImagePreprocessor(ImageGeometry(), IDS, SMALL)
    cases = [
        (token_ids, [], preprocessor(), "images", "0 given, but the prompt lays out 1"),
        (token_ids, [b"", b""], preprocessor(), "images", "2 given, but the prompt lays out 1"),
        (token_ids, [file_of(noise(20, 20))], preprocessor(), r"images\[0\]", "becomes 1 x 1"),
        (token_ids, [b"x"], preprocessor(), r"images\[0\]", "is not an image"),
        ([1, 10], [b"x"], preprocessor(), "token_ids", "no"),
        (token_ids, [b"x"] * 3, limited, "images", "at most 2"),
        (token_ids, [b"x"], None, "images", "takes no images"),
    ]
    for ids, files, images, field, problem in cases:
        with pytest.raises(InvalidRequestError, match=f"^{field}: .*{problem}"):
            images_for_token_ids(ids, files, images)


def test_images_that_no_message_to_a_gateway_could_hold_are_refused_before_they_are_decoded():
    full = png_header(1540, 1540)  # would be found to be damaged if it were decoded
    per_image = preprocessor().geometry.num_tokens(1540, 1540)
    most = dict(SERVICE_OPTIONS)["grpc.max_send_message_length"] // (1540 * 1540 * 3 * 4)
    with pytest.raises(InvalidRequestError, match="damaged"):
        preprocessor().encode(full, "f", per_image * (most - 2))
    with pytest.raises(InvalidRequestError, match="525 MiB as pixels, more than 500") as caught:
        preprocessor().encode(full, "messages[0]", per_image * most)
    assert caught.value.field == "messages[0]"
