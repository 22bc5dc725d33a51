"""An examination as tables for people, or as plain values."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from cluster.doctor.examine import Examination, measured_shape
from cluster.doctor.machine import Machine
from cluster.doctor.store import encode
from cluster.doctor.verdict import (
    CONTEXT,
    SEQUENCES,
    StepVerdict,
    decode_parts,
    exchange_words,
    judge_step,
)
from cluster.planning.costs import Cost, ExpertCost, Linear
from galerne.units import size_text

LOCAL_NOTE = (
    "Measured: this machine alone. Other nodes of a Ray cluster, the links between them and their "
    "clocks were not."
)


def verdicts(found: Examination) -> list[StepVerdict]:
    """Of few and of many sequences."""
    stored = found.stored
    return [judge_step(stored.calibration, stored.shape, found.machine, n) for n in SEQUENCES]


def as_plain(found: Examination, file: Path) -> dict[str, Any]:
    """For ``--json``."""
    machine = asdict(found.machine)
    machine["is_port_free"] = {str(p): free for p, free in found.machine.is_port_free.items()}
    return {
        "note": LOCAL_NOTE,
        "machine": machine,
        "findings": [asdict(finding) for finding in found.findings],
        "verdicts": [
            asdict(v) | {"context": CONTEXT, "tokens_per_s": v.tokens_per_s}
            for v in verdicts(found)
        ],
        "exchange": exchange_words(found.stored.calibration, found.stored.shape),
        "calibration": encode(found.stored),
        "checks": _checks(found),
        "file": str(file),
        "seconds": found.seconds,
    }


def print_examination(console: Console, found: Examination, file: Path) -> None:
    """Machine, costs, verdict."""
    _print_machine(console, found)
    _print_costs(console, found)
    _print_links(console, found)
    for verdict in verdicts(found):
        console.print(
            f"decode, {verdict.num_sequences} sequences after {CONTEXT} tokens, experts in the "
            f"gateway: {verdict.step_s * 1e3:.2f} ms a step, {verdict.tokens_per_s:.0f} tokens/s; "
            f"the bottleneck is {verdict.bottleneck}",
            highlight=False,
        )
    for line in exchange_words(found.stored.calibration, found.stored.shape):
        console.print(line, highlight=False, markup=False)
    for check in _checks(found):
        console.print(
            f"check: a step of {check['num_sequences']} sequences of the small model takes "
            f"{check['measured_s'] * 1e3:.2f} ms, the sum of the parts says "
            f"{check['predicted_s'] * 1e3:.2f} ms",
            highlight=False,
        )
    for finding in found.findings:
        style = "bold red" if finding.is_refusal else "yellow"
        console.print("refused" if finding.is_refusal else "note", style=style, end=" ")
        console.print(str(finding), markup=False, highlight=False, soft_wrap=True)
    console.print(LOCAL_NOTE, highlight=False)
    console.print(
        f"drift while measuring {found.stored.drift:+.1%}; took {found.seconds:.0f} s; "
        f"written to {file}",
        highlight=False,
        soft_wrap=True,
    )


def _print_machine(console: Console, found: Examination) -> None:
    machine = found.machine
    disk = "" if machine.disk_is_direct else " (may have come from memory)"
    table = Table(title=machine.name, show_header=False)
    for name, text in (
        ("processor", f"{machine.cpu}, {machine.num_cores} cores, kernels {machine.kernels}"),
        ("memory", f"{size_text(machine.free_bytes)} of {size_text(machine.memory_bytes)} free"),
        (
            "memory is read at",
            f"{machine.read_bytes_per_s / 1e9:.1f} GB/s, one core "
            f"{machine.read_bytes_per_s_one / 1e9:.1f} GB/s",
        ),
        ("bf16 products", f"{machine.gemm_flops / 1e9:.0f} GFLOP/s"),
        ("disk is read at", f"{machine.disk_bytes_per_s / 1e6:.0f} MB/s{disk}"),
        ("clock skew", f"{machine.clock_skew_s:g} s (one machine)"),
        ("free ports", ", ".join(str(p) for p, free in machine.is_port_free.items() if free)),
        ("shared memory", machine.shared_memory_problem or "usable"),
        *gpu_rows(machine),
        ("NCCL", nccl_text(machine)),
    ):
        table.add_row(name, text)
    console.print(table)


def nccl_text(machine: Machine) -> str:
    """Whether rows can go from GPU to GPU, and what that means for who listens. Pure."""
    if machine.nccl_problem:
        return f"not usable: {machine.nccl_problem}"
    return (
        f"usable, {machine.num_gpus} GPU(s); not encrypted: within this host, and to others with "
        "--trusted-network nccl only"
    )


def gpu_rows(machine: Machine) -> list[tuple[str, str]]:
    """What was measured of GPUs; nothing where they were not asked for. Pure."""
    gpus = machine.gpus
    if gpus is None:
        return []
    free, rate = size_text(gpus.free_bytes), gpus.read_bytes_per_s / 1e9
    return [("GPUs", f"{gpus.number} x {gpus.name}, {free} free, read at {rate:.0f} GB/s")]


def _print_costs(console: Console, found: Examination) -> None:
    stored, small = found.stored, found.measured
    node, residuals = stored.calibration.gateway, stored.residuals
    table = Table(
        title=f"costs, experts {stored.experts.label}, dense {stored.dense.label}; measured on "
        f"{small.num_layers} layers of {small.num_experts} experts"
    )
    for column in ("part", "microseconds", "error of the fit, median", "worst"):
        table.add_column(column)
    rows = {
        "layer": _line(node.layer, "token"),
        "layer_beside": _line(node.layer_beside, "token"),
        "experts": _experts(node.experts),
        "shard_experts": _experts(node.shard_experts),
        "head": _line(node.head, "row"),
        "step": _line(node.step, "sequence"),
    }
    for name, text in rows.items():
        error = residuals[name]
        table.add_row(name, text, f"{error.median:.1%}", f"{error.worst:.1%}")
    table.add_row("attention_s", f"{node.attention_s * 1e6:.5f} a query and key", "in layer", "")
    if node.chunk_attention_s is not None:
        text = f"{node.chunk_attention_s * 1e6:.5f} a query and key"
        table.add_row("chunk_attention_s", text, "in layer", "")
    costs = stored.calibration
    table.add_row("answer", _line(costs.answer, "sequence"), "", "")
    table.add_row("request_s", f"{costs.request_s * 1e6:.1f}", "", "")
    table.add_row("frontend_s", f"{costs.frontend_s * 1e6:.1f} (gRPC)", "", "")
    console.print(table)


def _print_links(console: Console, found: Examination) -> None:
    table = Table(title="links on this host, a message there and back")
    for column in ("transport", "gateway us", "shard us", "latency us", "GB/s", "error", "worst"):
        table.add_column(column)
    for transport, link in found.stored.calibration.links.items():
        error = found.stored.residuals[f"link_{transport.value}"]
        own = [f"{s * 1e6:.1f}" for s in (link.gateway_s, link.shard_s, link.latency_s)]
        rate = f"{link.bytes_per_s / 1e9:.2f}"
        table.add_row(transport.value, *own, rate, f"{error.median:.1%}", f"{error.worst:.1%}")
    console.print(table)


def _checks(found: Examination) -> list[dict[str, Any]]:
    shape, costs = measured_shape(found), found.stored.calibration
    return [
        {
            "num_sequences": check.num_sequences,
            "measured_s": check.seconds,
            "predicted_s": sum(
                seconds
                for name, seconds in decode_parts(
                    costs, shape, check.num_sequences, check.context
                ).items()
                if name != "answer"
            ),
        }
        for check in found.checks
    ]


def _line(cost: Cost, unit: str) -> str:
    if isinstance(cost, Linear):
        return f"{cost.fixed_s * 1e6:.1f} + {cost.per_unit_s * 1e6:.3f} a {unit}"
    knots = ", ".join(f"{knot.seconds * 1e6:.0f} at {knot.units:g}" for knot in cost.knots)
    return f"{knots} {unit}s"


def _experts(cost: ExpertCost) -> str:
    parts = (cost.fixed_s, cost.per_expert_s, cost.per_row_s)
    return "{:.1f} + {:.3f} an expert + {:.3f} a row".format(*(s * 1e6 for s in parts))
