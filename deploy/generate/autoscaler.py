"""The page of ``--mode auto``: what it sees, expects, decides and asks for."""

from __future__ import annotations

from typing import Final

from deploy.generate.panels import Dashboard, Panel, Row


def _against_promise(title: str, quantity: str) -> Panel:
    return Panel(
        title=title,
        queries={
            "{{kind}}": f"galerne_autoscaler_{quantity}_seconds",
            "promised": f'galerne_autoscaler_objective_seconds{{objective="{quantity}"}}',
        },
        unit="s",
    )


_NOW: Final = Row(
    title="Now",
    panels=(
        Panel(
            title="Acts",
            queries={"acts": "galerne_autoscaler_acts"},
            kind="stat",
            width=6,
            height=4,
            names={0: "watches", 1: "acts"},
            text="Only in mode auto; no values at all: the machines were not measured"
            " (galerne doctor).",
        ),
        Panel(
            title="Promises held, as predicted",
            queries={"held": "galerne_autoscaler_objectives_held"},
            kind="stat",
            width=6,
            height=4,
            bad=1,
            is_bad_below=True,
            names={0: "no", 1: "yes"},
        ),
        Panel(
            title="Asleep",
            queries={"asleep": "galerne_asleep"},
            kind="stat",
            width=6,
            height=4,
            names={0: "awake", 1: "asleep"},
        ),
        Panel(
            title="Machines that do not come",
            queries={"pending": 'galerne_autoscaler_nodes{state="pending"}'},
            kind="stat",
            width=6,
            height=4,
            bad=1,
        ),
    ),
)

_SEEN: Final = Row(
    title="What it sees",
    panels=(
        Panel(
            title="Load",
            queries={"{{estimate}}": "galerne_autoscaler_load_requests_per_second"},
            unit="reqps",
        ),
        Panel(title="Waiting", queries={"waiting": "galerne_autoscaler_waiting"}),
        Panel(
            title="Machines",
            queries={"{{state}}": "galerne_autoscaler_nodes"},
            is_stacked=True,
        ),
        _against_promise("Time to first token, p95", "ttft_p95"),
        _against_promise("Between tokens, p95", "inter_token_p95"),
        Panel(
            title="Prediction error and regret",
            queries={
                "median error of predictions": "galerne_autoscaler_calibration_error_ratio",
                "regret of the last decision": "galerne_autoscaler_regret_ratio",
            },
            unit="percentunit",
        ),
    ),
)

_DONE: Final = Row(
    title="What it does",
    panels=(
        Panel(
            title="Decisions",
            queries={
                "{{action}}, by {{binding}}": "sum by (action, binding)"
                ' (increase(galerne_autoscaler_decisions_total{action!="hold"}[5m]))',
            },
            text="In five minutes, without those to hold. While it only watches, nobody carries"
            " them out. Why: galerne explain.",
        ),
        Panel(
            title="What holds it",
            queries={
                "{{binding}}": "sum by (binding)"
                ' (increase(galerne_autoscaler_decisions_total{action="hold"}[5m]))',
            },
            is_stacked=True,
        ),
        Panel(
            title="Failures",
            queries={
                "not carried out": "increase(galerne_autoscaler_failures_total[5m])",
                "changes undone": "increase(galerne_cluster_events_total"
                '{kind="topology_aborted"}[5m])',
            },
        ),
        Panel(
            title="Topology",
            queries={
                "epoch": "galerne_epoch",
                "{{kind}}s": 'sum by (kind) (galerne_parts{state="live"})',
            },
        ),
        Panel(
            title="Mode",
            queries={"{{mode}}": "galerne_topology_mode"},
            kind="state-timeline",
            names={0: " ", 1: "serves"},
        ),
        Panel(
            title="Stage of a change",
            queries={"{{stage}}": "galerne_topology_stage"},
            kind="state-timeline",
            names={0: " ", 1: "now"},
        ),
    ),
)

AUTOSCALER: Final = Dashboard(
    uid="galerne-autoscaler",
    title="Galerne / Autoscaler",
    text="Load, predictions, promises, decisions, machines.",
    rows=(_NOW, _SEEN, _DONE),
)
