"""Loads by name, as the arrivals of ``cluster.simulator.workload``; one seed gives one sequence."""

import json
import random
from pathlib import Path

from cluster.simulator.workload import Arrival, Bursts, Lengths, bursts, phases, poisson, replay

KINDS = ("poisson", "gamma", "bursts", "phases", "replay")


def gamma(requests_per_s, cv2, lengths, seconds, seed):
    """Renewal arrivals whose distances are gamma distributed; cv2 above 1 comes in clusters."""
    chance = random.Random(seed)
    now_s = chance.gammavariate(1 / cv2, cv2 / requests_per_s)
    while now_s < seconds:
        yield Arrival(now_s, *lengths.draw(chance))
        now_s += chance.gammavariate(1 / cv2, cv2 / requests_per_s)


def add_arguments(parser):
    """Flags that describe a load."""
    parser.add_argument("--kind", choices=KINDS, default="poisson")
    parser.add_argument("--rate", type=float, default=1.0, help="requests/s; bursts: when quiet")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--prompt", type=float, default=64, help="tokens, mean")
    parser.add_argument("--output", type=float, default=64, help="tokens, mean")
    parser.add_argument("--length-cv2", type=float, default=0.0, help="0: all of one length")
    parser.add_argument("--arrival-cv2", type=float, default=4.0, help="of gamma")
    parser.add_argument("--burst-rate", type=float, default=8.0, help="requests/s in a burst")
    parser.add_argument("--burst-s", type=float, default=5.0, help="a burst's mean length")
    parser.add_argument("--quiet-s", type=float, default=15.0, help="mean time between bursts")
    parser.add_argument("--phases", nargs="*", default=[], help="RATE:SECONDS ...")
    parser.add_argument("--file", type=Path, help="of replay: JSON lines [at_s, prompt, output]")
    parser.add_argument("--speed", type=float, default=1.0, help="of replay")
    parser.add_argument("--seed", type=int, default=1)


def from_arguments(arguments):
    """The load they describe, as a list."""
    lengths = Lengths(
        prompt_mean=arguments.prompt, output_mean=arguments.output, cv2=arguments.length_cv2
    )
    rate, seconds, seed = arguments.rate, arguments.seconds, arguments.seed
    if arguments.kind == "gamma":
        return list(gamma(rate, arguments.arrival_cv2, lengths, seconds, seed))
    if arguments.kind == "bursts":
        rates = Bursts(
            quiet_requests_per_s=rate,
            burst_requests_per_s=arguments.burst_rate,
            quiet_mean_s=arguments.quiet_s,
            burst_mean_s=arguments.burst_s,
        )
        return list(bursts(rates, lengths, seconds, seed))
    if arguments.kind == "phases":
        parts = (part.split(":") for part in arguments.phases)
        return list(phases([(float(r), float(s)) for r, s in parts], lengths, seed))
    if arguments.kind == "replay":
        rows = map(json.loads, arguments.file.read_text().splitlines())
        return list(replay((Arrival(*row) for row in rows), arguments.speed))
    return list(poisson(rate, lengths, seconds, seed))
