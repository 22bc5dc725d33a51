"""Images of noise as the engine gets them, and the vision tower written down plainly."""

import numpy as np
import torch

from router.chat.images import hash_pixels
from router.engine.request import ImageInput

CELL = 28  # pixels of a token's side, in the fixture models too


def pixels(rows, columns, seed=0):
    """Of ``rows`` x ``columns`` tokens."""
    shape = (3, rows * CELL, columns * CELL)
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def picture(rows, columns, seed=0, offset=1):
    values = pixels(rows, columns, seed)
    return ImageInput(
        pixels=values,
        offset=offset,
        grid_width=columns,
        grid_height=rows,
        content_hash=hash_pixels(values),
    )


def picture_prompt(*images, tail=(7, 8)):
    """Ids of a prompt that begins with these images, and the images at their places."""
    ids, placed = [1], []
    for image in images:
        placed.append(picture_at(image, len(ids)))
        ids += [10] * image.num_tokens
    return (*ids, *tail), tuple(placed)


def picture_at(image, offset):
    return ImageInput(
        pixels=image.pixels,
        offset=offset,
        grid_width=image.grid_width,
        grid_height=image.grid_height,
        content_hash=image.content_hash,
    )


def reference_features(checkpoint, values):
    """Features ``[tokens, H]`` float32 of one image, whole matrices at a time.

    Source: model reference, section 3.
    """
    vision, w = checkpoint.config.vision, lambda name: checkpoint.dense(name).to(torch.float32)

    def norm(x, name, eps):
        return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * w(name)

    size, merge = vision.patch_size, vision.spatial_merge_size
    rows, columns = values.shape[1] // size, values.shape[2] // size
    grid = torch.from_numpy(values).reshape(3, rows, size, columns, size)
    conv = w("vision.patch_conv")
    x = grid.permute(1, 3, 0, 2, 4).reshape(rows * columns, -1) @ conv.reshape(len(conv), -1).T
    x = norm(x, "vision.ln_pre", vision.norm_eps)
    dim = vision.head_dim
    f = vision.rope_theta ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    at = torch.arange(rows * columns)
    angles = torch.cat([(at // columns)[:, None] * f[0::2], (at % columns)[:, None] * f[1::2]], 1)
    cos, sin = (a.float()[:, None] for a in (angles.cos(), angles.sin()))

    def rotate(h):
        a, b = h.chunk(2, -1)
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)

    for layer in range(vision.num_layers):
        name = f"vision.layers.{layer}."
        h = norm(x, name + "attention_norm", vision.norm_eps)
        q, k, v = ((h @ w(name + n).T).reshape(len(x), -1, dim) for n in "qkv")
        scores = torch.einsum("qhd,khd->hqk", rotate(q), rotate(k)) * dim**-0.5
        mixed = torch.einsum("hqk,khd->qhd", scores.softmax(-1), v)
        x = x + mixed.reshape(len(x), -1) @ w(name + "o").T
        h = norm(x, name + "ffn_norm", vision.norm_eps)
        gated = torch.nn.functional.silu(h @ w(name + "gate").T) * (h @ w(name + "up").T)
        x = x + gated @ w(name + "down").T
    x = norm(x, "projector.norm", checkpoint.config.norm_eps)
    grid = x.reshape(rows // merge, merge, columns // merge, merge, -1)
    merged = grid.permute(0, 2, 4, 1, 3).reshape(-1, merge * merge * x.shape[-1])
    h = torch.nn.functional.gelu(merged @ w("projector.merge").T @ w("projector.linear_1").T)
    return h @ w("projector.linear_2").T
