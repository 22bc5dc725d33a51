"""``galerne explain`` and ``galerne decisions``: what the autoscaler decides, and why."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Annotated, Any

import typer
from rich.console import Console

from cluster.cli.client import (
    CALL_TIMEOUT_S,
    DEFAULT_TARGET,
    ApiKey,
    Target,
    connect_cluster,
    metadata,
    wide_console,
)
from cluster.cli.explain_print import (
    decisions_table,
    print_decision,
    print_outcome,
    print_standing,
)
from galerne.errors import ConfigError
from galerne.v1 import cluster_pb2 as pb

_POLL_S = 1.0


def explain(
    number: Annotated[
        int | None, typer.Option(min=1, help="of the decision; unset: the latest")
    ] = None,
    target: Target = DEFAULT_TARGET,
    api_key: ApiKey = "",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="wait for more")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="print JSON, up to 200 candidates; one line a decision")
    ] = False,
) -> None:
    """Show a decision of the autoscaler: why, what else there was, what came of it."""
    console = wide_console()
    with connect_cluster(target) as stub:
        client = _Client(stub, api_key)
        info = client.explain(number)
        if not as_json:
            print_standing(console, info)
        if info.HasField("decision"):
            _show(console, info.decision, as_json=as_json)
        elif not follow:
            raise ConfigError("decision", None, "none was made yet; --follow waits for the first")
        if follow:
            _follow(console, client, as_json=as_json)


def decisions(
    target: Target = DEFAULT_TARGET,
    api_key: ApiKey = "",
    as_json: Annotated[
        bool, typer.Option("--json", help="print JSON, one line a decision")
    ] = False,
) -> None:
    """List the decisions of the autoscaler that are kept, with their regret."""
    console = wide_console()
    with connect_cluster(target) as stub:
        client = _Client(stub, api_key)
        found = list(client.since(0))
        if not as_json:
            console.print(decisions_table(found), highlight=False)
            return
        for decision in found:
            _print_json(client.explain(decision.number).decision)


class _Client:
    """The two calls."""

    def __init__(self, stub: Any, api_key: str) -> None:  # noqa: ANN401 - stubs are untyped
        self._stub = stub
        self._options = {"metadata": metadata(api_key), "timeout": CALL_TIMEOUT_S}

    def explain(self, number: int | None = None) -> pb.ScalerInfo:
        """The autoscaler and a decision, with its JSON."""
        info: pb.ScalerInfo = self._stub.Explain(pb.ExplainRequest(number=number), **self._options)
        return info

    def since(self, after: int) -> Iterator[pb.Decision]:
        """All decisions after a number, in as many parts as they come."""
        while True:
            request = pb.ListDecisionsRequest(after=after)
            part = self._stub.ListDecisions(request, **self._options).decisions
            yield from part
            if not part:
                return
            after = part[-1].number


def _follow(console: Console, client: _Client, *, as_json: bool) -> None:
    """Decisions as they come, and outcomes of those that are open; until Ctrl-C."""
    known = list(client.since(0))
    shown = known[-1].number if known else 0
    still_open = {decision.number for decision in known if not decision.HasField("outcome")}
    while True:
        time.sleep(_POLL_S)
        for decision in client.since(min(still_open, default=shown + 1) - 1):
            if decision.number > shown:
                shown = decision.number
                still_open.add(shown)
                full = client.explain(shown).decision if as_json else decision
                _show(console, full, as_json=as_json)
            elif decision.number in still_open and decision.HasField("outcome") and not as_json:
                console.print(f"outcome of {decision.number}", style="bold")
                print_outcome(console, decision)
            if decision.HasField("outcome"):
                still_open.discard(decision.number)


def _show(console: Console, decision: pb.Decision, *, as_json: bool) -> None:
    if as_json:
        _print_json(decision)
    else:
        print_decision(console, decision)


def _print_json(decision: pb.Decision) -> None:
    typer.echo(json.dumps(json.loads(decision.json)))
