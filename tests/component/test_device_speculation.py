"""On a device too guesses and adapters change how tokens come, never which."""

from dataclasses import replace

import pytest

from galerne.adapters import AdapterInfo
from helpers.adapters import opened, with_adapters
from helpers.eagle_heads import random_head
from helpers.fixture_models import checkpoint, fixture_image, prompt
from helpers.gateways import Collector, engine, request
from helpers.guessing import always, eagle, knowing, ngram
from helpers.switchable import ShardBook, shape, start_gateway
from helpers.triton_device import DEVICE_NAME
from router.engine.speculation.settings import SpeculationSettings

pytestmark = pytest.mark.filterwarnings("ignore:.* encountered in:RuntimeWarning")

SOURCE = checkpoint()
LOOP = tuple([40, 41, 42] * 4)


def run(requests, adapters, source=SOURCE, **options):
    """What every request said, and the engine's drafting."""

    def load(inner):
        with_adapters(inner.model, adapters)
        return inner

    with engine(source, device=DEVICE_NAME, wrap=load, **options) as (made, collector):
        for r in requests:
            made.submit(r).result(60)
        found = {(r.request_id, 0): collector.tokens(r.request_id, 0, 300) for r in requests}
    return found, made.drafting


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    return opened(tmp_path_factory.mktemp("adapters") / "one", SOURCE.config, seed=1)


@pytest.fixture(scope="module")
def mix(adapter):
    return [
        request("greedy", LOOP, max_tokens=6),
        request("seeded", LOOP[:7], max_tokens=6, temperature=0.9, seed=5, adapter=adapter.id),
        request("seen", prompt("image"), (fixture_image(),), max_tokens=4),
    ]


@pytest.fixture(scope="module")
def said(mix, adapter):
    return run(mix, [adapter])[0]


def test_an_adapter_and_an_image_change_what_is_said(mix, said, adapter):
    plain = [replace(mix[1], adapter=""), replace(mix[2], images=())]
    changed = run(plain, [adapter])[0]
    assert changed["seeded", 0] != said["seeded", 0]
    alone = run(mix[:1], [])[0]
    assert alone["greedy", 0] == said["greedy", 0]


@pytest.mark.parametrize("way", ["knowing", "ngram", "eagle"])
def test_streams_are_the_same_with_guesses(mix, said, adapter, tmp_path, way):
    if way == "eagle":
        head = random_head(tmp_path, SOURCE.config)
        drafting = eagle(head, always(2), device=DEVICE_NAME)
    else:
        drafting = ngram(always()) if way == "ngram" else knowing(said, always(3), wrong=0.2)
    found, made = run(mix, [adapter], drafting=drafting)
    assert made.is_on  # it did not fail
    assert found == said
    assert made.num_drafted > 0 or way == "ngram"
    assert made.num_accepted > 0 or way != "knowing"


def test_a_gateway_on_a_device_takes_adapters_and_a_head(tmp_path):
    """As ``galerne serve --device cuda`` builds one."""
    source = checkpoint("tiny-native-bf16")
    made = opened(tmp_path / "adapters" / "one", source.config, seed=1)
    random_head(tmp_path / "head", source.config)
    book = ShardBook()
    settings = {
        "adapters_root": tmp_path / "adapters",
        "adapters": (AdapterInfo(name="one", id=made.id, directory="one"),),
        "speculation": SpeculationSettings(
            speculative="eagle", draft_model=tmp_path / "head", num_draft_tokens=2
        ),
    }
    asked = request("r", LOOP[:7], max_tokens=4, adapter=made.id)
    want = run([asked], [made], source)[0]
    host = start_gateway(shape(1), book, device=DEVICE_NAME, **settings)
    try:
        assert host.engine.drafting._source.name == "eagle"
        host.hub.publish = host.engine._on_deltas = collector = Collector()
        host.engine.submit(asked).result(60)
        assert collector.tokens("r", 0, 300) == want["r", 0]
        assert host.engine.drafting.num_drafted > 0
        assert host.engine.drafting.is_on
    finally:
        host.stop()
        book.close()
