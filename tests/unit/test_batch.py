import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.fixture_models import checkpoint
from router.model.batch import Chunk, _any_batch, _decode_batch, build_batch
from router.model.kv_cache import PagedLatentCache

BLOCK = 16
CACHE = PagedLatentCache(checkpoint().config, 8, BLOCK, torch.bfloat16)
decode_chunks = st.builds(
    lambda token, start, blocks: Chunk([token], start, blocks, 1),
    st.integers(0, 500),
    st.integers(0, 6 * BLOCK - 1),
    st.permutations(range(8)).map(lambda order: list(order)[:6]),
)


@settings(deadline=None)
@given(st.lists(decode_chunks, min_size=1, max_size=40))
def test_a_decode_step_is_laid_out_as_any_other(chunks):
    fast, general = _decode_batch(chunks, BLOCK), _any_batch(chunks, CACHE)
    for name in ("num_tokens", "num_rows", "block_size", "chunks"):
        assert getattr(fast, name) == getattr(general, name)
    for name in ("positions", "slots", "first_row"):
        assert np.array_equal(getattr(fast, name), getattr(general, name))
    for name in ("token_ids", "logit_rows"):
        assert torch.equal(getattr(fast, name), getattr(general, name))


@pytest.mark.parametrize(
    "chunk", [Chunk([3], 5, [1], 0), Chunk([3, 4], 5, [1], 1), Chunk([3, 4], 5, [1], 2)]
)
def test_other_steps_keep_what_they_want(chunk):
    batch = build_batch([Chunk([7], 2, [2], 1), chunk], CACHE)
    last = batch.num_tokens
    wanted = [0, *range(last - chunk.num_logits, last)]
    assert batch.logit_rows.tolist() == wanted
    assert batch.token_ids[:last].tolist() == [7, *chunk.token_ids]
