"""What a gateway offers a shard besides the stream at each connection, and the outcome."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from galerne.hello import Hello, Welcome
from galerne.ids import ShardId


class NotSharedError(Exception):
    """A link has nothing besides its stream. The link is none the worse for it."""


class Offer(Protocol):
    """For one connection, until the shard has answered."""

    def put_into(self, hello: Hello) -> Hello:
        """The hello with the offer."""
        ...

    def accepted_by(self, welcome: Welcome) -> object:
        """Our end of it.

        Raises:
            NotSharedError: The shard does not take it, and why.
        """
        ...

    def withdraw(self) -> None:
        """Nobody else can take it."""
        ...


class Way(NamedTuple):
    """How frames may go besides the stream."""

    name: str
    offer: Callable[[ShardId], Offer]  # may block; raises OSError or NotSharedError if it cannot
    is_by_nccl: bool = False  # what the shard says of it comes on the stream, as ``NcclNews``


@dataclass(frozen=True, slots=True)
class SharedUp:
    """Event before ``LinkUp``: the link has another way besides its stream."""

    shard: ShardId
    ends: object  # as the offer made them
