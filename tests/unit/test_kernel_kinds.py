"""The one place that chooses kernels by device."""

import pytest
import torch

from galerne.errors import ConfigError
from shards.kernels.formats import WeightFormat
from shards.kernels.kinds import Kernels, kernels_on, torch_device


def test_a_cpu_has_host_kernels_and_a_gpu_has_tritons():
    assert (kernels_on("cpu"), kernels_on("cuda")) == (Kernels.HOST, Kernels.TRITON)
    assert kernels_on("interpreted") is Kernels.TRITON


def test_a_device_that_is_unknown_or_not_here_is_refused_by_name(monkeypatch):
    with pytest.raises(ConfigError, match=r"tpu.*must be one of cpu, cuda"):
        kernels_on("tpu")
    assert torch_device("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"device.*cuda"):
        torch_device("cuda")


def test_fp8_is_no_format_that_settings_name():
    from shards.kernels.formats import FORMATS

    assert list(FORMATS) == ["bf16", "int8", "int4"]
    assert WeightFormat.FP8.bits_per_weight == 8
