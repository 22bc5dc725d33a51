"""What the autoscaler of a server starts from: a calibration, and the first topology."""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable, Sequence

from cluster.config import ServeConfig
from cluster.control.scaling_plan import ScalingPlan, wish_of
from cluster.control.standing import Spread
from cluster.control.target import wanted_config
from cluster.doctor.examine import examine
from cluster.doctor.steps import MeasurePlan
from cluster.doctor.store import StoredCalibration, default_path, load, save
from cluster.node_kinds import NodeKind, local_cluster
from cluster.nodes import Node, Role
from cluster.plan import held_model
from cluster.planning.load import Demand, Load, Objectives
from cluster.planning.planner import Planner
from galerne.errors import ConfigError

logger = logging.getLogger(__name__)

_MEASURE_S = 40.0
_CHOSEN_BY_AUTO = (
    *("shards", "transport", "gateways", "micro_batches", "max_num_seqs", "max_batched_tokens"),
)
# Before anybody asks: a chat now and then.
_FIRST_DEMAND = Demand(Load(requests_per_s=0.0, prompt_tokens=512.0, output_tokens=128.0))


def find_calibration(
    config: ServeConfig, on_step: Callable[[str], None]
) -> StoredCalibration | None:
    """The one that the settings name, or this machine's last one; measured anew for auto.

    None without one, where the mode is not auto.

    Raises:
        ConfigError: The file that the settings name is of no use; names what differs.
        CheckpointError: The checkpoint cannot be used.
    """
    held = held_model(config)
    measured = (held.shape, held.experts, held.dense)
    if config.calibration is not None:
        return load(config.calibration, *measured)
    path = default_path(platform.node(), *measured)
    if path.exists():
        try:
            return load(path, *measured)
        except ConfigError as error:
            logger.warning("calibration_unusable reason=%s", error)
    if config.mode != "auto":
        return None
    on_step(f"measuring this machine, about {_MEASURE_S:.0f} s, once: kept in {path}")
    plan = MeasurePlan(budget_s=_MEASURE_S)
    stored = examine(held.path, (held.experts, held.dense), plan, {}).stored
    save(stored, path)
    return stored


def scaling_plan(
    config: ServeConfig, stored: StoredCalibration, nodes: Sequence[Node]
) -> ScalingPlan:
    """Plan to decide by. ``nodes``: of the Ray cluster; none: this machine alone.

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
        cluster=local_cluster(stored.num_cores, stored.calibration.links),
        kinds=tuple(
            NodeKind(
                role=None if told.role == "any" else Role(told.role),
                most=told.most,
                cores=told.cores,
                memory_bytes=told.memory_bytes,
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
