"""Bodies of the OpenAI-compatible API, and what becomes of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar, cast

from pydantic import BaseModel, ConfigDict, ValidationError

from galerne.errors import InvalidRequestError
from router.api.inputs import ChatCompletionInput, GenerateInput, SamplingFields
from router.api.neutral import check_unsupported
from router.api.output_format import read_output_format
from router.chat.encode import ChatInput
from router.chat.tool_choice import ToolUse, read_tool_choice
from router.guidance.formats import OutputFormat

_DEFAULT_COMPLETION_TOKENS = 16  # OpenAI's, for /v1/completions
_FORMATS = (
    "response_format",
    "structured_outputs",
    "guided_json",
    "guided_regex",
    "guided_choice",
    "guided_grammar",
)
_SAME_NAME = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "seed",
    "min_tokens",
    "max_tokens",
    "ignore_eos",
    "n",
    "prompt_logprobs",
    "speculative",
)


class StreamOptions(BaseModel):
    """``stream_options``."""

    model_config = ConfigDict(extra="ignore")

    include_usage: bool | None = None


class PlainBody(BaseModel):
    """A JSON body; nothing is left to check once its types are right."""

    model_config = ConfigDict(extra="ignore")

    def check(self) -> None:
        """Nothing."""


class SharedBody(PlainBody):
    """What all bodies that ask for an answer have, under the same names."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())

    model: str | None = None
    stream: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    cache_salt: str | None = None
    priority: int | None = None
    timeout: float | None = None
    thinking_token_budget: int | None = None


class _Body(SharedBody):
    stream_options: StreamOptions | None = None
    random_seed: int | None = None  # Mistral's name of it
    logit_bias: dict[str, float] | None = None
    min_tokens: int | None = None
    max_tokens: int | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool | None = None
    n: int | None = None
    prompt_logprobs: int | None = None
    speculative: bool | None = None
    response_format: dict[str, Any] | None = None
    structured_outputs: dict[str, Any] | None = None
    guided_json: str | dict[str, Any] | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None

    @property
    def includes_usage(self) -> bool:
        """Whether a stream ends with a chunk that holds the usage."""
        return self.stream_options is not None and self.stream_options.include_usage is True

    def check(self) -> None:
        """Refuse what is not served, and what does not go together.

        Raises:
            InvalidRequestError: Names the field.
        """
        check_unsupported(self.model_extra or {}, self.n or 1)
        if self.stream_options is not None and not self.stream:
            raise InvalidRequestError("stream_options", "only goes with stream: true")
        if self.prompt_logprobs is not None and self.stream:
            raise InvalidRequestError("prompt_logprobs", "does not go with stream: true")

    def output(self) -> OutputFormat | None:
        """The format that the answer shall have.

        Raises:
            InvalidRequestError: It is none, or there are two.
        """
        return read_output_format({name: getattr(self, name) for name in _FORMATS})

    def sampling(self) -> SamplingFields:
        """The fields that are set.

        Raises:
            InvalidRequestError: A key of ``logit_bias`` is no token id.
        """
        values = {name: getattr(self, name) for name in _SAME_NAME}
        fields = cast(SamplingFields, {k: v for k, v in values.items() if v is not None})
        if self.random_seed is not None:
            fields.setdefault("seed", self.random_seed)
        if self.logit_bias:
            fields["logit_bias"] = {_token_id(k): bias for k, bias in self.logit_bias.items()}
        if self.stop:
            fields["stop"] = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)
        if self.stop_token_ids:
            fields["stop_token_ids"] = tuple(self.stop_token_ids)
        return fields


class ChatCompletionBody(_Body):
    """POST /v1/chat/completions."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: str | None = None
    continue_final_message: bool | None = None
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None

    def check(self) -> None:
        """Refuse what is not served.

        Raises:
            InvalidRequestError: Names the field.
        """
        super().check()
        if self.top_logprobs is not None and not self.logprobs:
            raise InvalidRequestError("top_logprobs", "only goes with logprobs: true")

    @contextmanager
    def naming(self) -> Iterator[None]:
        """In the refusals inside, parameters have the names that this body has for them.

        Raises:
            InvalidRequestError: As inside.
        """
        names = {"logprobs": "top_logprobs"}
        if self.max_completion_tokens is not None:
            names["max_tokens"] = "max_completion_tokens"
        if self.seed is None:
            names["seed"] = "random_seed"
        try:
            yield
        except InvalidRequestError as error:
            if error.field not in names:
                raise
            raise InvalidRequestError(names[error.field], error.problem) from error

    def to_input(self) -> ChatCompletionInput:
        """What the frontend is asked for.

        Raises:
            InvalidRequestError: A format or a choice of tools is none.
        """
        tool_choice, output = read_tool_choice(self.tool_choice), self.output()
        fields = self.sampling()
        if self.logprobs:
            fields["logprobs"] = self.top_logprobs or 0
        if self.max_completion_tokens is not None:
            fields["max_tokens"] = self.max_completion_tokens
        return ChatCompletionInput(
            chat=ChatInput(
                messages=self.messages,
                tools=None if tool_choice.use is ToolUse.NONE else self.tools,
                reasoning_effort=self.reasoning_effort,
                continue_final_message=self.continue_final_message or False,
                answer_schema=None if output is None else output.schema,
            ),
            sampling=fields,
            output=output,
            tool_choice=tool_choice,
            parallel_tool_calls=self.parallel_tool_calls is not False,
            thinking_token_budget=self.thinking_token_budget,
            model=self.model or "",
            cache_salt=self.cache_salt or "",
            priority=self.priority or 0,
            timeout_s=self.timeout,
        )


class CompletionBody(_Body):
    """POST /v1/completions."""

    prompt: str | list[str] | list[int] | list[list[int]]
    echo: bool | None = None
    logprobs: int | None = None
    suffix: str | None = None

    @property
    def echoes_only(self) -> bool:
        """Whether the prompt alone is wanted, to have it judged."""
        return bool(self.echo) and self.max_tokens == 0

    def check(self) -> None:
        """Refuse what is not served.

        Raises:
            InvalidRequestError: Names the field.
        """
        super().check()
        if self.suffix:
            raise InvalidRequestError("suffix", "is not supported")
        if self.echo and self.logprobs is not None and self.stream:
            raise InvalidRequestError("echo", "does not go with logprobs and stream: true")

    def prompts(self) -> Sequence[str | list[int]]:
        """Every prompt on its own."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if self.prompt and isinstance(self.prompt[0], int):
            return [self.prompt]
        return cast(Sequence[str | list[int]], self.prompt)

    def to_inputs(self, max_prompts: int) -> list[GenerateInput]:
        """What the frontend is asked for, prompt by prompt.

        Raises:
            InvalidRequestError: No prompt, or more than ``max_prompts``.
        """
        prompts = self.prompts()
        if not 1 <= len(prompts) <= max_prompts:
            problem = f"must hold 1 to {max_prompts} prompts, got {len(prompts)}"
            raise InvalidRequestError("prompt", problem)
        fields = self.sampling()
        if self.logprobs is not None:
            fields["logprobs"] = self.logprobs
            if self.echo:
                fields["prompt_logprobs"] = max(self.logprobs, self.prompt_logprobs or 0)
        if self.echoes_only:
            fields["max_tokens"] = 1  # the engine always makes one; it is not sent
        output = self.output()
        return [
            GenerateInput(
                prompt=prompt,
                sampling=fields,
                default_max_tokens=_DEFAULT_COMPLETION_TOKENS,
                output=output,
                thinking_token_budget=self.thinking_token_budget,
                model=self.model or "",
                cache_salt=self.cache_salt or "",
                priority=self.priority or 0,
                timeout_s=self.timeout,
            )
            for prompt in prompts
        ]


BodyT = TypeVar("BodyT", bound=PlainBody)


def parse_body(schema: type[BodyT], data: bytes) -> BodyT:
    """Read and check a JSON body.

    Raises:
        InvalidRequestError: Names the first field that is wrong, or ``body``.
    """
    return _checked(lambda: schema.model_validate_json(data, strict=True))


def parse_object(schema: type[BodyT], fields: Mapping[str, Any]) -> BodyT:
    """The same of a body that was read already.

    Raises:
        InvalidRequestError: Names the first field that is wrong.
    """
    return _checked(lambda: schema.model_validate(fields, strict=True))


def _checked(read: Callable[[], BodyT]) -> BodyT:
    try:
        body = read()
    except ValidationError as error:
        raise _refusal(error) from error
    body.check()
    return body


def _refusal(error: ValidationError) -> InvalidRequestError:
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    location = [part for part in first["loc"] if not _is_union_member(part)]
    field = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in location).lstrip(".")
    return InvalidRequestError(field or "body", first["msg"])


def _is_union_member(part: str | int) -> bool:
    """Pydantic puts the tried member of a union into the place of an error."""
    return isinstance(part, str) and (part in ("str", "int") or "[" in part)


def _token_id(key: str) -> int:
    try:
        return int(key)
    except ValueError:
        raise InvalidRequestError("logit_bias", f"{key[:50]!r} is no token id") from None
