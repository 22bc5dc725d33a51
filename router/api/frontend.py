"""The core of both APIs: validates, encodes, runs at a gateway, decodes, parses, counts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, contextmanager

from galerne.errors import InvalidRequestError, NotServingError, OverloadedError
from router.api.admission import admit, check_model
from router.api.chat_choice import ChatChoice
from router.api.choices import Choice, TextChoice
from router.api.events import Event
from router.api.inputs import ApiLimits, ChatCompletionInput, GenerateInput
from router.api.keys import ApiKeys
from router.api.metrics import FrontendMetrics, RequestMeter
from router.api.prompts import PromptEncoder
from router.api.run import run_request
from router.chat.tokenizer import Tokenizer
from router.engine.gateway_port import GatewayPort, ModelFacts
from router.engine.request import GenerationRequest

_RETRY_AFTER_S = 1.0


class Frontend:
    """Answers requests with the help of gateways. Belongs to one event loop.

    Both streams begin with ``Accepted`` and end with one ``Finished`` per choice and ``Usage``.
    An error before ``Accepted`` is raised, a later one ends the choices with ``EndReason.ERROR``.
    Closing a stream aborts its request.
    """

    def __init__(
        self,
        gateway: GatewayPort,
        tokenizer: Tokenizer,
        limits: ApiLimits | None = None,
        keys: ApiKeys | None = None,
        metrics: FrontendMetrics | None = None,
    ) -> None:
        """One ``gateway`` stands for all; without ``keys`` everyone may ask.

        Raises:
            ConfigError: Tokenizer and model do not fit.
        """
        self.gateway = gateway
        self.tokenizer = tokenizer
        self.limits = limits if limits is not None else ApiLimits()
        self.keys = keys if keys is not None else ApiKeys()
        self.metrics = metrics if metrics is not None else FrontendMetrics()
        self.prompts = PromptEncoder(tokenizer, gateway.model, self.limits)
        self._running: set[str] = set()
        self._num_open = 0
        self._is_draining = False
        self._is_idle = asyncio.Event()
        self._is_idle.set()

    @property
    def model(self) -> ModelFacts:
        """What is served."""
        return self.gateway.model

    @property
    def reasoning_efforts(self) -> tuple[str, ...]:
        """Values of ``reasoning_effort`` that the model knows."""
        return ("none", "high") if self.tokenizer.special.begin_think is not None else ()

    async def generate(self, call: GenerateInput) -> AsyncGenerator[Event, None]:
        """Continue a prompt.

        Raises:
            GalerneError: The request is refused; a wrong field is named.
        """
        with self._opened("generate") as meter:
            check_model(call.model, self.model)
            request = admit(call, await self.prompts.encode_prompt(call), self.model)
            choices = [
                TextChoice(i, request.sampling, self.tokenizer) for i in range(request.sampling.n)
            ]
            async with aclosing(self._run(request, choices, meter)) as events:
                async for event in events:
                    yield event

    async def chat(self, call: ChatCompletionInput) -> AsyncGenerator[Event, None]:
        """Continue a conversation.

        Raises:
            GalerneError: The request is refused; a wrong field is named.
        """
        with self._opened("chat") as meter:
            check_model(call.model, self.model)
            prompt = await self.prompts.encode_chat(call.chat)
            request = admit(call, prompt, self.model)
            choices = [
                ChatChoice(
                    i,
                    request.sampling,
                    self.tokenizer,
                    has_tools=bool(call.chat.tools),
                    starts_in_reasoning=prompt.starts_in_reasoning,
                )
                for i in range(request.sampling.n)
            ]
            async with aclosing(self._run(request, choices, meter)) as events:
                async for event in events:
                    yield event

    async def unready_reason(self) -> str | None:
        """Why requests could not be served now, or None if they can."""
        return "draining" if self._is_draining else await self.gateway.unready_reason()

    async def drain(self) -> None:
        """Take no requests from now on; return when the running ones have ended."""
        self._is_draining = True
        await self._is_idle.wait()

    async def _run(
        self, request: GenerationRequest, choices: Sequence[Choice], meter: RequestMeter
    ) -> AsyncGenerator[Event, None]:
        with self._reserved(request.request_id):
            async with aclosing(run_request(self.gateway, request, choices)) as events:
                async for event in events:
                    meter.see(event)
                    yield event

    @contextmanager
    def _opened(self, api: str) -> Iterator[RequestMeter]:
        """Count a request, whatever becomes of it."""
        with self.metrics.observe(api) as meter:
            if self._is_draining:
                raise NotServingError("draining")
            if self._num_open >= self.limits.max_running:
                raise OverloadedError("frontend", self.limits.max_running, _RETRY_AFTER_S)
            self._num_open += 1
            self._is_idle.clear()
            try:
                yield meter
            finally:
                self._num_open -= 1
                if self._num_open == 0:
                    self._is_idle.set()

    @contextmanager
    def _reserved(self, request_id: str) -> Iterator[None]:
        """Keep an id from being used twice at one time."""
        if request_id in self._running:
            raise InvalidRequestError("request_id", f"{request_id} is running already")
        self._running.add(request_id)
        try:
            yield
        finally:
            self._running.discard(request_id)
