"""Kernels of a GPU's shard that frames with adapters need, compiled before the first of them."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch

from galerne.adapters import MAX_ADAPTERS
from shards.adapters.blank import blank_adapter
from shards.bank import ExpertBank

_ROWS: Final = (1, 32, 128, 512)  # of a frame, one for each way to lay them out


def warm_adapted(bank: ExpertBank) -> None:
    """Compute frames of an adapter that changes nothing; nobody computes yet.

    What frames without one need was compiled when tiles were compared.
    """
    if not len(bank) or len(bank.adapters) == MAX_ADAPTERS:
        return
    layer, expert = min(bank.resident)
    adapter = blank_adapter(bank.model, (), [(layer, expert)])
    bank.add_adapter(adapter)
    for num_rows in _ROWS:
        x = torch.zeros((num_rows, bank.hidden_size), dtype=bank.dtype)
        keys = np.full(num_rows, adapter.key, dtype=np.uint64)
        group = np.array([expert]), np.array([num_rows]), np.arange(num_rows)
        bank.run(layer, x, *group, keys)
    bank.drop_adapter(adapter.key)
