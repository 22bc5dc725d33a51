"""How the gate spread the rows, as a server's controller has it."""

from __future__ import annotations

import json
import urllib.request
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

TIMEOUT_S: Final = 20.0


class LayerLoad(NamedTuple):
    """One layer's load in figures."""

    unused: int  # experts without a row
    hottest: int  # number of the expert with most rows
    hottest_share: float  # of all rows; 1/E if the load were even
    hottest_over_mean: float
    shards_over_mean: float  # busiest shard over the mean, experts placed evenly in order


def read_load(
    url: str, num_layers: int, num_experts: int, api_key: str = ""
) -> npt.NDArray[np.int64]:
    """``[L, E]`` rows that each expert has computed since the shards started.

    Args:
        url: Of the server, without a path.
        num_layers: L.
        num_experts: E.
        api_key: Of a client; empty: the server asks for none.

    Raises:
        OSError: Nothing answers at ``url``.
        ValueError: What answers says something else.
    """
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    request = urllib.request.Request(f"{url}/cluster/experts", headers=headers)
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
        load = np.array(json.load(answer).get("rows_total", ()), np.int64)
    if load.shape != (num_layers, num_experts):
        raise ValueError(f"rows {load.shape} of {num_layers} layers with {num_experts} experts")
    return load


def shards_over_mean(row: npt.NDArray[np.int64], num_shards: int) -> float:
    """Busiest of ``num_shards`` shards of consecutive experts over their mean, for one layer."""
    shards = np.array([part.sum() for part in np.array_split(row, num_shards)])
    return float(shards.max() / shards.mean())


def describe(load: npt.NDArray[np.int64], num_shards: int) -> list[LayerLoad]:
    """Every layer's figures; ``num_shards`` shards of consecutive experts, equally many each."""
    described = []
    for row in load:
        hottest = int(row.argmax())
        described.append(
            LayerLoad(
                unused=int((row == 0).sum()),
                hottest=hottest,
                hottest_share=float(row[hottest] / row.sum()),
                hottest_over_mean=float(row[hottest] / row.mean()),
                shards_over_mean=shards_over_mean(row, num_shards),
            )
        )
    return described
