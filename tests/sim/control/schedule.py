"""One seed, one schedule: the cluster, what is asked of it, and what goes wrong."""

import enum
import random
from dataclasses import dataclass

from cluster.config import load_config
from cluster.presets import PresetInputs, build_topology
from router.api.cluster_port import TopologyWish
from sim.control.engine import NUM_EXPERTS, NUM_LAYERS


class FaultKind(enum.Enum):
    """What may happen."""

    CRASH = "crash"
    CRASH_TWO = "crash of two parts"
    CRASH_CONTROLLER = "crash of the controller"
    CRASH_WITH_CONTROLLER = "crash of a part and the controller"
    AWAY = "crash, and no room for a while"
    HANG = "hang"
    HANG_CONTROLLER = "hang of the controller"
    CUT_FROM_CONTROLLER = "controller cut from a part"
    CUT_LINK = "gateway cut from a shard"
    CUT_FRONTEND = "frontend cut from a gateway"
    CUT_FRONTEND_FROM_CONTROLLER = "frontend cut from the controller"
    CUT_DRIVER = "driver cut from the controller"
    NODE = "node cut off, its part replaced"
    CALLS = "calls lost, unanswered, repeated"


class Victim(enum.Enum):
    """Of a trap."""

    TARGET = "target"
    CONTROLLER = "controller"
    BOTH = "target and controller"
    OTHER = "another part"
    HANG = "target, which hangs"
    CUT = "a gateway, cut from the controller"
    HANG_CONTROLLER = "controller, which hangs"


class Finale(enum.Enum):
    """What happens at last, with no other fault."""

    NONE = "none"
    ONE_AWAY = "one shard stays away"
    TWO_AWAY = "another follows it"
    FLAP = "one comes back, and goes again"


@dataclass(frozen=True)
class Fault:
    """Happens at a time, for some seconds. ``pick`` chooses whom it hits."""

    kind: FaultKind
    at_s: float
    seconds: float
    pick: float
    other: float


@dataclass(frozen=True)
class Trap:
    """Springs when the controller calls so for the n-th time, before or after it is served."""

    what: str
    number: int
    is_before: bool
    victim: Victim
    seconds: float
    pick: float


STAGES = ("prepare_epoch", "prepare_topology", "shadow", "commit", "retire_epochs", "abort")
STAGES += ("state_of", "adopt")


class Schedule:
    """Everything that a seed decides beforehand."""

    def __init__(self, seed):
        rng = random.Random(f"{seed} schedule")
        self.seed = seed
        self._settings = _settings(rng)
        self.start_with()
        self.chaos_s = rng.uniform(12.0, 35.0)
        self.wishes = _wishes(rng, self.chaos_s)
        num_faults = rng.choice((0, 1, 2, 4, 7))
        self.faults = [_fault(rng, self.chaos_s) for _ in range(num_faults)]
        self.traps = [_trap(rng) for _ in range(rng.choice((0, 1, 1, 2)))]
        fresh = [f"{kind}-{n}" for kind in ("shard", "gateway") for n in range(10)]
        names = [name for name in fresh if name not in self.first.parts]
        self.failing_starts = {n: 1 for n in names if rng.random() < 0.04}
        self.share_of_faults = rng.choice((0.0, 0.0, 0.02))
        self.finale = rng.choice(list(Finale))
        self.num_frontends = rng.choice((1, 1, 2))
        self.wait_s = rng.choice((60.0, 60.0, 12.0))
        self.submit_every_s = rng.uniform(1.0, 4.0)

    def start_with(self, **settings):
        """Other settings than the seed's."""
        self._settings |= settings
        self.inputs = PresetInputs(
            config=load_config(None, self._settings),
            num_layers=NUM_LAYERS,
            num_experts=NUM_EXPERTS,
            num_cores=3,
            num_nodes=1,
        )
        self.first = build_topology(self.inputs)


def _settings(rng):
    shards = rng.choice((None, 2, 3, 3, 4))
    settings = {"mode": rng.choice(("latency", "throughput")), "gateways": rng.choice((1, 1, 2, 3))}
    if shards is not None:
        settings |= {"shards": shards, "replicas": rng.choice((1, 1, 2))}
    return settings


def _wishes(rng, chaos_s):
    times = sorted(rng.uniform(1.0, chaos_s) for _ in range(rng.choice((1, 2, 3, 5))))
    return [(at_s, _wish(rng)) for at_s in times]


def _wish(rng):
    kind = rng.randrange(8)
    if kind < 2:
        return TopologyWish(shards=rng.choice((2, 3, 4, 5)))
    if kind == 2:
        return TopologyWish(mode=rng.choice(("latency", "throughput")))
    if kind < 5:
        return TopologyWish(gateways=rng.choice((1, 2, 3)))
    if kind == 5:
        return TopologyWish(shards=rng.choice((3, 4)), gateways=rng.choice((1, 2)), replicas=2)
    if kind == 6:
        return TopologyWish(transport=rng.choice(("grpc", "shm")), shards=rng.choice((2, 3)))
    return TopologyWish(replace_shard=f"shard-{rng.randrange(4)}")


def _fault(rng, chaos_s):
    return Fault(
        kind=rng.choice(list(FaultKind)),
        at_s=rng.uniform(0.5, chaos_s),
        seconds=rng.choice((0.5, 2.0, 4.0, 7.0, 12.0)) * rng.uniform(0.7, 1.3),
        pick=rng.random(),
        other=rng.random(),
    )


def _trap(rng):
    return Trap(
        what=rng.choice(STAGES),
        number=rng.choice((1, 1, 1, 2, 2, 3, 4)),
        is_before=rng.random() < 0.5,
        victim=rng.choice(list(Victim)),
        seconds=rng.uniform(1.0, 12.0),
        pick=rng.random(),
    )
