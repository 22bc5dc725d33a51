"""The first page: who asks, how fast they are answered, and what is full."""

from __future__ import annotations

from typing import Final

from deploy.generate.panels import Dashboard, Panel, Row, mean, quantiles, rate

# Ends that are our fault: ``FAILED`` of the alert rules too.
FAILED: Final = "error|INTERNAL|UNAVAILABLE|UNKNOWN|DATA_LOSS"
_ALL: Final = rate("galerne_requests_total")


def _stat(title: str, query: str, unit: str = "short", bad: float | None = None) -> Panel:
    return Panel(
        title=title,
        queries={title: query},
        kind="stat",
        width=3,
        height=4,
        unit=unit,
        bad=bad,
    )


_NOW: Final = Row(
    title="Now",
    panels=(
        Panel(
            title="Ready",
            queries={"Ready": "min(galerne_ready)"},
            kind="stat",
            width=3,
            height=4,
            bad=1,
            is_bad_below=True,
            names={0: "no", 1: "yes"},
        ),
        _stat("Requests", _ALL, unit="reqps"),
        _stat(
            "Failed",
            f'(sum(rate(galerne_requests_total{{outcome=~"{FAILED}"}}[$__rate_interval]))'
            f" or vector(0)) / {_ALL}",
            unit="percentunit",
            bad=0.01,
        ),
        _stat("Refused for now", rate("galerne_requests_limited_total"), unit="reqps", bad=0.1),
        _stat("Tokens", rate("galerne_completion_tokens_total"), unit="cps"),
        _stat("Gateways", 'sum(galerne_parts{kind="gateway",state="live"})'),
        _stat("Shards", 'sum(galerne_parts{kind="shard",state="live"})'),
        _stat("Lost shards", "sum(galerne_lost_shards)", bad=1),
    ),
)

_ANSWERS: Final = Row(
    title="Answers",
    panels=(
        Panel(
            title="Time to first token",
            queries=quantiles("galerne_time_to_first_token_seconds"),
            unit="s",
            text="From a request's arrival at the frontend: queue, prompt and the way there.",
        ),
        Panel(title="Between tokens", queries=quantiles("galerne_inter_token_seconds"), unit="s"),
        Panel(
            title="Whole request", queries=quantiles("galerne_request_duration_seconds"), unit="s"
        ),
        Panel(
            title="Requests by end",
            queries={"{{outcome}}": rate("galerne_requests_total", "outcome")},
            unit="reqps",
            is_stacked=True,
        ),
        Panel(
            title="Tokens",
            queries={
                "prompt": rate("galerne_prompt_tokens_total"),
                "of it cached": rate("galerne_prompt_tokens_cached_total"),
                "completion": rate("galerne_completion_tokens_total"),
            },
            unit="cps",
            text="Of ended requests: those of long ones come all at once.",
        ),
        Panel(
            title="Refused for now (429), by limit",
            queries={"{{limit}}": rate("galerne_requests_limited_total", "limit")},
            unit="reqps",
        ),
    ),
)

_ENGINE: Final = Row(
    title="Engine",
    panels=(
        Panel(
            title="Choices",
            queries={
                "running": "sum(galerne_engine_running)",
                "may run": "sum(galerne_gateway_running_limit)",
                "waiting": "sum(galerne_engine_waiting)",
                "held by frontends": "sum(galerne_requests_held)",
            },
        ),
        Panel(
            title="Time in the queue", queries=quantiles("galerne_engine_queue_seconds"), unit="s"
        ),
        Panel(
            title="KV cache in use",
            queries={
                "{{process}}": "galerne_engine_kv_blocks_used / galerne_engine_kv_blocks",
            },
            unit="percentunit",
            most=1,
            bad=0.98,
        ),
        Panel(
            title="Prompt tokens found in the prefix cache",
            queries={
                "share": f"{rate('galerne_engine_prefix_hit_tokens_total')} / "
                f"{rate('galerne_engine_prefix_query_tokens_total')}"
            },
            unit="percentunit",
            most=1,
        ),
        Panel(
            title="Computed tokens",
            queries={"{{phase}}": rate("galerne_engine_tokens_total", "phase")},
            unit="cps",
            is_stacked=True,
        ),
        Panel(
            title="Preemptions",
            queries={"{{process}}": rate("galerne_engine_preemptions_total", "process")},
            unit="cps",
            text="Choices that lost their KV blocks and are computed again: memory is short.",
        ),
        Panel(title="Step", queries=quantiles("galerne_engine_step_seconds"), unit="s"),
        Panel(
            title="Where a second goes",
            queries={"{{part}}": rate("galerne_engine_part_seconds_total", "part")},
            unit="s",
            text="Seconds a second; model is the sum of those that lie within it.",
        ),
        Panel(
            title="Guesses that were right",
            queries={
                "{{source}}": f"{rate('galerne_engine_accepted_draft_tokens_total', 'source')} / "
                f"{rate('galerne_engine_draft_tokens_total', 'source')}",
                "first ones, {{source}}": "galerne_engine_draft_acceptance_ratio",
            },
            unit="percentunit",
            most=1,
            text="Speculative decoding; nothing where it is off or does not pay.",
        ),
    ),
)

_WHO: Final = Row(
    title="Who and what",
    panels=(
        Panel(
            title="Tokens by client",
            queries={
                "{{client}}": f"topk(10, {rate('galerne_client_tokens_total', 'client')})",
            },
            unit="cps",
            is_stacked=True,
        ),
        Panel(
            title="Requests by model or adapter",
            queries={"{{model}}": rate("galerne_model_requests_total", "model")},
            unit="reqps",
            is_stacked=True,
        ),
        Panel(
            title="HTTP answers",
            queries={"{{code}}": rate("galerne_http_responses_total", "code")},
            unit="reqps",
            is_stacked=True,
        ),
        Panel(
            title="Mean prompt and answer",
            queries={
                "prompt": mean("galerne_request_prompt_tokens", "job"),
                "answer": mean("galerne_request_completion_tokens", "job"),
            },
            text="Tokens of a request.",
        ),
        Panel(
            title="Images",
            queries={
                "encoded": rate("galerne_images_encoded_total"),
                "found in the cache": 'sum(rate(galerne_image_cache_lookups_total{result="hit"}'
                "[$__rate_interval]))",
                "waiting": "sum(galerne_images_waiting)",
            },
        ),
        Panel(
            title="Adapters loaded",
            queries={
                "{{process}}": "galerne_gateway_adapters",
                "{{process}} ": "galerne_shard_adapters",
            },
        ),
    ),
)

_PROCESSES: Final = Row(
    title="Processes",
    panels=(
        Panel(
            title="Memory",
            queries={"{{process}}": "galerne_process_resident_memory_bytes"},
            unit="bytes",
            width=12,
        ),
        Panel(
            title="CPU",
            queries={"{{process}}": "rate(galerne_process_cpu_seconds_total[$__rate_interval])"},
            text="Cores.",
            width=12,
        ),
        Panel(
            title="Cores that frontends take",
            queries={
                "{{process}}": "galerne_frontend_busy_cores",
                "frontends": "sum(galerne_frontends)",
            },
            text="One is saturated near 1; Serve starts another before.",
            width=12,
        ),
        Panel(
            title="Frontends come late to what is due",
            queries={"{{process}}": "galerne_frontend_loop_lag_seconds"},
            unit="s",
            width=12,
        ),
    ),
)

OVERVIEW: Final = Dashboard(
    uid="galerne-overview",
    title="Galerne / Overview",
    text="Requests, latencies, queues, KV cache, clients, processes.",
    rows=(_NOW, _ANSWERS, _ENGINE, _WHO, _PROCESSES),
)
