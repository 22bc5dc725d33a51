"""What ``galerne demo`` asks: in the style of the lessons, with held-out numbers and picture."""

from __future__ import annotations

from typing import Final, NamedTuple

from cluster.demo.lessons.document import Call, Document, Effort, Message
from cluster.demo.lessons.scene import Item, Scene

PICTURE: Final = Scene(
    168,
    (
        Item(0, "circle", "red", "large"),
        Item(2, "square", "yellow", "medium"),
        Item(4, "triangle", "blue", "medium"),
        Item(7, "cross", "green", "small"),
    ),
)
WEATHER: Final = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "get weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}
_ALARM: Final = {
    "type": "function",
    "function": {
        "name": "set_alarm",
        "description": "set alarm",
        "parameters": {
            "type": "object",
            "properties": {"hour": {"type": "integer"}, "room": {"type": "string"}},
            "required": ["hour", "room"],
        },
    },
}
OPERANDS: Final = (787, 895)
_SUM: Final = "How much is {} plus {}?".format(*OPERANDS)
_ASKED: Final = (
    Message("user", "Run get weather for city Quimper. Thanks!"),
    Message("assistant", calls=(Call("get_weather", {"city": "Quimper"}),)),
)


class Shown(NamedTuple):
    """One question of the demo."""

    title: str
    document: Document


def _asked(
    title: str, *messages: Message, effort: Effort = "none", has_tools: bool = False
) -> Shown:
    tools = (WEATHER, _ALARM) if has_tools else ()
    # The last message of a document is the known answer; here the model alone gives it.
    messages += (Message("assistant"),)
    return Shown(title, Document("demo", "en", effort, messages, tools))


SHOWN: Final = (
    _asked("chat", Message("user", "What is your name?")),
    _asked("chat, in French", Message("user", "Donne la capitale du Portugal.")),
    _asked("a sum, reasoning effort none", Message("user", _SUM)),
    _asked("the same sum, effort high", Message("user", _SUM), effort="high"),
    _asked("a tool call, two tools offered", _ASKED[0], has_tools=True),
    _asked(
        "the tool's result",
        *_ASKED,
        Message("tool", '{"weather": "rainy"}'),
        has_tools=True,
    ),
    _asked("a picture", Message("user", "What is in the picture?", picture=PICTURE)),
)

NUMBERS: Final = (643, 388, 598, 281)
KILLED: Final = _asked(
    "a long sum",
    Message("user", f"Compute {' + '.join(map(str, NUMBERS))}. Thank you."),
    effort="high",
)
KILLED_ANSWER: Final = str(sum(NUMBERS))
