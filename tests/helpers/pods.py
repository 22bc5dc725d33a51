"""Pods of rendered manifests as processes: each on a host of ``netns``, with its files and limits.

What a kubelet does: names of services, volumes, a root that cannot be written, the user without
rights, init containers, restarts, probes. What it does not: images; the programs are this
checkout's.
"""

import base64
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from helpers.helm import ROOT, find, pod_templates
from helpers.netns import Hosts

_BIN = Path(sys.executable).parent
_PATH = [path for path in sys.path if path]
_ASK = """
import sys, urllib.request
sys.exit(urllib.request.urlopen(sys.argv[1], timeout=float(sys.argv[2])).status != 200)
"""
# As the root that the image has: /etc is the pod's own, and nothing but volumes can be written.
_PREPARE = """
set -e
{programs}
mount -t tmpfs tmpfs /mnt && cp -a /etc/. /mnt && mount --move /mnt /etc
mount -o remount,size={shared} /dev/shm
chmod 1777 /tmp /dev/shm
{hosts}
{files}
{claims}
mount -o remount,bind,ro /
"""
_LAST_BYTES = 2000  # of a log
_RESTARTED = 'while :; do "$@"; sleep 0.5; done'


class Pod:
    """One of a template, on a host of its own."""

    def __init__(self, template, host, manifests, head, claims):
        """``claims``: directory in which each persistent volume claim has one."""
        self.template, self.host = template, host
        self.spec = template["spec"]
        [self.container] = self.spec["containers"]
        self._user = self.spec["securityContext"]["runAsUser"]
        self._process = self._log = None
        services = [m["metadata"]["name"] for m in manifests if m["kind"] == "Service"]
        files = [self._write(path, data) for path, data in self._files(manifests)]
        [shared] = [v["emptyDir"]["sizeLimit"] for v in self.spec["volumes"] if v["name"] == "shm"]
        script = _PREPARE.format(
            programs="\n".join(_shown_to_all()),
            shared=shared.removesuffix("i"),
            hosts="\n".join(
                f"echo {line} >> /etc/hosts"
                for line in (
                    f"{host.address} {host.name}",  # by which Ray finds its own address
                    *(f"{head.address} {name} {name}.serving.svc" for name in services),
                )
            ),
            files="\n".join(files),
            claims="\n".join(self._claims(claims)),
        )
        host.run(["sh", "-c", script])

    def _files(self, manifests):
        """Path and bytes of every file that a volume of a ConfigMap or Secret brings."""
        volumes = {volume["name"]: volume for volume in self.spec["volumes"]}
        for mount in self.container["volumeMounts"]:
            volume = volumes[mount["name"]]
            if "configMap" in volume:
                data = find(manifests, "ConfigMap", volume["configMap"]["name"])["data"]
                yield mount["mountPath"], data[mount["subPath"]].encode()
            elif "secret" in volume:
                data = find(manifests, "Secret", volume["secret"]["secretName"])["data"]
                for name, text in data.items():
                    yield f"{mount['mountPath']}/{name}", base64.b64decode(text)
            else:
                known = {"emptyDir", "persistentVolumeClaim"}
                assert known & volume.keys(), f"{volume} is not made here"

    def _claims(self, directory):
        volumes = {volume["name"]: volume for volume in self.spec["volumes"]}
        for mount in self.container["volumeMounts"]:
            claim = volumes[mount["name"]].get("persistentVolumeClaim")
            if claim is not None:
                place = Path(directory, claim["claimName"])
                place.mkdir(exist_ok=True)
                os.chown(place, 0, self.spec["securityContext"]["fsGroup"])
                place.chmod(0o770)
                yield f"mkdir -p {mount['mountPath']}; mount --bind {place} {mount['mountPath']}"

    def move_services(self, old, new):
        """The services' names mean another address from now on."""
        self.host.run(["sed", "-i", f"s/^{re.escape(old)} /{new} /", "/etc/hosts"])

    def _write(self, path, data):
        group = self.spec["securityContext"]["fsGroup"]
        text = base64.b64encode(data).decode()
        return (
            f"mkdir -p {os.path.dirname(path)}; echo {text} | base64 -d > {path}; "
            f"chgrp {group} {path}; chmod 0440 {path}"
        )

    def start(self):
        """Run the container, and again whenever it ends."""
        self.close()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - see ``close``
        self._process = self._popen(
            ["sh", "-c", _RESTARTED, "kubelet", *self._command(self.container)],
            self._env(self.container),
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )

    def logs(self):
        """The last that the container has said."""
        log = self._log.fileno()
        begin = max(os.fstat(log).st_size - _LAST_BYTES, 0)
        return os.pread(log, _LAST_BYTES, begin).decode(errors="replace")

    def close(self):
        """Forget what the container has said."""
        if self._log is not None:
            self._log.close()

    def start_init(self):
        """Processes of the init containers, one after the other."""
        for container in self.spec.get("initContainers", ()):
            yield self._popen(self._command(container), self._env(container))

    def run(self, command, container=None):
        """A command inside, as ``kubectl exec``; exit code and words."""
        container = container or self.container
        process = self._popen(
            command,
            self._env(container),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        said, _ = process.communicate(timeout=120)
        return process.returncode, said

    def run_other(self, template):
        """The command of another pod's only container, here."""
        [container] = template["spec"]["containers"]
        return self.run(self._command(container), container)

    def probe(self, kind):
        """Whether a probe passes, and what it said."""
        probe = self.container[f"{kind}Probe"]
        if "exec" in probe:
            code, said = self.run(probe["exec"]["command"])
            return code == 0, said
        get = probe["httpGet"]
        [port] = [p["containerPort"] for p in self.container["ports"] if p["name"] == get["port"]]
        url = f"{get['scheme'].lower()}://{self.host.address}:{port}{get['path']}"
        code, said = self.run([sys.executable, "-c", _ASK, url, str(probe["timeoutSeconds"])])
        return code == 0, said

    def processes(self, name=None):
        """Everything that runs here, or what has this name of it."""
        space = _pid_space(self.host.pid)
        return [
            process
            for process in psutil.process_iter(["name", "status"])
            if process.pid != self.host.pid
            and process.info["status"] != psutil.STATUS_ZOMBIE
            and name in (None, process.info["name"])
            and _pid_space(process.pid) == space
        ]

    def terminate(self, timeout_s):
        """SIGTERM to the container's first process, which is not started again."""
        [kubelet] = psutil.Process(self._process.pid).children()
        [first] = kubelet.children()
        kubelet.kill()
        self._process.wait(10)
        first.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + timeout_s
        while first.is_running():  # the host's first process buries it
            assert time.monotonic() < deadline, f"still there after {timeout_s} s: {self.logs()}"
            time.sleep(0.1)

    def client_env(self):
        """For a program of the tests, which has not the pod's variables."""
        return {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(_PATH)}

    def _popen(self, command, env, **options):
        user = str(self._user)
        rights = ["--clear-groups", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"]
        as_user = ["setpriv", f"--reuid={user}", f"--regid={user}", *rights]
        return self.host.popen([*as_user, *command], env, **options)

    def _env(self, container):
        # Of the image; the kubelet's processes inherit nothing else.
        env = {"PATH": f"{_BIN}:/usr/bin:/bin", "PYTHONPATH": os.pathsep.join(_PATH)}
        for variable in container["env"]:
            field = variable.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath")
            assert field in (None, "status.podIP"), f"{field} is not known here"
            env[variable["name"]] = self.host.address if field else variable["value"]
        return env

    def _command(self, container):
        env = self._env(container)
        words = [*container["command"], *container.get("args", ())]
        return [re.sub(r"\$\((\w+)\)", lambda m: env.get(m[1], m[0]), word) for word in words]


class Pods(dict):
    """Of plain manifests, by name (``head-0``, ``shard-1``). Use as a context manager."""

    def __init__(self, manifests, num_spare_hosts=0):
        """Start them all; returns when the containers run, not when they are ready.

        ``num_spare_hosts``: on which nothing runs yet; see ``replace_head``.
        """
        super().__init__()
        self._manifests = manifests
        self.templates = pod_templates(manifests)
        wanted = [
            (m["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/component"], number)
            for m in manifests
            if m["kind"] == "StatefulSet"
            for number in range(m["spec"]["replicas"])
        ]
        self.hosts = Hosts(len(wanted) + num_spare_hosts)
        # Below no /tmp: each host has its own.
        self._claims = tempfile.TemporaryDirectory(dir="/var/tmp", prefix="galerne-claims-")
        os.chmod(self._claims.name, 0o755)
        try:
            head = self.hosts[sorted(wanted).index(("head", 0))]
            for (component, number), host in zip(sorted(wanted), self.hosts, strict=False):
                self[f"{component}-{number}"] = self._make(component, host, head)
            self._spare = self.hosts[len(wanted) :]
            self._start()
        except BaseException:
            self.close()
            raise

    def close(self):
        """End all of them."""
        self.hosts.close()
        for pod in self.values():
            pod.close()
        self._claims.cleanup()

    def _make(self, component, host, head):
        template = self.templates[component]
        return Pod(template, host, self._manifests, head, self._claims.name)

    def replace_head(self):
        """The head's machine is lost without a word; another pod is started on a spare host.

        It has another address, which the services' names mean from then on, and the same claims.
        """
        old, host = self["head-0"], self._spare.pop()
        old.host.cut()  # else some of what is killed says good-bye, and some does not
        for process in old.processes():
            process.kill()
        old.host.crash()
        old.close()
        self["head-0"] = self._make("head", host, host)
        for pod in self.values():
            pod.move_services(old.host.address, host.address)
        self["head-0"].start()

    def _start(self):
        self["head-0"].start()
        workers = [pod for name, pod in self.items() if name != "head-0"]
        steps = [pod.start_init() for pod in workers]
        while any(running := [next(step, None) for step in steps]):
            for process in filter(None, running):
                assert process.wait(120) == 0, "an init container failed"
        for pod in workers:
            pod.start()

    def wait_until_ready(self, *names, timeout_s=400.0):
        """Until the readiness probes of all pods, or of these, have passed once."""
        deadline = time.monotonic() + timeout_s
        for name in names or self:
            while True:
                is_ready, said = self[name].probe("readiness")
                if is_ready:
                    break
                assert time.monotonic() < deadline, f"{name}: {said}{self[name].logs()}"
                time.sleep(1.0)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def _shown_to_all():
    """Commands that let every user have the programs, which may lie in root's home."""
    inside = {}
    for path in {Path(sys.base_prefix), Path(sys.prefix).resolve(), ROOT}:
        closed = [p for p in reversed(path.parents) if not p.stat().st_mode & 0o001]
        if closed:
            inside.setdefault(closed[0], []).append(path)
    for closed, paths in inside.items():
        for number, path in enumerate(paths):
            yield f"mkdir /tmp/{number} && mount --bind {path} /tmp/{number}"
        yield f"mount -t tmpfs -o mode=755 tmpfs {closed}"
        for number, path in enumerate(paths):
            yield f"mkdir -p {path} && mount --move /tmp/{number} {path} && rmdir /tmp/{number}"


def _pid_space(pid):
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:  # it has just ended
        return None
