"""Eagle heads of random weights: they are nearly always wrong, which no token may show."""

import torch

from shards.checkpoint.eagle import eagle_shapes, head_config, open_eagle
from shards.checkpoint.eagle_write import write_eagle
from shards.checkpoint.fields import Fields


def random_head(path, target, *, seed=3, width=48, **params):
    """Written to ``path`` for the model with sizes ``target``, and opened; ``params`` besides."""
    fields = {"n_layers": 2, "hidden_dim": width} | params
    config = head_config(Fields("params.json", fields), target)
    rng = torch.Generator().manual_seed(seed)
    weights = {
        name: 0.2 * torch.randn(shape, generator=rng) + (len(shape) == 1)
        for name, shape in eagle_shapes(config).items()
    }
    write_eagle(path, config, weights)
    return open_eagle(path, target)
