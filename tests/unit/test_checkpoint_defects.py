import logging
import pickle

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from galerne.errors import CheckpointError
from helpers.checkpoint_files import (
    FIXTURES,
    copy_fixture,
    edit_json,
    read_tensors,
    replace_tensor,
    split_in_two,
    zeros,
)
from helpers.corrupt import CORRUPTIONS, Corruption
from shards.checkpoint.open import open_checkpoint


@pytest.mark.parametrize("corruption", CORRUPTIONS, ids=lambda c: c.name.replace(" ", "-"))
def test_damaged_checkpoint_is_refused_with_file_tensor_expected_and_found(
    corruption: Corruption, tmp_path
):
    path = copy_fixture(corruption.fixture, tmp_path)
    corruption.damage(path)

    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path)

    error = pickle.loads(pickle.dumps(caught.value))
    assert error.file.rsplit("/", 1)[1] == corruption.file
    assert error.tensor == corruption.tensor
    assert corruption.expected in error.expected
    assert corruption.found in error.found


def refusal_of(path) -> CheckpointError | None:
    try:
        open_checkpoint(path)
    except CheckpointError as error:
        return error
    return None


UNSUPPORTED_HF = [
    ("first_k_dense_replace", 1),
    ("norm_topk_prob", False),
    ("rope_interleave", False),
    ("attention_bias", True),
    ("hidden_act", "relu"),
    ("n_shared_experts", 0),
    ("num_experts_per_tok", 17),
    ("qk_rope_head_dim", 15),
    ("rms_norm_eps", 0.0),
    ("vocab_size", 1.5),
    ("num_hidden_layers", True),
    ("model_type", "deepseek_v3"),
    ("sliding_window", 4096),
    ("num_key_value_heads", 1),
]


@pytest.mark.parametrize(("key", "value"), UNSUPPORTED_HF)
def test_unsupported_value_in_hf_config_is_refused_by_key(key, value, tmp_path):
    path = copy_fixture("tiny-hf-bf16", tmp_path)
    edit_json(path / "config.json", "text_config", key, value=value)
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path)
    assert caught.value.file == str(path / "config.json")
    # A rotary width that is odd is found out by the sum it enters.
    assert ("qk_head_dim" if key == "qk_rope_head_dim" else key) in caught.value.expected


UNSUPPORTED_NATIVE = [
    (("moe", "num_expert_groups"), 8),
    (("moe", "use_load_balancing_bias"), True),
    (("moe", "first_k_dense_replace"), 1),
    (("moe", "num_shared_experts"), 0),
    (("moe", "routed_scale"), "one"),
    (("yarn", "apply_scale"), None),
    (("yarn", "factor"), float("nan")),
    (("llama_4_scaling",), None),
    (("quantization", "qformat_weight"), "nvfp4"),
    (("quantization", "quant_method"), "compressed-tensors"),
    (("vision_encoder", "adapter_bias"), True),
    (("vision_encoder", "num_attention_heads"), 3),
]


@pytest.mark.parametrize(("keys", "value"), UNSUPPORTED_NATIVE, ids=lambda v: str(v))
def test_unsupported_value_in_native_params_is_refused_by_key(keys, value, tmp_path):
    path = copy_fixture("tiny-native-fp8", tmp_path)
    edit_json(path / "params.json", *keys, value=value)
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path)
    assert caught.value.file == str(path / "params.json")
    named = "3 heads" if keys[-1] == "num_attention_heads" else ".".join(keys)
    assert named in caught.value.expected


def test_unknown_tensors_are_told_once_and_not_refused(tmp_path, caplog):
    path = copy_fixture("tiny-hf-bf16", tmp_path)
    for name in ("zoo.b", "zoo.a"):
        replace_tensor(path / "model.safetensors", name, zeros("I32", 3))

    with caplog.at_level(logging.WARNING):
        open_checkpoint(path)

    (record,) = caplog.records
    assert "count=2 first=zoo.a,zoo.b" in record.getMessage()


def test_activation_scales_and_fake_quantizers_pass_without_a_word(tmp_path, caplog):
    path = copy_fixture("tiny-native-fp8", tmp_path)
    name = "layers.0.attention.k_fake_quantizer.qscale_act"
    replace_tensor(path / "consolidated.safetensors", name, zeros("BF16"))
    with caplog.at_level(logging.WARNING):
        open_checkpoint(path)
    assert caplog.records == []


def test_several_files_without_an_index_are_opened_together(tmp_path):
    path = copy_fixture("tiny-native-bf16", tmp_path)
    split_in_two(path, "consolidated")
    (path / "consolidated.safetensors.index.json").unlink()
    assert len(open_checkpoint(path).tensors.files) == 2


HF_BYTES = (FIXTURES / "tiny-hf-fp8" / "model.safetensors").read_bytes()
HEADER_END = 8 + int.from_bytes(HF_BYTES[:8], "little")


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(at=st.integers(0, HEADER_END - 1), byte=st.integers(0, 255))
def test_any_changed_byte_of_a_header_opens_or_is_refused_by_name(at, byte, tmp_path):
    path = tmp_path / "tiny-hf-fp8"
    if not path.exists():
        copy_fixture("tiny-hf-fp8", tmp_path)
    damaged = bytearray(HF_BYTES)
    damaged[at] = byte
    (path / "model.safetensors").write_bytes(damaged)
    refusal = refusal_of(path)
    assert refusal is None or refusal.file == str(path / "model.safetensors")


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(size=st.integers(0, len(HF_BYTES) - 1))
def test_file_cut_at_any_byte_is_refused_with_its_size(size, tmp_path):
    path = tmp_path / "tiny-hf-fp8"
    if not path.exists():
        copy_fixture("tiny-hf-fp8", tmp_path)
    (path / "model.safetensors").write_bytes(HF_BYTES[:size])
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path)
    assert caught.value.found == f"{size} bytes"
    assert (caught.value.tensor is not None) == (size >= HEADER_END)


def test_helper_reads_back_what_the_fixture_holds():
    tensors = read_tensors(FIXTURES / "tiny-hf-bf16" / "model.safetensors")
    assert tensors["language_model.model.norm.weight"].shape == (64,)
