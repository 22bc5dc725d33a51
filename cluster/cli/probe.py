"""``galerne probe``, for ``galerne --help`` and for those who come here through Typer."""

from __future__ import annotations

import typer

from cluster.probe.command import main


def probe(context: typer.Context) -> None:
    """Probe this host for Kubernetes: live, ready or node."""
    raise typer.Exit(main(context.args))
