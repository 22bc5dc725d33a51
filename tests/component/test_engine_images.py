"""Images in the engine: beside decoding, cached, batched, resumed; always the same bits."""

from dataclasses import replace

import pytest

from galerne.errors import NotServingError
from helpers.fixture_models import checkpoint
from helpers.gateways import engine, request
from helpers.pictures import picture, picture_prompt
from router.engine.request import FinishReason, ResumedChoice
from router.model.vision_limits import VisionLimits

LARGE = picture(30, 30, 5)  # 3600 patches: 15 blocks, each visited 5 times


def shown(name, *images, **sampling):
    ids, placed = picture_prompt(*images)
    fields = {"cache_salt": name, "max_tokens": 6, "logprobs": 4} | sampling
    return request(name, ids, images=placed, **fields)


def seen(deltas):
    return [(d.token_ids, d.logprobs, d.finish_reason) for d in deltas]


@pytest.fixture(scope="module")
def running():
    limits = VisionLimits(patches_per_step=1)
    sizes = {"num_blocks": 300, "max_model_len": 2048}
    with engine(checkpoint(), vision=limits, **sizes) as pair:
        yield pair


def ask(running, *requests):
    made, collector = running
    futures = [made.submit(r) for r in requests]
    for future in futures:
        future.result(60)
    return [seen(collector.wait(r.request_id)) for r in requests]


def metric(made, name, **labels):
    made.metrics_text()
    return made.metrics.set.registry.get_sample_value(f"galerne_{name}", labels)


def test_decode_goes_on_step_by_step_while_a_large_image_is_encoded(running):
    made, collector = running
    text = {"max_tokens": 900, "seed": 1, "temperature": 1.0}
    (alone,) = ask(running, request("alone", **text))
    made.submit(request("text", **text)).result(60)
    collector.wait("text", tokens=1)
    steps = made.num_steps
    made.submit(shown("large", LARGE)).result(60)
    steps = made.num_steps - steps
    assert len(collector.deltas["text", 0]) < 900, "the stream was to outlast the image"
    assert steps >= 75, "a step after each share"
    assert seen(collector.wait("text")) == alone
    assert len(collector.tokens("large")) == 6


def test_image_seen_again_is_not_encoded_again_and_changes_no_bit(running):
    made, _ = running
    hits, misses = (metric(made, "image_cache_lookups_total", result=r) for r in ("hit", "miss"))
    first = shown("first", picture(2, 3, 6), picture(3, 1, 7))
    again = replace(first, request_id="again", cache_salt="other")
    assert ask(running, first) == ask(running, again)
    assert metric(made, "image_cache_lookups_total", result="miss") - misses == 2
    assert metric(made, "image_cache_lookups_total", result="hit") - hits == 2
    assert metric(made, "image_cache_bytes") > 0


def test_neither_cache_nor_batch_changes_a_bit(running):
    images = [picture(rows, 4, 10 + rows) for rows in (1, 2, 3, 4)]
    requests = [shown(f"b{i}", image, images[0]) for i, image in enumerate(images)]
    together = ask(running, *requests)
    limits = VisionLimits(cache_bytes=1, patches_per_batch=1)
    with engine(checkpoint(), vision=limits) as alone:
        assert [ask(alone, r)[0] for r in requests] == together
        assert metric(alone[0], "image_cache_lookups_total", result="hit") == 0
        assert metric(alone[0], "images_encoded_total") == 7
        assert metric(alone[0], "image_batches_total") == 7


def test_blocks_of_a_prompt_are_found_again_with_the_same_image_only(running):
    _, collector = running
    ids, placed = picture_prompt(picture(5, 6, 20), tail=range(20, 90))
    other = (picture(5, 6, 21),)
    sampling = {"cache_salt": "prefix", "max_tokens": 4, "logprobs": 2}
    for name, images in (("one", placed), ("same", placed), ("other", other)):
        ask(running, request(name, ids, images=images, **sampling))
    first, same, changed = (collector.wait(name) for name in ("one", "same", "other"))
    cached = [deltas[0].num_cached_tokens for deltas in (first, same, changed)]
    assert cached == [0, (len(ids) - 1) // 16 * 16, 0]
    assert seen(same) == seen(first) != seen(changed)


def test_request_that_moved_here_goes_on_with_its_image(running):
    whole = shown("whole", picture(4, 4, 30), max_tokens=40)
    (deltas,) = ask(running, whole)
    tokens = [token for ids, _, _ in deltas for token in ids]
    resumed = (ResumedChoice(tuple(tokens[:15])),)
    moved = replace(whole, request_id="moved", cache_salt="elsewhere", resumed=resumed)
    assert ask(running, moved) == [deltas[15:]]
    blind = replace(moved, request_id="blind", images=(picture(4, 4, 31),), cache_salt="blind")
    assert ask(running, blind) != [deltas[15:]]


def test_image_is_held_for_its_request_and_no_longer():
    limits = VisionLimits(cache_bytes=1)
    with engine(checkpoint(), vision=limits) as pair:
        made, collector = pair
        made.submit(shown("runs", picture(2, 2, 40), max_tokens=300)).result(60)
        collector.wait("runs", tokens=1)
        made.preempt("runs").result(60)
        waits = made.submit(shown("waits", picture(2, 2, 41)))
        assert len(collector.tokens("runs")) == 300
        waits.result(60)
        collector.wait("waits")
        assert metric(made, "images_encoded_total") == 2


def manual():
    """An engine that the test moves: its thread is not started."""
    sizes = {"num_blocks": 300, "max_model_len": 2048}
    return engine(checkpoint(), vision=VisionLimits(patches_per_step=1), is_started=False, **sizes)


def test_abort_of_a_request_whose_image_is_being_encoded_ends_it_and_frees_all():
    with manual() as (made, collector):
        admitted = made.submit(shown("gone", LARGE, n=2))
        made.take_commands()
        made.prepare_some()
        assert not admitted.done()
        assert made.load().waiting == 2
        assert made.load_totals().waiting == 2
        aborted = made.abort("gone")
        made.take_commands()
        assert aborted.result(0)
        assert admitted.result(0) is None
        assert [collector.wait("gone", choice)[-1].finish_reason for choice in (0, 1)] == [
            FinishReason.ABORT
        ] * 2
        assert not made.prepare_some()
        assert made.load().waiting == 0
        assert made.load_totals().waiting == 0
        assert metric(made, "images_waiting") == metric(made, "image_cache_bytes") == 0


def test_engine_that_ends_lets_requests_with_images_go_elsewhere():
    with manual() as (made, _):
        admitted = made.submit(shown("moves", LARGE))
        made.take_commands()
        made.prepare_some()
        made._is_stopping = True
        made.start()
        assert isinstance(admitted.exception(10), NotServingError)
