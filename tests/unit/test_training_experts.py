"""The hand-written backward of the experts equals autograd over the obvious formula."""

from __future__ import annotations

import torch
from torch.nn import functional

from cluster.demo.training.experts import routed_experts

NUM_EXPERTS, HIDDEN, SIZE, ROWS, CHOSEN = 8, 12, 5, 40, 3


def _inputs() -> list[torch.Tensor]:
    rng = torch.Generator().manual_seed(3)
    x = torch.randn(ROWS, HIDDEN, generator=rng, dtype=torch.float64)
    weights = torch.rand(ROWS, CHOSEN, generator=rng, dtype=torch.float64)
    gate_up = torch.randn(NUM_EXPERTS, 2 * SIZE, HIDDEN, generator=rng, dtype=torch.float64)
    down = torch.randn(NUM_EXPERTS, HIDDEN, SIZE, generator=rng, dtype=torch.float64)
    return [t.requires_grad_() for t in (x, weights, gate_up, down)]


def _ids() -> torch.Tensor:
    """Expert 7 gets no row, expert 0 one of every row."""
    rng = torch.Generator().manual_seed(4)
    others = [torch.randperm(NUM_EXPERTS - 2, generator=rng)[: CHOSEN - 1] + 1 for _ in range(ROWS)]
    return torch.cat((torch.zeros(ROWS, 1, dtype=torch.int64), torch.stack(others)), dim=1)


def _obvious(
    x: torch.Tensor,
    ids: torch.Tensor,
    weights: torch.Tensor,
    gate_up: torch.Tensor,
    down: torch.Tensor,
) -> torch.Tensor:
    both = torch.einsum("nh,nkfh->nkf", x, gate_up[ids])
    gate, value = both.chunk(2, dim=-1)
    return torch.einsum("nkf,nkhf,nk->nh", functional.silu(gate) * value, down[ids], weights)


def test_output_and_gradients_equal_the_obvious_formula() -> None:
    """In float64, to 1e-10, with an expert that no row chose."""
    grad = torch.randn(
        ROWS, HIDDEN, generator=torch.Generator().manual_seed(5), dtype=torch.float64
    )
    results = []
    for function in (routed_experts, _obvious):
        x, weights, gate_up, down = _inputs()
        out = function(x, _ids(), weights, gate_up, down)
        gradients = torch.autograd.grad(out, (x, weights, gate_up, down), grad)
        results.append((out, *gradients))
    for ours, wanted in zip(*results, strict=True):
        torch.testing.assert_close(ours, wanted, rtol=0, atol=1e-10)
    assert not results[0][3][NUM_EXPERTS - 1].any()
