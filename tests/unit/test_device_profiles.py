"""Names of the arithmetic where gateways or shards are on GPUs."""

import pytest

from router.gateway import settings as module
from router.gateway.settings import link_profile, numerics_profile
from shards.kernels.formats import WeightFormat

BF16 = WeightFormat.BF16
GPU = "triton3.7.1-sm90"


@pytest.fixture(autouse=True)
def gpu_here(monkeypatch):
    monkeypatch.setattr(module, "triton_family", lambda device: GPU)


def test_on_cpus_a_link_needs_the_whole_profile_as_before():
    profile = numerics_profile("bf16", BF16, BF16)
    assert link_profile("bf16", BF16, BF16, "cpu", "cpu") == profile
    assert "triton" not in profile


def test_a_gateway_on_a_gpu_says_so_and_names_the_experts_family_where_it_is_another():
    assert numerics_profile("bf16", BF16, BF16, "cuda", "cuda") == f"bf16-{GPU}"
    host = link_profile("bf16", BF16, BF16, "cuda", "cpu").removeprefix("bf16-experts-")
    mixed = numerics_profile("bf16", BF16, BF16, "cuda", "cpu")
    assert mixed == f"bf16-{GPU}+{host}"
    assert mixed != numerics_profile("bf16", BF16, BF16, "cuda", "cuda")


def test_shards_on_cpus_need_not_know_the_gateways_gpu(monkeypatch):
    gateway = link_profile("bf16", WeightFormat.INT4, BF16, "cuda", "cpu")

    def no_gpu(device):
        raise AssertionError

    monkeypatch.setattr(module, "triton_family", no_gpu)
    assert link_profile("bf16", WeightFormat.INT4, BF16, "cuda", "cpu") == gateway
    assert gateway.startswith("bf16-experts_int4-experts-")


def test_shards_on_gpus_of_another_kind_are_another_profile(monkeypatch):
    ours = link_profile("bf16", BF16, BF16, "cuda", "cuda")
    monkeypatch.setattr(module, "triton_family", lambda device: "triton3.7.1-sm100")
    assert link_profile("bf16", BF16, BF16, "cuda", "cuda") != ours
