"""Autoscalers that know the load, to tell what a regret comes of: from not knowing it yet, from the
time that a change takes, or from the choice.
"""

import itertools
from dataclasses import replace

from cluster.planning.autoscaler import Autoscaler


class Foreseeing(Autoscaler):
    """Decides by the same rules, of the true load of the next ``ahead_s``; 0: of now.

    Args:
        config, planner: As the autoscaler's.
        load: Lengths of requests; its rate does not matter.
        phases: Rate and length, one after the other.
        ahead_s: How far it sees.
    """

    def __init__(self, config, planner, load, phases, ahead_s):
        super().__init__(config, planner)
        self._load, self._ahead_s = load, ahead_s
        ends = list(itertools.accumulate(seconds for _, seconds in phases))
        rates = [rate for rate, _ in phases]
        self._spans = list(zip(rates, [0.0, *ends[:-1]], ends, strict=True))

    def load_at(self, now_s):
        """The most that comes from now on as far as it sees."""
        until_s = now_s + self._ahead_s
        rates = [rate for rate, begin, end in self._spans if begin <= until_s and end > now_s]
        return replace(self._load, requests_per_s=max(rates, default=0.0))

    def decide(self, now_s, state):
        load = self.load_at(now_s)
        rate = load.requests_per_s
        upper = replace(load, requests_per_s=max(rate, state.observed.upper.requests_per_s))
        known = {"recent_requests_per_s": rate, "latest_requests_per_s": rate, "is_settled": True}
        seen = replace(state.observed, load=load, upper=upper, **known)
        return super().decide(now_s, replace(state, observed=seen))
