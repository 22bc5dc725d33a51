"""Errors that only an API knows, and what HTTP makes of every error."""

from __future__ import annotations

import math
from collections.abc import Mapping

from galerne.errors import GalerneError, InvalidRequestError

HTTP_STATUS_BY_STATUS: Mapping[str, int] = {
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "ABORTED": 409,
    "RESOURCE_EXHAUSTED": 429,
    "CANCELLED": 499,
    "INTERNAL": 500,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}


class ModelNotFoundError(InvalidRequestError):
    """Another model was asked for than the one that is served."""

    status = "NOT_FOUND"


class BodyTooLargeError(InvalidRequestError):
    """A body is larger than the limit; HTTP says 413."""

    def __init__(self, max_bytes: int) -> None:
        super().__init__("body", f"is larger than {max_bytes} bytes")
        self.args = (max_bytes,)


class BodyTooSlowError(InvalidRequestError):
    """A body did not arrive in time; HTTP says 408."""

    def __init__(self, timeout_s: float) -> None:
        super().__init__("body", f"did not arrive within {timeout_s:g} s")
        self.args = (timeout_s,)


class ForbiddenError(GalerneError):
    """The key is known, and may not do this."""

    status = "PERMISSION_DENIED"

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem

    def __str__(self) -> str:
        return f"API key: {self.problem}"


class RequestTimeoutError(GalerneError):
    """A request was not done in the time that it, or the server, allows."""

    status = "DEADLINE_EXCEEDED"
    is_retryable = True

    def __init__(self, timeout_s: float) -> None:
        super().__init__(timeout_s)
        self.timeout_s = timeout_s

    def __str__(self) -> str:
        return f"not done within its timeout of {self.timeout_s:g} s"


class StreamNotFoundError(GalerneError):
    """No resumable request has this id and belongs to this key."""

    status = "NOT_FOUND"

    def __init__(self, request_id: str) -> None:
        super().__init__(request_id)
        self.request_id = request_id

    def __str__(self) -> str:
        return f"request_id: no resumable stream {self.request_id[:200]!r} is kept for this API key"


class StreamLostError(GalerneError):
    """A stream was not found where it would be, and what could know better is lost."""

    status = "UNAVAILABLE"
    is_retryable = True

    def __init__(self, request_id: str, reached: str, reason: str) -> None:
        super().__init__(request_id, reached, reason)
        self.request_id = request_id
        self.reached = reached  # token offset of each choice, as the client says
        self.reason = reason

    def __str__(self) -> str:
        where = f"; the client had reached {self.reached} tokens" if self.reached else ""
        return f"stream {self.request_id[:200]!r} was not found: {self.reason}{where}"


class EndedWithError(GalerneError):
    """An accepted request ended with an error, told to a caller who was sent nothing yet."""

    def __init__(self, status: str, error: str) -> None:
        super().__init__(status, error)
        self.status = status  # type: ignore[misc]  # that of the error which it stands for
        self.error = error

    def __str__(self) -> str:
        return self.error


def retry_after_s(error: BaseException) -> int | None:
    """Whole seconds, at least 1, after which to try again; None if the error does not say."""
    seconds = getattr(error, "retry_after_s", None)  # of every kind of overload
    return None if seconds is None else max(1, math.ceil(seconds))
