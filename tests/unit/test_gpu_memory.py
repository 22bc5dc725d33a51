"""What a plan says of GPUs, of which there are none here."""

from dataclasses import replace

import pytest

from cluster.gpu_memory import beside_bytes, free_gpu_bytes, gpu_need
from galerne.errors import ConfigError
from galerne.ids import Epoch, GatewayId, ShardId
from galerne.topology import LinkTransport, Mode, Topology, contiguous_placement
from shards.checkpoint.eagle import head_config
from shards.checkpoint.fields import Fields
from shards.checkpoint.presets import preset
from shards.kernels.formats import WeightFormat

SMALL_4 = replace(preset("full-layer"), num_layers=36, is_fp8=True)
BF16 = (WeightFormat.BF16, WeightFormat.BF16)
H200, H100 = int(140e9), int(79e9)


def topology(transport, shards=1, gateways=1):
    names = tuple(ShardId(f"shard-{i}") for i in range(shards))
    return Topology(
        epoch=Epoch(1),
        mode=Mode.LATENCY,
        gateways=tuple(GatewayId(f"gateway-{i}") for i in range(gateways)),
        shards=names,
        placement=contiguous_placement(36, 128, names, 1),
        transport=transport,
        num_micro_batches=1,
        max_num_seqs=16,
        max_batched_tokens=512,
        row_budget=4096,
    )


def test_the_whole_model_in_fp8_fits_an_h200_and_no_h100():
    """Model reference, section 4e: 120.923 GB, of which 0.857 are vision."""
    need = gpu_need(SMALL_4, topology(LinkTransport.LOCAL), BF16, 1, H200)
    assert need.weights == pytest.approx(120.07e9, rel=0.005)
    assert 15e9 < need.free < 20e9
    assert gpu_need(SMALL_4, topology(LinkTransport.LOCAL), BF16, 1, H100).free < 0


def test_with_experts_elsewhere_a_gateways_gpu_holds_the_dense_weights_alone():
    away = topology(LinkTransport.GRPC, shards=8, gateways=2)
    need = gpu_need(SMALL_4, away, BF16, 2, H100)
    assert need.weights == pytest.approx(2 * 4.1e9 + 2 * 115.96e9, rel=0.01)
    assert need.free == pytest.approx(2 * (79e9 - 4.1e9 - 2.1e9), rel=0.01)


def test_int4_experts_need_less_and_a_bf16_checkpoint_twice_as_much():
    need = gpu_need(SMALL_4, topology(LinkTransport.LOCAL), (WeightFormat.INT4, BF16[1]), 1, H100)
    assert need.free > 0
    wide = gpu_need(replace(SMALL_4, is_fp8=False), topology(LinkTransport.LOCAL), BF16, 1, H200)
    assert wide.free < 0


def test_a_machine_without_a_gpu_is_refused_by_name(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ConfigError, match=r"device.*cuda.*no GPU on this machine"):
        free_gpu_bytes()


def test_vision_tower_features_and_head_take_their_part_of_a_gateways_gpu():
    """Model reference, sections 4e and 6: 0.857 GB of vision, 0.392 GB of head in fp8."""
    seen = replace(SMALL_4, vision=preset("full-layer", has_vision=True).vision)
    assert beside_bytes(seen, 512 << 20, None) == pytest.approx(0.857e9 + (512 << 20), rel=0.01)
    sizes = Fields("params.json", {"n_layers": 2, "hidden_dim": 12288})
    head = replace(head_config(sizes, SMALL_4), is_fp8=True)
    assert beside_bytes(SMALL_4, 512 << 20, head) == pytest.approx(0.392e9, rel=0.01)
    away = topology(LinkTransport.GRPC, shards=8, gateways=2)
    plain = gpu_need(SMALL_4, away, BF16, 2, H100)
    more = gpu_need(SMALL_4, away, BF16, 2, H100, 10**9)
    assert plain.free - more.free == more.weights - plain.weights == 2 * 10**9
