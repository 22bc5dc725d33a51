"""The page of the expert shards: what they compute, how fast, and how even their load is."""

from __future__ import annotations

from typing import Final

from deploy.generate.panels import Dashboard, Panel, Row, mean, quantiles, rate

# A gateway knows shards by name, a shard is a process: the same name in another label.
_BY_SHARD: Final = 'label_replace({}, "shard", "$1", "process", "(.*)")'
_SERVICE: Final = _BY_SHARD.format(rate("galerne_shard_compute_seconds_sum", "process"))
_QUEUE: Final = _BY_SHARD.format(rate("galerne_shard_queue_seconds_sum", "process"))
_AWAY: Final = rate("galerne_exchange_round_trip_seconds_sum", "shard")
_FRAMES: Final = rate("galerne_exchange_round_trip_seconds_count", "shard")


def _of(by_process: str) -> str:
    return f"sum by (shard) ({by_process})"


_TRAFFIC: Final = Row(
    title="Traffic",
    panels=(
        Panel(
            title="Frames",
            queries={
                "{{process}}": rate("galerne_shard_frames_total", "process"),
                "sent to {{shard}}": rate("galerne_exchange_frames_total", "shard"),
            },
        ),
        Panel(
            title="Rows",
            queries={
                "{{process}}": rate("galerne_shard_rows_total", "process"),
                "sent to {{shard}}": rate("galerne_exchange_rows_total", "shard"),
            },
            text="One row: one token at one expert of one layer.",
        ),
        Panel(
            title="Frames that shared a pass",
            queries={
                "{{process}}": f"{rate('galerne_shard_merged_frames_total', 'process')} / "
                f"{rate('galerne_shard_frames_total', 'process')}",
            },
            unit="percentunit",
            most=1,
        ),
    ),
)

_TIMES: Final = Row(
    title="Where a frame's time goes",
    panels=(
        Panel(
            title="Round trip, p95",
            queries=quantiles("galerne_exchange_round_trip_seconds", "shard"),
            unit="s",
            text="As gateways see it, from sending to answer.",
        ),
        Panel(
            title="Service, p95",
            queries=quantiles("galerne_shard_compute_seconds", "process"),
            unit="s",
        ),
        Panel(
            title="Queue at the shard, p95",
            queries=quantiles("galerne_shard_queue_seconds", "process"),
            unit="s",
        ),
        Panel(
            title="Mean wire time",
            queries={"{{shard}}": f"({_AWAY} - {_of(_SERVICE)} - {_of(_QUEUE)}) / {_FRAMES}"},
            unit="s",
            text="Round trip less queue and service: encoding, network, and the gateway's own turn."
            " Only where no frames are merged: a shared pass is counted once.",
        ),
        Panel(
            title="Mean service",
            queries={"{{process}}": mean("galerne_shard_compute_seconds", "process")},
            unit="s",
        ),
        Panel(
            title="Busy",
            queries={"{{process}}": rate("galerne_shard_compute_seconds_sum", "process")},
            unit="percentunit",
            most=1,
            text="Share of the time inside passes.",
        ),
    ),
)

_BALANCE: Final = Row(
    title="Balance",
    panels=(
        Panel(
            title="Balancedness",
            queries={"all layers": "galerne_balancedness_ratio"},
            unit="percentunit",
            most=1,
            bad=0.5,
            is_bad_below=True,
            text="Mean over layers of mean shard load / largest, of the last minute: 1 is even."
            " galerne topology rebalance, if it pays.",
        ),
        Panel(
            title="Least even layers",
            queries={"layer {{layer}}": "bottomk(8, galerne_layer_balancedness_ratio)"},
            unit="percentunit",
            most=1,
        ),
        Panel(
            title="Layers with the hottest expert",
            queries={"layer {{layer}}": "topk(8, galerne_layer_peak_ratio)"},
            text="Rows of the layer's hottest expert over the mean. Which one it is, the cluster"
            " page shows: /cluster.",
        ),
        Panel(
            title="Rows by number of the expert",
            queries={
                "{{expert}}": f"topk(32, {rate('galerne_shard_expert_rows_total', 'expert')})"
            },
            kind="bargauge",
            width=12,
            height=12,
            text="All layers together. The whole heat map of layers and experts is on /cluster.",
        ),
        Panel(
            title="Experts held",
            queries={
                "{{process}}": "galerne_shard_experts",
                "{{process}} adopted": "galerne_shard_adopted_experts > 0",
            },
            width=6,
        ),
        Panel(
            title="Memory of experts",
            queries={"{{process}}": "galerne_shard_resident_bytes"},
            unit="bytes",
            width=6,
        ),
        Panel(
            title="Rows computed in the gateways",
            queries={"{{process}}": rate("galerne_exchange_local_rows_total", "process")},
            text="Where the experts are local, no shard has any.",
            width=12,
        ),
    ),
)

EXPERTS: Final = Dashboard(
    uid="galerne-experts",
    title="Galerne / Experts",
    text="Shards: frames, rows, queue, service and wire time, balance.",
    rows=(_TRAFFIC, _TIMES, _BALANCE),
)
