"""Errors in OpenAI's shape."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from galerne.errors import GalerneError, InvalidRequestError, UnauthenticatedError
from router.api.errors import (
    HTTP_STATUS_BY_STATUS,
    BodyTooLargeError,
    BodyTooSlowError,
    ModelNotFoundError,
    retry_after_s,
)

_TYPE_BY_HTTP_STATUS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


def http_status(error: GalerneError) -> int:
    """The HTTP status of an error."""
    if isinstance(error, BodyTooLargeError):
        return 413
    if isinstance(error, BodyTooSlowError):
        return 408
    return HTTP_STATUS_BY_STATUS.get(error.status, 500)


def error_body(error: GalerneError) -> dict[str, Any]:
    """``{"error": {message, type, param, code}}``."""
    param = error.field if isinstance(error, InvalidRequestError) else None
    code = None
    match error:
        case ModelNotFoundError():
            code = "model_not_found"
        case UnauthenticatedError():
            code = "invalid_api_key"
        case _ if error.status == "DEADLINE_EXCEEDED":
            code = "timeout"
    return plain_error(http_status(error), str(error), param=param, code=code)


def plain_error(
    status: int, message: str, *, param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    """The same from its parts."""
    default = "invalid_request_error" if status < 500 else "server_error"
    kind = _TYPE_BY_HTTP_STATUS.get(status, default)
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def add_error_handlers(app: FastAPI) -> None:
    """Make every refusal of ``app``, FastAPI's own included, an OpenAI error."""
    app.add_exception_handler(GalerneError, _on_galerne_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(Exception, _on_exception)


async def _on_galerne_error(_request: Request, error: Exception) -> Response:
    if not isinstance(error, GalerneError):
        raise TypeError(type(error).__name__)
    headers = {}
    seconds = retry_after_s(error)
    if seconds is not None:
        headers["Retry-After"] = str(seconds)
    if isinstance(error, UnauthenticatedError):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, BodyTooSlowError):
        headers["Connection"] = "close"  # what is still to come is not waited for
    return JSONResponse(error_body(error), http_status(error), headers)


async def _on_http_exception(_request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise TypeError(type(error).__name__)
    body = plain_error(error.status_code, str(error.detail))
    return JSONResponse(body, error.status_code, error.headers)


async def _on_exception(_request: Request, _error: Exception) -> Response:
    return JSONResponse(plain_error(500, "internal error"), 500)
