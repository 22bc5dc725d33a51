"""How the gate spread the rows, out of a server's own metrics."""

from __future__ import annotations

import urllib.request
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
from prometheus_client.parser import text_string_to_metric_families

METRIC: Final = "galerne_shard_expert_tokens_total"
TIMEOUT_S: Final = 20.0


class LayerLoad(NamedTuple):
    """One layer's load in figures."""

    unused: int  # experts without a row
    hottest: int  # number of the expert with most rows
    hottest_share: float  # of all rows; 1/E if the load were even
    hottest_over_mean: float
    shards_over_mean: float  # busiest shard over the mean, experts placed evenly in order


def read_load(url: str, num_layers: int, num_experts: int) -> npt.NDArray[np.int64]:
    """``[L, E]`` rows that each expert has computed since the server started.

    Raises:
        OSError: Nothing answers at ``url``.
    """
    with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:
        text = answer.read().decode()
    load = np.zeros((num_layers, num_experts), dtype=np.int64)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == METRIC:
                place = int(sample.labels["layer"]), int(sample.labels["expert"])
                load[place] += int(sample.value)
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
