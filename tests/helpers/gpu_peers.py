"""What others take for the same work on a GPU. Where a peer is not there, the reason is told."""

import time
from statistics import median

import torch
from torch.nn import functional

_STEPS = 12


def grouped_mm(x, ids, hidden, width, num_experts, seconds_of):
    """Seconds of torch's grouped product over bf16 weights, its rows sorted beforehand."""
    product = getattr(functional, "grouped_mm", None) or getattr(torch, "_grouped_mm", None)
    if product is None:
        return {"torch grouped_mm": f"not in torch {torch.__version__}"}
    flat = ids.reshape(-1).long()
    order = flat.argsort(stable=True)
    rows = x[order // ids.shape[1]].contiguous()
    ends = torch.bincount(flat, minlength=num_experts).cumsum(0).int()
    kind = {"device": x.device, "dtype": torch.bfloat16}
    gate_up = torch.randn((num_experts, 2 * width, hidden), **kind) / 64
    down = torch.randn((num_experts, hidden, width), **kind) / 45

    def work():
        both = product(rows, gate_up.transpose(1, 2), offs=ends)
        active = functional.silu(both[:, :width]) * both[:, width:]
        product(active, down.transpose(1, 2), offs=ends)

    try:
        return {"torch grouped_mm": seconds_of(work) * 1e6}
    except (RuntimeError, TypeError) as error:
        return {"torch grouped_mm": f"refused: {str(error)[:200]}"}


def transformers_layer(config, device):
    """Milliseconds of a decode step of transformers' model of one layer, in bf16, by batch."""
    try:
        from transformers import Mistral4Config, Mistral4ForCausalLM
    except ImportError as error:
        return {"error": str(error)[:200]}
    try:
        asked = Mistral4Config(
            num_hidden_layers=1,
            hidden_size=config.hidden_size,
            vocab_size=config.vocab_size,
            n_routed_experts=config.num_experts,
            num_experts_per_tok=config.num_experts_per_tok,
            moe_intermediate_size=config.expert_size,
            first_k_dense_replace=0,
            n_group=1,
            topk_group=1,
        )
        with torch.device(device):
            model = Mistral4ForCausalLM(asked).to(torch.bfloat16).eval()
        return {str(batch): _step_ms(model, batch, device) for batch in (1, 16, 64)}
    except (RuntimeError, TypeError, ValueError, AttributeError) as error:
        return {"error": f"{type(error).__name__}: {str(error)[:200]}"}


def _step_ms(model, batch, device):
    ids = torch.randint(0, 1000, (batch, 64), device=device)
    out = model(ids, use_cache=True)
    times = []
    for _ in range(_STEPS):
        torch.cuda.synchronize()
        began = time.perf_counter()
        out = model(ids[:, :1], past_key_values=out.past_key_values, use_cache=True)
        torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return median(times[2:]) * 1e3
