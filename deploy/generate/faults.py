"""The page to open when something is wrong: links, lost parts, changes, loops, the door."""

from __future__ import annotations

from typing import Final

from deploy.generate.panels import Dashboard, Panel, Row, rate

_LINKS: Final = Row(
    title="Links to shards",
    panels=(
        Panel(
            title="Links that do not stand",
            queries={
                "{{process}}, {{shard}}: {{state}}": 'galerne_exchange_link_state{state!="up"} > 0'
            },
            text="Suspect: a deadline was missed, and others are asked. Down: no connection.",
        ),
        Panel(
            title="Suspicions",
            queries={"{{shard}}": rate("galerne_exchange_suspicions_total", "shard")},
            unit="cps",
            text="Always the same shard: look at its node.",
        ),
        Panel(
            title="Rows asked again",
            queries={"{{reason}}": rate("galerne_exchange_resent_rows_total", "reason")},
            unit="cps",
            is_stacked=True,
            text="Hedge: the first shard may still answer. Retry: it cannot.",
        ),
        Panel(
            title="Answers of no use",
            queries={
                "late, {{shard}}": rate("galerne_exchange_late_answers_total", "shard"),
                "refused, {{shard}}": rate("galerne_exchange_refused_frames_total", "shard"),
                "duplicate rows": rate("galerne_exchange_duplicate_rows_total"),
            },
            unit="cps",
        ),
        Panel(
            title="Lost shards",
            queries={
                "lost": "galerne_lost_shards",
                "experts adopted": "sum(galerne_shard_adopted_experts)",
            },
        ),
        Panel(
            title="From GPU to GPU",
            queries={
                "{{process}}: links": "galerne_nccl_links",
                "{{process}}: stuck threads": "galerne_nccl_stuck_threads",
            },
            text="A link that was given up goes by gRPC until the next epoch.",
        ),
        Panel(
            title="Steps that failed, or were begun anew",
            queries={
                "{{process}} failed": rate("galerne_engine_failed_steps_total", "process"),
                "{{process}} begun anew": rate("galerne_engine_dropped_steps_total", "process"),
            },
            unit="cps",
        ),
    ),
)

_CLUSTER: Final = Row(
    title="Cluster",
    panels=(
        Panel(
            title="Events",
            queries={"{{kind}}": "sum by (kind) (increase(galerne_cluster_events_total[5m]))"},
            text="In five minutes. In words: galerne events.",
        ),
        Panel(
            title="Parts that are wanted and do not live",
            queries={
                "{{kind}}": 'sum by (kind) (galerne_parts{state="wanted"})'
                ' - sum by (kind) (galerne_parts{state="live"})',
            },
            bad=1,
        ),
        Panel(
            title="Epochs",
            queries={
                "serves": "galerne_epoch",
                "change leads to": "galerne_target_epoch",
                "{{process}}": "galerne_gateway_epoch",
                "{{process}} ": "galerne_shard_epoch",
            },
        ),
        Panel(
            title="Change of topology",
            queries={"{{stage}}": 'galerne_topology_stage{stage!="idle"}'},
            kind="state-timeline",
            names={0: " ", 1: "now"},
        ),
        Panel(
            title="Ready",
            queries={"frontend": "galerne_ready", "{{process}}": "galerne_gateway_ready"},
            kind="state-timeline",
            bad=1,
            is_bad_below=True,
            names={0: "no", 1: "yes"},
        ),
        Panel(
            title="Streams",
            queries={
                "moved to another gateway": rate("galerne_streams_moved_total"),
                "resumed by clients": rate("galerne_streams_resumed_total"),
                "parked": "sum(galerne_gateway_parked_streams)",
                "wait for a gateway": "sum(galerne_requests_held)",
            },
        ),
    ),
)

_LOOPS: Final = Row(
    title="Loops (none of these may stay at zero)",
    panels=(
        Panel(
            title="Controller",
            queries={"{{loop}}": rate("galerne_control_loop_turns_total", "loop")},
            unit="cps",
        ),
        Panel(
            title="Gateways and frontend",
            queries={
                "{{process}}": rate("galerne_engine_loop_turns_total", "process"),
                "frontend {{loop}}": rate("galerne_frontend_loop_turns_total", "loop"),
                "driver": rate("galerne_driver_calls_total"),
            },
            unit="cps",
        ),
        Panel(
            title="Shards",
            queries={
                "{{process}}": f"{rate('galerne_shard_loop_turns_total', 'process')} + "
                f"{rate('galerne_shard_frames_total', 'process')}",
            },
            unit="cps",
        ),
    ),
)

_DOOR: Final = Row(
    title="The door",
    panels=(
        Panel(
            title="Calls without a key that fits",
            queries={"{{reason}}": rate("galerne_key_refusals_total", "reason")},
            unit="cps",
        ),
        Panel(
            title="Key files and certificates",
            queries={
                "keys {{outcome}}": "sum by (outcome)"
                " (increase(galerne_api_key_file_changes_total[5m]))",
                "certificates {{outcome}}": "sum by (outcome)"
                " (increase(galerne_tls_certificate_changes_total[5m]))",
                "restarts of the edge": "increase(galerne_tls_edge_restarts_total[5m])",
            },
            text="Changes in five minutes; where there are keys, and a TLS edge.",
        ),
        Panel(
            title="Certificate expires in",
            queries={"edge": "galerne_tls_certificate_expires_timestamp_seconds - time()"},
            unit="s",
            bad=7 * 24 * 3600,
            is_bad_below=True,
        ),
        Panel(
            title="Open files, of those allowed",
            queries={"{{process}}": "galerne_process_open_fds / galerne_process_max_fds"},
            unit="percentunit",
            bad=0.8,
            width=24,
        ),
    ),
)

FAULTS: Final = Dashboard(
    uid="galerne-faults",
    title="Galerne / Faults",
    text="Links, lost parts, changes of topology, loops, refused calls.",
    rows=(_LINKS, _CLUSTER, _LOOPS, _DOOR),
)
