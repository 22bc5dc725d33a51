"""One seed, one schedule: the cluster, its load, its weather and its faults."""

import enum
import random
from dataclasses import dataclass

from galerne.ids import Epoch, GatewayId, ShardId
from galerne.topology import LinkTransport, Mode, Placement, Topology, contiguous_placement
from router.exchange.deadline import ExchangeConfig
from sim.network import CALM, Weather
from sim.transport import Style

MAX_SHARDS = 5
MIN_LATE_S = 1.0  # that a call may take beyond what its deadlines explain


class FaultKind(enum.Enum):
    """What may happen to a shard, its link, or the gateway."""

    CRASH = "crash"
    POWER_LOSS = "power loss"
    HANG = "hang"
    SLOW = "slow"
    OVERLOAD = "overload"
    FLAP = "flap"
    LOSS = "loss"
    STALL = "stall"
    PARTITION = "partition"
    PAUSE = "pause"


class SwitchKind(enum.Enum):
    """How a change of topology goes."""

    COMMIT = "commit"
    ABORT = "abort"
    EARLY = "early"  # the old epoch is retired before this gateway has committed


@dataclass(frozen=True)
class Fault:
    """Happens ``offset_s`` after the so many-th call began."""

    kind: FaultKind
    at_call: int
    offset_s: float
    shards: tuple[int, ...]  # places in the list of those that run
    seconds: float


@dataclass(frozen=True)
class Switch:
    """A change of topology, prepared before a step."""

    kind: SwitchKind
    before_step: int
    topology: Topology
    retire_after_s: float  # if early


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """All that is decided before the run; the network draws the rest from the same seed."""

    seed: int
    topology: Topology
    num_layers: int
    num_experts: int
    top_k: int
    max_tokens: int
    num_steps: int
    idle_s: tuple[float, ...]  # before every step
    compute_s: float
    config: ExchangeConfig
    weather: Weather
    style: Style
    adopts: bool  # survivors take over the experts of lost shards
    faults: tuple[Fault, ...]
    switches: tuple[Switch, ...]

    def window_s(self, topology):
        """How long a sound copy of every expert may be there before a call has its rows.

        Each other copy may cost a deadline first. Every doubt is paid from the budget, and what is
        refused at random is paid again.
        """
        layers = topology.placement.by_layer
        most_copies = max(len(replicas) for layer in layers for replicas in layer)
        num_rows = topology.num_micro_batches * self.max_tokens * self.top_k
        config = self.config
        paid_s = num_rows / config.resend_rows_per_s * (most_copies + 1)
        refused = self.weather.refusal + self.weather.short
        return most_copies * config.deadline_cap_s + paid_s * (1 + 6 * refused) + MIN_LATE_S


def create_schedule(seed):
    rng = random.Random(f"schedule {seed}")
    num_layers, num_experts = rng.randint(1, 3), rng.randint(MAX_SHARDS, 8)
    num_steps, is_calm = rng.randint(3, 7), rng.random() < 0.3
    micro_batches = rng.choice([1, 2])
    shape = (num_layers, num_experts, micro_batches, rng.choice([2, 5, 64]))
    topology = _topology(rng, 1, range(rng.randint(1, MAX_SHARDS)), *shape)
    num_calls = num_steps * num_layers * micro_batches
    return Schedule(
        seed=seed,
        topology=topology,
        num_layers=num_layers,
        num_experts=num_experts,
        top_k=rng.randint(1, 3),
        max_tokens=rng.choice([1, 4, 8]),
        num_steps=num_steps,
        idle_s=tuple(rng.choice([0, 0, 0.001, 0.3, 20.0]) * rng.random() for _ in range(num_steps)),
        compute_s=rng.uniform(0.0002, 0.003),
        config=_config(rng),
        weather=CALM if is_calm else _weather(rng),
        style=Style(
            sends_calls=rng.random() < 0.5,
            coalesces=rng.random() < 0.5,
            tells_age=rng.random() < 0.5,
        ),
        adopts=rng.random() < 0.5,
        faults=tuple(_fault(rng, num_calls) for _ in range(rng.choice([0, 1, 1, 2, 3, 5]))),
        switches=_switches(rng, topology, num_steps, *shape),
    )


def _topology(rng, epoch, places, num_layers, num_experts, num_micro_batches, row_budget):
    shards = tuple(ShardId(f"shard-{place}") for place in places)
    num_replicas = min(rng.choice([1, 2, 2, 3]), len(shards))
    if rng.random() < 0.5:
        placement = contiguous_placement(num_layers, num_experts, shards, num_replicas)
    else:
        placement = Placement(
            tuple(
                tuple(tuple(rng.sample(shards, num_replicas)) for _ in range(num_experts))
                for _ in range(num_layers)
            )
        )
    return Topology(
        epoch=Epoch(epoch),
        mode=rng.choice([Mode.LATENCY, Mode.THROUGHPUT]),
        gateways=(GatewayId("gateway-0"),),
        shards=shards,
        placement=placement,
        transport=LinkTransport.GRPC,
        num_micro_batches=num_micro_batches,
        max_num_seqs=8,
        max_batched_tokens=64,
        row_budget=row_budget,
    )


def _config(rng):
    cap_s = rng.choice([0.3, 1.0, 5.0])
    return ExchangeConfig(
        deadline_factor=rng.choice([3.0, 8.0]),
        deadline_floor_s=rng.choice([0.02, 0.25]),
        deadline_cap_s=cap_s,
        give_up_after_s=rng.choice([6.0, 6.0, 20.0, 40.0]),
        resend_share=rng.choice([0.0, 0.1]),
        resend_burst_rows=rng.choice([3, 20, 8192]),
        resend_rows_per_s=rng.choice([20.0, 512.0]),
    )


def _weather(rng):
    return Weather(
        delay_s=rng.choice([0.00005, 0.0005, 0.01]),
        spread=rng.choice([0.1, 0.5, 1.0]),
        reorders=rng.random() < 0.5,
        duplicate=rng.choice([0.0, 0.05, 0.3]),
        tail=rng.choice([0.0, 0.01, 0.05]),
        loss=rng.choice([0.0, 0.0, 0.01]),
        refusal=rng.choice([0.0, 0.02, 0.2]),
        short=rng.choice([0.0, 0.0, 0.03]),
        confusion=rng.choice([0.0, 0.1]),
    )


def _fault(rng, num_calls):
    seconds = rng.choice([(0.001, 0.2), (0.2, 3.0), (3.0, 14.0), (16.0, 40.0)])
    return Fault(
        kind=rng.choice(list(FaultKind)),
        at_call=rng.randrange(num_calls),
        offset_s=rng.choice([0.0, 0.001, 0.01]) * rng.random(),
        shards=tuple(rng.randrange(MAX_SHARDS) for _ in range(rng.choice([1, 1, 2]))),
        seconds=rng.uniform(*seconds),
    )


def _switches(rng, topology, num_steps, *shape):
    """Other placements, on shards of which some stay, some leave and some are new."""
    switches = []
    steps = sorted(rng.sample(range(1, num_steps), rng.choice([0, 1, 1, 2])))
    for epoch, step in enumerate(steps, start=2):
        places = rng.sample(range(MAX_SHARDS + 2), rng.randint(1, MAX_SHARDS))
        kind = rng.choice([*SwitchKind, SwitchKind.COMMIT])
        topology = _topology(rng, epoch, sorted(places), *shape)
        switches.append(Switch(kind, step, topology, rng.random() * 0.005))
    return tuple(switches)
