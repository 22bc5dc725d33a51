"""Changes to schedules, for a look at something that few of them would meet."""

from router.api.cluster_port import TopologyWish
from sim.control.schedule import Fault, FaultKind, Finale, Trap, Victim


def trapped(what, number, victim, *, is_before=False, pick=0.5, wish=None, **settings):
    """Schedules with three gateways and one fault, at a place in every first change."""

    def focus(schedule):
        schedule.start_with(**{"gateways": 3} | settings)
        schedule.faults, schedule.share_of_faults, schedule.failing_starts = [], 0.0, {}
        shards = 3 if settings.get("shards") != 3 else 2
        schedule.wishes = [(3.0, wish or TopologyWish(shards=shards))]
        schedule.traps = [Trap(what, number, is_before, victim, seconds=8.0, pick=pick)]
        schedule.finale = Finale.NONE

    return focus


def unreliable(schedule):
    """Many calls go wrong, and shards stay away for a while."""
    schedule.start_with(shards=3, replicas=1)
    schedule.share_of_faults, schedule.traps, schedule.wishes = 0.4, [], []
    schedule.chaos_s = 40.0
    times = (8.0, 16.0, 24.0, 32.0)
    schedule.faults = [Fault(FaultKind.AWAY, at_s, 2.0, 0.99, 0.0) for at_s in times]


def alone_with_the_controller(schedule):
    """The only gateway crashes together with the controller, after a change."""
    trapped("nothing", 0, Victim.TARGET, gateways=1)(schedule)
    schedule.faults = [Fault(FaultKind.CRASH_WITH_CONTROLLER, 10.0, 0.0, 0.0, 0.0)]
    schedule.chaos_s = 15.0


def finale(kind):
    """Nothing else happens."""

    def focus(schedule):
        schedule.start_with(shards=4, replicas=1)
        schedule.faults, schedule.traps, schedule.wishes = [], [], []
        schedule.share_of_faults, schedule.chaos_s, schedule.finale = 0.0, 5.0, kind

    return focus


FOCUSES = {
    "a gateway restarts between shadow and commit": trapped("shadow", 1, Victim.TARGET),
    "the controller dies between two commits": trapped(
        "commit", 2, Victim.CONTROLLER, is_before=True
    ),
    "a gateway hangs in a commit, and old shards leave": trapped(
        "commit", 2, Victim.HANG, is_before=True, shards=3
    ),
    "a gateway is not heard in a commit": trapped(
        "commit", 1, Victim.CUT, is_before=True, shards=3, pick=0.99
    ),
    "a gateway is not heard in a commit, and all shards leave": trapped(
        "commit",
        1,
        Victim.CUT,
        is_before=True,
        shards=3,
        pick=0.99,
        wish=TopologyWish(mode="latency"),
    ),
    "a shard dies while gateways commit": trapped(
        "commit", 1, Victim.OTHER, is_before=True, gateways=1, shards=2, pick=0.3
    ),
    "the controller dies before a commit": trapped("shadow", 3, Victim.CONTROLLER),
    "the controller dies while shards retire": trapped("retire_epochs", 1, Victim.CONTROLLER),
    "the only gateway dies with the controller": alone_with_the_controller,
    "adoptions go unanswered": unreliable,
}
