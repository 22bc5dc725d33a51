"""What the autoscaler of a server starts from: a calibration, and the first topology."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial

from cluster.calibrations import calibration_of, measured_cluster, place_of
from cluster.config import ServeConfig
from cluster.control.scaling_plan import ScalingPlan, wish_of
from cluster.control.standing import Spread
from cluster.control.target import wanted_config
from cluster.doctor.store import StoredCalibration, save
from cluster.gateway_machines import gateway_machines
from cluster.gpu_free import free_gpus_here, free_gpus_on
from cluster.gpu_memory import FreeGpus
from cluster.node_kinds import NodeKind
from cluster.nodes import Node, Role, nodes_with_gpus
from cluster.plan import ServePlan, held_model, plan_serving
from cluster.planning.load import Demand, Load, Objectives
from cluster.planning.planner import Planner
from galerne.errors import ConfigError
from shards.kernels.kinds import CUDA

logger = logging.getLogger(__name__)

_MEASURE_S = 40.0
_CHOSEN_BY_AUTO = (
    *("shards", "transport", "gateways", "micro_batches", "max_num_seqs", "max_batched_tokens"),
)
# Before anybody asks: a chat now and then.
_FIRST_DEMAND = Demand(Load(requests_per_s=0.0, prompt_tokens=512.0, output_tokens=128.0))


def find_calibration(
    config: ServeConfig, on_step: Callable[[str], None] | None = None
) -> StoredCalibration | None:
    """The one that the settings name, or this machine's last one; measured anew for auto.

    None without one, where the mode is not auto, or nobody is told of a measurement (``on_step``).

    Raises:
        ConfigError: The file that the settings name is of no use; names what differs.
        CheckpointError: The checkpoint cannot be used.
    """
    held = held_model(config)
    path = place_of(config, held)
    if config.calibration is not None or path.exists():
        try:
            return calibration_of(config, held)
        except ConfigError as error:
            if config.calibration is not None:
                raise
            logger.warning("calibration_unusable reason=%s", error)
    if config.mode != "auto" or on_step is None:
        return None
    from cluster.doctor.examine import examine  # late: loads torch
    from cluster.doctor.steps import MeasurePlan

    on_step(f"measuring this machine, about {_MEASURE_S:.0f} s, once: kept in {path}")
    plan = MeasurePlan(budget_s=_MEASURE_S)
    stored = examine(held, plan, {}).stored
    try:
        save(stored, path)
    except ConfigError as error:  # a home that cannot be written: it is measured at every start
        logger.warning("calibration_not_kept reason=%s", error)
    return stored


def scaling_plan(
    config: ServeConfig,
    stored: StoredCalibration,
    nodes: Sequence[Node],
    free: FreeGpus | None = None,
) -> ScalingPlan:
    """Plan to decide by.

    Args:
        config: As the user gave it.
        stored: Calibration to decide by.
        nodes: Of the Ray cluster; none: this machine alone.
        free: Of GPUs now; None: as when they were measured.

    Raises:
        ConfigError: Settings of machines that contradict what there is.
    """
    plan = ScalingPlan(
        planner=Planner(
            shape=stored.shape,
            calibration=stored.calibration,
            objectives=Objectives(
                ttft_p95_s=config.ttft_p95_s,
                inter_token_p95_s=config.inter_token_p95_s,
                max_nodes=config.max_nodes,
                min_copies=config.replicas,
                node_weight=config.autoscaler.node_weight,
            ),
        ),
        config=config.patience,
        cluster=measured_cluster(
            stored, config, free=free, trusts_network=config.trusted_network == "nccl"
        ),
        kinds=tuple(
            NodeKind(
                role=None if told.role == "any" else Role(told.role),
                most=told.most,
                cores=told.cores,
                memory_bytes=told.memory_bytes,
                gpus=told.gpus,
            )
            for told in config.nodes
        ),
        tick_s=config.autoscaler.tick_s,
        window_s=config.autoscaler.window_s,
    )
    return plan.on(nodes) if nodes else plan


def first_config(config: ServeConfig, scaling: ScalingPlan) -> tuple[ServeConfig, Spread]:
    """The settings with what auto starts in, on the machines that are there.

    Raises:
        ConfigError: They say what auto is to choose, or no topology keeps all limits.
    """
    for name in _CHOSEN_BY_AUTO:
        value = getattr(config, name)
        if value != ServeConfig.model_fields[name].default:
            raise ConfigError(name, value, "is what auto chooses; or say latency or throughput")
    found = scaling.planner.plan(scaling.cluster, _FIRST_DEMAND)
    if found.chosen is None:
        raise ConfigError("mode", "auto", f"no topology fits: {found.verdicts[0].reason}")
    chosen = found.chosen.candidate
    spread = Spread(chosen.gateway_nodes, chosen.shard_nodes)
    return wanted_config(config, wish_of(chosen)), spread


def plan_scaled(
    config: ServeConfig, app_name: str, nodes: Sequence[Node], stored: StoredCalibration | None
) -> ServePlan:
    """What is going to be started, and what its autoscaler needs to know.

    Args:
        config: As the user gave it.
        app_name: Of the deployment.
        nodes: Of the Ray cluster that was joined; none: a local one will be started.
        stored: Calibration to decide by; needed for auto.

    Raises:
        CheckpointError: The checkpoint cannot be used.
        ConfigError: Settings contradict one another, or it does not fit in memory.
    """
    is_auto, scaling, spread = config.mode == "auto", None, None
    is_on_gpus = config.device == CUDA, config.shard_device == CUDA
    fit = nodes_with_gpus(nodes, gateways=is_on_gpus[0], shards=is_on_gpus[1])
    is_alone = len(nodes) <= 1
    on_nodes = partial(free_gpus_on, fit, for_shards=is_on_gpus[1])
    free_gpus = cache(free_gpus_here if is_alone else on_nodes)  # the same for all that follows
    if stored is not None:
        scaling = scaling_plan(config, stored, nodes, free_gpus() if is_on_gpus[0] else None)
    if is_auto:
        if scaling is None:
            raise ConfigError("mode", "auto", "there is no calibration: run galerne doctor first")
        config, spread = first_config(config, scaling)
    fewest = 1 if config.ray_head is None else 2  # others join it, sooner or later
    num_nodes = max(len(nodes), sum(kind.most for kind in config.nodes), fewest)
    planned = plan_serving(config, app_name, num_nodes, gateway_machines(fit), free_gpus)
    if scaling is not None:
        scaling = scaling.with_cache(planned.spec.kv_bytes)
    spec = replace(planned.spec, scaling=scaling, spread=spread, is_auto=is_auto)
    return replace(planned, spec=spec)
