import json
import os
import shutil
import warnings
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from galerne.errors import CheckpointError
from helpers.checkpoint_files import (
    FIXTURES,
    copy_fixture,
    edit_json,
    read_tensors,
    replace_tensor,
    split_in_two,
    write_tensors,
)
from shards.checkpoint.mapped import pairs_to_half_split
from shards.checkpoint.open import open_checkpoint

FIXTURE_NAMES = ("tiny-hf-bf16", "tiny-native-bf16", "tiny-hf-fp8", "tiny-native-fp8")
LAYERS, EXPERTS, HIDDEN, SIZE = 3, 16, 64, 32


def open_fixture(name):
    return open_checkpoint(FIXTURES / name)


def all_experts(checkpoint):
    for layer in range(checkpoint.config.num_layers):
        for index in range(checkpoint.config.num_experts):
            expert = checkpoint.expert(layer, index)
            gate_up = torch.cat([w.to(torch.float32) for w in expert.gate_up])
            yield gate_up, expert.down.to(torch.float32)


@contextmanager
def another_user():
    """Who may read nothing of ours."""
    if os.geteuid() == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        if os.getuid() == 0:
            os.seteuid(0)


@pytest.mark.parametrize("mode", [0o000, 0o600])
def test_a_directory_that_may_not_be_read_is_refused_by_name(tmp_path, mode):
    """As of a volume whose files belong to root, in a pod that is not."""
    path = tmp_path / "theirs" / "model"
    copy_fixture("tiny-hf-bf16", path)
    tmp_path.chmod(0o755)
    path.parent.chmod(mode)
    try:
        with another_user(), pytest.raises(CheckpointError, match="Permission denied") as caught:
            open_checkpoint(path)
    finally:
        path.parent.chmod(0o700)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", FIXTURE_NAMES)
def test_opening_and_fingerprinting_hand_out_no_tensor(name):
    checkpoint = open_fixture(name)
    assert len(checkpoint.fingerprint) == 64
    assert checkpoint.bytes_read == 0


@pytest.mark.parametrize("weights", ["bf16", "fp8"])
def test_both_layouts_give_one_config(weights):
    hf, native = open_fixture(f"tiny-hf-{weights}"), open_fixture(f"tiny-native-{weights}")
    assert hf.config == native.config
    assert hf.config.is_fp8 == (weights == "fp8")
    assert not hf.config.yarn_apply_scale  # though its config.json has mscale keys


def test_both_bf16_layouts_give_equal_weights():
    hf, native = open_fixture("tiny-hf-bf16"), open_fixture("tiny-native-bf16")
    for name in hf.layout.dense:
        assert torch.equal(hf.dense(name).data, native.dense(name).data), name
    for ours, theirs in zip(all_experts(hf), all_experts(native), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_hf_weights_equal_what_safetensors_reads():
    checkpoint = open_fixture("tiny-hf-bf16")
    reference = load_file(FIXTURES / "tiny-hf-bf16" / "model.safetensors")
    prefix = "language_model.model.layers.2."
    q_a = checkpoint.dense("layers.2.q_a").data
    assert torch.equal(q_a, reference[f"{prefix}self_attn.q_a_proj.weight"])
    assert torch.equal(
        checkpoint.dense("embed").data, reference["language_model.model.embed_tokens.weight"]
    )
    expert = checkpoint.expert(2, 5)
    assert torch.equal(expert.gate_up[0].data, reference[f"{prefix}mlp.experts.gate_up_proj"][5])
    assert torch.equal(expert.down.data, reference[f"{prefix}mlp.experts.down_proj"][5])


def test_hf_fp8_weight_is_code_times_scale():
    checkpoint = open_fixture("tiny-hf-fp8")
    reference = load_file(FIXTURES / "tiny-hf-fp8" / "model.safetensors")
    stem = "language_model.model.layers.1.mlp.experts.gate_up_proj"
    weight = checkpoint.expert(1, 7).gate_up[0]
    wanted = reference[stem][7].float() * reference[f"{stem}_scale_inv"][7].float()
    assert weight.scale.shape == ()
    assert weight.scale.dtype == torch.float32
    assert torch.equal(weight.to(torch.float32), wanted)

    stem = "language_model.model.layers.0.self_attn.o_proj.weight"
    wanted = reference[stem].float() * reference[f"{stem}_scale_inv"].float()
    assert torch.equal(checkpoint.dense("layers.0.o").to(torch.float32), wanted)
    assert checkpoint.dense("layers.0.gate").scale is None


def test_native_fp8_weight_is_code_times_scale():
    checkpoint = open_fixture("tiny-native-fp8")
    reference = load_file(FIXTURES / "tiny-native-fp8" / "consolidated.safetensors")
    expert = checkpoint.expert(2, 15)
    for short, weight in zip(("w1", "w3", "w2"), (*expert.gate_up, expert.down), strict=True):
        stem = f"layers.2.experts.15.{short}"
        scale = reference[f"{stem}.qscale_weight"].float()
        wanted = reference[f"{stem}.weight"].float() * scale
        assert torch.equal(weight.to(torch.float32), wanted)


@pytest.mark.parametrize(
    ("name", "bytes_of_expert"),
    [
        ("tiny-hf-bf16", 3 * HIDDEN * SIZE * 2),
        ("tiny-native-bf16", 3 * HIDDEN * SIZE * 2),
        ("tiny-hf-fp8", 3 * HIDDEN * SIZE + 2 * 2),  # two scales of two bytes
        ("tiny-native-fp8", 3 * HIDDEN * SIZE + 3 * 2),
    ],
)
def test_shard_reads_the_bytes_of_its_experts_and_nothing_else(name, bytes_of_expert):
    checkpoint = open_fixture(name)
    for _ in range(2):  # what is read again is not counted again
        for layer in range(LAYERS):
            for expert in range(4):
                checkpoint.expert(layer, expert)
    assert checkpoint.bytes_read == LAYERS * 4 * bytes_of_expert


def test_view_of_an_expert_spans_its_own_bytes_only():
    weight = open_fixture("tiny-hf-bf16").expert(0, 3).down.data
    assert weight.untyped_storage().nbytes() == weight.nbytes


def test_writing_to_a_view_leaves_the_file_alone(tmp_path):
    path = copy_fixture("tiny-hf-bf16", tmp_path)
    before = (path / "model.safetensors").read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        open_checkpoint(path).dense("norm").data.zero_()
    assert (path / "model.safetensors").read_bytes() == before


def test_unknown_names_and_experts_outside_of_the_model_are_refused():
    checkpoint = open_fixture("tiny-hf-bf16")
    with pytest.raises(KeyError):
        checkpoint.dense("layers.9.q_a")
    for layer, expert in ((LAYERS, 0), (0, EXPERTS), (-1, 0), (0, -1)):
        with pytest.raises(IndexError):
            checkpoint.expert(layer, expert)


def test_pairs_become_halves_within_each_head():
    rows = torch.arange(12.0).reshape(12, 1)
    halves = pairs_to_half_split(rows, num_heads=2).flatten().tolist()
    assert halves == [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11]


def test_fingerprint_is_equal_for_equal_files_and_follows_every_kind_of_change(tmp_path):
    original = open_fixture("tiny-hf-fp8").fingerprint
    same = copy_fixture("tiny-hf-fp8", tmp_path / "same")
    assert open_checkpoint(same).fingerprint == original

    other_eps = copy_fixture("tiny-hf-fp8", tmp_path / "eps")
    edit_json(other_eps / "config.json", "text_config", "rms_norm_eps", value=1e-5)
    other_norm = copy_fixture("tiny-hf-fp8", tmp_path / "norm")
    name = "language_model.model.norm.weight"
    norm = read_tensors(other_norm / "model.safetensors")[name]
    changed = norm._replace(data=norm.data[:-1] + bytes([norm.data[-1] ^ 1]))
    replace_tensor(other_norm / "model.safetensors", name, changed)
    fingerprints = {open_checkpoint(path).fingerprint for path in (other_eps, other_norm)}
    assert len(fingerprints | {original}) == 3


def test_split_checkpoint_holds_the_same_weights_under_the_same_fingerprint(tmp_path):
    path = copy_fixture("tiny-hf-bf16", tmp_path)
    split_in_two(path)
    whole, split = open_fixture("tiny-hf-bf16"), open_checkpoint(path)
    assert len(split.tensors.files) == 2
    assert split.fingerprint == whole.fingerprint
    assert torch.equal(split.dense("layers.2.o").data, whole.dense("layers.2.o").data)


def test_native_layout_is_taken_where_both_are_there(tmp_path):
    path = copy_fixture("tiny-hf-bf16", tmp_path)
    shutil.copytree(FIXTURES / "tiny-native-bf16", path, dirs_exist_ok=True)
    assert open_checkpoint(path).layout.kind == "native"
    (path / "consolidated.safetensors").unlink()
    assert open_checkpoint(path).layout.kind == "hf"


def test_names_as_transformers_has_them_in_memory_are_understood(tmp_path):
    path = copy_fixture("tiny-hf-fp8", tmp_path)
    file = path / "model.safetensors"

    def renamed(name):
        for old, new in (
            ("language_model.model.", "model.language_model."),
            ("language_model.lm_head", "lm_head"),
            ("vision_tower.", "model.vision_tower."),
            ("multi_modal_projector.", "model.multi_modal_projector."),
        ):
            if name.startswith(old):
                return new + name.removeprefix(old)
        return name

    write_tensors(file, {renamed(name): tensor for name, tensor in read_tensors(file).items()})
    ours, theirs = open_checkpoint(path), open_fixture("tiny-hf-fp8")
    for name in theirs.layout.dense:
        assert torch.equal(ours.dense(name).data.float(), theirs.dense(name).data.float()), name


def test_text_only_checkpoint_has_no_vision(tmp_path):
    path = copy_fixture("tiny-hf-bf16", tmp_path)
    config = json.loads((path / "config.json").read_text("utf-8"))["text_config"]
    (path / "config.json").write_text(json.dumps(config), "utf-8")
    tensors = read_tensors(path / "model.safetensors")
    outer = "language_model."
    text = {
        name.removeprefix(outer): tensor
        for name, tensor in tensors.items()
        if name.startswith(outer)
    }
    write_tensors(path / "model.safetensors", text)
    checkpoint = open_checkpoint(path)
    assert checkpoint.config == replace(open_fixture("tiny-hf-bf16").config, vision=None)
    assert not any(name.startswith("vision") for name in checkpoint.layout.dense)


@pytest.mark.parametrize("layout", ["hf", "native"])
def test_head_of_a_tied_checkpoint_is_its_embedding(layout, tmp_path):
    path = copy_fixture(f"tiny-{layout}-bf16", tmp_path)
    if layout == "hf":
        edit_json(path / "config.json", "tie_word_embeddings", value=True)
        replace_tensor(path / "model.safetensors", "language_model.lm_head.weight", None)
    else:
        edit_json(path / "params.json", "tied_embeddings", value=True)
        replace_tensor(path / "consolidated.safetensors", "output.weight", None)
    checkpoint = open_checkpoint(path)
    head, embed = checkpoint.dense("head").data, checkpoint.dense("embed").data
    assert head.data_ptr() == embed.data_ptr()
    assert checkpoint.bytes_read == embed.nbytes


def test_native_params_decide_about_the_yarn_magnitude(tmp_path):
    path = copy_fixture("tiny-native-bf16", tmp_path)
    edit_json(path / "params.json", "yarn", "apply_scale", value=True)
    assert open_checkpoint(path).config.yarn_apply_scale


def test_data_that_are_not_aligned_are_handed_out_all_the_same(tmp_path):
    path = copy_fixture("tiny-hf-fp8", tmp_path)
    file = path / "model.safetensors"
    tensors = read_tensors(file)
    odd = tensors["language_model.model.norm.weight"]._replace(dtype="U8", shape=(1,), data=b"x")
    write_tensors(file, {"odd.activation_scale": odd} | tensors)
    ours, theirs = open_checkpoint(path), open_fixture("tiny-hf-fp8")
    assert torch.equal(ours.dense("norm").data, theirs.dense("norm").data)
    assert torch.equal(ours.dense("layers.0.o").scale, theirs.dense("layers.0.o").scale)


def resident_bytes_of(path):
    """Bytes of this process' mappings of a file that are in memory."""
    total, is_mine = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        fields = line.split()
        if "-" in fields[0] and not fields[0].endswith(":"):
            is_mine = line.endswith(str(path))
        elif is_mine and fields[0] == "Rss:":
            total += int(fields[1]) * 1024
    return total


def test_released_pages_leave_memory_and_come_back_with_the_same_bytes(tmp_path):
    path = copy_fixture("tiny-hf-bf16", tmp_path)  # a file that no other test has mapped
    checkpoint = open_checkpoint(path)
    weight = checkpoint.dense("embed").data
    before, file = weight.clone(), path / "model.safetensors"
    assert resident_bytes_of(file) > 0
    checkpoint.release()
    assert resident_bytes_of(file) == 0
    assert torch.equal(weight, before)
