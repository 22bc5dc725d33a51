"""Every kernel compiles for a Hopper GPU as the model launches it; no GPU is needed for that."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.triton_device import HAS_GPU

PROGRAM = Path(__file__).parents[1] / "helpers" / "triton_compile.py"
SHARED_BYTES = 227 * 1024  # that a program may have on sm_90
REGISTERS = 255
SPILLED_BYTES = 32  # of a thread; attend_prompts has 16

pytestmark = pytest.mark.skipif(HAS_GPU, reason="here the kernels run, which says more")


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    here = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    here["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    here["TRITON_CACHE_DIR"] = str(tmp_path_factory.mktemp("triton"))
    done = subprocess.run(
        [sys.executable, str(PROGRAM)],
        env=here,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.slow
def test_every_kernel_compiles_for_sm_90_and_fits_a_multiprocessor(kernels):
    assert {k["kernel"] for k in kernels} == {
        *("linear", "gate_up", "down", "top_k", "layout", "rms_norm", "add_norm", "join_norm"),
        *("latents", "queries", "attend_prompts", "attend_segments", "join_segments"),
        *("attend", "reduce", "expand", "gated"),
    }
    for kernel in kernels:
        assert kernel["shared_bytes"] <= SHARED_BYTES, kernel
        assert kernel["registers"] <= REGISTERS, kernel
        assert kernel["spilled_bytes"] <= SPILLED_BYTES, kernel


@pytest.mark.slow
def test_no_loop_converts_by_the_slow_unit(kernels):
    """16 numbers a clock: fp8 codes straight to bf16 were slower than memory brings them."""
    for kernel in kernels:
        assert not kernel["slow_conversions"], kernel


@pytest.mark.slow
def test_products_are_the_matrix_units(kernels):
    for kernel in kernels:
        is_product = kernel["kernel"] in ("linear", "gate_up", "down", "queries")
        is_product |= kernel["kernel"].startswith("attend_")
        if is_product and not kernel["upcasts"]:
            assert kernel["wgmma"], kernel
