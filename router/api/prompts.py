"""Prompts of every kind as ids and images, without holding up the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from galerne.errors import ConfigError, InvalidRequestError
from router.api.image_fetch import ImageFetcher
from router.api.inputs import ApiLimits, GenerateInput
from router.chat.encode import ChatFormat, ChatInput, EncodedPrompt
from router.chat.images import ImageGeometry, images_for_token_ids
from router.chat.tokenizer import Tokenizer
from router.engine.gateway_port import ModelFacts

# Tokenizing takes about a microsecond per character; what takes longer than a thread's hand-over
# is worth a thread.
_NUM_CHARS_WORTH_A_THREAD = 8192
_NUM_DECODERS = 2  # an image of 32 megapixels takes 0.5 GB while it is resized

_T = TypeVar("_T")


class PromptEncoder:
    """Encodes text, ids with images, and conversations for one model."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        model: ModelFacts,
        limits: ApiLimits,
        reasoning_effort: str | None = None,
    ) -> None:
        """Take the geometry of images from ``model``.

        Raises:
            ConfigError: The model takes images, but the tokenizer has another token for them; or
                the tokenizer has no such effort.
        """
        geometry = None
        if model.takes_images:
            if tokenizer.special.image != model.image_token_id:
                problem = f"the tokenizer's [IMG] is {tokenizer.special.image}"
                raise ConfigError("model.image_token_id", model.image_token_id, problem)
            geometry = ImageGeometry(
                patch_size=model.patch_size,
                spatial_merge_size=model.spatial_merge_size,
                max_image_size=model.max_image_size,
            )
        self._tokenizer = tokenizer
        self._vocab_size = model.vocab_size
        self._format = ChatFormat(
            tokenizer, geometry, limits.images, model.max_model_len, reasoning_effort
        )
        self._fetcher = ImageFetcher(limits.image_urls, limits.images)
        self._decoders = ThreadPoolExecutor(_NUM_DECODERS, "images")
        self._max_chars = limits.max_prompt_chars_per_token * model.max_model_len

    async def encode_text(self, text: str, *, add_bos: bool, field: str = "prompt") -> list[int]:
        """Ids of plain text.

        Raises:
            InvalidRequestError: Too long to fit, or cannot be tokenized; names ``field``.
        """
        self._check_num_chars(len(text), field)
        if len(text) < _NUM_CHARS_WORTH_A_THREAD:
            return self._tokenizer.encode_text(text, add_bos=add_bos, field=field)
        return await asyncio.to_thread(
            self._tokenizer.encode_text, text, add_bos=add_bos, field=field
        )

    async def encode_prompt(self, call: GenerateInput) -> EncodedPrompt:
        """A prompt of text, or of ids with images.

        Raises:
            InvalidRequestError: Names ``prompt`` or ``images``.
        """
        if isinstance(call.prompt, str):
            if call.images:
                raise InvalidRequestError("images", "need a prompt of token ids that places them")
            return EncodedPrompt(token_ids=tuple(await self.encode_text(call.prompt, add_bos=True)))
        token_ids = tuple(call.prompt)
        if not call.images and not self._lays_out_images(token_ids):
            return EncodedPrompt(token_ids=token_ids)
        images = await self._decode(
            lambda: images_for_token_ids(token_ids, call.images, self._format.images)
        )
        return EncodedPrompt(token_ids=token_ids, images=images)

    async def encode_chat(self, chat: ChatInput) -> EncodedPrompt:
        """A conversation.

        Raises:
            InvalidRequestError: Names the message, part, tool or setting.
        """
        has_images = any(map(_holds_image, chat.messages))
        num_chars = sum(_num_chars(part) for part in (*chat.messages, *(chat.tools or ())))
        if num_chars < _NUM_CHARS_WORTH_A_THREAD and not has_images:
            self._check_num_chars(num_chars, "messages")
            return self._format.encode(chat)
        self._check_num_chars(sum(map(_num_text_chars, chat.messages)), "messages")
        if not has_images:
            return await asyncio.to_thread(self._format.encode, chat)
        fetched = await self._fetch(chat)
        return await self._decode(lambda: self._format.encode(chat, fetched))

    async def _fetch(self, chat: ChatInput) -> Mapping[str, bytes]:
        if not self._fetcher.may_fetch:
            return {}
        sources = await asyncio.to_thread(self._format.web_images, chat)
        return await self._fetcher.fetch(sources)

    async def _decode(self, encode: Callable[[], _T]) -> _T:
        """What holds images has threads of its own: it takes long, and much memory at one time."""
        return await asyncio.get_running_loop().run_in_executor(self._decoders, encode)

    async def text_of(self, token_ids: Sequence[int], *, keep_special: bool, field: str) -> str:
        """Text of ids.

        Raises:
            InvalidRequestError: There are too many, or one is none of the model's; names ``field``.
        """
        if len(token_ids) > self._max_chars:
            problem = f"{len(token_ids)} are above the limit of {self._max_chars}"
            raise InvalidRequestError(field, problem)
        limit = self._vocab_size
        wrong = next((i for i, token in enumerate(token_ids) if not 0 <= token < limit), None)
        if wrong is not None:
            problem = f"must be in [0, {limit - 1}], got {token_ids[wrong]}"
            raise InvalidRequestError(f"{field}[{wrong}]", problem)
        if len(token_ids) < _NUM_CHARS_WORTH_A_THREAD:
            return self._tokenizer.decode(token_ids, keep_special=keep_special)
        return await asyncio.to_thread(self._tokenizer.decode, token_ids, keep_special=keep_special)

    def _lays_out_images(self, token_ids: tuple[int, ...]) -> bool:
        images = self._format.images
        return images is not None and any(token in images.token_ids for token in set(token_ids))

    def _check_num_chars(self, num_chars: int, field: str) -> None:
        if num_chars > self._max_chars:
            problem = f"{num_chars} characters are above the limit of {self._max_chars}"
            raise InvalidRequestError(field, problem)


def _num_chars(value: Any) -> int:  # noqa: ANN401 - whatever the client's JSON holds
    """Characters in all strings of a JSON value, without recursion."""
    num_chars, rest = 0, [value]
    while rest:
        match rest.pop():
            case str() as text:
                num_chars += len(text)
            case Mapping() as fields:
                rest.extend(fields.values())
            case list() | tuple() as items:
                rest.extend(items)
    return num_chars


def _num_text_chars(message: Mapping[str, Any]) -> int:
    """Characters of a message without its images, which have limits of their own."""
    if not _holds_image(message):
        return _num_chars(message)
    return sum(_num_chars(part) for part in message["content"] if not _is_image(part))


def _holds_image(message: Any) -> bool:  # noqa: ANN401 - whatever the client's JSON holds
    content = message.get("content") if isinstance(message, Mapping) else None
    return isinstance(content, list | tuple) and any(map(_is_image, content))


def _is_image(part: Any) -> bool:  # noqa: ANN401 - whatever the client's JSON holds
    return isinstance(part, Mapping) and part.get("type") == "image_url"
