"""Whether this node does its part: its raylet lives, and whatever Ray has placed here answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil

from cluster.part_files import PartFile, read_part_files
from cluster.probe.asking import SERVING, HealthQuestion, ask_health

_RAYLET = "raylet"


class Raylet(NamedTuple):
    """One that runs here."""

    pid: int
    session: Path  # its Ray session's directory
    addresses: tuple[str, ...]  # host:port on which it listens


def raylets(session: Path | None) -> list[Raylet]:
    """Those of this machine, or container; of one session only, if it is named."""
    found = []
    for process in psutil.process_iter(["name", "status"]):
        if process.info["name"] == _RAYLET and process.info["status"] != psutil.STATUS_ZOMBIE:
            try:
                raylet = _raylet(process)
            except psutil.Error:  # it ends right now
                continue
            if session is None or raylet.session.resolve() == session.resolve():
                found.append(raylet)
    return found


def _raylet(process: psutil.Process) -> Raylet:
    options = dict(a.removeprefix("--").partition("=")[::2] for a in process.cmdline()[1:])
    addresses = (
        f"{options.get('node_ip_address', '127.0.0.1')}:{connection.laddr.port}"
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    )
    session = Path(options.get("session_dir", "/tmp/ray/session_latest"))
    return Raylet(process.pid, session, tuple(addresses))


def node_problems(session: Path | None, timeout_s: float) -> tuple[list[str], str]:
    """What is wrong here, and what there is; no problem: all is well.

    A raylet answers on one of its ports as it does to Ray's head, which declares nodes dead by
    that. A part that has ended is Ray's affair, who starts it again, here or elsewhere: only one
    that runs and does not answer is a problem.
    """
    here = raylets(session)
    if not here:
        return ["no raylet runs here"], ""
    sessions = {raylet.session.resolve() for raylet in here}
    parts = [p for s in sorted(sessions) for p in read_part_files(s) if p.is_running]
    questions = [HealthQuestion(address) for raylet in here for address in raylet.addresses]
    questions += [HealthQuestion(part.address, part.tls) for part in parts]
    answers = iter(ask_health(questions, timeout_s))
    problems = [*_raylet_problems(here, answers), *_part_problems(parts, answers)]
    return problems, f"{len(here)} raylet(s), {len(parts)} part(s)"


def _raylet_problems(here: list[Raylet], answers: Iterator[str]) -> Iterator[str]:
    for raylet in here:
        told = [next(answers) for _ in raylet.addresses]
        if SERVING not in told:
            yield f"raylet {raylet.pid}: {told[0] if told else 'listens nowhere'}"


def _part_problems(parts: list[PartFile], answers: Iterator[str]) -> Iterator[str]:
    for part, answer in zip(parts, answers, strict=True):
        if answer != SERVING:
            yield f"{part.part} (pid {part.pid}): {answer}"
