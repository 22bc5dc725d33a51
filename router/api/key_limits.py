"""Limits of one key at one frontend: requests and tokens a minute, requests at one time."""

from __future__ import annotations

from galerne.clock import Clock
from galerne.errors import OverloadedError
from router.api.keys import Client

_BUSY_RETRY_S = 1.0  # nobody knows when one of the running requests ends


class KeyLimitError(OverloadedError):
    """A key has used what it may; nothing of the request was started."""

    def __str__(self) -> str:
        return (
            f"API key: {self.what} limit {self.limit} is reached; retry in {self.retry_after_s:g} s"
        )


class Budget:
    """An amount that fills evenly, up to what a minute gives. It may be overdrawn. Pure.

    So over ``t`` minutes at most ``per_min * (1 + t)`` are taken, and what was taken by those who
    were let in while it was above 0 is paid back before the next is.
    """

    def __init__(self, per_min: int, now_s: float) -> None:
        self._per_min, self._level, self._at_s = per_min, float(per_min), now_s

    def wait_s(self, at_least: float, per_min: int, now_s: float) -> float:
        """Seconds until ``at_least`` is there; ``per_min`` may be new."""
        filled = self._level + (now_s - self._at_s) * per_min / 60
        self._per_min, self._level, self._at_s = per_min, min(filled, float(per_min)), now_s
        return max(0.0, (at_least - self._level) * 60 / per_min)

    def take(self, amount: float) -> None:
        """Take it, whatever is there."""
        self._level -= amount


class KeyAccount:
    """What one client has used."""

    def __init__(self) -> None:
        self.num_running = 0
        self._requests: Budget | None = None
        self._tokens: Budget | None = None

    def admit(self, client: Client, now_s: float) -> None:
        """Count one request more.

        Raises:
            KeyLimitError: Names the limit that is reached; nothing is counted then.
        """
        limits = client.limits
        if limits.concurrency is not None and self.num_running >= limits.concurrency:
            raise KeyLimitError("concurrency", limits.concurrency, _BUSY_RETRY_S)
        if limits.tokens_per_min is not None:
            self._tokens = self._tokens or Budget(limits.tokens_per_min, now_s)
            # One token at least: how many a request takes is known at its end.
            _check(self._tokens, "tokens_per_min", limits.tokens_per_min, now_s)
        if limits.requests_per_min is not None:
            self._requests = self._requests or Budget(limits.requests_per_min, now_s)
            _check(self._requests, "requests_per_min", limits.requests_per_min, now_s)
            self._requests.take(1)
        self.num_running += 1

    def charge(self, num_tokens: int) -> None:
        """Take tokens that were computed."""
        if self._tokens is not None:
            self._tokens.take(num_tokens)


class KeyLimiter:
    """The accounts of all clients of one frontend."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._accounts: dict[bytes, KeyAccount] = {}

    def admit(self, client: Client) -> KeyAccount:
        """The client's account, with one request more; whoever ends it counts it down.

        Raises:
            KeyLimitError: A limit of the client is reached.
        """
        account = self._accounts.setdefault(client.owner, KeyAccount())
        account.admit(client, self._clock.now_s())
        return account


def _check(budget: Budget, what: str, limit: int, now_s: float) -> None:
    wait_s = budget.wait_s(1, limit, now_s)
    if wait_s > 0:
        raise KeyLimitError(what, limit, round(wait_s, 3))
