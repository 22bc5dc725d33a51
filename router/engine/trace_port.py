"""What a request carries of its trace on its way from the API to a gateway. No OpenTelemetry."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Attempt(Protocol):
    """One gateway's turn at a request."""

    @property
    def metadata(self) -> Sequence[tuple[str, str]]:
        """To be sent with the call."""
        ...

    def kept_below(self) -> None:
        """The gateway keeps its spans of the request."""
        ...

    def failed(self, error: str) -> None:
        """The gateway refused or lost it."""
        ...

    def end(self) -> None:
        """Its turn is over."""
        ...


class RequestTrace(Protocol):
    """The trace of a request that is open."""

    def attempt(self, gateway: str, address: str) -> Attempt:
        """A gateway gets the request."""
        ...


class _NoAttempt:
    metadata = ()

    def kept_below(self) -> None:
        """See ``Attempt``."""

    def failed(self, error: str) -> None:
        """See ``Attempt``."""

    def end(self) -> None:
        """See ``Attempt``."""


NO_ATTEMPT: Attempt = _NoAttempt()
