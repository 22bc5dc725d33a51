"""The command: exit code 0 or 1, and one line that says why."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cluster.probe.http import get, reason_of
from cluster.tls_files import missing_half, tls_of_environment

_DEFAULT_HTTP = "127.0.0.1:8000"
_DEFAULT_TIMEOUT_S = 2.0
_GRPCS = "grpcs://"


def main(arguments: Sequence[str] | None = None) -> int:
    """Probe; the exit code. A wrong argument ends the process with 2, as argparse does."""
    told = _parser().parse_args(arguments)
    try:
        problems, found = _problems(told)
    except OSError as error:  # a file of TLS
        problems, found = [str(error)], ""
    line = f"{told.what}: {'; '.join(problems) or found}"
    sys.stdout.write(" ".join(line.split()) + "\n")
    return 1 if problems else 0


def _problems(told: argparse.Namespace) -> tuple[list[str], str]:
    """What is wrong, and what was found."""
    if told.what != "node":
        return _server_problems(told)
    from cluster.probe.node import node_problems  # late, as below: gRPC takes 0.2 s to import

    return node_problems(told.session_dir, told.timeout_s)


def _server_problems(told: argparse.Namespace) -> tuple[list[str], str]:
    http = told.http or (None if told.grpc else _DEFAULT_HTTP)
    is_ready = told.what == "ready"
    problems, found = [], []
    if http:
        status, text = get(http, "/ready" if is_ready else "/health", told.timeout_s)
        found.append(f"{http} answers")
        if status != 200:
            problems.append(f"{http}: {reason_of(text)}")
    if told.grpc:
        answer = _ask_grpc(told)
        found.append(f"{told.grpc} {answer}")
        if answer not in (("SERVING",) if is_ready else ("SERVING", "NOT_SERVING")):
            problems.append(f"{told.grpc}: {answer}")
    return problems, ", ".join(found)


def _ask_grpc(told: argparse.Namespace) -> str:
    from cluster.probe.asking import HealthQuestion, ask_health

    address = told.grpc.removeprefix(_GRPCS)
    if address != told.grpc and (lacks := missing_half()):
        return f"{lacks} must be set where its other half is"
    tls = None if address == told.grpc else tls_of_environment() | {"name": told.tls_name}
    [answer] = ask_health([HealthQuestion(address, tls, told.application)], told.timeout_s)
    return answer


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="galerne probe", description="Exit code 0 if all is well, else 1; one line says why."
    )
    what = parser.add_subparsers(dest="what", required=True, metavar="live|ready|node")
    live = what.add_parser("live", help="the server of this host answers")
    ready = what.add_parser("ready", help="it can serve: gateways up, every expert held")
    node = what.add_parser("node", help="the raylet of this node lives, and every part on it")
    for server in (live, ready):
        server.add_argument(
            "--http", metavar="[https://]HOST:PORT", help=f"default {_DEFAULT_HTTP}, without --grpc"
        )
        server.add_argument("--grpc", metavar="[grpcs://]HOST:PORT", help="asked as well")
        server.add_argument("--application", default="", help="of a Ray Serve with several")
        server.add_argument("--tls-name", default="", help="that the certificate has, by gRPC")
    node.add_argument("--session-dir", type=Path, help="only this Ray session; default all here")
    for probe in (live, ready, node):
        probe.add_argument("--timeout-s", type=_positive, default=_DEFAULT_TIMEOUT_S, metavar="S")
    return parser


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < 3600:
        raise argparse.ArgumentTypeError(f"must be above 0 and below 3600 seconds, got {text}")
    return value
