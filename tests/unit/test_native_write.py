import json
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from helpers.checkpoint_files import FIXTURES, read_tensors
from shards.checkpoint.config_native import read_native_config
from shards.checkpoint.config_native_write import native_params
from shards.checkpoint.mapped import pairs_to_half_split
from shards.checkpoint.names import can_be_fp8, dense_shapes
from shards.checkpoint.native_write import (
    DEFAULT_ACTIVATION_SCALE,
    half_split_to_pairs,
    quantise,
    write_native_checkpoint,
)
from shards.checkpoint.open import open_checkpoint
from shards.checkpoint.presets import PRESET_NAMES, preset

FILE = "consolidated.safetensors"


def small_config(**changes):
    tiny = preset("tiny", has_vision=True)
    # An odd expert size: nothing may rely on alignment.
    small = {"vocab_size": 64, "num_layers": 2, "num_experts": 4, "expert_size": 33}
    return replace(tiny, **(small | changes))


def random_weights(config, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(shape, generator=rng) * 0.1
        for name, shape in dense_shapes(config).items()
    }


def random_experts(config, seed=0):
    hidden, size = config.hidden_size, config.expert_size

    def expert(layer, index):
        rng = torch.Generator().manual_seed(seed + 1000 * layer + index)
        shapes = ((size, hidden), (size, hidden), (hidden, size))
        return tuple(torch.randn(shape, generator=rng) * 0.1 for shape in shapes)

    return expert


def write_small(directory, config, weights=None, experts=None, **options):
    weights = random_weights(config) if weights is None else weights
    experts = random_experts(config) if experts is None else experts
    write_native_checkpoint(directory, config, weights, experts, **options)
    return open_checkpoint(directory)


def pairs_of_weights(checkpoint, weights, experts):
    """What was given and what the loader hands out, by name."""
    for name, given_weight in weights.items():
        yield name, given_weight, checkpoint.dense(name)
    for layer in range(checkpoint.config.num_layers):
        for index in range(checkpoint.config.num_experts):
            stored = checkpoint.expert(layer, index)
            parts = zip(experts(layer, index), (*stored.gate_up, stored.down), strict=True)
            for short, (matrix, weight) in zip(("gate", "up", "down"), parts, strict=True):
                yield f"layers.{layer}.experts.{index}.{short}", matrix, weight


def copy_of(checkpoint):
    """Dense weights and experts of a checkpoint, as the writer takes them."""

    def experts(layer, index):
        expert = checkpoint.expert(layer, index)
        gate, up = (weight.to(torch.float32) for weight in expert.gate_up)
        return gate, up, expert.down.to(torch.float32)

    names = dense_shapes(checkpoint.config)
    return {name: checkpoint.dense(name).to(torch.float32) for name in names}, experts


@pytest.mark.parametrize("is_tied", [False, True])
def test_bf16_weights_come_back_rounded_once(is_tied, tmp_path):
    config = small_config(tie_word_embeddings=is_tied)
    weights, experts = random_weights(config), random_experts(config)
    checkpoint = write_small(tmp_path, config, weights, experts)
    assert checkpoint.config == config
    for name, wanted, found in pairs_of_weights(checkpoint, weights, experts):
        assert found.scale is None
        assert torch.equal(found.data, wanted.to(torch.bfloat16)), name


def test_fp8_weights_come_back_within_half_a_step(tmp_path):
    config = small_config(is_fp8=True)
    weights, experts = random_weights(config), random_experts(config)
    checkpoint = write_small(tmp_path, config, weights, experts)
    assert checkpoint.config == config
    for name, wanted, found in pairs_of_weights(checkpoint, weights, experts):
        if not can_be_fp8(name) and ".experts." not in name:
            assert torch.equal(found.data, wanted.to(torch.bfloat16)), name
            continue
        assert found.data.dtype == torch.float8_e4m3fn, name
        assert found.scale.item() == (wanted.abs().max() / 448).to(torch.bfloat16).item(), name
        error = (found.to(torch.float32) - wanted).abs()
        bound = torch.maximum(wanted.abs() / 16, found.scale / 1024)
        assert (error <= bound * (1 + 1e-6)).all(), name


@pytest.mark.parametrize(("layer", "short"), [(0, "q"), (1, "k")])
def test_vision_q_and_k_are_stored_in_pairs_and_handed_out_in_halves(layer, short, tmp_path):
    config = small_config()
    weights = random_weights(config)
    checkpoint = write_small(tmp_path, config, weights)
    name = f"vision.layers.{layer}.{short}"
    wanted = weights[name].to(torch.bfloat16)
    assert torch.equal(checkpoint.dense(name).data, wanted)
    stored = load_file(tmp_path / FILE)[
        f"vision_encoder.transformer.layers.{layer}.attention.w{short}.weight"
    ]
    half = config.vision.head_dim // 2
    assert torch.equal(stored[0], wanted[0])
    assert torch.equal(stored[1], wanted[half])
    assert torch.equal(stored[2], wanted[1])


@given(heads=st.integers(1, 4), half=st.integers(1, 5))
def test_order_of_pairs_is_undone_by_the_loader(heads, half):
    rows = torch.arange(heads * 2 * half * 3.0).reshape(-1, 3)
    assert torch.equal(pairs_to_half_split(half_split_to_pairs(rows, heads), heads), rows)


@pytest.mark.parametrize("weights", ["bf16", "fp8"])
def test_fixture_is_written_back_bit_for_bit(weights, tmp_path):
    source = FIXTURES / f"tiny-native-{weights}"
    original = open_checkpoint(source)
    wanted = read_tensors(source / FILE)
    scales = {}
    if original.config.is_fp8:
        scales = activation_scales_of(original, load_file(source / FILE))
    copy = write_small(tmp_path, original.config, *copy_of(original), activation_scales=scales)
    assert read_tensors(tmp_path / FILE) == wanted
    assert copy.fingerprint == original.fingerprint
    params = json.loads((source / "params.json").read_text("utf-8"))
    assert json.loads((tmp_path / "params.json").read_text("utf-8")) == params


def activation_scales_of(checkpoint, tensors):
    layout, scales = checkpoint.layout, {}

    def add(name, source):
        scales[name] = tensors[source.name.replace(".weight", ".qscale_act")].item()

    for name, source in layout.dense.items():
        if can_be_fp8(name):
            add(name, source)
    for layer in range(checkpoint.config.num_layers):
        for index in range(checkpoint.config.num_experts):
            expert = layout.expert(layer, index)
            sources = (*expert.gate_up, expert.down)
            for short, source in zip(("gate", "up", "down"), sources, strict=True):
                add(f"layers.{layer}.experts.{index}.{short}", source)
    return scales


def test_activation_scales_are_those_given_or_the_default(tmp_path):
    given_scales = {"layers.0.q_a": 0.5, "layers.1.experts.3.down": 0.25}
    write_small(tmp_path, small_config(is_fp8=True), activation_scales=given_scales)
    stored = {
        name.removesuffix(".qscale_act"): tensor.item()
        for name, tensor in load_file(tmp_path / FILE).items()
        if name.endswith(".qscale_act")
    }
    assert len(stored) == 2 * (8 + 3 * 4)
    assert stored.pop("layers.0.attention.wq_a") == 0.5
    assert stored.pop("layers.1.experts.3.w2") == 0.25
    assert set(stored.values()) == {DEFAULT_ACTIVATION_SCALE}


@pytest.mark.parametrize(
    ("name", "scale", "is_fp8"),
    [
        ("layers.0.gate", 1.0, True),  # never fp8
        ("layers.0.q_a", 1.0, False),
        ("layers.0.q_a", 0.0, True),
        ("layers.0.q_a", math.nan, True),
        ("layers.0.q_a", math.inf, True),
    ],
)
def test_activation_scale_of_no_use_is_refused_by_name(name, scale, is_fp8, tmp_path):
    config = small_config(is_fp8=is_fp8)
    with pytest.raises(ValueError, match=name):
        write_small(tmp_path, config, activation_scales={name: scale})


def test_header_has_no_blanks_but_for_its_end(tmp_path):
    write_small(tmp_path, small_config(is_fp8=True))
    raw = (tmp_path / FILE).read_bytes()
    header_bytes = int.from_bytes(raw[:8], "little")
    header = raw[8 : 8 + header_bytes]
    assert header_bytes % 8 == 0
    assert b" " not in header.rstrip(b" ")
    assert len(header) - len(header.rstrip(b" ")) < 8


@pytest.mark.parametrize("factor", [0.0, 1e-41, 1.0, 1e37])
def test_quantising_any_magnitude_gives_a_usable_scale_and_no_nan(factor):
    codes, scale = quantise(torch.linspace(-1, 1, 64).reshape(8, 8) * factor)
    assert scale.isfinite()
    assert scale > 0
    assert codes.to(torch.float32).isfinite().all()


@settings(max_examples=50, deadline=None)
@given(amax=st.floats(2**-7, 100.0))
def test_largest_weight_takes_the_largest_code(amax):
    codes, _ = quantise(torch.tensor([[amax, -amax / 3]]))
    assert codes[0, 0].item() == 448.0


@pytest.mark.parametrize("name", ["embed", "layers.1.q_b", "vision.layers.0.q", "projector.merge"])
@pytest.mark.parametrize("change", ["missing", "misshapen", "integers"])
def test_weight_that_does_not_fit_is_refused_by_name_before_anything_is_written(
    change, name, tmp_path
):
    config = small_config()
    weights = random_weights(config)
    if change == "missing":
        del weights[name]
    else:
        weights[name] = weights[name][1:] if change == "misshapen" else weights[name].int()
    with pytest.raises(ValueError, match=name):
        write_native_checkpoint(tmp_path / "new", config, weights, random_experts(config))
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["layers.2.q_a", "head"])
def test_weight_that_the_model_has_not_is_refused_by_name(name, tmp_path):
    config = small_config(tie_word_embeddings=True)
    with pytest.raises(ValueError, match=name):
        write_small(tmp_path, config, random_weights(config) | {name: torch.zeros(64, 128)})


@pytest.mark.parametrize("is_fp8", [False, True])
@pytest.mark.parametrize("defect", ["shape", "nan"])
def test_bad_expert_is_refused_by_name_and_leaves_no_file(defect, is_fp8, tmp_path):
    config = small_config(is_fp8=is_fp8)

    def experts(layer, index):
        gate, up, down = random_experts(config)(layer, index)
        if (layer, index) == (1, 2):
            up = up.T if defect == "shape" else up.fill_(math.nan)
        return gate, up, down

    with pytest.raises(ValueError, match=r"layers\.1\.experts\.2\.up"):
        write_small(tmp_path, config, experts=experts)
    assert not list(tmp_path.iterdir())


def test_bf16_overflow_is_refused(tmp_path):
    config = small_config()
    weights = random_weights(config)
    weights["norm"][3] = torch.finfo(torch.float32).max
    with pytest.raises(ValueError, match="norm"):
        write_small(tmp_path, config, weights)


def test_existing_checkpoint_is_not_overwritten(tmp_path):
    write_small(tmp_path, small_config())
    with pytest.raises(FileExistsError):
        write_small(tmp_path, small_config())


def test_trained_parameters_are_taken_as_they_are(tmp_path):
    config = small_config()
    weights = random_weights(config)
    parameters = {name: torch.nn.Parameter(weight) for name, weight in weights.items()}
    checkpoint = write_small(tmp_path, config, parameters)
    assert torch.equal(checkpoint.dense("layers.1.o").data, weights["layers.1.o"].bfloat16())


@settings(max_examples=30, deadline=None)
@given(
    name=st.sampled_from(PRESET_NAMES),
    has_vision=st.booleans(),
    flags=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    theta=st.floats(1.0, 1e6),
    beta=st.floats(0.0, 1.0),
    lengths=st.tuples(st.integers(1, 10**6), st.integers(1, 10**6)),
)
def test_params_survive_writing_and_reading(
    name, has_vision, flags, theta, beta, lengths, tmp_path_factory
):
    config = replace(
        preset(name, has_vision=has_vision, num_layers=5),
        tie_word_embeddings=flags[0],
        yarn_apply_scale=flags[1],
        is_fp8=flags[2],
        rope_theta=theta,
        llama4_beta=beta,
        yarn_original_max_positions=lengths[0],
        llama4_original_max_positions=lengths[1],
    )
    path = tmp_path_factory.mktemp("params") / "params.json"
    path.write_text(json.dumps(native_params(config)), "utf-8")
    assert read_native_config(path) == config


@pytest.mark.parametrize("changes", [{"bos_token_id": 7}, {"eos_token_id": 7}, {"pad_token_id": 7}])
def test_token_ids_that_the_layout_cannot_say_are_refused_by_field(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        native_params(replace(preset("tiny"), **changes))


def test_vision_epsilon_that_the_layout_cannot_say_is_refused():
    config = preset("tiny", has_vision=True)
    vision = replace(config.vision, norm_eps=1e-6)
    with pytest.raises(ValueError, match="norm_eps"):
        native_params(replace(config, vision=vision))
