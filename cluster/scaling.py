"""What the autoscaler of a server starts from: a calibration, and the first topology."""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable

import psutil

from cluster.config import ServeConfig
from cluster.control.scaling_plan import ScalingPlan, wish_of
from cluster.control.target import wanted_config
from cluster.demo import MODEL_DIRECTORY
from cluster.doctor.examine import examine
from cluster.doctor.steps import MeasurePlan
from cluster.doctor.store import StoredCalibration, default_path, load, save
from cluster.plan import held_formats
from cluster.planning.assess import Limits
from cluster.planning.cluster_shape import ClusterShape
from cluster.planning.load import Load, Objectives
from cluster.planning.planner import plan
from cluster.planning.shape import shape_of
from galerne.errors import ConfigError
from galerne.topology import LinkTransport
from router.api.cluster_port import TopologyWish
from shards.checkpoint.open import open_checkpoint

logger = logging.getLogger(__name__)

_MEASURE_S = 40.0
_CHOSEN_BY_AUTO = ("shards", "transport", "gateways", "micro_batches", "max_num_seqs")
# Before anybody asks: of a chat.
_FIRST_LOAD = Load(requests_per_s=0.0, prompt_tokens=512.0, output_tokens=128.0)


def find_calibration(
    config: ServeConfig, on_step: Callable[[str], None]
) -> StoredCalibration | None:
    """The one that the settings name, or this machine's last one; measured anew for auto.

    None without one, where the mode is not auto.

    Raises:
        ConfigError: The file that the settings name is of no use; names what differs.
        CheckpointError: The checkpoint cannot be used.
    """
    checkpoint = (config.model or MODEL_DIRECTORY).resolve()
    model = open_checkpoint(checkpoint).config
    formats = held_formats(config, model)
    shape = shape_of(model, *formats)
    path = config.calibration or default_path(platform.node(), shape, *formats)
    if config.calibration is not None:
        return load(path, shape, *formats)
    if path.exists():
        try:
            return load(path, shape, *formats)
        except ConfigError as error:
            logger.warning("calibration_unusable reason=%s", error)
    if config.mode != "auto":
        return None
    on_step(f"measuring this machine, about {_MEASURE_S:.0f} s, once: kept in {path}")
    stored = examine(checkpoint, formats, MeasurePlan(budget_s=_MEASURE_S), {}).stored
    save(stored, path)
    return stored


def scaling_plan(config: ServeConfig, stored: StoredCalibration, num_nodes: int) -> ScalingPlan:
    """Plan to decide by, for machines like this one."""
    return ScalingPlan(
        shape=stored.shape,
        calibration=stored.calibration,
        limits=Limits(
            objectives=Objectives(
                ttft_p95_s=config.ttft_p95_s,
                inter_token_p95_s=config.inter_token_p95_s,
                max_nodes=config.max_nodes,
                min_copies=config.replicas,
            ),
            node_weight=config.autoscaler.node_weight,
        ),
        config=config.patience,
        cluster=local_cluster(stored, num_nodes),
        tick_s=config.autoscaler.tick_s,
        window_s=config.autoscaler.window_s,
    )


def local_cluster(stored: StoredCalibration, num_nodes: int) -> ClusterShape:
    """This machine, and others like it for shards alone."""
    between = {LinkTransport.SHM} if num_nodes == 1 else {LinkTransport.SHM, LinkTransport.GRPC}
    node_bytes = float(psutil.virtual_memory().total)
    return ClusterShape(
        gateway_nodes=1,
        gateway_node_bytes=node_bytes,
        cores_per_node=stored.num_cores,
        transports=frozenset({LinkTransport.LOCAL, *between & stored.calibration.links.keys()}),
        shard_nodes=num_nodes - 1,
        shard_node_bytes=node_bytes,
    )


def first_config(config: ServeConfig, scaling: ScalingPlan) -> ServeConfig:
    """The settings with what auto starts in.

    Raises:
        ConfigError: They say what auto is to choose, or no topology keeps all limits.
    """
    for name in _CHOSEN_BY_AUTO:
        value = getattr(config, name)
        if value != ServeConfig.model_fields[name].default:
            raise ConfigError(name, value, "is what auto chooses; or say latency or throughput")
    limits = scaling.limits
    found = plan(
        *(scaling.shape, scaling.calibration, scaling.cluster, limits.objectives, _FIRST_LOAD)
    )
    if found.chosen is None:
        raise ConfigError("mode", "auto", f"no topology fits: {found.verdicts[0].reason}")
    wish: TopologyWish = wish_of(found.chosen.candidate)
    return wanted_config(config, wish)
