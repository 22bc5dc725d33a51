"""A gateway that dies, hangs or stops costs a pause; the stream is the same, token by token."""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from galerne.errors import NotServingError
from helpers.gateway_process import TOKEN, Directory, GatewayProcess, gateway_settings
from helpers.gateways import request
from helpers.pictures import picture
from helpers.waiting import until
from router.engine.request import FinishReason
from router.gateway.host import GatewayHost
from router.gateway.pool import GatewayPool
from router.gateway.stream_record import MAX_BARREN_MOVES, MAX_UNACCEPTED

PROMPTS = [(5, 6, 7 + i) for i in range(12)]
SAMPLED = {"temperature": 0.9, "seed": 11, "top_p": 0.9, "presence_penalty": 0.7, "logprobs": 2}


@pytest.fixture(scope="module")
def standing():
    """A gateway that nothing happens to."""
    host = GatewayHost(gateway_settings(0), None)
    yield host
    host.stop()


@asynccontextmanager
async def pool_over(wait_s=30.0, **gateways):
    moves = []
    pool = GatewayPool(Directory(**gateways), TOKEN, wait_s, lambda: moves.append(1))
    pool.moves = moves
    await pool.start(60.0)
    try:
        yield pool
    finally:
        await pool.close()


async def start_victim():
    """A gateway that ends no request before the test comes to kill it."""
    return await asyncio.to_thread(GatewayProcess, 1, hold_at=60)


def once(num_tokens, act):
    """Calls ``act`` when a stream has so many tokens."""
    acts = [act]

    def on_token(count):
        if count >= num_tokens and acts:
            acts.pop()()

    return on_token


async def follow(pool, asked, on_token=lambda count: None):
    """Everything that a client would see of each choice."""
    seen = [[] for _ in range(asked.sampling.n)]
    reasons = [None] * asked.sampling.n
    async for delta in pool.submit(asked):
        mine = seen[delta.choice]
        assert delta.offset == len(mine), "a token twice or missing"
        logprobs = delta.logprobs or [None] * len(delta.token_ids)
        mine += zip(delta.token_ids, logprobs, strict=True)
        reasons[delta.choice] = delta.finish_reason
        on_token(sum(map(len, seen)))
        await asyncio.sleep(0)
    return seen, reasons


async def owned_by(pool, gateway, image=None, **sampling):
    """A request that ``gateway`` would get."""
    for i, prompt in enumerate(PROMPTS):
        images = ()
        if image is not None:
            images = (replace(image, offset=len(prompt)),)
            prompt = (*prompt, *[10] * image.num_tokens, 5)
        asked = request(f"r-{gateway}-{i}", prompt, images, **sampling)
        record = type("Record", (), {"request": asked})
        if (await pool._member_for(record)).gateway == gateway:
            return asked
    raise AssertionError("all prompts go elsewhere")


@pytest.mark.parametrize(
    "sampling", [{}, SAMPLED, SAMPLED | {"n": 3}], ids=["greedy", "sampled", "n"]
)
async def test_stream_of_a_killed_gateway_goes_on_elsewhere_with_the_same_tokens(
    standing, sampling
):
    victim = await start_victim()
    try:
        async with pool_over(
            **{"gateway-0": standing.address, "gateway-1": victim.address}
        ) as pool:
            asked = await owned_by(pool, "gateway-1", max_tokens=200, **sampling)
            moved = await follow(pool, asked, once(40, victim.kill))
            assert len(pool.moves) == 1
        async with pool_over(**{"gateway-0": standing.address}) as pool:
            assert moved == await follow(pool, asked)
    finally:
        victim.close()


async def test_stream_of_a_killed_gateway_goes_on_elsewhere_with_its_image(standing):
    victim = await start_victim()
    try:
        async with pool_over(
            **{"gateway-0": standing.address, "gateway-1": victim.address}
        ) as pool:
            fields = {"max_tokens": 120, **SAMPLED}
            asked = await owned_by(pool, "gateway-1", picture(3, 4, 1), **fields)
            moved = await follow(pool, asked, once(40, victim.kill))
            assert len(pool.moves) == 1
        async with pool_over(**{"gateway-0": standing.address}) as pool:
            assert moved == await follow(pool, asked)
            other = replace(asked, images=(replace(picture(3, 4, 2), offset=3),))
            assert moved != await follow(pool, other)
    finally:
        victim.close()


async def test_stream_of_a_gateway_that_hangs_is_moved_and_what_it_says_later_is_not_heard(
    standing,
):
    victim = await start_victim()
    try:
        async with pool_over(
            **{"gateway-0": standing.address, "gateway-1": victim.address}
        ) as pool:
            asked = await owned_by(pool, "gateway-1", max_tokens=200)
            moved = await follow(pool, asked, once(20, victim.pause))
            assert len(pool.moves) == 1
            victim.resume()
            victim.go_on()
            await until(lambda: "gateway-1" in pool._members)  # it has given a sign of life
            assert await follow(pool, asked) == moved
    finally:
        victim.close()


async def test_stream_waits_for_the_only_gateway_to_come_back(standing):
    victim = await start_victim()
    async with pool_over(**{"gateway-1": victim.address}) as pool:

        async def come_back():
            await asyncio.sleep(0.5)
            pool._directory.gateways["gateway-1"] = standing.address

        tasks = []

        def kill():
            victim.kill()
            tasks.append(asyncio.create_task(come_back()))

        asked = request("waits", max_tokens=100, **SAMPLED)
        assert await follow(pool, asked, once(20, kill)) == await follow(pool, asked)
        assert len(pool.moves) == 1


async def test_a_gateway_that_stops_hands_its_streams_over(standing):
    leaving = GatewayHost(gateway_settings(1), None)
    async with pool_over(**{"gateway-0": standing.address, "gateway-1": leaving.address}) as pool:
        asked = await owned_by(pool, "gateway-1", max_tokens=400)
        stopped = []

        def stop():
            stopped.append(asyncio.create_task(asyncio.to_thread(leaving.stop)))

        seen, reasons = await follow(pool, asked, once(20, stop))
        assert (len(seen[0]), reasons) == (400, [FinishReason.LENGTH])
        await stopped[0]


async def test_stream_without_any_gateway_ends_with_the_offset_that_it_reached():
    victim = await start_victim()
    async with pool_over(0.5, **{"gateway-1": victim.address}) as pool:
        with pytest.raises(NotServingError, match=r"no gateway came back in 0\.5 s; reached \d\d+"):
            await follow(pool, request("lost", max_tokens=500), once(20, victim.kill))


async def test_streams_that_are_given_up_end_with_their_offset_and_others_are_refused(standing):
    async with pool_over(**{"gateway-0": standing.address}) as pool:

        def give_up():
            pool.give_up("the end is near")

        with pytest.raises(NotServingError, match=r"the end is near; reached \d\d+ tokens"):
            await follow(pool, request("given-up", max_tokens=500), once(20, give_up))
        with pytest.raises(NotServingError, match="the end is near; reached 0 tokens"):
            await follow(pool, request("refused", max_tokens=5))
        assert await pool.unready_reason() == "the end is near"
        pool.give_up(None)
        seen, _ = await follow(pool, request("served-again", max_tokens=5))
        assert len(seen[0]) == 5
        assert pool.moves == []


async def test_what_was_aborted_is_not_run_again(standing):
    victim = await start_victim()
    async with pool_over(**{"gateway-0": standing.address, "gateway-1": victim.address}) as pool:
        asked = await owned_by(pool, "gateway-1", max_tokens=900)
        tasks = []

        def abort_and_kill():
            victim.pause()
            tasks.append(asyncio.create_task(pool.abort(asked.request_id)))
            victim.kill()

        seen, reasons = await follow(pool, asked, once(20, abort_and_kill))
        assert reasons == [FinishReason.ABORT]
        assert len(seen[0]) < 900


async def test_a_request_that_ends_every_gateway_does_not_end_them_all(standing, monkeypatch):
    starts = []

    async def deadly(self, engine, asked, on_accepted):
        starts.append(asked)
        await on_accepted()
        raise NotServingError("it died of this request")
        yield

    monkeypatch.setattr(type(standing.hub), "stream", deadly)
    async with pool_over(**{"gateway-0": standing.address}) as pool:
        with pytest.raises(NotServingError, match="died of this request"):
            await follow(pool, request("deadly"))
    # Whether it had been accepted may go under with the stream.
    assert MAX_BARREN_MOVES < len(starts) <= MAX_BARREN_MOVES + 1 + MAX_UNACCEPTED
