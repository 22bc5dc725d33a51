"""Which kernels compute where: the one place that chooses by device. Loads no torch by itself."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final

from galerne.errors import ConfigError

if TYPE_CHECKING:
    import torch

CPU: Final = "cpu"
CUDA: Final = "cuda"
INTERPRETED: Final = "interpreted"  # a GPU's kernels on the CPU, by Triton's interpreter: for tests
DEVICES: Final = (CPU, CUDA)


class Kernels(enum.Enum):
    """Who multiplies."""

    HOST = "host"  # native kernels where there are some for the dtype, else torch
    TRITON = "triton"


def kernels_on(device: str) -> Kernels:
    """By kind of device.

    Raises:
        ConfigError: The device is unknown.
    """
    if device not in (*DEVICES, INTERPRETED):
        raise ConfigError("device", device, f"must be one of {', '.join(DEVICES)}")
    return Kernels.HOST if device == CPU else Kernels.TRITON


def torch_device(device: str) -> torch.device:
    """The device, if this machine has it and what its kernels need.

    Raises:
        ConfigError: It does not.
    """
    import torch

    if kernels_on(device) is Kernels.TRITON:
        try:
            import triton  # noqa: F401
        except ImportError:
            problem = "needs Triton: pip install galerne[gpu]"
            raise ConfigError("device", device, problem) from None
    if device == CUDA and not torch.cuda.is_available():
        raise ConfigError("device", device, "torch finds no CUDA device here")
    return torch.device(CUDA, 0) if device == CUDA else torch.device(CPU)


def triton_family(device: str) -> str:
    """Name of the GPU kernels in the numerics profile, with what decides their bits."""
    import torch
    import triton

    if device != CUDA:
        return f"triton{triton.__version__}-interpreted"
    major, minor = torch.cuda.get_device_capability()
    return f"triton{triton.__version__}-sm{major}{minor}"
