"""Requests that are not ready for the scheduler: their images are being encoded. No torch.

Encoding goes on in bounded shares between two steps, so what runs goes on running. A request joins
the scheduler when its images are there, behind those that came to it meanwhile.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

from galerne.errors import GalerneError, InvalidRequestError
from router.engine.request import FinishReason, GenerationRequest, TokenDelta
from router.engine.sequence import Sequence

logger = logging.getLogger(__name__)


class Preparer(Protocol):
    """What a request needs before it can run, made on the engine's thread."""

    def begin(self, request: GenerationRequest) -> None:
        """Take a request in.

        Raises:
            InvalidRequestError: It cannot be served.
        """
        ...

    def is_ready(self, request: GenerationRequest) -> bool:
        """Whether all is there.

        Raises:
            GalerneError: It will never be.
        """
        ...

    def work(self) -> bool:
        """Do a bounded share; whether there was anything to do."""
        ...

    def release(self, request: GenerationRequest) -> None:
        """A request that was taken in has ended."""
        ...


class NoImages:
    """The preparer of a model without vision."""

    def begin(self, request: GenerationRequest) -> None:
        """Refuse.

        Raises:
            InvalidRequestError: Always.
        """
        raise InvalidRequestError("images", "this model takes no images")

    def is_ready(self, request: GenerationRequest) -> bool:
        """See ``Preparer``."""
        return True

    def work(self) -> bool:
        """See ``Preparer``."""
        return False

    def release(self, request: GenerationRequest) -> None:
        """See ``Preparer``."""


@dataclass(slots=True)
class _Arrival:
    request: GenerationRequest
    arrived_s: float
    admitted: Future[None] = field(default_factory=Future)


class Preparing:
    """The requests on their way to the scheduler. For the engine's thread."""

    def __init__(
        self,
        preparer: Preparer,
        join: Callable[[GenerationRequest, float], list[Sequence]],
        refuse: Callable[[GenerationRequest], None],
    ) -> None:
        """Take what the engine does with them.

        ``join`` brings one to the scheduler (with the time of its arrival), or refuses it, and
        gives its choices; ``refuse`` hears of those that end before that.
        """
        self._preparer = preparer
        self._join = join
        self._refuse = refuse
        self._waiting: dict[str, _Arrival] = {}
        self._joined: list[tuple[GenerationRequest, list[Sequence]]] = []  # not yet released

    @property
    def is_busy(self) -> bool:
        """Whether any request waits here. From any thread."""
        return bool(self._waiting)

    @property
    def is_tracking(self) -> bool:
        """Whether there is anything to do, or to release one day."""
        return bool(self._waiting or self._joined)

    @property
    def num_choices(self) -> int:
        """Choices that wait here. From any thread."""
        return sum(len(a.request.open_choices) for a in list(self._waiting.values()))

    def add(self, request: GenerationRequest, arrived_s: float) -> Future[None] | None:
        """Let a request join, at once (None) or when it is ready, which the future then tells.

        Raises:
            GalerneError: It is refused.
        """
        if not request.images:
            self._join(request, arrived_s)
            return None
        self._release_ended()
        try:
            is_ready = self._begin(request)
        except Exception:
            self._refuse(request)
            raise
        arrival = _Arrival(request, arrived_s)
        if is_ready:
            self._enter(arrival)
            return None
        self._waiting[request.request_id] = arrival
        return arrival.admitted

    def advance(self) -> bool:
        """Do a share of the work, let in who is ready; whether there was anything to do."""
        self._release_ended()
        if not self._waiting:
            return False
        has_worked = self._preparer.work()
        for arrival in list(self._waiting.values()):
            try:
                if self._preparer.is_ready(arrival.request):
                    del self._waiting[arrival.request.request_id]
                    self._enter(arrival)
                    arrival.admitted.set_result(None)
            except Exception as error:  # goes to the caller; the loop must live on
                if not isinstance(error, GalerneError):
                    logger.exception("engine_join_failed request=%s", arrival.request.request_id)
                self._give_up(arrival, error)
        return has_worked

    def abort(self, request_id: str, choice: int | None) -> list[TokenDelta]:
        """End a request that waits here; the last deltas of its choices, if it is one.

        A single choice of several is not ended before it runs.
        """
        arrival = self._waiting.get(request_id)
        if arrival is None or (choice is not None and arrival.request.open_choices != [choice]):
            return []
        del self._waiting[request_id]
        self._preparer.release(arrival.request)
        self._refuse(arrival.request)
        arrival.admitted.set_result(None)
        return list(_endings(arrival.request))

    def close(self, error: GalerneError) -> None:
        """Refuse all that wait."""
        for arrival in list(self._waiting.values()):
            self._give_up(arrival, error)

    def _begin(self, request: GenerationRequest) -> bool:
        if request.request_id in self._waiting:
            raise InvalidRequestError("request_id", "is in use by a running request")
        self._preparer.begin(request)
        try:
            return self._preparer.is_ready(request)
        except GalerneError:
            self._preparer.release(request)
            raise

    def _enter(self, arrival: _Arrival) -> None:
        try:
            sequences = self._join(arrival.request, arrival.arrived_s)
        except BaseException:
            self._preparer.release(arrival.request)
            raise
        self._joined.append((arrival.request, sequences))

    def _give_up(self, arrival: _Arrival, error: Exception) -> None:
        """``join`` refuses for itself; what never came to it is refused here."""
        if self._waiting.pop(arrival.request.request_id, None) is not None:
            self._preparer.release(arrival.request)
            self._refuse(arrival.request)
        arrival.admitted.set_exception(error)

    def _release_ended(self) -> None:
        joined, self._joined = self._joined, []
        for request, sequences in joined:
            if all(sequence.is_finished for sequence in sequences):
                self._preparer.release(request)
            else:
                self._joined.append((request, sequences))


def _endings(request: GenerationRequest) -> Iterator[TokenDelta]:
    for choice in request.open_choices:
        offset = len(request.resumed[choice].token_ids) if request.resumed else 0
        yield TokenDelta(
            request_id=request.request_id,
            choice=choice,
            offset=offset,
            token_ids=(),
            finish_reason=FinishReason.ABORT,
        )
