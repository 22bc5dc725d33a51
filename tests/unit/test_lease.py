"""A deployment without an owner ends; one with an owner does not."""

import asyncio
from contextlib import suppress

from cluster.control.lease import OwnerLease
from helpers.waiting import until


class Ending:
    def __init__(self, fails=0):
        self.num_calls = 0
        self.fails = fails

    async def __call__(self):
        self.num_calls += 1
        if self.num_calls <= self.fails:
            raise ConnectionError("Ray's head is away")
        await asyncio.Event().wait()  # the process is gone


async def stop(task):
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def test_a_lease_that_is_renewed_holds_and_one_that_is_not_ends_all():
    now, end = [0.0], Ending()
    lease = OwnerLease(60.0, end, lambda: now[0], turn_s=0.001)
    running = asyncio.create_task(lease.run())
    for _ in range(5):
        now[0] += 59.0
        lease.renew()
        turns = lease.turns
        await until(lambda before=turns: lease.turns > before + 1)
    assert end.num_calls == 0
    now[0] += 61.0
    await until(lambda: end.num_calls == 1)
    await stop(running)


async def test_an_end_that_fails_is_tried_again():
    now, end = [0.0], Ending(fails=2)
    running = asyncio.create_task(OwnerLease(1.0, end, lambda: now[0], turn_s=0.001).run())
    now[0] = 2.0
    await until(lambda: end.num_calls == 3)
    await stop(running)
