"""``galerne.v1.InferenceService`` over a ``Frontend``."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import aclosing, contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NoReturn, TypeAlias

import grpc

from galerne.errors import GalerneError, InvalidRequestError, RequestAbortedError
from galerne.v1 import inference_pb2 as pb
from galerne.v1 import inference_pb2_grpc as pb_grpc
from router.api.collect import collect
from router.api.errors import EndedWithError
from router.api.events import Event
from router.api.frontend import Frontend
from router.api.grpc_inputs import chat_input, generate_input, resume_points
from router.api.grpc_outputs import EventWriter, load_message, model_info, server_info
from router.api.grpc_status import REQUEST_ID_KEY, ending_of, request_id_of
from router.api.resume import ResumeFilter, offsets_text

logger = logging.getLogger(__name__)

STALL_TIMEOUT_S = 60.0  # a client that takes nothing for so long is given up, as over HTTP
_NAMES_HERE = {
    ".image_url.url": ".image_url",
    ".image_url": ".image",
    ".function.parameters": ".parameters_json_schema",
}

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


class InferenceServicer(pb_grpc.InferenceServiceServicer):
    """The public service, for a ``grpc.aio`` server.

    ``stream_generate``, ``stream_chat`` and ``generate_once`` know nothing of grpc.aio, for hosts
    that have their own idea of a servicer.
    """

    def __init__(self, frontend: Frontend) -> None:
        self._frontend = frontend
        self._writer = EventWriter(frontend.tokenizer)

    async def stream_generate(
        self, request: pb.GenerateRequest, owner: bytes = b""
    ) -> AsyncGenerator[pb.GenerateEvent, None]:
        """Events of a continuation.

        Raises:
            GalerneError: The request is refused.
        """
        async with aclosing(self._frontend.generate(generate_input(request, owner))) as events:
            async for event in events:
                yield self._writer.generate_event(event)

    async def stream_chat(
        self, request: pb.ChatRequest, owner: bytes = b""
    ) -> AsyncGenerator[pb.ChatEvent, None]:
        """Events of a chat.

        Raises:
            GalerneError: The request is refused.
        """
        with _named_as_here():
            async with aclosing(self._frontend.chat(chat_input(request, owner))) as events:
                async for event in events:
                    yield self._writer.chat_event(event)

    async def resume_generate(
        self, request: pb.ResumeRequest, owner: bytes = b""
    ) -> AsyncGenerator[pb.GenerateEvent, None]:
        """What a client has not had of a continuation.

        Raises:
            GalerneError: There is none for that client, or it is lost.
        """
        async with aclosing(self._resume(request, owner, "generate")) as events:
            async for event in events:
                yield self._writer.generate_event(event)

    async def resume_chat(
        self, request: pb.ResumeRequest, owner: bytes = b""
    ) -> AsyncGenerator[pb.ChatEvent, None]:
        """What a client has not had of a chat.

        Raises:
            GalerneError: There is none for that client, or it is lost.
        """
        async with aclosing(self._resume(request, owner, "chat")) as events:
            async for event in events:
                yield self._writer.chat_event(event)

    async def generate_once(
        self, request: pb.GenerateRequest, owner: bytes = b""
    ) -> pb.GenerateResult:
        """A whole continuation.

        Raises:
            GalerneError: The request is refused, or ended with an error.
        """
        call = generate_input(request, owner)
        async with aclosing(self._frontend.generate(call)) as events:
            collected = await collect(events, call.sampling.get("n", 1))
        failed = collected.error()
        if failed is not None:
            raise EndedWithError(failed.error_status, failed.error)
        return self._writer.generate_result(collected)

    async def _resume(
        self, request: pb.ResumeRequest, owner: bytes, api: str
    ) -> AsyncGenerator[Event, None]:
        points = resume_points(request)
        reached = offsets_text(points)
        stream = await self._frontend.streams.find(request.request_id, owner, reached)
        if stream.facts.api != api:
            right = "ResumeChat" if stream.facts.api == "chat" else "ResumeGenerate"
            raise InvalidRequestError("request_id", f"{right} goes on with this stream")
        new = ResumeFilter(points, stream.request.sampling.n)
        async with aclosing(self._frontend.resume(stream)) as events:
            async for event in events:
                if new.wants(event):
                    yield event

    def _owner(self, context: Context) -> bytes:
        return self._frontend.keys.owner(authorization_of(context.invocation_metadata()))

    async def Generate(self, request: pb.GenerateRequest, context: Context) -> None:  # noqa: N802
        """Continues a prompt."""
        await _write_all(context, self.stream_generate(request, self._owner(context)))

    async def GenerateOnce(  # noqa: N802
        self, request: pb.GenerateRequest, context: Context
    ) -> pb.GenerateResult:
        """The same, answered at once."""
        async with Aborting(context):
            return await self.generate_once(request, self._owner(context))

    async def Chat(self, request: pb.ChatRequest, context: Context) -> None:  # noqa: N802
        """Continues a conversation."""
        await _write_all(context, self.stream_chat(request, self._owner(context)))

    async def ResumeGenerate(self, request: pb.ResumeRequest, context: Context) -> None:  # noqa: N802
        """Goes on with a resumable continuation."""
        await _write_all(context, self.resume_generate(request, self._owner(context)))

    async def ResumeChat(self, request: pb.ResumeRequest, context: Context) -> None:  # noqa: N802
        """Goes on with a resumable chat."""
        await _write_all(context, self.resume_chat(request, self._owner(context)))

    async def Tokenize(  # noqa: N802
        self, request: pb.TokenizeRequest, context: Context
    ) -> pb.TokenizeResult:
        """Ids of text."""
        add_bos = request.add_bos if request.HasField("add_bos") else True
        async with Aborting(context):
            prompts = self._frontend.prompts
            if request.HasField("chat"):
                with _named_as_here():
                    encoded = await prompts.encode_chat(chat_input(request.chat).chat)
                return pb.TokenizeResult(token_ids=encoded.token_ids)
            ids = await prompts.encode_text(request.text, add_bos=add_bos, field="text")
            return pb.TokenizeResult(token_ids=ids)

    async def Detokenize(  # noqa: N802
        self, request: pb.DetokenizeRequest, context: Context
    ) -> pb.DetokenizeResult:
        """Text of ids."""
        async with Aborting(context):
            text = await self._frontend.prompts.text_of(
                request.token_ids, keep_special=request.keep_special, field="token_ids"
            )
            return pb.DetokenizeResult(text=text)

    async def Abort(  # noqa: N802
        self, request: pb.AbortRequest, context: Context
    ) -> pb.AbortResult:
        """Ends a running request."""
        async with Aborting(context):
            if not request.request_id:
                raise InvalidRequestError("request_id", "must not be empty")
            was_running = await self._frontend.abort(request.request_id)
            return pb.AbortResult(was_running=was_running)

    async def GetModelInfo(  # noqa: N802
        self, request: pb.GetModelInfoRequest, context: Context
    ) -> pb.ModelInfo:
        """What is served."""
        async with Aborting(context):
            frontend = self._frontend
            adapters = frontend.gateway.adapters
            return model_info(frontend.model, frontend.reasoning_efforts, adapters)

    async def GetServerInfo(  # noqa: N802
        self, request: pb.GetServerInfoRequest, context: Context
    ) -> pb.ServerInfo:
        """The shape that serves."""
        async with Aborting(context):
            return server_info(await self._frontend.gateway.cluster(), _package_version())

    async def GetLoad(self, request: pb.GetLoadRequest, context: Context) -> pb.Load:  # noqa: N802
        """How busy the gateways are."""
        async with Aborting(context):
            return load_message(await self._frontend.gateway.load())


async def _write_all(context: Context, messages: AsyncGenerator[Any, None]) -> None:
    async with Aborting(context), aclosing(messages):
        async for message in messages:
            try:
                async with asyncio.timeout(STALL_TIMEOUT_S):
                    await context.write(message)
            except TimeoutError:
                raise RequestAbortedError("(grpc)", "the client does not read") from None


def authorization_of(metadata: Iterable[tuple[str, str | bytes]] | None) -> str | None:
    """The metadata ``authorization`` of a call."""
    value = dict(metadata or ()).get("authorization")
    return value.decode("latin-1") if isinstance(value, bytes) else value


class Aborting:
    """Ends the RPC with the status of what the block raises."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._call = ""  # its id for the client

    async def __aenter__(self) -> None:
        self._call = request_id_of(self._context.invocation_metadata())
        self._context.set_trailing_metadata(((REQUEST_ID_KEY, self._call),))

    async def __aexit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, GalerneError):
            await abort_with(self._context, error)
        if isinstance(error, Exception) and not isinstance(error, grpc.aio.AbortError):
            logger.error("rpc_failed call=%s", self._call, exc_info=error)
            await self._context.abort(grpc.StatusCode.INTERNAL, "internal error")


async def abort_with(context: Context, error: GalerneError) -> NoReturn:
    """End an RPC with an error's status, see ``ending_of``."""
    code, text, trailers = ending_of(error, context.invocation_metadata())
    await context.abort(code, text, trailers)
    raise AssertionError("abort raises")


@contextmanager
def _named_as_here() -> Iterator[None]:
    """In the refusals inside, an image part and a tool's schema have their names in the proto."""
    try:
        yield
    except InvalidRequestError as error:
        for name, name_here in _NAMES_HERE.items():
            if error.field.endswith(name):
                field = error.field.removesuffix(name) + name_here
                raise InvalidRequestError(field, error.problem) from error
        raise


def _package_version() -> str:
    try:
        return version("galerne")
    except PackageNotFoundError:  # run from a checkout that was never installed
        return "unknown"
