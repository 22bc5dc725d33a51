"""The same bits with weights of less than bf16; apart from test_identity, which changes kernels."""

import pytest

from helpers.fixture_models import FIXTURES, checkpoint
from helpers.identity import SAMPLINGS, digests
from shards.kernels.formats import WeightFormat


@pytest.mark.parametrize("held", [WeightFormat.INT8, WeightFormat.INT4])
def test_weights_of_less_bits_keep_the_law(held):
    """Local and by shards, together and alone; and they are not what bf16 gives."""
    source, greedy = checkpoint(), SAMPLINGS["greedy"]
    want = digests(source, greedy, together=True, held=held)
    path = FIXTURES / "tiny-hf-bf16"
    dense = {"dense": WeightFormat.INT8}
    assert digests(source, greedy, together=False, held=held) == want
    assert digests(source, greedy, together=True, held=held, shards=2, path=path) == want
    assert digests(source, greedy, together=True) != want
    with_dense = digests(source, greedy, together=True, held=held, **dense)
    assert with_dense != want
    assert digests(source, greedy, together=False, held=held, threads=2, **dense) == with_dense
