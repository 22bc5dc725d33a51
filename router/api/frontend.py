"""The core of both APIs: validates, encodes, runs at a gateway, decodes, parses, counts."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from galerne.errors import GalerneError, InvalidRequestError, NotServingError, OverloadedError
from router.api.access import Access, current_client
from router.api.admission import admit, find_adapter, timeout_of
from router.api.answer import AnswerFacts
from router.api.audit import AuditLog
from router.api.choices import Choice
from router.api.drain import Drainer
from router.api.errors import ModelNotFoundError
from router.api.events import Event
from router.api.inputs import ApiLimits, ChatCompletionInput, GenerateInput
from router.api.key_limits import Cells
from router.api.keys import ApiKeys
from router.api.metrics import FrontendMetrics, RequestMeter
from router.api.prompts import PromptEncoder
from router.api.rules import RuleMaker
from router.api.run import Deadline, run_request
from router.api.streams import ResumableStream, Streams
from router.chat.tokenizer import Tokenizer
from router.engine.gateway_port import GatewayPort, ModelFacts
from router.engine.request import GenerationRequest, Hold

if TYPE_CHECKING:  # loads OpenTelemetry, which most frontends do without
    from router.tracing.frontend import FrontendTracer

_RETRY_AFTER_S = 1.0
_READY_S = 2.0


async def _nobody_to_tell() -> bool:
    """A frontend that stands alone; see ``FrontendBeat.tell``."""
    return True


class Frontend:
    """Answers requests with the help of gateways. Belongs to one event loop.

    Both streams begin with ``Accepted`` and end with one ``Finished`` per choice and ``Usage``.
    An error before ``Accepted`` is raised, a later one ends the choices with ``EndReason.ERROR``.
    Closing a stream aborts its request, or leaves a resumable one to ``streams`` for its grace.
    """

    def __init__(
        self,
        gateway: GatewayPort,
        tokenizer: Tokenizer,
        limits: ApiLimits | None = None,
        keys: ApiKeys | None = None,
        metrics: FrontendMetrics | None = None,
        audit: AuditLog | None = None,
        reasoning_effort: str | None = None,
        cells_of: Callable[[bytes], Cells] | None = None,
        tracer: FrontendTracer | None = None,
    ) -> None:
        """One ``gateway`` stands for all; without ``keys`` everyone may ask.

        ``cells_of`` gives the accounts that frontends share, for the limits of keys; without it
        they are of this frontend alone. ``reasoning_effort`` is that of chats which name none;
        None: as the tokenizer's file says. Without ``tracer`` nothing is traced.

        Raises:
            ConfigError: Tokenizer and model do not fit, or the model has no such effort.
        """
        self.gateway = gateway
        self.tokenizer = tokenizer
        self.limits = limits if limits is not None else ApiLimits()
        self.keys = keys if keys is not None else ApiKeys()
        self.metrics = metrics if metrics is not None else FrontendMetrics()
        self.access = Access(
            self.keys,
            audit or AuditLog(),
            self.metrics.clock,
            cells_of,
            self.metrics.key_refused,
        )
        self.prompts = PromptEncoder(tokenizer, gateway.model, self.limits, reasoning_effort)
        self._rules = RuleMaker(tokenizer, gateway.model)
        self.streams = Streams(gateway, tokenizer, self.limits, self.metrics)
        self.process = "frontend"  # its name among the deployment's processes
        self.drainer = Drainer(self)
        self.tell: Callable[[], Awaitable[bool]] = _nobody_to_tell  # how it stands; see ``beat``
        self._owners: dict[str, bytes] = {}  # of requests that end with their client
        self._tracer = tracer
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
            adapter = await self._adapter_of(call.model)
            deadline = self._deadline_of(call)
            with meter.part("encode"):
                prompt = await self.prompts.encode_prompt(call)
                rules = await self._rules.of_generate(call)
            request = admit(call, prompt, self.model, rules, adapter)
            facts = AnswerFacts(api="generate")
            answer = self._answer(call, request, facts, meter, deadline)
            async with aclosing(answer) as events:
                async for event in events:
                    yield event

    async def chat(self, call: ChatCompletionInput) -> AsyncGenerator[Event, None]:
        """Continue a conversation.

        Raises:
            GalerneError: The request is refused; a wrong field is named.
        """
        with self._opened("chat") as meter:
            adapter = await self._adapter_of(call.model)
            deadline = self._deadline_of(call)
            with meter.part("encode"):
                prompt = await self.prompts.encode_chat(call.chat)
                rules = await self._rules.of_chat(call, prompt)
            request = admit(call, prompt, self.model, rules, adapter)
            facts = AnswerFacts(
                api="chat",
                has_tools=bool(call.chat.tools),
                starts_in_reasoning=prompt.starts_in_reasoning,
            )
            answer = self._answer(call, request, facts, meter, deadline)
            async with aclosing(answer) as events:
                async for event in events:
                    yield event

    async def resume(self, stream: ResumableStream) -> AsyncGenerator[Event, None]:
        """A stream that ``streams.find`` has found, from its first event on; the newest has it.

        Raises:
            TakenOverError: A newer client has resumed it.
            NotServingError: The frontend stops.
        """
        if self._is_draining:
            raise NotServingError("draining")
        self.metrics.streams_resumed.inc()
        with self._counted():
            async with aclosing(stream.log.read()) as events:
                async for event in events:
                    yield event

    async def note_ready(self) -> None:
        """Have the metrics say whether requests can be served now; a doubt of long is a no."""
        try:
            async with asyncio.timeout(_READY_S):
                is_ready = await self.unready_reason() is None
        except TimeoutError:
            is_ready = False
        self.metrics.ready.set(is_ready)

    async def unready_reason(self) -> str | None:
        """Why requests could not be served now, or None if they can."""
        return "draining" if self._is_draining else await self.gateway.unready_reason()

    def start_draining(self) -> None:
        """Take no requests from now on."""
        self._is_draining = True

    async def drain(self) -> None:
        """Take no requests from now on; return when no client waits for one.

        Resumable requests without a client are not waited for: ``close`` leaves them to gateways.
        """
        self.start_draining()
        await self._is_idle.wait()

    @property
    def num_running(self) -> int:
        """Requests that have not ended."""
        return self._num_open

    async def abort_running(self) -> int:
        """End all requests with ``FINISH_REASON_ABORT``; how many.

        Resumable ones are not ended: their clients are told, and gateways keep them.
        """
        await self.close()
        running = list(self._owners)
        await asyncio.gather(*(self.gateway.abort(request_id) for request_id in running))
        return len(running)

    async def abort(self, request_id: str) -> bool:
        """End a request of the current client; whether it was running.

        Another's is as one that does not run, but for operators.
        """
        owner = self._owners.get(request_id, self.streams.owner_of(request_id))
        if self.access.may_touch(owner):
            return await self.gateway.abort(request_id)
        if owner is not None:
            return False
        # Another frontend may have it: gateways know whose it is.
        return await self.gateway.abort(request_id, owner=current_client().owner)

    async def close(self) -> None:
        """Let go of resumable streams; they may be resumed at another frontend."""
        await self.streams.close()

    def _answer(
        self,
        call: GenerateInput | ChatCompletionInput,
        request: GenerationRequest,
        facts: AnswerFacts,
        meter: RequestMeter,
        deadline: Deadline | None,
    ) -> AsyncGenerator[Event, None]:
        self.metrics.let_in(call.model or self.model.name)
        request = replace(request, owner=current_client().owner)
        meter.request_id = request.request_id
        meter.num_prompt = len(request.prompt_token_ids)
        if meter.trace is not None:
            request = meter.trace.admitted(request)
        if call.resumable is None:
            choices = facts.new_choices(request.sampling, self.tokenizer)
            return self._run(request, choices, meter, deadline)
        facts = replace(facts, call_id_key=secrets.token_hex(16), page=call.resumable.page)
        hold = Hold(self.limits.resume_grace_s, call.resumable.owner, facts.encode())
        request = replace(request, hold=hold)
        return self._run_resumable(request, hold, facts, meter, call.request_id, deadline)

    async def _adapter_of(self, name: str) -> str:
        """See ``find_adapter``; asks again for a name that another frontend may have just loaded.

        Raises:
            ModelNotFoundError: Nothing of that name is served.
        """
        try:
            return find_adapter(name, self.model, self.gateway.adapters)
        except ModelNotFoundError:
            with suppress(GalerneError):  # then what is known here counts
                await self.gateway.refresh()
        return find_adapter(name, self.model, self.gateway.adapters)

    def _deadline_of(self, call: GenerateInput | ChatCompletionInput) -> Deadline | None:
        """When it must be done, if it comes now.

        Raises:
            InvalidRequestError: Its timeout is none.
        """
        timeout_s = timeout_of(call, self.limits.request_timeout_s)
        if timeout_s is None:
            return None
        return Deadline(timeout_s, asyncio.get_running_loop().time() + timeout_s)

    async def _run(
        self,
        request: GenerationRequest,
        choices: Sequence[Choice],
        meter: RequestMeter,
        deadline: Deadline | None,
    ) -> AsyncGenerator[Event, None]:
        with self._reserved(request.request_id):
            run = run_request(self.gateway, request, choices, deadline=deadline)
            async with aclosing(run) as events:
                async for event in events:
                    meter.see(event)
                    yield event

    async def _run_resumable(
        self,
        request: GenerationRequest,
        hold: Hold,
        facts: AnswerFacts,
        meter: RequestMeter,
        given_id: str | None,
        deadline: Deadline | None,
    ) -> AsyncGenerator[Event, None]:
        with self._reserved(request.request_id):
            stream = self.streams.begin(request, hold, facts, meter, deadline=deadline)
        is_known = given_id is not None
        try:
            async with aclosing(stream.log.read()) as events:
                async for event in events:
                    is_known = True
                    yield event
        finally:
            if not is_known:  # the client never learnt by which id to come back
                self.streams.drop(stream)

    @contextmanager
    def _opened(self, api: str) -> Iterator[RequestMeter]:
        """Count a request, whatever becomes of it."""
        with self.metrics.observe(api) as meter:
            if self._tracer is not None:
                meter.trace = self._tracer.begin(api)
            if self._is_draining:
                raise NotServingError("draining")
            num_running = self._num_open + self.streams.num_unattended
            if num_running >= self.limits.max_running:
                raise OverloadedError("frontend", self.limits.max_running, _RETRY_AFTER_S)
            meter.lease = self.access.lease(api)
            with self._counted():
                yield meter

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Count a client; draining waits for all of them."""
        self._num_open += 1
        self._is_idle.clear()
        try:
            yield
        finally:
            self._num_open -= 1
            if self._num_open == 0:
                self._is_idle.set()

    @contextmanager
    def _reserved(self, request_id: str) -> Iterator[None]:
        """Keep an id from being used twice at one time."""
        if request_id in self._owners or self.streams.is_running(request_id):
            raise InvalidRequestError("request_id", f"{request_id} is running already")
        self._owners[request_id] = current_client().owner
        try:
            yield
        finally:
            self._owners.pop(request_id, None)
