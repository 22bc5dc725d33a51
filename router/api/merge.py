"""Several streams of events as one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import NamedTuple, TypeAlias

from router.api.events import Event

_MAX_AHEAD = 64  # events that wait for a slow client


class Numbered(NamedTuple):
    """An event and the number of its stream."""

    stream: int
    event: Event


_Item: TypeAlias = Numbered | BaseException | None


async def merge(streams: Sequence[AsyncGenerator[Event, None]]) -> AsyncGenerator[Numbered, None]:
    """Events of all streams, each stream's in order; closing it closes all.

    Raises:
        Exception: Whatever one of the streams raises first; the others are closed.
    """
    queue: asyncio.Queue[_Item] = asyncio.Queue(_MAX_AHEAD)
    tasks = [asyncio.create_task(_pump(i, stream, queue)) for i, stream in enumerate(streams)]
    num_open = len(tasks)
    try:
        while num_open:
            item = await queue.get()
            if isinstance(item, BaseException):
                raise item
            if item is None:
                num_open -= 1
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _pump(
    number: int, stream: AsyncGenerator[Event, None], queue: asyncio.Queue[_Item]
) -> None:
    end: Exception | None = None
    try:
        async with aclosing(stream) as events:
            async for event in events:
                await queue.put(Numbered(number, event))
    except Exception as error:  # noqa: BLE001 - raised again by the one who merges
        end = error
    await queue.put(end)
