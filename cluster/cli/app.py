"""All commands."""

from __future__ import annotations

import typer

from cluster.cli.adapter import list_adapters, load, unload
from cluster.cli.batch import batch
from cluster.cli.certs import certs
from cluster.cli.chat import chat
from cluster.cli.demo import demo
from cluster.cli.demo_eval import demo_eval
from cluster.cli.doctor import doctor
from cluster.cli.explain import decisions, explain
from cluster.cli.inspect import inspect
from cluster.cli.log_level import log_level
from cluster.cli.plan import plan
from cluster.cli.probe import probe
from cluster.cli.quantize import quantize
from cluster.cli.replay import replay
from cluster.cli.serve import serve
from cluster.cli.simulate import simulate
from cluster.cli.status import status
from cluster.cli.topology import drain, events, rebalance, roll, set_topology, show
from cluster.cli.trace import trace
from cluster.cli.what_if import what_if

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Serve Mistral Small 4 with its experts spread over a Ray cluster.",
    pretty_exceptions_enable=False,
)
for command in (
    serve,
    chat,
    batch,
    status,
    inspect,
    quantize,
    doctor,
    plan,
    what_if,
    simulate,
    explain,
    decisions,
    replay,
    certs,
    events,
    drain,
    trace,
    log_level,
):
    app.command()(command)
demo_app = typer.Typer(invoke_without_command=True, pretty_exceptions_enable=False)
demo_app.callback()(demo)
demo_app.command("eval")(demo_eval)
app.add_typer(demo_app, name="demo")
topology_app = typer.Typer(invoke_without_command=True, pretty_exceptions_enable=False)
topology_app.callback()(show)
topology_app.command("set")(set_topology)
topology_app.command("roll")(roll)
topology_app.command("rebalance")(rebalance)
app.add_typer(topology_app, name="topology")
adapter_app = typer.Typer(
    no_args_is_help=True,
    help="LoRA adapters of a running server.",
    pretty_exceptions_enable=False,
)
adapter_app.command("load")(load)
adapter_app.command("unload")(unload)
adapter_app.command("list")(list_adapters)
app.add_typer(adapter_app, name="adapter")
# Its options are argparse's: the fast way to it imports no more than that.
app.command(
    "probe",
    context_settings={
        "allow_extra_args": True,
        "ignore_unknown_options": True,
        "help_option_names": [],
    },
)(probe)
