"""/tokenize and /detokenize, in vLLM's shapes."""

from __future__ import annotations

from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse, Response
from pydantic import ConfigDict

from galerne.errors import InvalidRequestError
from router.api.admission import find_adapter
from router.api.frontend import Frontend
from router.api.http_body import read_body
from router.api.logprobs_json import token_text
from router.api.neutral import check_unsupported
from router.api.schemas import PlainBody, parse_body
from router.chat.encode import ChatInput


class _TokenBody(PlainBody):
    model_config = ConfigDict(extra="allow", protected_namespaces=())

    model: str | None = None

    def check(self) -> None:
        """Refuse what would not happen.

        Raises:
            InvalidRequestError: Names the field.
        """
        check_unsupported(self.model_extra or {}, 1)


class TokenizeBody(_TokenBody):
    """POST /tokenize: of ``prompt``, or of the prompt that ``messages`` make."""

    prompt: str | None = None
    add_special_tokens: bool | None = None  # <s> in front of a prompt; a conversation has its own
    messages: list[dict[str, Any]] | None = None
    tools: list[dict[str, Any]] | None = None
    reasoning_effort: str | None = None
    continue_final_message: bool | None = None
    return_token_strs: bool | None = None

    def check(self) -> None:
        """Refuse what would not happen.

        Raises:
            InvalidRequestError: Names the field.
        """
        super().check()
        if (self.prompt is None) == (self.messages is None):
            raise InvalidRequestError("prompt", "give either a prompt or messages")


class DetokenizeBody(_TokenBody):
    """POST /detokenize."""

    tokens: list[int]


class TokenRoutes:
    """Text to ids and back, with the served model's tokenizer."""

    def __init__(self, frontend: Frontend) -> None:
        self._frontend = frontend

    async def tokenize(self, request: Request) -> Response:
        """POST /tokenize."""
        body = parse_body(TokenizeBody, await self._read(request))
        self._check_model(body)
        ids = await self._ids(body)
        answer: dict[str, Any] = {
            "count": len(ids),
            "max_model_len": self._frontend.model.max_model_len,
            "tokens": ids,
            "token_strs": None,
        }
        if body.return_token_strs:
            tokenizer = self._frontend.tokenizer
            answer["token_strs"] = [token_text(tokenizer, token_id) for token_id in ids]
        return JSONResponse(answer)

    async def detokenize(self, request: Request) -> Response:
        """POST /detokenize; control tokens stay in the text."""
        body = parse_body(DetokenizeBody, await self._read(request))
        self._check_model(body)
        text = await self._frontend.prompts.text_of(body.tokens, keep_special=True, field="tokens")
        return JSONResponse({"prompt": text})

    async def _ids(self, body: TokenizeBody) -> list[int]:
        prompts = self._frontend.prompts
        if body.prompt is not None:
            return await prompts.encode_text(
                body.prompt, add_bos=body.add_special_tokens is not False
            )
        chat = ChatInput(
            messages=body.messages or [],
            tools=body.tools,
            reasoning_effort=body.reasoning_effort,
            continue_final_message=body.continue_final_message or False,
        )
        return list((await prompts.encode_chat(chat)).token_ids)

    def _check_model(self, body: _TokenBody) -> None:
        frontend = self._frontend
        find_adapter(body.model or "", frontend.model, frontend.gateway.adapters)

    async def _read(self, request: Request) -> bytes:
        return await read_body(request, self._frontend.limits)
