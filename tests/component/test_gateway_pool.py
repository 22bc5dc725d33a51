"""The pool over a real gateway, while the roster changes."""

import asyncio
import threading
from contextlib import aclosing
from dataclasses import replace

import pytest

from galerne.errors import NotServingError
from helpers.gateway_process import TOKEN, Directory, gateway_settings
from helpers.gateways import request
from helpers.waiting import until
from router.engine.request import FinishReason, Hold
from router.gateway.host import GatewayHost
from router.gateway.pool import GatewayPool


@pytest.fixture(scope="module")
def gateway():
    host = GatewayHost(gateway_settings(), None)
    yield host
    host.stop()


@pytest.fixture
async def pool(gateway):
    made = GatewayPool(Directory(gateway=gateway.address), TOKEN)
    await made.start(60.0)
    yield made
    await made.close()


async def started(pool, request_id, max_tokens):
    """A running request: its task, once the first token is there."""
    has_token = asyncio.Event()

    async def run():
        num_tokens = 0
        async for delta in pool.submit(request(request_id, max_tokens=max_tokens)):
            num_tokens += len(delta.token_ids)
            has_token.set()
        return delta.finish_reason, num_tokens

    task = asyncio.create_task(run())
    await has_token.wait()
    return task


async def ended(deltas):
    """The last of them."""
    return [delta async for delta in deltas][-1]


async def test_request_of_a_gateway_that_left_the_roster_runs_to_its_end(pool):
    running = await started(pool, "leaves", 300)
    pool._directory.gateways.clear()
    await pool.refresh()
    assert await running == (FinishReason.LENGTH, 300)
    with pytest.raises(NotServingError):
        await anext(pool.submit(request("too-late")))


async def test_a_reader_that_stalls_holds_nothing_of_the_engine(pool, gateway):
    stream = pool.submit(request("stalls", max_tokens=300))
    count = len((await anext(stream)).token_ids)
    await until(lambda: gateway.engine.load().running == 0)
    assert gateway.engine.load().kv_blocks_used == 0
    count += sum([len(delta.token_ids) async for delta in stream])
    assert count == 300


async def test_requests_that_are_aborted_together_end_with_their_reason(pool):
    running = [await started(pool, f"abort-{i}", 1000) for i in range(3)]
    await pool.abort_all()
    assert [reason for reason, _ in await asyncio.gather(*running)] == [FinishReason.ABORT] * 3


@pytest.mark.parametrize("by", ["the same frontend", "another frontend"])
@pytest.mark.parametrize("hold", [None, Hold(30.0, b"me", b"")])
async def test_abort_while_a_gateway_makes_ready_ends_the_request(
    pool, gateway, monkeypatch, hold, by
):
    has_begun, may_go_on = threading.Event(), threading.Event()

    async def compile_long(_request):
        has_begun.set()
        await until(may_go_on.is_set)
        return ()

    monkeypatch.setattr(gateway.hub, "_guides_of", compile_long)
    asked = replace(request("early", max_tokens=1000), owner=b"me", hold=hold)
    running = asyncio.create_task(ended(pool.submit(asked)))
    await until(has_begun.is_set)
    if by == "another frontend":
        other = GatewayPool(Directory(gateway=gateway.address), TOKEN)
        await other.start(60.0)
        assert not await other.abort("early", owner=b"someone else")
        assert await other.abort("early", owner=b"me")
        await other.close()
    else:
        assert await pool.abort("early")
    may_go_on.set()
    last = await running
    assert last.finish_reason is FinishReason.ABORT
    assert last.offset < 1000
    await pool.forget("early")


@pytest.mark.parametrize("hold", [None, Hold(30.0, b"me", b"")])
async def test_abort_that_overtakes_its_request_ends_it(pool, gateway, monkeypatch, hold):
    has_begun, may_go_on, stream = threading.Event(), threading.Event(), gateway.hub.stream

    async def late(*arguments):
        has_begun.set()
        await until(may_go_on.is_set)  # as if many images were still on their way
        async with aclosing(stream(*arguments)) as deltas:
            async for delta in deltas:
                yield delta

    monkeypatch.setattr(gateway.hub, "stream", late)
    asked = replace(request("overtaken", max_tokens=1000), owner=b"me", hold=hold)
    running = asyncio.create_task(ended(pool.submit(asked)))
    await until(has_begun.is_set)
    assert await pool.abort("overtaken")
    may_go_on.set()
    last = await running
    assert last.finish_reason is FinishReason.ABORT
    assert last.offset < 1000
    await pool.forget("overtaken")


async def test_request_under_which_the_pool_is_closed_ends_with_an_error(pool):
    running = await started(pool, "closed", 1000)
    await pool.close()
    with pytest.raises(NotServingError):
        await running


async def test_cancelled_caller_stays_cancelled(pool, gateway):
    running = await started(pool, "cancelled", 1000)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await until(lambda: gateway.engine.load().running == 0)


async def test_gateway_that_cannot_be_reached_is_passed_over(pool):
    pool._directory.gateways["dead"] = "127.0.0.1:9"  # discard: nobody listens
    for i in range(8):
        await pool.refresh()
        prompt = (5, 6, 7 + i)  # its affinity may point to either
        deltas = [d async for d in pool.submit(request(f"over-{i}", prompt, max_tokens=2))]
        assert deltas[-1].finish_reason is FinishReason.LENGTH
    assert list(pool._aside) == ["dead"]  # asked for a sign of life, but given no request


async def test_controller_that_does_not_know_everyone_yet_takes_nobody_away(pool):
    pool._directory.gateways.clear()
    pool._directory.is_settled = False
    await pool.refresh()
    deltas = [d async for d in pool.submit(request("kept", max_tokens=2))]
    assert deltas[-1].finish_reason is FinishReason.LENGTH
