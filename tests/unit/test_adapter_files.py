"""What an adapter's files may say, and what is refused by name."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from galerne.adapters import AdapterInfo
from galerne.errors import CheckpointError, ConfigError, InvalidRequestError
from helpers.adapters import PREFIX, opened, write_adapter, write_files
from helpers.fixture_models import checkpoint
from shards.adapters.adapter import key_of, open_adapter
from shards.adapters.directory import find_adapter
from shards.adapters.low_rank import stacked
from shards.merge import merge
from shards.wire import RequestRows

CONFIG = checkpoint().config
ONE = {"layers": [0], "routed": False}


def changed(path, tensors=None, config=None):
    """An adapter of one layer with other tensors or settings."""
    made = write_adapter(path / "made", CONFIG, **ONE)
    data = load_file(made / "adapter_model.safetensors")
    for name, tensor in (tensors or {}).items():
        data.pop(name) if tensor is None else data.__setitem__(name, tensor)
    fields = json.loads((made / "adapter_config.json").read_text()) | (config or {})
    return write_files(path / "changed", data, fields)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"peft_type": "IA3"}, "peft_type"),
        ({"use_dora": True}, "use_dora"),
        ({"bias": "all"}, "bias"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"r": 0}, "r as a whole number"),
        ({"r": 5}, "shape"),
        ({"lora_alpha": "much"}, "lora_alpha"),
        ({"rank_pattern": {"(a+)+$": 4}}, "rank_pattern"),
    ],
)
def test_a_setting_that_cannot_be_served_is_named(tmp_path, config, said):
    with pytest.raises(CheckpointError, match=said):
        open_adapter(changed(tmp_path, config=config), CONFIG)


Q_A = f"{PREFIX}0.self_attn.q_a_proj.lora_A.weight"


@pytest.mark.parametrize(
    ("name", "tensor", "said"),
    [
        (Q_A, torch.zeros(3, CONFIG.hidden_size), "shape"),
        (Q_A, torch.full((4, CONFIG.hidden_size), torch.nan), "finite"),
        (Q_A, torch.zeros(4, CONFIG.hidden_size, dtype=torch.int8), "BF16"),
        (Q_A, None, "both lora_A and lora_B"),
        (f"{PREFIX}0.mlp.gate.lora_A.weight", torch.zeros(4, 4), "the gate"),
        ("base_model.model.lm_head.lora_A.weight", torch.zeros(4, 4), "embedding or head"),
        ("base_model.model.model.embed_tokens.lora_embedding_A", torch.zeros(4, 4), "lora_A"),
        (f"{PREFIX}99.self_attn.q_a_proj.lora_A.weight", torch.zeros(4, 4), "no module"),
        (f"{PREFIX}0.mlp.experts.999.up_proj.lora_A.weight", torch.zeros(4, 4), "no module"),
        (f"{PREFIX}0.self_attn.q_a_proj.lora_magnitude_vector", torch.zeros(4), "lora_A"),
        (
            "base_model.model.model.vision_tower.transformer.layers.0.attention.q_proj.lora_A.weight",
            torch.zeros(4, 4),
            "vision tower",
        ),
    ],
)
def test_a_tensor_that_cannot_be_served_is_named(tmp_path, name, tensor, said):
    with pytest.raises(CheckpointError, match=said) as refused:
        open_adapter(changed(tmp_path, tensors={name: tensor}), CONFIG)
    assert "adapter_model.safetensors" in refused.value.file
    assert refused.value.tensor is not None


def test_scales_follow_rank_alpha_and_their_patterns(tmp_path):
    config = {"use_rslora": True, "alpha_pattern": {"self_attn.q_b_proj": 2.0}}
    adapter = open_adapter(changed(tmp_path, config=config), CONFIG)
    assert adapter.dense[0, "q_a"].scale == 8.0 / 2
    assert adapter.dense[0, "q_b"].scale == 2.0 / 2
    assert adapter.shared[0].gate.scale == 8.0 / 2
    assert adapter.rank == 4


def test_the_id_is_of_the_content_alone(tmp_path):
    first = opened(tmp_path / "a", CONFIG, **ONE)
    same = opened(tmp_path / "b", CONFIG, **ONE)
    other = opened(tmp_path / "c", CONFIG, alpha=9.0, **ONE)
    assert first.id == same.id != other.id
    assert key_of(first.id) == first.key != 0
    assert key_of("") == key_of("no id") == key_of("X" * 16) == 0


@pytest.mark.parametrize(
    "name", ["..", "../x", "a/b", "/etc", "", ".hidden", "a\0b", "ü", "a" * 200]
)
def test_only_a_plain_name_inside_the_directory_is_opened(tmp_path, name):
    write_adapter(tmp_path / "x", CONFIG, **ONE)
    (tmp_path / "root").mkdir()
    with pytest.raises(InvalidRequestError, match="lora_path"):
        find_adapter(tmp_path / "root", AdapterInfo(name="n", directory=name), CONFIG)


def test_an_adapter_is_found_by_name_and_by_no_other_content(tmp_path):
    write_adapter(tmp_path / "x", CONFIG, **ONE)
    wanted = AdapterInfo(name="n", directory="x")
    found = find_adapter(tmp_path, wanted, CONFIG)
    known = AdapterInfo(name="n", directory="x", id=found.id)
    assert find_adapter(tmp_path, known, CONFIG).id == found.id
    with pytest.raises(CheckpointError, match="another"):
        find_adapter(tmp_path, AdapterInfo(name="n", directory="x", id="0" * 16), CONFIG)
    with pytest.raises(CheckpointError, match="the directory of an adapter"):
        find_adapter(tmp_path, AdapterInfo(name="n", directory="y"), CONFIG)
    with pytest.raises(ConfigError, match="adapters"):
        find_adapter(None, wanted, CONFIG)


def test_changes_of_weights_stored_as_one_stay_apart(tmp_path):
    adapter = open_adapter(changed(tmp_path, config={"alpha_pattern": {"q_a_proj": 3.0}}), CONFIG)
    q_a, kv_a = adapter.dense[0, "q_a"], adapter.dense[0, "kv_a"]
    widths = [len(q_a.up), len(kv_a.up)]
    x = torch.randn(CONFIG.hidden_size)
    for pair in ((q_a, kv_a), (None, kv_a), (q_a, None)):
        both = stacked(pair, widths)
        want = [
            torch.zeros(n) if c is None else c.scale * c.up @ (c.down @ x)
            for c, n in zip(pair, widths, strict=True)
        ]
        torch.testing.assert_close(both.scale * both.up @ (both.down @ x), torch.cat(want))
    assert stacked((None, None), widths) is None


def stacked_files(path, config, *, is_transposed, only=None):
    """As PEFT writes ``target_parameters``, and the change of every expert as it computes it."""
    hidden, size, num, rank = config.hidden_size, config.expert_size, config.num_experts, 2
    generator = torch.Generator().manual_seed(5)
    shapes = {"mlp.experts": (2 * size, hidden), "mlp.experts.base_layer": (hidden, size)}
    tensors, changes = {}, {}
    for module, (num_out, num_in) in shapes.items():
        if only not in (None, module):
            continue
        if is_transposed:
            num_out, num_in = num_in, num_out
        a = torch.randn((rank * num, num_in), generator=generator)
        b = torch.randn((num_out, rank * num), generator=generator)
        tensors |= {f"{PREFIX}0.{module}.lora_A.weight": a, f"{PREFIX}0.{module}.lora_B.weight": b}
        how = "o r e, e r i -> e i o" if is_transposed else "o r e, e r i -> e o i"
        parts = b.reshape(num_out, rank, num), a.reshape(num, rank, num_in)
        changes[module] = torch.einsum(how, *parts) * 3.0
    write_files(path, tensors, {"r": rank, "lora_alpha": 6.0, "target_parameters": ["experts.x"]})
    return changes


@pytest.mark.parametrize("is_transposed", [False, True])
@pytest.mark.parametrize("size", [48, CONFIG.hidden_size // 2])
def test_stacked_experts_get_the_changes_that_peft_computes(tmp_path, is_transposed, size):
    config = replace(CONFIG, expert_size=size, num_experts=6)
    want = stacked_files(tmp_path / "a", config, is_transposed=is_transposed)
    adapter = open_adapter(tmp_path / "a", config)
    for expert in range(6):
        change = adapter.routed[0, expert]
        got = [c.scale * c.up @ c.down for c in change]
        gate_up = want["mlp.experts"][expert].chunk(2)
        for a, b in zip(got, (*gate_up, want["mlp.experts.base_layer"][expert]), strict=True):
            torch.testing.assert_close(a, b)


def test_a_stack_whose_shapes_leave_a_doubt_is_refused(tmp_path):
    config = replace(CONFIG, expert_size=CONFIG.hidden_size // 2)
    stacked_files(tmp_path / "a", config, is_transposed=False, only="mlp.experts")
    with pytest.raises(CheckpointError, match="tell gate_up_proj and down_proj"):
        open_adapter(tmp_path / "a", config)


def test_merged_frames_keep_every_tokens_adapter():
    def frame(num_tokens, adapters):
        tokens = torch.zeros((num_tokens, 4))
        ids = np.arange(num_tokens)
        return RequestRows(tokens, ids, np.ones(num_tokens, dtype=np.int64), ids, adapters)

    keys = np.array([5, 0, 1 << 63], dtype=np.uint64)
    merged = merge([frame(2, None), frame(3, keys)]).rows
    assert merged.adapters.tolist() == [0, 0, 5, 0, 1 << 63]
    assert merge([frame(2, None), frame(1, None)]).rows.adapters is None
