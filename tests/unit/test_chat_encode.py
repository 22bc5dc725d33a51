import base64
import copy
import io
import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mistral_common.protocol.instruct.request import ChatCompletionRequest
from PIL import Image

from galerne.errors import InvalidRequestError
from router.chat.encode import ChatFormat, ChatInput
from router.chat.image_files import ImageLimits
from router.chat.images import ImageGeometry
from router.chat.tokenizer import EMBEDDED_TOKENIZER, Tokenizer, load_tokenizer

FIXTURES = Path(__file__).parents[1] / "fixtures"
CASES = json.loads((FIXTURES / "chat_cases.json").read_text("utf-8"))["cases"]


@cache
def embedded() -> Tokenizer:
    return load_tokenizer(None)


@cache
def chat_format() -> ChatFormat:
    return ChatFormat(embedded(), ImageGeometry())


def user(content) -> dict:
    return {"role": "user", "content": content}


def call(call_id="a", name="f", arguments="{}") -> dict:
    function = {"name": name, "arguments": arguments}
    return {"id": call_id, "type": "function", "function": function}


def png_url(width=30, height=20) -> str:
    file = io.BytesIO()
    Image.new("RGB", (width, height), "teal").save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def image(url=None) -> dict:
    return {"type": "image_url", "image_url": {"url": url if url is not None else png_url()}}


def encode(messages, **options):
    return chat_format().encode(ChatInput(messages=messages, **options))


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_case_gives_the_ids_and_images_of_mistral_common(case):
    if "refused" in case:
        with pytest.raises(InvalidRequestError) as caught:
            chat_format().encode(ChatInput(**case["request"]))
        expected = {
            "bad_effort": "reasoning_effort",
            "bad_last_role": "messages[1]",
            "bad_empty": "messages",
        }
        assert caught.value.field == expected[case["name"]]
        return
    prompt = chat_format().encode(ChatInput(**case["request"]))
    assert list(prompt.token_ids) == case["token_ids"]
    assert embedded().decode(prompt.token_ids, keep_special=True) == case["text"]
    assert len(prompt.images) == len(case["images"])
    for found, expected in zip(prompt.images, case["images"], strict=True):
        assert [found.grid_width, found.grid_height] == expected["grid_width_height"]
        assert list(found.pixels.shape) == expected["pixels_shape"]
        assert found.pixels.dtype == np.float32
        assert found.pixels.mean() == pytest.approx(expected["pixels_mean"], abs=1e-4)
        assert found.pixels.std() == pytest.approx(expected["pixels_std"], abs=1e-4)
        end = found.offset + found.num_tokens
        assert set(prompt.token_ids[found.offset : end]) <= {10, 12, 13}
        assert prompt.token_ids[end - 1] == 13


def assistant(content=None, **fields) -> dict:
    return {"role": "assistant", "content": content, **fields}


def result(call_id="a", content="x") -> dict:
    return {"role": "tool", "tool_call_id": call_id, "content": content}


ASKED = [user("a"), assistant(tool_calls=[call()])]


@pytest.mark.parametrize(
    ("field", "messages"),
    [
        ("messages[0]", ["hello"]),
        ("messages[0].role", [{"role": "critic", "content": "x"}]),
        ("messages[0].content", [{"role": "user"}]),
        ("messages[0].content", [user(None)]),
        ("messages[0].content", [user({"type": "text", "text": "a"})]),
        ("messages[0].content[1]", [user([{"type": "text", "text": "a"}, "b"])]),
        ("messages[0].content[0].type", [user([{"type": "input_audio", "input_audio": "x"}])]),
        ("messages[0].content[0].type", [user([{"text": "x"}])]),
        ("messages[0].content[0].text", [user([{"type": "text", "text": 3}])]),
        ("messages[0].content[0]", [user([{"type": "thinking", "thinking": "x"}])]),
        ("messages[0].content[0].image_url", [user([{"type": "image_url"}])]),
        ("messages[0].content[0].image_url.url", [user([image("https://x.org/a.png")])]),
        ("messages[0].content[0].image_url.url", [user([image("file:///etc/passwd")])]),
        ("messages[1].content[0].image_url.url", [user("a"), user([image("data:,x")])]),
        ("messages[0].content[0]", [{"role": "system", "content": [image()]}, user("a")]),
        ("messages[1].tool_calls[0]", [user("a"), assistant(tool_calls=[{}])]),
        ("messages[1].tool_calls", [user("a"), assistant(tool_calls=1)]),
        ("messages[1]", [user("a"), assistant(tool_calls=[call(name="?")]), user("b")]),
        ("messages[2].tool_call_id", [*ASKED, {"role": "tool", "content": "x"}]),
        ("messages[2]", [*ASKED, result("b")]),
        ("messages[1]", [user("a"), result(), user("b")]),
        ("messages[0]", [assistant("x")]),
        ("messages[2]", [user("a"), user("b"), assistant("x")]),
        ("messages", [user("a"), assistant(""), user("b")]),
        ("messages[1].reasoning_content", [user("a"), assistant(reasoning_content=1)]),
    ],
)
def test_refusal_names_the_field(field, messages):
    with pytest.raises(InvalidRequestError) as caught:
        encode(messages)
    assert caught.value.field == field
    assert caught.value.problem


def test_bad_message_in_a_long_conversation_is_found():
    messages = [user("a"), {"role": "assistant", "content": "b"}] * 20
    messages[25] = {"role": "assistant", "tool_calls": [call(), call()]}
    with pytest.raises(InvalidRequestError) as caught:
        encode([*messages, user("end")])
    assert caught.value.field == "messages[25]"


@pytest.mark.parametrize(
    "tool",
    [
        "f",
        {"type": "function", "function": {"description": "no name"}},
        {"type": "function", "function": {"name": "no spaces please"}},
        {"type": "function", "function": {"name": "g", "parameters": {"type": "nonsense"}}},
        {"type": "browser", "function": {"name": "g"}},
    ],
)
def test_refused_tool_is_named(tool):
    good = {"type": "function", "function": {"name": "g"}}
    with pytest.raises(InvalidRequestError) as caught:
        encode([user("a")], tools=[good, tool])
    assert caught.value.field == "tools[1]"


def test_deeply_nested_tool_is_refused_not_fatal():
    schema = {}
    for _ in range(5000):
        schema = {"type": "object", "properties": {"a": schema}}
    tool = {"type": "function", "function": {"name": "g", "parameters": schema}}
    with pytest.raises(InvalidRequestError) as caught:
        encode([user("a")], tools=[tool])
    assert caught.value.field.startswith(("tools", "messages"))


@pytest.mark.parametrize("effort", ["medium", "extreme", ""])
def test_unknown_effort_is_refused(effort):
    with pytest.raises(InvalidRequestError) as caught:
        encode([user("a")], reasoning_effort=effort)
    assert caught.value.field == "reasoning_effort"


def test_only_a_message_of_the_assistant_can_be_continued():
    for messages in ([user("a")], []):
        with pytest.raises(InvalidRequestError) as caught:
            encode(messages, continue_final_message=True)
        assert caught.value.field == "continue_final_message"


def test_prefix_of_mistrals_api_is_refused_with_what_to_send_instead():
    begun = {"role": "assistant", "content": "Once", "prefix": True}
    with pytest.raises(InvalidRequestError, match="continue_final_message") as caught:
        encode([user("a"), begun])
    assert caught.value.field == "messages[1].prefix"
    assert encode([user("a"), begun], continue_final_message=True).token_ids
    assert encode([user("a"), {**begun, "prefix": False}, user("b")]).token_ids


def test_unclosed_thinking_is_continued_as_reasoning():
    for closed in (True, False):
        part = {"type": "thinking", "thinking": "Hm", "closed": closed}
        messages = [user("a"), {"role": "assistant", "content": [part]}]
        prompt = encode(messages, continue_final_message=True)
        assert prompt.starts_in_reasoning is not closed
        assert (prompt.token_ids[-1] == 35) is closed
    assert not encode([user("a")]).starts_in_reasoning


def test_reasoning_content_is_the_same_as_a_thinking_part():
    parts = [{"type": "thinking", "thinking": "Hm"}, {"type": "text", "text": "b"}]
    flat = {"role": "assistant", "content": "b", "reasoning_content": "Hm"}
    turns = [[user("a"), turn, user("c")] for turn in (flat, {**flat, "content": parts})]
    del turns[1][1]["reasoning_content"]
    assert encode(turns[0]) == encode(turns[1])


def test_tool_result_may_hold_an_image():
    prompt = encode([*ASKED, result(content=[image()])])
    assert prompt.token_ids[-5:] == (7, 10, 10, 13, 8)
    assert prompt.images[0].offset == len(prompt.token_ids) - 4


def test_images_are_refused_without_vision_and_above_the_limit():
    message = user([image(), image(), image()])
    with pytest.raises(InvalidRequestError, match="takes no images") as caught:
        ChatFormat(embedded()).encode(ChatInput(messages=[message]))
    assert caught.value.field == "messages[0].content[0].image_url.url"
    limited = ChatFormat(embedded(), ImageGeometry(), ImageLimits(max_images=2))
    with pytest.raises(InvalidRequestError, match="at most 2") as caught:
        limited.encode(ChatInput(messages=[message]))
    assert caught.value.field == "messages[0].content[2].image_url.url"


def test_geometry_of_the_model_decides_not_that_of_the_tokenizer():
    geometry = ImageGeometry(patch_size=8, spatial_merge_size=1, max_image_size=16)
    small = ChatFormat(embedded(), geometry)
    (found,) = small.encode(ChatInput(messages=[user([image(png_url(64, 32))])])).images
    assert (found.grid_width, found.grid_height) == (2, 1)
    assert found.pixels.shape == (3, 8, 16)


def test_request_refused_for_its_shape_decodes_no_image():
    messages = [user([image("data:image/png;base64,eA==")]), {"role": "assistant", "content": "b"}]
    with pytest.raises(InvalidRequestError) as caught:
        encode(messages)
    assert caught.value.field == "messages[1]"


def test_ids_of_special_tokens_come_from_the_file(tmp_path):
    text = EMBEDDED_TOKENIZER.read_text()
    for name, other in (("[THINK]", "<SPECIAL_700>"), ("[IMG]", "<SPECIAL_701>")):
        text = text.replace(name, "@").replace(other, name).replace("@", other)
    (tmp_path / "tekken.json").write_text(text)
    tokenizer: Tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.special.begin_think == 700
    prompt = ChatFormat(tokenizer, ImageGeometry()).encode(
        ChatInput(
            messages=[
                user([image()]),
                {"role": "assistant", "content": "b", "reasoning": "Hm"},
                user("c"),
            ]
        )
    )
    assert 700 in prompt.token_ids
    assert prompt.token_ids[prompt.images[0].offset] == 701


@settings(max_examples=20, deadline=None)
@given(st.text(max_size=40))
def test_no_user_text_becomes_a_special_token(text):
    for name in ("[INST]", "</s>", "[IMG]", "[/THINK]"):
        prompt = encode([user(name + text)])
        special = [i for i in prompt.token_ids if i < 1000]
        assert special == [1, 36, 37, 3, 4]


def reference(request: dict) -> list[int] | None:
    """The ids by mistral-common alone; None where it refuses, by whatever exception."""
    try:
        parsed = ChatCompletionRequest.from_openai(**request)
        return embedded().mistral.encode_chat_completion(parsed).tokens
    except Exception:  # noqa: BLE001 - any refusal counts
        return None


TEXT = st.sampled_from(["", "a", "Ça va?\n", "[INST]", "</s>", " x "])
PART = st.one_of(
    TEXT.map(lambda text: {"type": "text", "text": text}),
    st.sampled_from([image(), {"type": "image_url", "image_url": png_url(60, 30)}]),
    st.builds(lambda text, closed: {"type": "thinking", "thinking": text, "closed": closed},
              TEXT, st.booleans()),
    st.sampled_from([{"type": "text"}, {"type": "input_audio", "input_audio": "x"}, {}]),
)  # fmt: skip
CONTENT = st.one_of(TEXT, TEXT, TEXT, st.none(), st.lists(PART, max_size=3))
CALLS = st.lists(
    st.builds(
        call,
        st.sampled_from(["a", "b", ""]),
        st.sampled_from(["f", "?"]),
        st.sampled_from(["{}", "", "no json", '{"é": 1}', None]),
    ),
    max_size=2,
)
MESSAGE = st.one_of(
    st.builds(user, CONTENT),
    st.builds(user, TEXT),
    st.builds(assistant, CONTENT),
    st.builds(assistant, TEXT, tool_calls=st.none() | CALLS, reasoning_content=st.none() | TEXT),
    st.builds(result, st.sampled_from(["a", "b"]), CONTENT),
    st.builds(lambda role, content: {"role": role, "content": content},
              st.sampled_from(["system", "developer", "critic"]), CONTENT),
)  # fmt: skip
TOOL = st.builds(
    lambda **function: {"type": "function", "function": function},
    name=st.sampled_from(["f", "get_weather", "?"]),
    description=st.none() | TEXT,
    parameters=st.sampled_from([None, {}, {"type": "object"}, {"type": "nonsense"}]),
)
REQUEST = st.fixed_dictionaries(
    {
        "messages": st.builds(
            lambda messages, last: messages + last,
            st.lists(MESSAGE, max_size=4),
            st.sampled_from([[], [user("b")], [user([image()])], [assistant("b")]]),
        )
    },
    optional={
        "tools": st.none() | st.lists(TOOL, max_size=2),
        "reasoning_effort": st.sampled_from([None, "none", "high", "high", "much"]),
        "continue_final_message": st.booleans(),
    },
)


@settings(max_examples=200, deadline=None)
@given(REQUEST)
def test_request_is_accepted_and_encoded_as_mistral_common_does(request):
    expected = reference(copy.deepcopy(request))
    if expected is None:
        with pytest.raises(InvalidRequestError):
            chat_format().encode(ChatInput(**request))
        return
    prompt = chat_format().encode(ChatInput(**request))
    assert list(prompt.token_ids) == expected
    assert all(prompt.token_ids[image.offset] == 10 for image in prompt.images)
