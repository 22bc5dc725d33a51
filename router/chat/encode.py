"""A chat request as the ids that the model reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from mistral_common.protocol.instruct.chunk import ImageURLChunk
from mistral_common.protocol.instruct.messages import AssistantMessage, ChatMessage
from mistral_common.protocol.instruct.normalize import get_normalizer
from mistral_common.protocol.instruct.request import (
    ChatCompletionRequest,
    ReasoningEffort,
    ResponseFormat,
)
from mistral_common.protocol.instruct.validator import ValidationMode, get_validator
from mistral_common.tokens.tokenizers.base import Tokenized
from mistral_common.tokens.tokenizers.image import ImageEncoding
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

from galerne.errors import ConfigError, InvalidRequestError
from router.chat.convert import ImageSource, convert_messages, convert_tools
from router.chat.image_files import ImageLimits, is_web_url, read_data_url
from router.chat.images import ImageGeometry, ImagePreprocessor, locate_images
from router.chat.refusals import REFUSALS, field_of, problem_of, refused_as
from router.chat.tokenizer import Tokenizer
from router.engine.request import ImageInput


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatInput:
    """A chat request, the same from HTTP and from gRPC; its parts are shaped as OpenAI's."""

    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Mapping[str, Any]] | None = None
    reasoning_effort: str | None = None  # none, high; None leaves it to the deployment
    continue_final_message: bool = False  # the last message is the answer's beginning
    answer_schema: Mapping[str, Any] | None = None  # shown to models whose file has a place for it


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedPrompt:
    """What the engine gets of a chat request."""

    token_ids: tuple[int, ...]
    images: tuple[ImageInput, ...] = ()
    starts_in_reasoning: bool = False  # the prompt ends inside an unclosed [THINK]
    may_think: bool = False  # the answer may begin with [THINK]


class ChatFormat:
    """Encodes chat requests with mistral-common; the format is the tokenizer file's version.

    Holds no state between requests, so threads may share it.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        geometry: ImageGeometry | None = None,
        limits: ImageLimits | None = None,
        max_image_tokens: int | None = None,
        reasoning_effort: str | None = None,
    ) -> None:
        """``geometry`` is the model's, not the tokenizer's; without it images are refused.

        ``max_image_tokens``: of one request; more are refused before they are decoded.
        ``reasoning_effort`` is that of requests which name none; None: as the file says.

        Raises:
            ConfigError: The tokenizer's file has no such effort.
        """
        self._tokenizer = tokenizer
        self._instruct = tokenizer.mistral.instruct_tokenizer
        self._tekken = self._instruct.tokenizer
        # Not the mode "serving": the request's own model name and missing tool results at the end
        # of a conversation are the API's and the model's affair.
        self._validator = get_validator(self._tekken.version, ValidationMode.test)
        self._normalizer = get_normalizer(self._tekken.version, self._tekken.model_settings_builder)
        self._settings = self._tekken.model_settings_builder
        self._default_effort = reasoning_effort
        efforts = getattr(self._settings, "reasoning_effort", None)
        if reasoning_effort is not None and reasoning_effort not in getattr(efforts, "values", ()):
            problem = "the tokenizer of this model has no such effort"
            raise ConfigError("reasoning_effort", reasoning_effort, problem)
        ids = tokenizer.image_token_ids
        self.images: ImagePreprocessor | None = None
        if geometry is not None and ids is not None:
            self.images = ImagePreprocessor(geometry, ids, limits, max_image_tokens)

    def web_images(self, request: ChatInput) -> list[ImageSource]:
        """The images that lie on other servers, each with its URL.

        Raises:
            InvalidRequestError: A message has not the shape of one, or there are too many images.
        """
        _, sources = convert_messages(request.messages)
        self._check_number(sources)
        return [s for s in sources if isinstance(s.place, str) and is_web_url(s.place)]

    def encode(
        self, request: ChatInput, fetched: Mapping[str, bytes] = MappingProxyType({})
    ) -> EncodedPrompt:
        """Validate, normalise and encode; ``fetched`` are files by the URLs of ``web_images``.

        Raises:
            InvalidRequestError: The request is not one the format can express, or an image is
                refused; names the field as exactly as it can be told.
        """
        messages, sources = convert_messages(request.messages)
        self._check_number(sources)
        if request.continue_final_message:
            messages = _continue_last(messages)
        else:
            _check_prefixes(request.messages)
        completion = ChatCompletionRequest(
            messages=messages,
            tools=convert_tools(request.tools) if request.tools else None,
            reasoning_effort=_effort(self._effort_of(request)),
            **self._response_format(request.answer_schema),
        )
        tokenized = self._encode(completion, sources, fetched)
        token_ids = tuple(tokenized.tokens)
        return EncodedPrompt(
            token_ids=token_ids,
            images=self._inputs(token_ids, tokenized),
            starts_in_reasoning=request.continue_final_message and self._is_thinking(token_ids),
            may_think=not request.continue_final_message and self._may_think(request),
        )

    def _response_format(self, schema: Mapping[str, Any] | None) -> dict[str, ResponseFormat]:
        """What mistral-common takes, if the file has a place for the schema in the prompt."""
        if schema is None or getattr(self._settings, "json_schema", None) is None:
            return {}
        asked = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
        with refused_as("response_format"):
            return {"response_format": ResponseFormat.model_validate(asked)}

    def _may_think(self, request: ChatInput) -> bool:
        """Whether the effort lets the model reason; files without efforts always do."""
        if self._tokenizer.special.begin_think is None:
            return False
        effort = self._effort_of(request)
        if effort is None:
            efforts = getattr(self._settings, "reasoning_effort", None)
            effort = getattr(efforts, "default", None)
        return effort != "none"

    def _effort_of(self, request: ChatInput) -> str | None:
        asked = request.reasoning_effort
        return asked if asked is not None else self._default_effort

    def _check_number(self, sources: Sequence[ImageSource]) -> None:
        max_images = self.images.limits.max_images if self.images is not None else 0
        if len(sources) > max_images:
            problem = f"image {max_images + 1} of {len(sources)}, at most {max_images}"
            if self.images is None:
                problem = "this model takes no images"
            raise InvalidRequestError(sources[max_images].field, problem)

    def _encode(
        self,
        completion: ChatCompletionRequest,
        sources: Sequence[ImageSource],
        fetched: Mapping[str, bytes],
    ) -> Tokenized:
        images = None
        if self.images is not None:
            images = _SourceEncoder(self.images, sources, fetched)
        mistral = MistralTokenizer(
            type(self._instruct)(self._tekken, image_encoder=images),
            validator=self._validator,
            request_normalizer=self._normalizer,
        )
        try:
            return mistral.encode_chat_completion(completion)
        except REFUSALS as error:
            field = field_of(error, completion, self._tekken.version)
            raise InvalidRequestError(field, problem_of(error)) from error

    def _inputs(self, token_ids: tuple[int, ...], tokenized: Tokenized) -> tuple[ImageInput, ...]:
        if self.images is None or not tokenized.images:
            return ()
        spans = locate_images(token_ids, self.images.token_ids)
        return self.images.inputs(spans, tokenized.images, "messages")

    def _is_thinking(self, token_ids: tuple[int, ...]) -> bool:
        special = self._tokenizer.special
        marks = (special.begin_think, special.end_think, special.eos)
        last = next((token_id for token_id in reversed(token_ids) if token_id in marks), None)
        return last is not None and last == special.begin_think


class _SourceEncoder:
    """Stands in for mistral-common's image encoder: reads one source when its turn comes.

    So a request that is refused for its shape decodes nothing, and one image at a time is open.
    """

    def __init__(
        self,
        images: ImagePreprocessor,
        sources: Sequence[ImageSource],
        fetched: Mapping[str, bytes],
    ) -> None:
        self._images = images
        self._sources = sources
        self._fetched = fetched
        self._num_tokens = 0

    def __call__(self, chunk: ImageURLChunk) -> ImageEncoding:
        source = self._sources[int(chunk.get_url())]
        encoding = self._images.encode(self._file(source), source.field, self._num_tokens)
        self._num_tokens += len(encoding.tokens)
        return encoding

    def _file(self, source: ImageSource) -> bytes:
        if isinstance(source.place, bytes):
            return source.place
        fetched = self._fetched.get(source.place)
        if fetched is not None:
            return fetched
        return read_data_url(source.place, source.field, self._images.limits)


def _continue_last(messages: Sequence[ChatMessage]) -> list[ChatMessage]:
    if not messages or not isinstance(messages[-1], AssistantMessage):
        problem = "needs a last message of the assistant"
        raise InvalidRequestError("continue_final_message", problem)
    return [*messages[:-1], messages[-1].model_copy(update={"prefix": True})]


def _check_prefixes(messages: Sequence[Mapping[str, Any]]) -> None:
    """Mistral's mark of an answer's beginning would be ignored, as by OpenAI's API."""
    for index, message in enumerate(messages):
        if message.get("prefix"):
            problem = "is not served, send continue_final_message: true"
            raise InvalidRequestError(f"messages[{index}].prefix", problem)


def _effort(effort: str | None) -> ReasoningEffort | None:
    if effort is None:
        return None
    with refused_as("reasoning_effort"):
        return ReasoningEffort(effort)
