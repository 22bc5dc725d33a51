"""A bounded cache whose entries may be held."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from router.model.feature_cache import FeatureCache
from router.model.image_encoder import batch_length
from router.model.vision import cut


def features(num_bytes):
    return torch.zeros(num_bytes, dtype=torch.uint8)


def test_longest_unused_goes_first_and_what_is_held_stays():
    cache = FeatureCache(100)
    for name in (b"a", b"b", b"c"):
        cache.put(name, features(30))
    assert cache.get(b"a") is not None
    cache.hold(b"b", 30)
    cache.put(b"d", features(30))
    assert [name in cache for name in (b"a", b"b", b"c", b"d")] == [True, True, False, True]
    cache.put(b"e", features(30))
    assert [name in cache for name in (b"a", b"b", b"d", b"e")] == [False, True, True, True]


def test_room_is_set_aside_before_features_come_and_one_may_always_have_it():
    cache = FeatureCache(100)
    assert cache.has_room_for({b"large": 500})
    cache.hold(b"a", 60)
    assert cache.has_room_for({b"a": 60, b"b": 40})
    assert not cache.has_room_for({b"b": 41})
    assert cache.num_bytes == 60


class Model(RuleBasedStateMachine):
    """Beside a plain list of who holds what."""

    def __init__(self):
        super().__init__()
        self.cache = FeatureCache(100)
        self.holds = []

    names = st.integers(1, 9)

    @rule(name=names)
    def put(self, name):
        self.cache.put(bytes([name]), features(name * 10))

    @rule(name=names)
    def hold(self, name):
        wanted = {bytes([name]): name * 10}
        if self.cache.has_room_for(wanted):
            self.cache.hold(bytes([name]), name * 10)
            self.holds.append(name)

    @precondition(lambda self: self.holds)
    @rule(data=st.data())
    def release(self, data):
        name = data.draw(st.sampled_from(self.holds))
        self.holds.remove(name)
        self.cache.release(bytes([name]))

    @invariant()
    def is_bounded(self):
        assert self.cache.held_bytes == sum(10 * name for name in set(self.holds))
        assert self.cache.num_bytes <= 100
        here = [name for name in range(1, 10) if bytes([name]) in self.cache]
        counted = sum(10 * name for name in {*here, *self.holds})
        assert self.cache.num_bytes == counted


TestModel = Model.TestCase


@given(st.lists(st.integers(1, 3000), max_size=8), st.integers(1, 5000), st.sampled_from([64, 256]))
def test_cut_covers_every_patch_once_in_blocks_counted_from_their_image(sizes, max_rows, block):
    slices = cut(sizes, max_rows, block)
    blocks = [b for part in slices for b in part.blocks]
    assert [row for b in blocks for row in range(b.start, b.stop)] == list(range(sum(sizes)))
    first = [sum(sizes[:image]) for image in range(len(sizes))]
    for image, start, stop in blocks:
        assert first[image] <= start < stop <= first[image] + sizes[image]
        assert (start - first[image]) % block == 0
        assert stop - start == block or stop == first[image] + sizes[image]
    for part in slices:
        assert part.num_rows <= max_rows or len(part.blocks) == 1


@pytest.mark.parametrize(
    ("sizes", "length"),
    [([], 0), ([5], 1), ([50], 1), ([4, 5], 2), ([4, 7], 1), ([50, 1], 1), ([3, 3, 3, 3], 3)],
)
def test_batch_takes_images_in_order_as_long_as_they_fit_and_one_at_least(sizes, length):
    assert batch_length(sizes, 10) == length
