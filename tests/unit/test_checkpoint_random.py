import json
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from galerne.errors import CheckpointError
from galerne.units import size_text
from helpers.checkpoint_files import FIXTURES
from shards.checkpoint.config_hf import read_hf_config
from shards.checkpoint.config_hf_write import hf_config
from shards.checkpoint.fields import read_json
from shards.checkpoint.inspect import Part, describe, render
from shards.checkpoint.layout_hf import ON_DISK, hf_layout
from shards.checkpoint.open import open_checkpoint
from shards.checkpoint.presets import PRESET_NAMES, preset
from shards.checkpoint.random_checkpoint import (
    split_by_size,
    tensor_shapes,
    write_random_checkpoint,
)


def small_config(**changes):
    tiny = preset("tiny", has_vision=True)
    return replace(tiny, vocab_size=64, num_layers=2, num_experts=8, **changes)


def file_bytes(path):
    return {file.name: file.read_bytes() for file in sorted(path.iterdir())}


@pytest.mark.parametrize("has_vision", [False, True])
def test_random_checkpoint_depends_on_its_seed_alone_and_opens(has_vision, tmp_path):
    config = small_config() if has_vision else small_config(vision=None)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_random_checkpoint(tmp_path / name, config, seed)
    assert file_bytes(tmp_path / "a") == file_bytes(tmp_path / "b")
    checkpoint = open_checkpoint(tmp_path / "a")
    assert checkpoint.config == config
    assert checkpoint.fingerprint != open_checkpoint(tmp_path / "c").fingerprint


def test_random_weights_keep_the_variance_of_their_input(tmp_path):
    write_random_checkpoint(tmp_path / "r", small_config(), 0)
    checkpoint = open_checkpoint(tmp_path / "r")
    hidden = checkpoint.config.hidden_size
    stds = {
        "embed": 1.0,
        "head": hidden**-0.5,
        "layers.1.gate": 2 * hidden**-0.5,
        "layers.0.o": hidden**-0.5,
        "vision.patch_conv": (3 * 14 * 14) ** -0.5,
    }
    for name, std in stds.items():
        assert checkpoint.dense(name).data.float().std().item() == pytest.approx(std, rel=0.1)
    norm = checkpoint.dense("norm").data.float()
    assert norm.mean().item() == pytest.approx(1.0, abs=0.05)
    first, second = (checkpoint.expert(0, e).down.data for e in (0, 1))
    assert not torch.equal(first, second)


def test_large_random_checkpoint_is_split_with_an_index_and_the_same_weights(tmp_path):
    write_random_checkpoint(tmp_path / "one", small_config(), 3)
    write_random_checkpoint(tmp_path / "many", small_config(), 3, max_file_bytes=100_000)
    one, many = open_checkpoint(tmp_path / "one"), open_checkpoint(tmp_path / "many")
    assert len(many.tensors.files) > 3
    assert one.fingerprint == many.fingerprint
    assert not list((tmp_path / "many").glob("*.part"))


def test_existing_checkpoint_is_not_overwritten(tmp_path):
    write_random_checkpoint(tmp_path, small_config(vision=None), 0)
    with pytest.raises(FileExistsError):
        write_random_checkpoint(tmp_path, small_config(vision=None), 0)


@given(
    sizes=st.dictionaries(st.text("abc", min_size=1), st.integers(1, 40), min_size=1),
    max_bytes=st.integers(1, 200),
)
def test_splitting_keeps_every_tensor_once_in_order_and_within_the_limit(sizes, max_bytes):
    shapes = {name: (size,) for name, size in sizes.items()}
    groups = split_by_size(shapes, max_bytes)
    assert [name for group in groups for name in group] == list(shapes)
    for group in groups:
        assert len(group) == 1 or sum(2 * shape[0] for shape in group.values()) <= max_bytes


@settings(max_examples=30, deadline=None)
@given(
    name=st.sampled_from(PRESET_NAMES),
    has_vision=st.booleans(),
    is_tied=st.booleans(),
    theta=st.floats(1.0, 1e6),
    experts=st.integers(4, 300),
)
def test_config_survives_writing_and_reading(
    name, has_vision, is_tied, theta, experts, tmp_path_factory
):
    config = replace(
        preset(name, has_vision=has_vision, num_layers=5),
        tie_word_embeddings=is_tied,
        rope_theta=theta,
        num_experts=experts,
    )
    path = tmp_path_factory.mktemp("config") / "config.json"
    path.write_text(json.dumps(hf_config(config)), "utf-8")
    assert read_hf_config(path) == config


@pytest.mark.parametrize(
    "changes", [{"is_fp8": True}, {"yarn_apply_scale": True}, {"llama4_original_max_positions": 1}]
)
def test_config_that_the_layout_cannot_say_is_refused_by_field(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        hf_config(replace(preset("tiny"), **changes))


def test_full_size_has_the_weights_and_tensors_of_the_published_checkpoint():
    config = preset("full-layer", has_vision=True, num_layers=36)
    shapes = tensor_shapes(config, hf_layout(config, ON_DISK))
    assert len(shapes) == 765
    assert sum(math.prod(shape) for shape in shapes.values()) == 119_401_298_944


def test_unknown_preset_is_refused():
    with pytest.raises(ValueError, match="tiny, 1b, full-layer"):
        preset("huge")


@pytest.mark.parametrize("name", ["hf-bf16", "native-bf16", "hf-fp8", "native-fp8"])
def test_summary_accounts_for_every_byte_without_reading_any(name):
    path = FIXTURES / f"tiny-{name}"
    checkpoint = open_checkpoint(path)
    summary = describe(checkpoint, path)
    (file,) = checkpoint.tensors.files
    assert summary.total_bytes == sum(entry.num_bytes for entry in file.entries.values())
    assert checkpoint.bytes_read == 0
    assert f"{summary.layout}-{summary.weight_format}" == name
    assert summary.kv_bytes_per_token == (16 + 16) * 3 * 2
    assert (summary.bytes_by_part[Part.UNUSED] == 0) == name.endswith("bf16")


def test_experts_are_divided_by_the_number_of_shards_rounded_up():
    path = FIXTURES / "tiny-hf-bf16"
    summary = describe(open_checkpoint(path), path)
    one_expert = 3 * 64 * 32 * 2
    by_shards = {row.num_shards: row.as_stored for row in summary.shard_bytes}
    assert by_shards[1] == summary.bytes_by_part[Part.ROUTED_EXPERTS]
    assert by_shards[8] == 3 * 2 * one_expert
    assert by_shards[32] == 3 * one_expert  # sixteen experts: no shard has less than one per layer
    assert all(row.as_stored == row.as_bf16 for row in summary.shard_bytes)


def test_rendered_summary_has_a_line_for_every_part_and_shard_count():
    path = FIXTURES / "tiny-native-fp8"
    lines = render(describe(open_checkpoint(path), path))
    for start in (*Part, "total", "fingerprint", "32 "):
        assert sum(line.startswith(start) for line in lines) >= 1, start
    assert size_text(3 * 2**30) == "3.00 GiB"
    assert size_text(100) == "0.10 KiB"


def test_json_that_is_no_object_is_refused(tmp_path):
    (tmp_path / "x.json").write_text("[1]", "utf-8")
    with pytest.raises(CheckpointError, match="a JSON object"):
        read_json(tmp_path / "x.json")
