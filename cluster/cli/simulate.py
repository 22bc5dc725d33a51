"""``galerne simulate``: the autoscaler under a load that is not there, on a virtual clock."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.cli import calibrated as at
from cluster.cli.client import wide_console
from galerne.errors import ConfigError

if TYPE_CHECKING:
    from cluster.simulator.workload import Arrival


def simulate(
    workload: Annotated[
        str,
        typer.Option(
            help="poisson; burst: 2 minutes of twice the rate after 4 of half of it; day: a "
            "cosine; a directory of serve --record; or a file of arrivals, a line each: "
            "[seconds, prompt tokens, output tokens]"
        ),
    ] = "poisson",
    rate: Annotated[float, typer.Option(min=1e-6, help="requests a second, mean")] = 1.0,
    minutes: Annotated[float, typer.Option(min=0.5, help="of the load; of the day's curve")] = 30.0,
    prompt: Annotated[float, typer.Option(min=1, help="tokens, mean")] = at.PROMPT_TOKENS,
    output: Annotated[float, typer.Option(min=1, help="tokens, mean")] = at.OUTPUT_TOKENS,
    nodes: at.MoreNodes = 0,
    ttft_p95: at.TtftP95 = None,
    inter_token_p95: at.InterTokenP95 = None,
    min_copies: at.MinCopies = None,
    change_s: Annotated[float, typer.Option(min=0, help="seconds that a change takes")] = 5.0,
    node_s: Annotated[float, typer.Option(min=0, help="seconds until a machine has come")] = 60.0,
    static: Annotated[int, typer.Option(min=1, help="fixed topologies to compare with")] = 4,
    with_sliced: Annotated[
        bool,
        typer.Option(
            "--sliced",
            help="compare topologies whose shards hold a slice of every expert, too: another "
            "numerics profile, which auto never chooses",
        ),
    ] = False,
    seed: Annotated[int, typer.Option(help="of the load")] = 1,
    model: at.Model = None,
    experts: at.Experts = None,
    dense: at.Dense = None,
    calibration: at.CalibrationFile = None,
    device: at.Device = None,
    shard_device: at.ShardDevice = None,
    plot: Annotated[Path | None, typer.Option(help="picture to write, .png or .svg")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON, all decisions")] = False,
) -> None:
    """Predict how auto would serve a load, and the best fixed topologies; nothing is started."""
    from cluster.calibrations import measured_cluster
    from cluster.cli.simulate_print import print_comparison
    from cluster.planning.load import Objectives
    from cluster.simulator.site import Site

    if plot is not None and plot.suffix not in (".png", ".svg"):
        raise ConfigError("plot", plot, "must end in .png or .svg")
    arrivals = _arrivals(workload, rate, (prompt, output), 60 * minutes, seed)
    asked = (model, experts, dense, calibration, (device, shard_device))
    stored = at.find_stored(*asked)
    promises = Objectives(
        ttft_p95_s=ttft_p95 or None,
        inter_token_p95_s=inter_token_p95 or None,
        min_copies=min_copies or 1,
    )
    site = Site(
        shape=stored.shape,
        calibration=stored.calibration,
        cluster=measured_cluster(stored, at.settings_of(*asked), nodes),
        objectives=promises,
        has_sliced=with_sliced,
        node_s=node_s,
        change_s=change_s,
    )
    found = site.compare(arrivals, static)
    console = wide_console()
    if as_json:
        typer.echo(json.dumps(found.to_dict()))
    else:
        print_comparison(console, found)
        console.print(at.source_of(stored), style="dim", markup=False)
    if plot is not None:
        from cluster.simulator.plot import plot as draw

        draw(found.auto, plot, f"{workload}, {len(arrivals):,} requests")


def _arrivals(
    workload: str, rate: float, tokens: tuple[float, float], seconds: float, seed: int
) -> list[Arrival]:
    from cluster.simulator import workload as loads

    lengths = loads.Lengths(prompt_mean=tokens[0], output_mean=tokens[1], cv2=0.5)
    if workload == "poisson":
        found = loads.poisson(rate, lengths, seconds, seed)
    elif workload == "burst":
        found = loads.bursts(loads.Bursts.of_mean(rate), lengths, seconds, seed)
    elif workload == "day":
        found = loads.day(0.1 * rate, 1.9 * rate, lengths, seconds, seed, period_s=seconds)
    else:
        found = loads.replay(_read(Path(workload)))
    arrivals = list(found)
    if not arrivals:
        raise ConfigError("rate", rate, f"no request comes in {seconds:.0f} s")
    return arrivals


def _read(path: Path) -> list[Arrival]:
    from cluster.simulator.recorded import recorded_arrivals
    from cluster.simulator.workload import read_arrivals

    return recorded_arrivals(path) if path.is_dir() else read_arrivals(path)
