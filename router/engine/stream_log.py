"""What a stream has said, for readers that come and go; and how long it waits for them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable
from typing import Generic, Protocol, TypeVar

from galerne.errors import GalerneError

_YIELD_EVERY = 256  # items of a replay between two turns of the event loop

T = TypeVar("T")


class TakenOverError(GalerneError):
    """A newer reader has the stream now."""

    status = "ABORTED"

    def __init__(self, request_id: str) -> None:
        super().__init__(request_id)
        self.request_id = request_id

    def __str__(self) -> str:
        return f"request {self.request_id} goes on elsewhere: a newer client has resumed it"


class StreamLog(Generic[T]):
    """Items in order, from the first on. The newest reader has it. Lives on one event loop."""

    def __init__(self, request_id: str, on_reader: Callable[[bool], None]) -> None:
        """``on_reader`` is told True when a reader comes, False when the last one has left."""
        self.is_closed = False
        self.is_delivered = False  # a reader had all of it
        self._request_id = request_id
        self._on_reader = on_reader
        self._items: list[T] = []
        self._error: Exception | None = None
        self._reader: object | None = None
        self._changed = asyncio.Event()

    @property
    def has_reader(self) -> bool:
        """Whether someone reads it now."""
        return self._reader is not None

    def append(self, item: T) -> None:
        """Say one thing more; after the end it is dropped."""
        if not self.is_closed:
            self._items.append(item)
            self._changed.set()

    def close(self, error: Exception | None = None) -> None:
        """Nothing more will come; ``error`` is what readers then get."""
        if not self.is_closed:
            self.is_closed = True
            self._error = error
            self._changed.set()

    async def read(self, start: int = 0) -> AsyncGenerator[T, None]:
        """Items from number ``start`` on, then what comes, until the end.

        Raises:
            TakenOverError: A newer reader has come.
            Exception: What the log was closed with.
        """
        me = self._reader = object()
        self._changed.set()  # the older one looks up
        self._on_reader(True)
        position = start
        try:
            while self._reader is me:
                if position < len(self._items):
                    yield self._items[position]
                    position += 1
                    if position % _YIELD_EVERY == 0:
                        await asyncio.sleep(0)
                elif self.is_closed:
                    if self._error is not None:
                        raise self._error
                    self.is_delivered = True
                    return
                else:
                    self._changed.clear()
                    await self._changed.wait()
            raise TakenOverError(self._request_id)
        finally:
            if self._reader is me:
                self._reader = None
                self._on_reader(False)


class Keepable(Protocol):
    """A stream as ``Parking`` sees it."""

    @property
    def num_tokens(self) -> int:
        """What it costs to keep: tokens of prompt and answer, and every log probability."""
        ...

    @property
    def is_delivered(self) -> bool:
        """Whether a client had all of it, so that it will hardly come back."""
        ...


KeepableT = TypeVar("KeepableT", bound=Keepable)


def surplus(
    parked: Iterable[KeepableT], max_parked: int, max_parked_tokens: int
) -> list[KeepableT]:
    """Those that must give way, of streams in the order in which they were parked.

    First what was delivered, then what has waited longest.
    """
    left = sorted(parked, key=lambda stream: not stream.is_delivered)  # stable
    num_tokens = sum(stream.num_tokens for stream in left)
    dropped: list[KeepableT] = []
    for stream in left:
        if len(left) - len(dropped) <= max_parked and num_tokens <= max_parked_tokens:
            break
        dropped.append(stream)
        num_tokens -= stream.num_tokens
    return dropped


class Parking(Generic[KeepableT]):
    """Streams without a reader. Each is dropped after its grace, or when it must give way."""

    def __init__(
        self,
        max_parked: int,
        max_parked_tokens: int,
        on_drop: Callable[[KeepableT], None],
        on_expired: Callable[[KeepableT], None] | None = None,
    ) -> None:
        """``on_expired``: called in the place of ``on_drop`` when a grace is over."""
        self._max_parked = max_parked
        self._max_parked_tokens = max_parked_tokens
        self._on_drop = on_drop
        self._on_expired = on_expired if on_expired is not None else on_drop
        self._timers: dict[KeepableT, asyncio.TimerHandle] = {}

    def __len__(self) -> int:
        return len(self._timers)

    def park(self, stream: KeepableT, grace_s: float) -> None:
        """Keep a stream for its grace from now on; called on its event loop."""
        self.leave(stream)
        loop = asyncio.get_running_loop()
        self._timers[stream] = loop.call_later(grace_s, self._expire, stream)
        self.shrink()

    def leave(self, stream: KeepableT) -> None:
        """It has a reader again, or is gone."""
        timer = self._timers.pop(stream, None)
        if timer is not None:
            timer.cancel()

    def shrink(self) -> None:
        """Drop what is too much; to be called when a parked stream has grown."""
        for stream in surplus(self._timers, self._max_parked, self._max_parked_tokens):
            self._drop(stream)

    def clear(self) -> None:
        """Wait for nothing any more; nothing is dropped."""
        for stream in list(self._timers):
            self.leave(stream)

    def _expire(self, stream: KeepableT) -> None:
        self.leave(stream)
        self._on_expired(stream)

    def _drop(self, stream: KeepableT) -> None:
        self.leave(stream)
        self._on_drop(stream)
