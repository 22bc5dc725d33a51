"""How far a request has come, so that another gateway can go on with it. Pure."""

from __future__ import annotations

from dataclasses import replace

from galerne.errors import GalerneError
from router.engine.request import FinishReason, GenerationRequest, ResumedChoice, TokenDelta

MAX_BARREN_MOVES = 4  # in a row without a token: what ends every gateway must not end them all
MAX_UNACCEPTED = 20  # the same for gateways that end before they have taken it, or are not there


class StreamGapError(GalerneError):
    """A gateway left out tokens."""

    def __init__(self, request_id: str, choice: int, expected: int, offset: int) -> None:
        super().__init__(request_id, choice, expected, offset)
        self.request_id, self.choice = request_id, choice
        self.expected, self.offset = expected, offset

    def __str__(self) -> str:
        return (
            f"request {self.request_id} choice {self.choice}: token {self.offset} came where "
            f"{self.expected} was due"
        )


class StreamRecord:
    """One running request: its prompt and parameters, and the tokens that went out."""

    def __init__(self, request: GenerationRequest) -> None:
        self.request = request
        self._token_ids: list[list[int]] = [[] for _ in range(request.sampling.n)]
        self._is_ended = [False] * request.sampling.n
        self._is_aborted = [False] * request.sampling.n
        self._history: list[TokenDelta] = []  # what went out of a request with a hold
        self._has_progress = False
        self.num_moves = 0
        self._num_barren = 0
        self._num_unaccepted = 0  # since a gateway last took it

    @property
    def is_done(self) -> bool:
        """Whether every choice has ended."""
        return all(self._is_ended)

    def take(self, delta: TokenDelta) -> TokenDelta | None:
        """What of a delta has not gone out yet, or None if nothing is new.

        Raises:
            StreamGapError: Tokens before it are missing.
        """
        new = self._new_of(delta)
        if new is not None:
            self._keep(new)
        return new

    def _keep(self, delta: TokenDelta) -> None:
        if self.request.hold is not None:
            self._history.append(delta)

    def _new_of(self, delta: TokenDelta) -> TokenDelta | None:
        known = self._token_ids[delta.choice]
        if self._is_ended[delta.choice]:
            return None
        if delta.offset > len(known):
            raise StreamGapError(delta.request_id, delta.choice, len(known), delta.offset)
        num_known = len(known) - delta.offset
        self._is_ended[delta.choice] = delta.finish_reason is not None
        new = delta.token_ids[num_known:]
        known.extend(new)
        self._has_progress = self._has_progress or bool(new)
        self._num_unaccepted = 0
        if not num_known or not delta.token_ids:
            return delta
        if not new and delta.finish_reason is None:
            return None
        logprobs = delta.logprobs[num_known:]
        return replace(delta, offset=len(known) - len(new), token_ids=new, logprobs=logprobs)

    def abort(self, choice: int | None) -> None:
        """The client wants no more of a choice, or of any."""
        for index in range(len(self._is_aborted)) if choice is None else (choice,):
            self._is_aborted[index] = True

    def move(self, *, was_running: bool) -> bool:
        """Note that a gateway is lost (it had taken the request, or not); whether to go on."""
        if not was_running:
            self._num_unaccepted += 1
            return self._num_unaccepted <= MAX_UNACCEPTED
        self._num_barren = 0 if self._has_progress else self._num_barren + 1
        self._has_progress = False
        self.num_moves += 1
        return self._num_barren <= MAX_BARREN_MOVES

    def unwanted(self) -> list[int]:
        """Choices that the client has given up, and that have not ended."""
        return [choice for choice in self._open() if self._is_aborted[choice]]

    @property
    def is_unwanted(self) -> bool:
        """Whether the client has given up every choice that has not ended."""
        return all(self._is_aborted[choice] for choice in self._open())

    def end_aborted(self) -> list[TokenDelta]:
        """Last deltas of choices whose abort the lost gateway can no longer confirm."""
        return [self._end(choice) for choice in self.unwanted()]

    def resumption(self) -> GenerationRequest:
        """The request as the next gateway needs it."""
        if not self.num_moves and not any(self._is_ended):
            return self.request
        resumed = zip(self._token_ids, self._is_ended, strict=True)
        choices = tuple(ResumedChoice(tuple(tokens), ended) for tokens, ended in resumed)
        hold = self.request.hold
        if hold is not None:
            hold = hold._replace(history=tuple(self._history))
        return replace(self.request, resumed=choices, hold=hold)

    @property
    def reached(self) -> str:
        """Tokens that every choice has, in words."""
        return ", ".join(str(len(tokens)) for tokens in self._token_ids)

    def _open(self) -> list[int]:
        return [choice for choice, is_ended in enumerate(self._is_ended) if not is_ended]

    def _end(self, choice: int) -> TokenDelta:
        self._is_ended[choice] = True
        end = TokenDelta(
            request_id=self.request.request_id,
            choice=choice,
            offset=len(self._token_ids[choice]),
            token_ids=(),
            finish_reason=FinishReason.ABORT,
        )
        self._keep(end)
        return end
