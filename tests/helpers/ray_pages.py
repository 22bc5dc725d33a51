"""Ray's dashboard of a ``galerne serve`` that was started with one."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

_DASHBOARD = re.compile(r"Ray dashboard (http://\S+), its token in (\S+)")


def dashboard_of(server):
    """Its URL, and the file of the token that it asks for."""
    url, token_file = _DASHBOARD.search(server.output).groups()
    return url, Path(token_file)


def ray_command(url, token_file, *arguments):
    """What a ``ray`` command prints, of the cluster with this dashboard."""
    command = [str(Path(sys.executable).parent / "ray"), *arguments]
    environment = os.environ | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token_file),
        "RAY_ADDRESS": url,
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def listed_actors(server):
    """Class by the name's last part, of those that ``ray list actors`` shows of a deployment."""
    alive = ("--filter", "state=ALIVE", "--format", "json")
    listed = json.loads(ray_command(*dashboard_of(server), "list", "actors", *alive))
    named = [(re.fullmatch(r"galerne-\w{8}-(.+)", a["name"] or ""), a) for a in listed]
    return {match[1]: actor["class_name"] for match, actor in named if match}
