"""Limits of one key: requests and tokens a minute, requests at one time."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from galerne.clock import Clock
from galerne.errors import OverloadedError
from router.api.keys import Client, KeyLimits

_BUSY_RETRY_S = 1.0  # nobody knows when one of the running requests ends


class KeyLimitError(OverloadedError):
    """A key has used what it may; nothing of the request was started."""

    def __str__(self) -> str:
        return (
            f"API key: {self.what} limit {self.limit} is reached; retry in {self.retry_after_s:g} s"
        )


class Cell(Protocol):
    """Three numbers of a budget: whether it was used, what is there, and when that was."""

    def __getitem__(self, index: int, /) -> float: ...

    def __setitem__(self, index: int, value: float, /) -> None: ...


class Budget:
    """An amount that fills evenly, up to what a minute gives. It may be overdrawn. Pure.

    So over ``t`` minutes at most ``per_min * (1 + t)`` are taken, and what was taken by those who
    were let in while it was above 0 is paid back before the next is.
    """

    def __init__(self, cell: Cell | None = None) -> None:
        """``cell``: where it is kept, if others are to see it."""
        self._cell: Cell = [0.0, 0.0, 0.0] if cell is None else cell

    def wait_s(self, at_least: float, per_min: int, now_s: float) -> float:
        """Seconds until ``at_least`` is there; ``per_min`` may be new. Full when first asked."""
        cell, level = self._cell, float(per_min)
        if cell[0]:
            filled = cell[1] + max(0.0, now_s - cell[2]) * per_min / 60
            level = min(filled, level)
        cell[0], cell[1], cell[2] = 1.0, level, now_s
        return max(0.0, (at_least - level) * 60 / per_min)

    def take(self, amount: float) -> None:
        """Take it, whatever is there."""
        self._cell[1] -= amount


class Cells:
    """What an account consists of; here in this process alone."""

    def __init__(self) -> None:
        self.requests, self.tokens = Budget(), Budget()
        self._num_own = 0

    @property
    def num_running(self) -> int:
        """Requests that run, at all frontends that share it."""
        return self._num_own

    def add_running(self, num: int) -> None:
        """So many more run here."""
        self._num_own += num

    def locked(self) -> AbstractContextManager[None]:
        """Nobody else looks or changes anything in this block; it must be short."""
        return nullcontext()


class KeyAccount:
    """What one client has used."""

    def __init__(self, cells: Cells | None = None) -> None:
        """``cells``: of an account that others share; None: of one's own."""
        self._cells = cells if cells is not None else Cells()
        self._counts_tokens = False

    def admit(self, client: Client, now_s: float) -> None:
        """Count one request more.

        Raises:
            KeyLimitError: Names the limit that is reached; nothing is counted then.
        """
        limits, cells = client.limits, self._cells
        with cells.locked():
            if limits.concurrency is not None and cells.num_running >= limits.concurrency:
                raise KeyLimitError("concurrency", limits.concurrency, _BUSY_RETRY_S)
            if limits.tokens_per_min is not None:
                self._counts_tokens = True
                # One token at least: how many a request takes is known at its end.
                _check(cells.tokens, "tokens_per_min", limits.tokens_per_min, now_s)
            if limits.requests_per_min is not None:
                _check(cells.requests, "requests_per_min", limits.requests_per_min, now_s)
                cells.requests.take(1)
            cells.add_running(1)

    def charge(self, num_tokens: int) -> None:
        """Take tokens that were computed."""
        if self._counts_tokens:
            with self._cells.locked():
                self._cells.tokens.take(num_tokens)

    def release(self) -> None:
        """A request that was admitted has ended."""
        self._cells.add_running(-1)


class KeyLimiter:
    """The accounts of all clients, as one frontend sees them."""

    def __init__(self, clock: Clock, cells_of: Callable[[bytes], Cells] | None = None) -> None:
        """``cells_of``: of the client with this ``owner``, where frontends share accounts."""
        self._clock = clock
        self._cells_of = cells_of if cells_of is not None else lambda _owner: Cells()
        self._accounts: dict[bytes, KeyAccount] = {}

    def admit(self, client: Client) -> KeyAccount:
        """The client's account, with one request more; whoever ends it releases it.

        Raises:
            KeyLimitError: A limit of the client is reached.
        """
        if client.limits == KeyLimits():
            return KeyAccount()  # nothing to count
        account = self._accounts.get(client.owner)
        if account is None:
            account = self._accounts[client.owner] = KeyAccount(self._cells_of(client.owner))
        account.admit(client, self._clock.now_s())
        return account


def _check(budget: Budget, what: str, limit: int, now_s: float) -> None:
    wait_s = budget.wait_s(1, limit, now_s)
    if wait_s > 0:
        raise KeyLimitError(what, limit, round(wait_s, 3))
