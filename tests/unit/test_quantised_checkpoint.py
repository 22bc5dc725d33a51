import json
from itertools import product
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from cluster.cli.app import app
from cluster.config import ServeConfig
from cluster.plan import weight_format
from galerne.errors import CheckpointError, ConfigError
from helpers.fixture_models import (
    BLOCK_SIZE,
    FIXTURES,
    checkpoint,
    local_experts,
    prompt,
    run_prompt,
)
from router.model.decoder import Decoder
from router.model.kv_cache import PagedLatentCache
from router.model.runner import PagedRunner
from shards.checkpoint.names import can_be_quantised, dense_shapes
from shards.checkpoint.open import open_checkpoint
from shards.checkpoint.quantised import write_quantised
from shards.kernels.formats import GROUP, WeightFormat
from shards.kernels.native.packing import pack, pack_gate_up
from shards.kernels.quantise import (
    codes_of,
    packed_nibbles,
    rounded,
    unpacked_nibbles,
    wide,
    with_inputs,
)

BF16, INT8, INT4 = WeightFormat.BF16, WeightFormat.INT8, WeightFormat.INT4
SOURCES = ("tiny-hf-bf16", "tiny-native-fp8")
FORMATS = [(INT8, BF16), (INT4, INT8), (BF16, INT4)]


@pytest.fixture(scope="module")
def quantised(tmp_path_factory):
    """The directory of each source in each pair of formats."""
    made = {}
    for name, (experts, dense) in product(SOURCES, FORMATS):
        target = tmp_path_factory.mktemp("quantised")
        steps = []
        write_quantised(
            *(checkpoint(name), FIXTURES / name, target, experts, dense),
            lambda done, total, steps=steps: steps.append((done, total)),
        )
        assert steps[-1] == (48, 48)
        made[name, experts, dense] = target
    return made


cases = pytest.mark.parametrize(("name", "formats"), list(product(SOURCES, FORMATS)))


def test_numbers_of_four_bits_survive_two_a_byte():
    numbers = torch.arange(2 * GROUP, dtype=torch.uint8).view(2, GROUP) % 16
    stored = packed_nibbles(numbers)
    assert stored.shape == (2, GROUP // 2)
    assert torch.equal(unpacked_nibbles(stored), numbers)


@settings(deadline=None)
@given(st.sampled_from([INT8, INT4]), st.integers(1, 90), st.integers(1, 70), st.integers(0, 9))
def test_codes_are_packed_as_the_weight_is(held, num_rows, half_inputs, seed):
    generator = torch.Generator().manual_seed(seed)
    gate, up = torch.randn(2, num_rows, 2 * half_inputs, generator=generator).bfloat16()
    codes = codes_of(gate, held)
    assert torch.equal(pack(codes, held).data, pack(gate, held).data)
    together = pack_gate_up(codes, codes_of(up, held), held)
    assert torch.equal(together.data, pack_gate_up(gate, up, held).data)
    assert torch.equal(wide(codes).bfloat16(), rounded(gate, held))
    longer = gate.shape[1] + -gate.shape[1] % 32
    filled = pack(with_inputs(codes, longer), held), pack(with_inputs(gate, longer), held)
    assert filled[0].num_inputs == filled[1].num_inputs
    assert torch.equal(filled[0].data, filled[1].data)


@cases
def test_the_file_holds_the_codes_that_loading_would_make(quantised, name, formats):
    experts, dense = formats
    original, made = checkpoint(name), open_checkpoint(quantised[name, experts, dense])
    assert (made.config.experts_held, made.config.dense_held) == formats
    assert made.fingerprint != original.fingerprint
    for weight in dense_shapes(original.config):
        want = original.dense(weight).to(torch.bfloat16)
        held = dense if can_be_quantised(weight) else BF16
        assert_held(made.dense(weight), want, held)
    for layer in range(original.config.num_layers):
        for index in range(original.config.num_experts):
            mine, theirs = made.expert(layer, index), original.expert(layer, index)
            wide_ones = [w.to(torch.bfloat16) for w in theirs.gate_up]
            halves = wide_ones if len(wide_ones) == 2 else wide_ones[0].chunk(2)
            for weight, want in zip(mine.gate_up, halves, strict=True):
                assert_held(weight, want, experts)
            assert_held(mine.down, theirs.down.to(torch.bfloat16), experts)


def assert_held(weight, want, held):
    if held is BF16:
        assert weight.codes is None
        assert torch.equal(weight.to(torch.bfloat16), want)
        return
    codes, wanted = weight.held_as(held, torch.bfloat16), codes_of(want, held)
    assert torch.equal(codes.numbers, wanted.numbers)
    assert torch.equal(codes.scales, wanted.scales)
    assert (codes.shape, codes.held) == (tuple(want.shape), held)
    assert torch.equal(weight.held_as(BF16, torch.bfloat16), rounded(want, held))


@cases
def test_what_it_answers_has_the_bits_of_quantising_at_load(quantised, name, formats):
    def logits(source):
        cache = PagedLatentCache(source.config, 64, BLOCK_SIZE, torch.bfloat16)
        decoder = Decoder(source, torch.bfloat16, 1, formats[1])
        experts = local_experts(source, torch.bfloat16, 1, formats[0])
        return run_prompt(PagedRunner(decoder, cache, experts, None), prompt("len70"))

    made = open_checkpoint(quantised[(name, *formats)])
    if formats[1] is not BF16:
        pytest.importorskip("shards.kernels.native.library")
    assert (logits(made) == logits(checkpoint(name))).all()


# -- settings and commands -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "numerics", "stored", "chosen"),
    [
        (None, "bf16", INT4, INT4),
        (None, "bf16", BF16, BF16),
        ("bf16", "bf16", INT4, BF16),
        ("int8", "bf16", BF16, INT8),
        (None, "fp32", INT4, BF16),
    ],
)
def test_weights_are_held_as_they_are_stored_unless_asked(asked, numerics, stored, chosen):
    config = ServeConfig(experts=asked, numerics=numerics)
    assert weight_format(config, "experts", stored) is chosen


def test_codes_are_not_made_of_other_codes():
    with pytest.raises(ConfigError, match="holds int4 already"):
        weight_format(ServeConfig(experts="int8"), "experts", INT4)
    with pytest.raises(ConfigError, match="holds int4 already"):
        weight_format(ServeConfig(dense="int8"), "dense", INT4)


def run(*args):
    return CliRunner().invoke(app, list(map(str, args)))


def test_the_command_writes_what_inspect_understands(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for file in (FIXTURES / "tiny-hf-bf16").iterdir():
        (source / file.name).symlink_to(file)
    if not (source / "tekken.json").exists():
        (source / "tekken.json").write_text("{}")
    done = run("quantize", source, tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert "relative error of routed experts held in int4" in done.output
    assert (tmp_path / "out" / "tekken.json").exists()
    shown = run("inspect", tmp_path / "out")
    assert "native, int4 experts, int8 dense" in shown.output
    assert shown.output in done.output


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--experts", "int3"], "experts"),
        (["--dense", "int5"], "dense"),
        (["--experts", "bf16", "--dense", "bf16"], "changes nothing"),
    ],
)
def test_the_command_refuses_by_name(tmp_path, args, said):
    done = run("quantize", FIXTURES / "tiny-hf-bf16", tmp_path / "out", *args)
    assert isinstance(done.exception, ConfigError)
    assert said in str(done.exception)
    assert not (tmp_path / "out").exists()


def test_quantised_or_existing_checkpoints_are_not_overwritten(quantised, tmp_path):
    source = quantised["tiny-hf-bf16", INT4, INT8]
    again = run("quantize", source, tmp_path / "out", "--dense", "bf16")
    assert "holds already" in str(again.exception)
    over = run("quantize", FIXTURES / "tiny-hf-bf16", source)
    assert "holds a checkpoint already" in str(over.exception)


# -- damage --------------------------------------------------------------------------------------


@pytest.fixture
def copy(quantised, tmp_path):
    source = quantised["tiny-hf-bf16", INT4, INT8]
    for file in source.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def change_header(path, change):
    data = (path / "consolidated.safetensors").read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    change(header)
    text = json.dumps(header).encode()
    (path / "consolidated.safetensors").write_bytes(
        len(text).to_bytes(8, "little") + text + data[8 + size :]
    )


EXPERT = "layers.1.experts.3.w2"


def test_a_scale_that_is_no_number_is_refused_when_it_is_read(copy):
    file = open_checkpoint(copy).tensors.files[0]
    entry = file.entries[f"{EXPERT}.qscale_weight"]
    data = bytearray((copy / "consolidated.safetensors").read_bytes())
    data[entry.start : entry.start + 4] = b"\xff\xff\xff\xff"
    (copy / "consolidated.safetensors").write_bytes(bytes(data))
    broken = open_checkpoint(copy)
    broken.expert(1, 2)
    with pytest.raises(CheckpointError, match=f"{EXPERT}.qscale_weight.*finite scale"):
        broken.expert(1, 3)


@pytest.mark.parametrize(
    ("tensor", "field", "value", "said"),
    [
        (f"{EXPERT}.weight", "dtype", "I8", "expected dtype U8, found I8"),
        (f"{EXPERT}.weight", "shape", [64, 1, 32, 1], "expected shape"),
        (f"{EXPERT}.qscale_weight", "dtype", "I32", "expected F32"),
    ],
)
def test_a_header_that_differs_is_refused_by_name(copy, tensor, field, value, said):
    change_header(copy, lambda header: header[tensor].update({field: value}))
    with pytest.raises(CheckpointError) as refused:
        open_checkpoint(copy)
    assert tensor in str(refused.value)
    assert said in str(refused.value)


def test_missing_scales_are_refused_by_name(copy):
    name = f"{EXPERT}.qscale_weight"
    change_header(copy, lambda header: header.update({"other": header.pop(name)}))
    with pytest.raises(CheckpointError, match=f"{name}: expected the scales of int4 weight"):
        open_checkpoint(copy)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [("group_size", 32, "group_size = 64"), ("experts", "int2", "experts as one of bf16")],
)
def test_another_format_is_refused_by_key(copy, key, value, said):
    path = Path(copy) / "params.json"
    params = json.loads(path.read_text())
    params["quantization"][key] = value
    path.write_text(json.dumps(params))
    with pytest.raises(CheckpointError, match=said):
        open_checkpoint(copy)
