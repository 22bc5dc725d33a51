"""A document as the ids that the model reads, with the ids that it must write marked.

The same format as ``router.chat.encode`` (mistral-common) gives, 20 times faster; a test compares
the two on every lesson. Source: model reference, section 5.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cluster.demo.lessons.document import Document, Message
from cluster.demo.training.sizes import VISION
from router.chat.tokenizer import Tokenizer, load_tokenizer


class Rendered(NamedTuple):
    """One document of T tokens."""

    ids: list[int]
    is_target: list[bool]  # [T], whether the assistant writes this id
    pictures: list[npt.NDArray[np.uint8]]  # [side, side, 3] each


class Renderer:
    """Renders documents with one tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """The tokenizer must know the special tokens of version 15."""
        self._tokenizer = tokenizer
        self._special = lru_cache(maxsize=None)(self._look_up)
        self._text = lru_cache(maxsize=1 << 16)(self._encode)

    def render(self, document: Document) -> Rendered:
        """Ids, targets and pictures."""
        out = Rendered([self._special("<s>")], [False], [])
        has_settings = False
        for message in document.messages:
            if message.role == "user" and not has_settings:
                self._settings(out, document)
                has_settings = True
            self._message(out, message)
        return out

    def _settings(self, out: Rendered, document: Document) -> None:
        if document.tools:
            tools = json.dumps(document.tools, ensure_ascii=False)
            self._add(out, ("[AVAILABLE_TOOLS]", tools, "[/AVAILABLE_TOOLS]"))
        settings = f'{{"reasoning_effort": "{document.effort}"}}'
        self._add(out, ("[MODEL_SETTINGS]", settings, "[/MODEL_SETTINGS]"))

    def _message(self, out: Rendered, message: Message) -> None:
        match message.role:
            case "system":
                self._add(out, ("[SYSTEM_PROMPT]", message.text, "[/SYSTEM_PROMPT]"))
            case "user":
                self._add(out, ("[INST]",))
                if message.picture is not None:
                    self._picture(out, message.picture.pixels())
                self._add(out, ("", message.text, "[/INST]"))
            case "tool":
                self._add(out, ("[TOOL_RESULTS]", message.text, "[/TOOL_RESULTS]"))
            case "assistant":
                if message.thinking:
                    parts = ("[THINK]", message.thinking, "[/THINK]", message.text)
                    self._add(out, parts, is_target=True)
                else:
                    self._add(out, ("", message.text), is_target=True)
                for call in message.calls:
                    arguments = json.dumps(call.arguments, ensure_ascii=False)
                    parts = ("[TOOL_CALLS]", call.name, "[ARGS]", arguments)
                    self._add(out, parts, is_target=True)
                self._add(out, ("</s>",), is_target=True)

    def _add(self, out: Rendered, parts: Iterable[str], *, is_target: bool = False) -> None:
        """Append special tokens and texts in turn; an empty special token is none."""
        for i, part in enumerate(parts):
            if part:
                ids = self._text(part) if i % 2 else (self._special(part),)
                out.ids.extend(ids)
                out.is_target.extend([is_target] * len(ids))

    def _picture(self, out: Rendered, pixels: npt.NDArray[np.uint8]) -> None:
        height, width = (
            side // (VISION.patch_size * VISION.spatial_merge_size) for side in pixels.shape[:2]
        )
        row = [VISION.image_token_id] * width
        ids = [*row, VISION.image_break_token_id] * height
        ids[-1] = VISION.image_end_token_id
        out.ids.extend(ids)
        out.is_target.extend([False] * len(ids))
        out.pictures.append(pixels)

    def _look_up(self, name: str) -> int:
        found = self._tokenizer.special_id(name)
        if found is None:
            raise ValueError(f"the tokenizer has no {name}")
        return found

    def _encode(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer.encode_text(text, add_bos=False))


@lru_cache(maxsize=1)
def demo_renderer() -> Renderer:
    """The renderer of the embedded tokenizer."""
    return Renderer(load_tokenizer(None))
