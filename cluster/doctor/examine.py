"""The whole examination of one machine for one model.

Measures the machine it runs on alone, whatever Ray cluster that belongs to: its links are those of
one host, and its clock is compared with no other.
"""

from __future__ import annotations

import secrets
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from cluster.config import load_config
from cluster.doctor.fit import Residuals
from cluster.doctor.gpu import check_devices, nccl_omission
from cluster.doctor.link_fit import LinkFit
from cluster.doctor.machine import Machine, measure_machine
from cluster.doctor.measure_beside import BesideCosts, measure_beside
from cluster.doctor.measure_engine import CheckPoint
from cluster.doctor.measure_link import measure_links
from cluster.doctor.measure_node import LocalCosts, measure_node
from cluster.doctor.measure_serving import measure_serving
from cluster.doctor.others import OthersWatch
from cluster.doctor.setup import NUMERICS, Subject
from cluster.doctor.shard_processes import ShardProcesses
from cluster.doctor.small_model import write_small_model
from cluster.doctor.steps import MeasurePlan
from cluster.doctor.store import Gpus, StoredCalibration
from cluster.doctor.verdict import Finding, doubts, findings
from cluster.gpu_memory import FreeGpus
from cluster.plan import HeldModel, gpu_memory_of
from cluster.planning.costs import Calibration, Cost, NodeCosts
from cluster.planning.shape import ModelShape, shape_of
from galerne.topology import LinkTransport
from router.gateway.settings import DTYPES
from shards.checkpoint.config import ModelConfig
from shards.cores import available_cores
from shards.kernels.formats import WeightFormat
from shards.kernels.kinds import CPU, CUDA
from shards.kernels.native.families import takes
from shards.kernels.native.library import kernels_for, set_spin

# Of the time that is left when each begins.
_NODE_SHARE, _HOST_SHARE, _SERVING_SHARE, _LINK_SHARE = 0.4, 0.2, 0.3, 0.6

OnStage = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Examination:
    """What was found."""

    machine: Machine
    findings: list[Finding]
    stored: StoredCalibration
    measured: ModelConfig  # the small model that was run
    checks: list[CheckPoint]  # whole decode steps of that model, to hold predictions against
    seconds: float  # that it took


def machine_and_findings(
    held: HeldModel, port_by_field: Mapping[str, int]
) -> tuple[Machine, list[Finding]]:
    """Without running the model.

    Raises:
        OSError: The checkpoint's directory cannot be read.
        ConfigError: There is no GPU.
    """
    model, devices = held.config, (held.device, held.shard_device)
    on_gpu = held.device == CUDA
    machine = measure_machine(held.path, list(port_by_field.values()), with_gpus=on_gpu)
    memory = None
    if machine.gpus is not None:
        free = FreeGpus(machine.gpus.free_bytes, machine.gpus.free_bytes)
        memory = gpu_memory_of(load_config(None, {}), held, free)
    found = findings(machine, held.shape, port_by_field, devices, memory)
    is_narrow = any(kept is not WeightFormat.BF16 for kept in (held.experts, held.dense))
    has_kernels = kernels_for(DTYPES[NUMERICS], model.hidden_size) is not None and takes(model)
    if is_narrow and not has_kernels and devices != (CUDA, CUDA):
        problem = "fewer bits than bf16 need native kernels, which this machine or model lacks"
        found.append(Finding(field="dense", problem=problem, is_refusal=True))
    if on_gpu and model.is_fp8:
        problem = "measured with int8 in place of the checkpoint's fp8, which has as many bytes"
        found.append(Finding(field="model", problem=problem, is_refusal=False))
    return machine, found


def examine(
    held: HeldModel,
    plan: MeasurePlan,
    port_by_field: Mapping[str, int],
    on_stage: OnStage = lambda _: None,
) -> Examination:
    """Measure everything, in about ``plan.budget_s`` seconds and what loading takes beyond it.

    Raises:
        CheckpointError: The small checkpoint cannot be used.
        ConfigError: These formats cannot be held here, or a device is not here.
        MeasureProcessError: A shard of the measurement did not start.
        OSError: No room for the small checkpoint.
    """
    check_devices(held.device, held.shard_device)
    started_s = time.monotonic()
    others = OthersWatch()
    on_stage("memory, arithmetic, disk")
    machine, found = machine_and_findings(held, port_by_field)
    with tempfile.TemporaryDirectory(prefix="galerne-doctor-") as directory:
        on_stage("writing a small model of the same layers")
        path = Path(directory) / "model"
        subject = Subject(
            path=path,
            model=write_small_model(path, held.config),
            experts=_as_measured(held.kept_experts),
            dense=_as_measured(held.kept_dense),
            cluster_token=secrets.token_hex(32),
            device=held.device,
            shard_device=held.shard_device,
            num_gpus=machine.num_gpus,
        )
        calibration, residuals, local = calibrate(
            subject, plan, started_s + plan.budget_s, on_stage, transports=transports_on(machine)
        )
    stored = StoredCalibration(
        machine=machine.name,
        cpu=machine.cpu,
        num_cores=machine.num_cores,
        shape=held.shape,
        experts=held.experts,
        dense=held.dense,
        device=held.device,
        shard_device=held.shard_device,
        gpus=_gpus(machine),
        measured_at=datetime.now(UTC),
        drift=local.drift,
        residuals=residuals,
        calibration=calibration,
    )
    return Examination(
        machine=machine,
        findings=[*found, *doubts(local.drift, residuals, others.taken())],
        stored=stored,
        measured=subject.model,
        checks=list(local.engine.steps),
        seconds=time.monotonic() - started_s,
    )


def calibrate(
    subject: Subject,
    plan: MeasurePlan,
    deadline_s: float,
    on_stage: OnStage = lambda _: None,
    *,
    transports: Sequence[LinkTransport] = (LinkTransport.SHM, LinkTransport.GRPC),
) -> tuple[Calibration, dict[str, Residuals], LocalCosts]:
    """Run the small model in every way until ``deadline_s`` of ``time.monotonic``.

    ``transports``: links that can be measured here; NCCL comes last, and needs shards on GPUs.

    Raises:
        CheckpointError, ConfigError, MeasureProcessError: See ``examine``.
    """
    on_stage("layers and experts in one process")
    local = measure_node(subject, plan, _share(deadline_s, _NODE_SHARE))
    host = None
    if subject.has_gpu_gateway and subject.shard_device == CPU:
        on_stage("experts on this machine's cores")
        on_cores = replace(subject, device=CPU, dense=WeightFormat.BF16)
        host = measure_node(on_cores, plan, _share(deadline_s, _HOST_SHARE))
    on_stage("serving: a private server and its client")
    serving = measure_serving(subject, local.engine.steps, _share(deadline_s, _SERVING_SHARE))
    on_stage("starting shards")
    if subject.shard_device != CUDA:
        transports = [each for each in transports if each is not LinkTransport.NCCL]
    counts = plan.counts_on(subject.num_shard_workers)
    with closing(ShardProcesses(subject, counts)) as shards:
        on_stage("round trips to shards")
        links = measure_links(subject, shards, plan, _share(deadline_s, _LINK_SHARE), transports)
        on_stage("layers and experts beside shards")
        beside = measure_beside(subject, shards, plan, local.layer, deadline_s)
    set_spin(owns_cores=False)  # this process has no engine any more
    node = shard = _node(local, beside, beside.layer, is_gpu=subject.has_gpu_gateway)
    if host is not None:  # the cores, which have the shards: no gateway computes there
        shard = _node(host, beside, host.layer.layer, is_gpu=False)
    calibration = Calibration(
        gateway=node,
        shard=shard,
        links={transport: link.costs for transport, link in links.items()},
        request_s=serving.request_s,
        frontend_s=serving.frontend_s,
        answer=serving.answer,
        scatter=serving.scatter,
    )
    return calibration, _residuals(local, links, beside), local


def measured_shape(examination: Examination) -> ModelShape:
    """Of the small model, as it was held."""
    stored = examination.stored
    return shape_of(examination.measured, stored.experts, stored.dense)


def _share(deadline_s: float, share: float) -> float:
    now_s = time.monotonic()
    return now_s + share * max(deadline_s - now_s, 0.0)


def _as_measured(held: WeightFormat) -> WeightFormat:
    """Small models are not written in fp8: int8 has as many bytes, and the same tiles."""
    return WeightFormat.INT8 if held is WeightFormat.FP8 else held


def transports_on(machine: Machine) -> list[LinkTransport]:
    """Links that can be measured between parts on this machine."""
    found = [] if machine.shared_memory_problem else [LinkTransport.SHM]
    found.append(LinkTransport.GRPC)
    if not nccl_omission(machine.num_gpus, machine.nccl_problem):
        found.append(LinkTransport.NCCL)
    return found


def _gpus(machine: Machine) -> Gpus | None:
    told = machine.gpus
    if told is None:
        return None
    return Gpus(name=told.name, number=told.number, free_bytes=told.free_bytes)


def _node(local: LocalCosts, beside: BesideCosts, layer_beside: Cost, *, is_gpu: bool) -> NodeCosts:
    return NodeCosts(
        layer=local.layer.layer,
        layer_beside=layer_beside,
        attention_s=local.layer.attention_s,
        chunk_attention_s=local.layer.chunk_attention_s,
        experts=local.experts,
        shard_experts=beside.shard_experts,
        head=local.head,
        step=local.engine.step,
        num_workers=1 if is_gpu else available_cores(),
        is_gpu=is_gpu,
    )


def _residuals(
    local: LocalCosts, links: Mapping[LinkTransport, LinkFit], beside: BesideCosts
) -> dict[str, Residuals]:
    found = dict(local.residuals)
    found["layer_beside"] = beside.layer_residuals
    found["shard_experts"] = beside.expert_residuals
    return found | {f"link_{t.value}": link.residuals for t, link in links.items()}
