"""The Eagle head's file: read as written, computed as trained, refused by name."""

import json
from dataclasses import replace
from random import Random

import pytest
import torch

from cluster.demo import EAGLE_DIRECTORY, MODEL_DIRECTORY
from cluster.demo.training.batches import batch_of
from cluster.demo.training.eagle import Head, Teacher, eagle_weights
from cluster.demo.training.model import Rows
from cluster.demo.training.render import demo_renderer
from cluster.demo.training.sizes import DEMO, EAGLE
from galerne.errors import CheckpointError, ConfigError
from helpers.fixture_models import BLOCK_SIZE, checkpoint
from router.engine.speculation.settings import SpeculationSettings
from router.gateway.draft_head import find_head
from router.model.batch import Chunk
from router.model.decoder import Decoder
from router.model.eagle import EagleHead
from shards.checkpoint.eagle import head_config, open_eagle
from shards.checkpoint.eagle_write import write_eagle
from shards.checkpoint.fields import Fields
from shards.checkpoint.open import open_checkpoint

TARGET = checkpoint().config
CONFIG = head_config(Fields("params.json", {"n_layers": 2, "hidden_dim": 40}), TARGET)


def trained(config, seed=1):
    """A head of random weights that bf16 can hold, as the training has it."""
    torch.manual_seed(seed)
    head = Head(config)
    for p in head.parameters():
        p.data = (p.data + 0.1 * torch.randn_like(p)).to(torch.bfloat16).float()
    return head


def write(path, config=CONFIG):
    head = trained(config)
    write_eagle(path, config, eagle_weights(head))
    return head


def test_a_head_of_two_layers_computes_what_its_training_computes(tmp_path):
    """In float32 to 1e-4: chunks through the paged cache against whole sequences.

    Below the position where the query temperature begins, which the training does not know.
    """
    num_rows = TARGET.llama4_original_max_positions - 2
    head = write(tmp_path)
    decoder = Decoder(checkpoint(), torch.float32)
    made = EagleHead(open_eagle(tmp_path, TARGET), decoder, 8, BLOCK_SIZE, torch.float32, 1)
    rng = Random(1)
    next_ids = [rng.randrange(20, 200) for _ in range(num_rows)]
    states = torch.randn(num_rows, TARGET.hidden_size)
    rows = Rows(torch.tensor(next_ids), torch.ones(num_rows, dtype=torch.bool), ((1, num_rows),))
    with torch.no_grad():
        want = head(rows, decoder.embed(torch.tensor(next_ids)), states)
    parts = []
    for start, stop in ((0, 15), (15, 27), (27, 28), (28, 29), (29, 30)):
        chunk = Chunk(next_ids[start:stop], start, [3, 1, 2])
        parts.append(made.run([chunk], states[start:stop]))
    torch.testing.assert_close(torch.cat(parts), want, rtol=0, atol=1e-4)


def test_fp8_weights_come_back_within_a_sixteenth(tmp_path):
    config = replace(CONFIG, is_fp8=True)
    head = write(tmp_path, config)
    opened = open_eagle(tmp_path, TARGET)
    assert opened.config == config
    for name, weight in eagle_weights(head).items():
        if ".mlp_" in name:
            continue
        got = opened.dense(name).to(torch.float32)
        assert ((got - weight).abs() <= weight.abs() / 16 + weight.abs().max() / 400).all(), name
    up = eagle_weights(head)["layers.1.mlp_up"]
    halves = opened.dense("layers.1.shared_up"), opened.expert(1, 0).gate_up[1]
    got = torch.cat([half.to(torch.float32) for half in halves])
    assert ((got - up).abs() <= up.abs() / 16 + up.abs().max() / 400).all()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"dim": 24}, "dim"),
        ({"n_heads": 3}, "n_heads"),
        ({"hidden_dim": 42}, "hidden_dim"),
        ({"hidden_dim": 44}, "feed_forward"),
        ({"n_layers": 3}, "layers.2"),
        ({"n_layers": None}, "n_layers"),
        ({"quantization": {"qformat_weight": "nvfp4"}}, "qformat_weight"),
    ],
)
def test_a_head_that_does_not_fit_is_refused_by_name(tmp_path, change, said):
    write(tmp_path)
    params = json.loads((tmp_path / "params.json").read_text()) | change
    (tmp_path / "params.json").write_text(json.dumps(params))
    with pytest.raises(CheckpointError, match=said):
        open_eagle(tmp_path, TARGET)


def test_a_directory_without_a_head_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"params\.json"):
        open_eagle(tmp_path, TARGET)


def test_a_missing_weight_is_not_written(tmp_path):
    weights = eagle_weights(trained(CONFIG))
    del weights["layers.1.o"]
    with pytest.raises(ValueError, match=r"layers\.1\.o"):
        write_eagle(tmp_path, CONFIG, weights)


def test_a_step_of_the_training_lowers_the_loss_on_its_batch():
    """Two tokens ahead, from the model's states and from the head's own."""
    torch.manual_seed(1)
    head, teacher = Head(EAGLE), Teacher(MODEL_DIRECTORY)
    batch = batch_of(demo_renderer(), "test", 1.0, 300)
    optimizer = torch.optim.Adam(head.parameters(), lr=3e-3)
    losses = []
    for _ in range(4):
        loss, right, own_right = teacher.losses(head, batch)
        assert 0 <= min(right, own_right) <= max(right, own_right) <= 1
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert EAGLE.hidden_size == DEMO.hidden_size


def test_the_head_that_is_asked_for_must_be_there(tmp_path):
    """And auto takes the one in the checkpoint's directory, if there is one."""
    eagle, auto = (SpeculationSettings(speculative=name) for name in ("eagle", "auto"))
    with pytest.raises(ConfigError, match="speculative"):
        find_head(eagle, tmp_path, TARGET)
    assert find_head(auto, tmp_path, TARGET) is None
    write(tmp_path / "eagle")
    assert find_head(auto, tmp_path, TARGET).config == CONFIG
    assert find_head(SpeculationSettings(), tmp_path, TARGET) is None
    elsewhere = SpeculationSettings(speculative="eagle", draft_model=EAGLE_DIRECTORY)
    demo = open_checkpoint(MODEL_DIRECTORY).config
    assert find_head(elsewhere, tmp_path, demo).config.num_layers == 1
