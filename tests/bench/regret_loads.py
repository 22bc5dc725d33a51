"""The loads and static shapes among which a choice is judged, and how each pair is measured."""

import math
from dataclasses import dataclass, replace

from cluster.planning.candidate import Candidate
from cluster.planning.load import Load
from cluster.planning.planner import plan
from cluster.planning.predict import predict
from cluster.presets import PRESETS
from cluster.simulator.workload import Arrival, Lengths, phases
from galerne.topology import LinkTransport, Mode
from tests.bench.calibrating import name_of
from tests.bench.open_load import Plan, run_load

PROMPT, OUTPUT = 64, 64
_WARM = 0.2  # of a closed loop, not counted
_HALVINGS = 40


def shape(mode, transport=LinkTransport.LOCAL, **fields):
    """A candidate with a mode's caps, all parts on one machine."""
    caps = PRESETS[mode]
    made = Candidate(
        mode=mode,
        transport=transport,
        gateways=1,
        shards=1,
        replicas=1,
        micro_batches=1,
        max_num_seqs=caps.max_num_seqs,
        max_batched_tokens=caps.max_batched_tokens,
    )
    return replace(made, **fields)


HOST_SHAPES = tuple(
    shape(mode, transport, **fields)
    for mode in (Mode.LATENCY, Mode.THROUGHPUT)
    for transport, fields in (
        (LinkTransport.LOCAL, {}),
        (LinkTransport.LOCAL, {"gateways": 2}),
        (LinkTransport.SHM, {"shards": 2}),
        (LinkTransport.SHM, {"shards": 3}),
    )
)


@dataclass(frozen=True)
class BenchLoad:
    """So many streams at once, or arrivals at rates one after the other."""

    name: str
    streams: int | None = None
    rates: tuple = ()  # (requests/s, part of the time)

    def to_plan(self, seconds, seed):
        lengths = Lengths(prompt_mean=PROMPT, output_mean=OUTPUT)
        if self.streams:
            request = [Arrival(0.0, PROMPT, OUTPUT)]
            return Plan(arrivals=request, streams=self.streams, seconds=seconds, seed=seed)
        spans = [(rate, part * seconds) for rate, part in self.rates]
        return Plan(arrivals=list(phases(spans, lengths, seed)), seed=seed)

    def planned(self, shape_of_model, calibration, candidates):
        """What the planner is told: the busiest rate, or the one at which the shape that is
        predicted to be the quickest has so many requests in it.
        """
        if self.streams:
            rate = max(
                rate_of_streams(shape_of_model, calibration, candidate, self.streams)
                for candidate in candidates
            )
            return load_at(0.98 * rate)
        return load_at(max(rate for rate, _ in self.rates))


def load_at(rate):
    return Load(requests_per_s=rate, prompt_tokens=PROMPT, output_tokens=OUTPUT, service_cv2=0.0)


def rate_of_streams(model, calibration, candidate, streams):
    """Requests/s predicted of a closed loop: Little's law, at most what can be carried."""
    most = predict(model, calibration, candidate, load_at(0.0)).max_requests_per_s
    low, high = 0.0, most
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        inside = middle * predict(model, calibration, candidate, load_at(middle)).completion_s
        low, high = (middle, high) if inside < streams else (low, middle)
    return low


def loads_of(arguments):
    """Streams, and open loops of a low, a steady and a bursty rate."""
    low, steady, burst = arguments.rates
    return [
        *(BenchLoad(f"{n} streams", streams=n) for n in arguments.streams),
        BenchLoad(f"low {low:g}/s", rates=((low, 1.0),)),
        BenchLoad(f"steady {steady:g}/s", rates=((steady, 1.0),)),
        BenchLoad(f"burst {low:g}-{burst:g}/s", rates=((low, 0.3), (burst, 0.4), (low, 0.3))),
    ]


def measure(address, load, seconds, seed, settle_s=0.0, **where):
    """Completion time and answers/s of one load, after ``settle_s`` of the same."""
    whole_s = settle_s + seconds
    if load.streams:
        result = run_load(address, load.to_plan(whole_s, seed), **where)
        found = result.summary(settle_s + _WARM * seconds, whole_s)
        rate = found["tokens_per_s"] / OUTPUT  # finer than whole requests
    else:
        made = load.to_plan(seconds, seed)
        if settle_s:  # the same once more, and twice if there is time
            repeats = max(1, math.ceil(settle_s / seconds))
            settle_s = repeats * seconds
            made.arrivals = [
                arrival._replace(at_s=arrival.at_s + number * seconds)
                for number in range(repeats + 1)
                for arrival in made.arrivals
            ]
        result = run_load(address, made, **where)
        found = result.summary(settle_s)
        rate = found["requests_per_s"]
    completion_s = found["completion_s"]["mean"]
    if completion_s is None and load.streams and rate:
        completion_s = load.streams / rate  # none began and ended in that time: Little's law
    return {
        "completion_s": math.inf if completion_s is None else completion_s,
        "requests_per_s": rate,
        "ttft_p95_s": found["ttft_s"]["p95"],
        "failed": found["failed"],
    }


def choose(model, calibration, cluster, objectives, loads, candidates):
    """What the planner chooses for each load, and where it would choose another; by load."""
    chosen = {}
    for load in loads:
        asked = load.planned(model, calibration, candidates)
        found = plan(model, calibration, cluster, objectives, asked)
        best = found.chosen
        # Nothing keeps all limits where the load is too much: then whoever carries most.
        by_rate = max(found.verdicts, key=lambda v: v.prediction.max_requests_per_s)
        candidate = (best or by_rate).candidate
        chosen[load.name] = {
            "candidate": candidate,
            "name": name_of(candidate),
            "requests_per_s": asked.requests_per_s,
            "sensitivity": found.sensitivity.text if found.sensitivity else "nothing carries it",
        }
    return chosen
