"""The steps of deploy/Dockerfile without a container engine, and what they made, started.

    unshare --mount --fork python -m helpers.image_steps DIRECTORY

In a mount namespace: overlays of this machine's root, on a tmpfs, stand for the images. RUN steps
are executed there as they are written, COPY copies, and at the end the entry point runs as the
image's user, without capabilities, on a root filesystem that is read-only, with no network but
loopback. Not so: the base is this machine's Debian instead of python:*-slim, so its compiler is
not installed (apt-get) nor uv (pip), and the CPU build of torch is a wheel of this machine's.
"""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from helpers.dockerfile import lineage, read_dockerfile

ROOT = Path(__file__).parents[2]
WHEELS = "/opt/wheels"
TORCH_INDEX = "--index https://download.pytorch.org/whl/cpu --index-strategy unsafe-best-match"
# As in the base image. Whoever runs this may have a Python of their own, which no image has.
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
NOT_HERE = ("apt-get ", "pip install --no-cache-dir --root-user-action=ignore")
READY_S = 150.0
PORT = 8000


def main(directory):
    scratch, stages = Path(directory), read_dockerfile(ROOT / "deploy/Dockerfile")
    run("mount", "--make-rprivate", "/")
    run("mount", "-t", "tmpfs", "-o", "size=6g", "galerne-image", scratch)
    build = overlay(scratch / "build")
    environment = os.environ | {"PWD": "/", "PATH": PATH}
    for stage in lineage(stages, "package"):
        environment |= expanded(stage, environment)
        carry_out(stage, build, environment)
    runtime = overlay(scratch / "runtime")
    stage = stages["runtime"]
    make_runtime(stage, build, runtime)
    inside = [sys.executable, "-m", "helpers.image_steps", "--serve", str(runtime)]
    return subprocess.run(["unshare", "--net", "--fork", *inside], check=False).returncode


def run(*command, **options):
    subprocess.run([str(word) for word in command], check=True, **options)


def overlay(place):
    """A root that looks like this machine's, and keeps changes to itself."""
    for name in ("upper", "work", "root"):
        (place / name).mkdir(parents=True)
    root = place / "root"
    layers = f"lowerdir=/,upperdir={place / 'upper'},workdir={place / 'work'}"
    run("mount", "-t", "overlay", "overlay", "-o", layers, root)
    for name in ("proc", "dev"):
        run("mount", "--rbind", f"/{name}", root / name)
    (root / "usr/local/bin/python").symlink_to("/usr/bin/python3")
    shutil.copy(Path(sys.executable).parent / "uv", root / "usr/local/bin/uv")
    return root


def expanded(stage, environment):
    return {
        name: value.replace("$PATH", environment["PATH"])
        for name, value in stage.environment.items()
    }


def carry_out(stage, root, environment):
    for instruction, text in stage.steps:
        if instruction == "WORKDIR":
            environment["PWD"] = text
            (root / text.lstrip("/")).mkdir(parents=True, exist_ok=True)
        elif instruction == "COPY":
            copy(text, root, environment["PWD"])
        elif instruction == "RUN":
            run_step(text, root, environment)


def copy(text, root, directory):
    *sources, destination = text.split()
    place = root / directory.lstrip("/") / destination
    for source in map(ROOT.joinpath, sources):
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.so.1")
            shutil.copytree(source, place, ignore=ignored, dirs_exist_ok=True)
        elif destination.endswith("/"):
            place.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, place)
        else:
            shutil.copy(source, place)


def run_step(text, root, environment):
    steps = [step for step in text.split(" && ") if not step.startswith(NOT_HERE)]
    steps = [step for step in steps if "/var/lib/apt/lists" not in step]
    if not steps:
        return
    step = " && ".join(steps).replace(TORCH_INDEX, f"--find-links {WHEELS}")
    print("RUN", step, file=sys.stderr, flush=True)
    inside = f"cd {shlex.quote(environment.get('PWD', '/'))} && {step}"
    run("chroot", root, "/bin/sh", "-ec", inside, env=environment, stdout=sys.stderr)


def make_runtime(stage, build, root):
    for instruction, text in stage.steps:
        if instruction == "RUN":
            run_step(text, root, os.environ | {"PWD": "/", "PATH": PATH})
        elif instruction == "COPY":
            _, source, destination = text.split()
            place = root / destination.lstrip("/")
            place.mkdir(parents=True, exist_ok=True)
            run("mount", "--bind", build / source.lstrip("/"), place)
            run("mount", "-o", "remount,ro,bind", place)
    run("mount", "-o", "remount,ro", root)
    for hidden in ("work", "root", "home"):  # what an image would not have
        run("mount", "-t", "tmpfs", "-o", "ro", "hidden", root / hidden)
    for name in ("tmp", "dev/shm"):
        run("mount", "-t", "tmpfs", "-o", "mode=1777", "writable", root / name)


def serve(root):
    """In a network namespace of its own."""
    run("ip", "link", "set", "lo", "up")
    stage = read_dockerfile(ROOT / "deploy/Dockerfile")["runtime"]
    inside = Inside(stage, root)
    found = {
        "kernels": inside.output(
            "/opt/galerne/bin/python",
            "-c",
            "import shards.kernels.native.library as k; print(k.__file__, len(k.load(k.LIBRARY)))",
        ),
        "plan": inside.output("galerne", "plan"),
        "uid": inside.output("id", "-u"),
        "written": inside.output("sh", "-c", "touch /opt/galerne/x /etc/x ~/x; ls ~/x"),
    }
    server = inside.start(*stage.command("ENTRYPOINT"), *stage.command("CMD"))
    try:
        found["ready"] = wait_ready(server)
        question = {"model": found["ready"].split()[1], "prompt": "The Loire", "max_tokens": 4}
        found["answer"] = ask(question)
        [check] = stage.texts("HEALTHCHECK")
        found["health"] = inside.output(*json.loads(check.split(" CMD ")[1]))
    finally:
        server.send_signal(signal.SIGTERM)
        found["exit"] = server.wait(60)
    print(json.dumps(found), flush=True)


class Inside:
    """Starts programs as a container's would be."""

    def __init__(self, stage, root):
        [user] = stage.texts("USER")
        uid, gid = user.split(":")
        told = expanded(stage, {"PATH": PATH})
        self._command = [
            *("chroot", str(root), "setpriv", "--reuid", uid, "--regid", gid, "--clear-groups"),
            *("--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"),
            *(
                "env",
                "-i",
                "-C",
                stage.texts("WORKDIR")[-1],
                *(f"{k}={v}" for k, v in told.items()),
            ),
        ]

    def start(self, *command):
        return subprocess.Popen(
            [*self._command, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def output(self, *command):
        done = subprocess.run(
            [*self._command, *command], capture_output=True, text=True, timeout=60, check=False
        )
        return (done.stdout + done.stderr).strip()


def wait_ready(server):
    deadline = time.monotonic() + READY_S
    for line in server.stdout:
        print(line, end="", file=sys.stderr, flush=True)
        if line.startswith("ready: "):
            return line
        if time.monotonic() > deadline:
            break
    raise SystemExit("the server did not get ready")


def ask(question):
    request = urllib.request.Request(
        f"http://127.0.0.1:{PORT}/v1/completions",
        json.dumps(question).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)["usage"]["completion_tokens"]


if __name__ == "__main__":
    if sys.argv[1] == "--serve":
        serve(Path(sys.argv[2]))
    else:
        sys.exit(main(sys.argv[1]))
