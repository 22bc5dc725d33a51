"""One tree of errors.

    GalerneError
    ├── InvalidRequestError      the caller's input is wrong: names the field
    ├── OverloadedError          the queue is full: try again later
    ├── RequestAbortedError      the caller, or shutdown, ended the request
    ├── ConfigError              a setting is wrong: names key, value and what would be right
    ├── CheckpointError          a checkpoint is damaged: names file, tensor, expected and found
    ├── ProtocolError            a peer sent something that the exchange protocol does not allow
    │   ├── HelloRefusedError    protocol, model, numerics profile or epoch of the peer differ
    │   ├── EpochRetiredError    the caller missed a change of topology: its epoch serves no more
    │   └── LinkAbortedError     what was to go from GPU to GPU must go by the stream
    ├── UnauthenticatedError     wrong or missing credentials
    ├── ShardUnavailableError    experts could not be reached before the request's deadline
    └── NotServingError          nobody here takes requests now

An error carries its fields in ``args``, so it survives a pickle and a process border, and says
whether to try again. ``status`` is the name of its gRPC status code; the API maps it to HTTP.
"""

from __future__ import annotations

from typing import ClassVar


class GalerneError(Exception):
    """Root of the tree."""

    status: ClassVar[str] = "INTERNAL"
    is_retryable: ClassVar[bool] = False


class InvalidRequestError(GalerneError):
    """A request field is outside what is allowed."""

    status = "INVALID_ARGUMENT"

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(field, problem)
        self.field = field
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.field}: {self.problem}"


class OverloadedError(GalerneError):
    """Admission refused a request; nothing of it was started."""

    status = "RESOURCE_EXHAUSTED"
    is_retryable = True

    def __init__(self, what: str, limit: int, retry_after_s: float) -> None:
        super().__init__(what, limit, retry_after_s)
        self.what = what
        self.limit = limit
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return f"{self.what} is full (limit {self.limit}); retry in {self.retry_after_s:g} s"


class RequestAbortedError(GalerneError):
    """A request ended before its natural end."""

    status = "CANCELLED"

    def __init__(self, request_id: str, reason: str) -> None:
        super().__init__(request_id, reason)
        self.request_id = request_id
        self.reason = reason

    def __str__(self) -> str:
        return f"request {self.request_id} aborted: {self.reason}"


class ConfigError(GalerneError):
    """A setting cannot be used."""

    status = "FAILED_PRECONDITION"

    def __init__(self, key: str, value: object, problem: str) -> None:
        super().__init__(key, value, problem)
        self.key = key
        self.value = value
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.key}={self.value}: {self.problem}"


class CheckpointError(GalerneError):
    """A checkpoint is damaged, incomplete or contradicts itself."""

    status = "FAILED_PRECONDITION"

    def __init__(self, file: str, tensor: str | None, expected: str, found: str) -> None:
        super().__init__(file, tensor, expected, found)
        self.file = file
        self.tensor = tensor
        self.expected = expected
        self.found = found

    def __str__(self) -> str:
        where = self.file if self.tensor is None else f"{self.file}, tensor {self.tensor}"
        return f"{where}: expected {self.expected}, found {self.found}"


class ProtocolError(GalerneError):
    """Bytes or an event that the exchange protocol does not allow."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem

    def __str__(self) -> str:
        return self.problem


class HelloRefusedError(ProtocolError):
    """A peer may not take part: one named property differs."""

    status = "FAILED_PRECONDITION"

    def __init__(self, field: str, ours: str, theirs: str) -> None:
        GalerneError.__init__(self, field, ours, theirs)
        self.field = field
        self.ours = ours
        self.theirs = theirs

    def __str__(self) -> str:
        return f"hello refused: {self.field} is {self.ours} here and {self.theirs} at the peer"


class EpochRetiredError(ProtocolError):
    """A step in a topology that the cluster has left behind; it can be done again in the next."""

    def __init__(self, epoch: int) -> None:
        GalerneError.__init__(self, epoch)
        self.epoch = epoch

    def __str__(self) -> str:
        return f"epoch {self.epoch} is retired"


class LinkAbortedError(ProtocolError):
    """A frame whose rows were to go from GPU to GPU, on a link where nothing does any more."""

    status = "UNAVAILABLE"
    is_retryable = True


class UnauthenticatedError(GalerneError):
    """Credentials are missing or wrong."""

    status = "UNAUTHENTICATED"

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what

    def __str__(self) -> str:
        return f"{self.what}: missing or wrong"


class ShardUnavailableError(GalerneError):
    """Rows stayed unanswered although every live copy of their experts was tried."""

    status = "UNAVAILABLE"
    is_retryable = True

    def __init__(self, shard_id: str, waited_s: float) -> None:
        super().__init__(shard_id, waited_s)
        self.shard_id = shard_id
        self.waited_s = waited_s

    def __str__(self) -> str:
        return f"shard {self.shard_id} gave no answer in {self.waited_s:.3f} s"


class NotServingError(GalerneError):
    """Nobody here takes requests now, though others may, or later."""

    status = "UNAVAILABLE"
    is_retryable = True

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"not serving: {self.reason}"
