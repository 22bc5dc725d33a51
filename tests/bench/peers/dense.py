"""The dense stand-in for Small 3 beside the 1b checkpoint: 3.7 times its active weights, random.

Small 3 has 24 B weights where Small 4 has 6.5 B active ones; the 1b has 46.5 M active (without the
embedding), so the stand-in has 171 M: hidden 1280, 7 layers, 8 heads of 128, 2 of keys and values.
"""

import json

import torch
from safetensors.torch import save_file

HIDDEN, LAYERS, HEADS, KV_HEADS, HEAD, INNER, VOCAB = 1280, 7, 8, 2, 128, 5120, 8192


def write(path):
    """A Hugging Face checkpoint of type mistral; nothing if it is there."""
    if (path / "config.json").exists():
        return path
    path.mkdir(parents=True)
    generator = torch.Generator().manual_seed(5)

    def weight(n, k):
        return (torch.randn((n, k), generator=generator) * k**-0.5).to(torch.bfloat16)

    norm = torch.ones(HIDDEN, dtype=torch.bfloat16)
    tensors = {
        "model.embed_tokens.weight": weight(VOCAB, HIDDEN),
        "model.norm.weight": norm,
        "lm_head.weight": weight(VOCAB, HIDDEN),
    }
    shapes = {
        "self_attn.q_proj": (HEADS * HEAD, HIDDEN),
        "self_attn.k_proj": (KV_HEADS * HEAD, HIDDEN),
        "self_attn.v_proj": (KV_HEADS * HEAD, HIDDEN),
        "self_attn.o_proj": (HIDDEN, HEADS * HEAD),
        "mlp.gate_proj": (INNER, HIDDEN),
        "mlp.up_proj": (INNER, HIDDEN),
        "mlp.down_proj": (HIDDEN, INNER),
    }
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        tensors |= {f"{prefix}{name}.weight": weight(*shape) for name, shape in shapes.items()}
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{prefix}{name}.weight"] = norm.clone()
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    config = {
        "architectures": ["MistralForCausalLM"], "model_type": "mistral", "dtype": "bfloat16",
        "vocab_size": VOCAB, "hidden_size": HIDDEN, "intermediate_size": INNER,
        "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS, "head_dim": HEAD, "hidden_act": "silu",
        "max_position_embeddings": 32768, "rms_norm_eps": 1e-5, "rope_theta": 1e6,
        "sliding_window": None, "tie_word_embeddings": False,
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 11,
    }  # fmt: skip
    (path / "config.json").write_text(json.dumps(config))
    return path
