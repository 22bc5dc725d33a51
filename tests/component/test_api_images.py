"""Images at the public APIs: in tool results, refused by their field, decoded beside the loop."""

import asyncio
import base64
import io
import struct
import threading

import httpx
import pytest
from PIL import Image

from helpers.api_servers import http_served, ids_of, make_frontend
from helpers.fake_gateway import Answer, FakeGateway
from router.api.inputs import ApiLimits
from router.chat.encode import ChatInput
from router.chat.image_files import ImageLimits
from router.chat.images import ImagePreprocessor


def file_of(size=(56, 28), kind="PNG"):
    file = io.BytesIO()
    Image.new("P", size).save(file, kind)
    return file.getvalue()


def gif_bomb():
    """A few bytes that claim 4 gigapixels."""
    data = bytearray(file_of((1, 1), "GIF"))
    data[6:10] = struct.pack("<HH", 65_535, 65_535)
    return bytes(data)


def image(data=None):
    data = file_of() if data is None else data
    return {"type": "image_url", "image_url": {"url": url_of(data)}}


def url_of(data):
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def user(*parts):
    return {"role": "user", "content": list(parts)}


async def post(frontend, *messages):
    async with http_served(frontend) as base, httpx.AsyncClient(base_url=base) as client:
        return await client.post("/v1/chat/completions", json={"messages": list(messages)})


async def test_images_of_a_question_and_of_a_tool_result_reach_the_gateway_in_order():
    gateway = FakeGateway(Answer(ids_of("ok")), takes_images=True)
    call = {"id": "123456789", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    answer = await post(
        make_frontend(gateway),
        user(image(), {"type": "text", "text": "and"}, image(file_of((28, 84)))),
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "123456789", "content": [image(file_of((28, 28)))]},
    )
    assert answer.status_code == 200, answer.text
    [run] = gateway.runs
    grids = [(i.grid_width, i.grid_height) for i in run.request.images]
    assert grids == [(2, 1), (1, 3), (1, 1)]
    offsets = [i.offset for i in run.request.images]
    assert offsets == sorted(offsets)
    assert all(run.request.prompt_token_ids[offset] == 10 for offset in offsets)


@pytest.mark.parametrize(
    ("data", "limits", "problem"),
    [
        (gif_bomb(), {}, "more than 33554432 pixels"),
        (file_of((3000, 20)), {"max_pixels": 50_000}, "3000 x 20: more than 50000 pixels"),
        (b"x" * 5000, {"max_bytes": 4000}, "larger than 4000 bytes"),
        (file_of()[:60], {}, "damaged"),
        (b"hello", {}, "is not an image"),
    ],
)
async def test_image_beyond_a_limit_is_a_client_error_that_names_its_field(data, limits, problem):
    allowed = ApiLimits(images=ImageLimits(**limits))
    frontend = make_frontend(FakeGateway(takes_images=True), limits=allowed)
    answer = await post(frontend, user({"type": "text", "text": "See"}, image(data)))
    error = answer.json()["error"]
    assert answer.status_code == 400
    assert error["param"] == "messages[0].content[1].image_url.url"
    assert problem in error["message"]


async def test_more_images_than_allowed_or_than_fit_the_model_are_refused():
    limits = ApiLimits(images=ImageLimits(max_images=2))
    few = make_frontend(FakeGateway(takes_images=True), limits=limits)
    answer = await post(few, user(image(), image(), image()))
    assert answer.json()["error"]["param"] == "messages[0].content[2].image_url.url"
    short = make_frontend(FakeGateway(takes_images=True, max_model_len=100))
    answer = await post(short, user(image(), image(file_of((280, 280)))))
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, "messages[0].content[1].image_url.url")
    assert "113 tokens, more than the model's 100" in error["message"]


async def test_event_loop_goes_on_while_an_image_is_decoded(monkeypatch):
    frontend = make_frontend(FakeGateway(takes_images=True))
    loop_went_on, encode = threading.Event(), ImagePreprocessor.encode

    def patient(self, *args):
        assert loop_went_on.wait(60), "the loop waits for the decoder"
        return encode(self, *args)

    monkeypatch.setattr(ImagePreprocessor, "encode", patient)
    chat = ChatInput(messages=[user(image())])
    encoding = asyncio.create_task(frontend.prompts.encode_chat(chat))
    await asyncio.sleep(0)
    asyncio.get_running_loop().call_soon(loop_went_on.set)
    assert len((await encoding).images) == 1
