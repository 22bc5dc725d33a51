"""One run: arrivals through gateways on a virtual clock, the autoscaler in the loop."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from cluster.planning.candidate import Candidate, num_nodes
from cluster.planning.observed import ObservedWindow
from cluster.simulator.fleet import Fleet
from cluster.simulator.result import Commit, Result, Sample
from cluster.simulator.scaling import ScalerShell, Scaling
from cluster.simulator.timing import Latencies, Listener, ModelOf
from cluster.simulator.watch import Period, PeriodListener, SampleListener, Tee, WindowListener
from cluster.simulator.workload import Arrival

_MOST_WAIT_S = 3600.0  # after the load's end, for a cluster at zero to come back


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """A cluster to simulate."""

    model_of: ModelOf
    start: Candidate | None  # the topology at 0 s; None: zero
    is_exact: bool = False  # every step by the real scheduler, else many steps at once
    num_looked_at: int = 8  # gateways whose load is compared for a request
    sample_s: float = 5.0  # between samples; the autoscaler's tick where there is one
    seconds: float | None = None  # the load's length; None: to its last arrival
    seed: int = 0
    settled_from_s: float = 0.0  # who came from then on is counted once more, for itself


def simulate(arrivals: Iterable[Arrival], setup: Setup, scaling: Scaling | None = None) -> Result:
    """Run until the last request is answered.

    Args:
        arrivals: In order of time.
        setup: The cluster; without ``scaling`` its topology stays.
        scaling: The autoscaler, and how long its changes take.

    Raises:
        ValueError: Arrivals are out of order, or a request can never fit a gateway's cache.
    """
    run = _Run(setup, scaling)
    last_s = 0.0
    for arrival in arrivals:
        if arrival.at_s < last_s:
            raise ValueError(f"arrival at {arrival.at_s} s after one at {last_s} s")
        last_s = arrival.at_s
        run.pass_to(last_s)
        run.arrive(arrival)
    return run.finish(last_s if setup.seconds is None else max(last_s, setup.seconds))


class _Run:
    """State of a run at ``now_s``."""

    def __init__(self, setup: Setup, scaling: Scaling | None) -> None:
        self._tick_s = setup.sample_s if scaling is None else scaling.tick_s
        self._window = None if scaling is None else ObservedWindow(scaling.window_s)
        self._shell = None if scaling is None else ScalerShell(scaling, setup.start)
        self._latencies = Latencies()
        self._settled = Latencies(from_s=setup.settled_from_s) if setup.settled_from_s else None
        self._settle_s = 0.0 if scaling is None else scaling.window_s
        self._in_sample = SampleListener()
        self._in_period = PeriodListener(self._new_period(0.0))
        self._fleet = Fleet(
            setup.model_of,
            self._listeners(),
            is_exact=setup.is_exact,
            num_looked_at=setup.num_looked_at,
            seed=setup.seed,
        )
        self._current = setup.start
        self._fleet.commit(0.0, setup.start)
        self._next_tick_s = 0.0
        self._now_s = 0.0
        self._node_seconds = 0.0
        self._first_s = math.nan
        self._num_arrivals = 0
        self._num_since_sample = 0
        self._samples: list[Sample] = []
        self._commits: list[Commit] = []

    def arrive(self, arrival: Arrival) -> None:
        """A request comes now."""
        if not self._num_arrivals:
            self._first_s = arrival.at_s
        self._num_arrivals += 1
        self._num_since_sample += 1
        if self._window is not None:
            self._window.arrived(arrival.at_s, arrival.prompt_tokens)
            self._in_period.period.arrived(arrival)
        self._fleet.arrive(arrival)

    def pass_to(self, until_s: float) -> None:
        """Ticks and commits up to a time."""
        while True:
            commit_s = math.inf if self._shell is None else self._shell.commit_s
            next_s = min(self._next_tick_s, commit_s)
            if next_s > until_s:
                self._clock(until_s)
                return
            self._clock(next_s)
            if commit_s <= self._next_tick_s:
                self._commit()
            else:
                self._tick()

    def finish(self, end_s: float) -> Result:
        """Let the load end, then answer all that is still there."""
        self.pass_to(end_s)
        node_seconds = self._node_seconds
        wait_s = end_s
        while self._shell is not None and self._fleet.num_held and wait_s < end_s + _MOST_WAIT_S:
            wait_s += self._tick_s
            self.pass_to(wait_s)
        num_unserved = self._fleet.num_held
        self._fleet.advance(math.inf)
        self._judge(max(wait_s, self._latencies.last_end_s))
        return Result(
            latencies=self._latencies,
            settled=self._settled or self._latencies,
            num_arrivals=self._num_arrivals,
            num_unserved=num_unserved,
            first_s=self._first_s,
            node_seconds=node_seconds,
            samples=self._samples,
            records=[] if self._shell is None else self._shell.records,
            commits=self._commits,
            calibration_error=None if self._shell is None else self._shell.calibration_error,
        )

    def _listeners(self) -> Tee:
        every: list[Listener] = [self._latencies, self._in_sample]
        if self._settled is not None:
            every.append(self._settled)
        if self._window is not None:
            every += [WindowListener(self._window), self._in_period]
        return Tee(*every)

    def _clock(self, now_s: float) -> None:
        self._node_seconds += (now_s - self._now_s) * self._num_nodes
        self._now_s = now_s

    @property
    def _num_nodes(self) -> int:
        return num_nodes(self._current) if self._shell is None else self._shell.num_nodes

    def _tick(self) -> None:
        now_s = self._now_s
        waiting, running = self._fleet.counts(now_s)
        ttft_s, inter_token_s = self._in_sample.take()
        self._samples.append(
            Sample(
                at_s=now_s,
                arrived=self._num_since_sample,
                waiting=waiting,
                running=running,
                candidate=self._current,
                num_nodes=self._num_nodes,
                ttft_s=ttft_s,
                inter_token_s=inter_token_s,
            )
        )
        self._num_since_sample = 0
        if self._shell is not None and self._window is not None:
            self._window.queues(now_s, waiting, running)
            self._shell.tick(now_s, self._current, self._window)
        self._next_tick_s = now_s + self._tick_s

    def _commit(self) -> None:
        assert self._shell is not None, "only a shell has a commit"
        self._fleet.advance(self._now_s)
        self._judge(self._now_s)
        commit = self._shell.commit(self._now_s)
        self._current = commit.candidate
        self._fleet.commit(self._now_s, commit.candidate)
        self._commits.append(commit)
        self._in_period.period = self._new_period(self._now_s)

    def _judge(self, now_s: float) -> None:
        if self._shell is not None:
            self._shell.judge(self._current, self._in_period.period, now_s)

    def _new_period(self, now_s: float) -> Period:
        return Period(start_s=now_s, settled_s=now_s + self._settle_s)
