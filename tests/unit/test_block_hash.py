import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.engine import sequence as sequence_module
from router.engine.block_hash import ROOT, HashContext, block_keys
from router.engine.request import GenerationRequest, ImageInput, SamplingParams
from router.engine.sequence import Sequence

CONTEXT = HashContext(model_fingerprint="tiny", numerics_profile="reference", mla_form="absorbed")
NO_PIXELS = np.zeros((3, 0, 0), dtype=np.float32)


def create_image(offset: int = 0, content: bytes = b"cat", width: int = 2, height: int = 2):
    return ImageInput(
        pixels=NO_PIXELS,
        offset=offset,
        grid_width=width,
        grid_height=height,
        content_hash=content,
    )


def create_keys(tokens, images=(), context=CONTEXT, block_size=4):
    return block_keys(tokens, images, context, block_size)


token_lists = st.lists(st.integers(0, 3), max_size=40)


@given(a=token_lists, b=token_lists, block_size=st.integers(1, 5))
def test_two_texts_share_exactly_the_blocks_of_their_common_prefix(a, b, block_size):
    keys_a = create_keys(a, block_size=block_size)
    keys_b = create_keys(b, block_size=block_size)
    for index, (key_a, key_b) in enumerate(zip(keys_a, keys_b, strict=False)):
        end = (index + 1) * block_size
        assert (key_a == key_b) == (a[:end] == b[:end])
    assert len(set(keys_a)) == len(keys_a) == len(a) // block_size


@given(
    tokens=st.lists(st.integers(0, 2**17), min_size=8, max_size=40),
    offsets=st.lists(st.integers(0, 20), max_size=2),
    cuts=st.lists(st.integers(0, 40), max_size=4),
)
def test_naming_a_growing_sequence_piecewise_gives_the_same_keys(tokens, offsets, cuts):
    images = [create_image(offset, bytes([i])) for i, offset in enumerate(offsets)]
    keys: list[bytes] = []
    for cut in [*sorted(cuts), len(tokens)]:
        parent = keys[-1] if keys else ROOT
        keys += block_keys(tokens[:cut], images, CONTEXT, 4, len(keys), parent)
    assert keys == create_keys(tokens, images)


@settings(max_examples=100)
@given(
    num_tokens=st.integers(8, 60),
    offset=st.integers(0, 50),
    width=st.integers(1, 4),
    height=st.integers(1, 4),
    block_size=st.integers(1, 6),
)
def test_images_of_one_size_share_no_block_from_their_first_token_on(
    num_tokens, offset, width, height, block_size
):
    tokens = [10] * num_tokens
    cat = create_keys(tokens, [create_image(offset, b"cat", width, height)], block_size=block_size)
    dog = create_keys(tokens, [create_image(offset, b"dog", width, height)], block_size=block_size)
    first = offset // block_size
    assert cat[:first] == dog[:first]
    assert not set(cat[first:]) & set(dog[first:])


def test_one_image_at_two_places_shares_no_block_from_the_first_place_on():
    tokens = [10] * 24
    early = create_keys(tokens, [create_image(5)])
    late = create_keys(tokens, [create_image(6)])
    assert early[0] == late[0]
    assert not set(early[1:]) & set(late[1:])


def test_swapped_images_share_no_block_and_their_listing_order_does_not_matter():
    tokens = [10] * 24
    cat, dog = create_image(0, b"cat"), create_image(6, b"dog")
    swapped = [create_image(0, b"dog"), create_image(6, b"cat")]
    assert create_keys(tokens, [cat, dog]) == create_keys(tokens, [dog, cat])
    assert not set(create_keys(tokens, [cat, dog])) & set(create_keys(tokens, swapped))


@pytest.mark.parametrize("name", [f.name for f in dataclasses.fields(HashContext)])
def test_every_field_of_the_context_separates(name):
    tokens = list(range(12))
    other = dataclasses.replace(CONTEXT, **{name: "other"})
    assert not set(create_keys(tokens)) & set(create_keys(tokens, context=other))


def test_text_cannot_move_between_fields_of_the_context():
    tokens = list(range(4))
    a = dataclasses.replace(CONTEXT, adapter="ab", salt="c")
    b = dataclasses.replace(CONTEXT, adapter="a", salt="bc")
    assert create_keys(tokens, context=a) != create_keys(tokens, context=b)


def test_salt_may_hold_any_text():
    assert create_keys(range(4), context=dataclasses.replace(CONTEXT, salt="\ud800"))


@pytest.mark.parametrize(("start_block", "parent"), [(0, b"x" * 32), (1, ROOT)])
def test_parent_that_does_not_go_with_the_start_is_refused(start_block, parent):
    with pytest.raises(ValueError, match="parent"):
        block_keys(range(8), (), CONTEXT, 4, start_block, parent)


def test_block_size_below_one_is_refused():
    with pytest.raises(ValueError, match="block_size"):
        create_keys(range(8), block_size=0)


def test_sequence_hashes_every_full_block_once_while_it_grows(monkeypatch):
    hashed = []

    def record(*args, **kwargs):
        keys = block_keys(*args, **kwargs)
        hashed.extend(keys)
        return keys

    monkeypatch.setattr(sequence_module, "block_keys", record)
    request = GenerationRequest(
        request_id="r", prompt_token_ids=(1, 2), sampling=SamplingParams(), images=(create_image(),)
    )
    sequence = Sequence(
        request=request,
        choice=0,
        arrival=0,
        token_ids=[1, 2],
        num_prompt=2,
        max_num_tokens=40,
        hash_context=CONTEXT,
    )
    for token_id in range(30):
        sequence.token_ids.append(token_id)
        sequence.name_full_blocks(block_size=4)
    assert hashed == sequence.keys == create_keys(sequence.token_ids, request.images)
