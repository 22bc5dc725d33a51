"""What was measured at one point, kept in a file, and what two models say of it."""

import json
from dataclasses import asdict, dataclass, replace

from cluster.doctor.store import decode, encode
from cluster.planning.candidate import Candidate
from cluster.planning.load import Load
from cluster.planning.predict import predict
from cluster.simulator.run import Setup, simulate
from cluster.simulator.timing import models
from cluster.simulator.workload import Arrival
from galerne.topology import LinkTransport, Mode
from tests.bench.calibrating import name_of

WARM_S = 2.0  # of a load, not counted


@dataclass(frozen=True)
class Measured:
    """A load on a topology, between two calibrations."""

    prompt: int
    output: int
    rate: float | None  # requests/s that were sent; None: a closed loop
    arrivals: list  # of an open loop
    candidate: Candidate
    found: dict  # what the clients saw
    quantities: dict  # of it, those that are predicted
    around: tuple  # calibrations before and after

    def save(self, path):
        told = asdict(replace(self, around=())) | {"around": [encode(c) for c in self.around]}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(told, default=lambda value: value.value))  # enums

    @classmethod
    def read(cls, path):
        told = json.loads(path.read_text())
        candidate = told["candidate"]
        transport, mode = LinkTransport(candidate["transport"]), Mode(candidate["mode"])
        told["candidate"] = Candidate(**(candidate | {"transport": transport, "mode": mode}))
        told["arrivals"] = [Arrival(*arrival) for arrival in told["arrivals"]]
        told["around"] = tuple(decode(each) for each in told["around"])
        return cls(**told)


def judge(measured):
    """A row of the result: predictions with both calibrations, and their mean."""
    around = [(c.shape, c.calibration) for c in measured.around]
    both = [_predicted(*each, measured) for each in around]
    simulated = [_simulated(*each, measured) for each in around] if measured.arrivals else []
    quantities = {}
    for name, value in measured.quantities.items():
        told = {"measured": value}
        for kind, guesses in (("predicted", both), ("simulated", simulated)):
            if guesses:
                told[kind] = sum(guess[name] for guess in guesses) / len(guesses)
                told[f"{kind}_error"] = told[kind] / value - 1
        quantities[name] = told
    return {
        "topology": name_of(measured.candidate),
        "prompt": measured.prompt,
        "output": measured.output,
        "requests_per_s": measured.rate,
        "requests": measured.found["requests"],
        "failed": measured.found["failed"],
        "drift": both[1]["step_s"] / both[0]["step_s"] - 1,
        "drift_within": [calibration.drift for calibration in measured.around],
        "quantities": quantities,
    }


def _predicted(shape, calibration, measured):
    """By the planner's formulas, and the decode step, by which drift is judged."""
    load = Load(
        requests_per_s=1e9 if measured.rate is None else measured.rate,
        prompt_tokens=measured.prompt,
        output_tokens=measured.output,
        service_cv2=0.0,  # all are of one length
    )
    found = predict(shape, calibration, measured.candidate, load)
    names = {"capacity_per_s": "max_requests_per_s"}
    quantities = [*measured.quantities, "step_s"]
    return {q: getattr(found, names.get(q, q)) for q in quantities}


def _simulated(shape, calibration, measured):
    """By the simulator, for the same arrivals, through the real scheduler."""
    setup = Setup(
        model_of=models(shape, calibration, seed=1),
        start=measured.candidate,
        is_exact=True,
        settled_from_s=WARM_S,
    )
    told = simulate(measured.arrivals, setup).settled
    return {
        "ttft_p50_s": told.ttft_s.quantile(0.5),
        "ttft_p95_s": told.ttft_s.quantile(0.95),
        "inter_token_p50_s": told.inter_token_s.quantile(0.5),
        "inter_token_p95_s": told.inter_token_s.quantile(0.95),
        "completion_s": told.completion_s.mean,
        "requests_per_s": measured.quantities["requests_per_s"],  # the load's own
    }
