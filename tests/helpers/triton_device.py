"""Where the GPU's kernels run in tests: on a GPU if there is one, else in Triton's interpreter.

To be imported before anything that imports Triton; skips the module where Triton is not installed.
"""

import os
import sys

import numpy as np
import pytest
import torch

from shards.kernels.kinds import CUDA, INTERPRETED

HAS_GPU = torch.cuda.is_available()
if not HAS_GPU and "triton" not in sys.modules:
    os.environ["TRITON_INTERPRET"] = "1"  # read when a kernel is defined
triton = pytest.importorskip("triton", reason="Triton is not installed: pip install galerne[gpu]")

assert HAS_GPU or triton.knobs.runtime.interpret, "something has imported Triton before"


def _in_one_order(builder, a, b, acc, input_precision, max_num_imprecise_acc):
    """A product whose elements are each summed in the same order, as on a matrix unit.

    The interpreter's own is a BLAS's: a row's bits depend on where in the tile it lies.
    """
    del builder, input_precision, max_num_imprecise_acc
    product = np.einsum("mk,kn->mn", a.data, b.data, dtype=acc.data.dtype)
    return TensorHandle(product + acc.data, acc.dtype.scalar)


if not HAS_GPU:
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    InterpreterBuilder.create_dot = _in_one_order

DEVICE = torch.device("cuda", 0) if HAS_GPU else torch.device("cpu")
DEVICE_NAME = CUDA if HAS_GPU else INTERPRETED  # as settings name it
needs_gpu = pytest.mark.skipif(not HAS_GPU, reason="needs a CUDA device")


def randn(*shape, seed=0, dtype=torch.bfloat16, scale=1.0):
    """Seeded noise, the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, generator=generator) * scale).to(dtype).to(DEVICE)


def worst(got, want):
    """Largest difference in units of the values' typical size."""
    got, want = got.float().cpu(), want.float().cpu()
    return ((got - want).abs().max() / want.abs().square().mean().sqrt().clamp_min(1e-9)).item()


def bits_equal(a, b):
    """Whether two tensors are the same bits."""
    kind = {2: torch.int16, 4: torch.int32}[a.element_size()]
    return torch.equal(a.contiguous().view(kind).cpu(), b.contiguous().view(kind).cpu())
