"""An ingress on a Ray of its own, in a process of its own: Serve reads its settings once a process.

Run as a program it serves until told to stop: one JSON command a line on stdin, one answer each.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
TOKEN = "test-token"
MODEL = "tiny"  # of the gateway behind it
NAMESPACE = "galerne-test"
CONTROLLER = "test-controller"


class IngressServer:
    """The program as a child, and its answers."""

    def __init__(self, roster, **options):
        paths = os.pathsep.join(str(ROOT / part) for part in (".", "proto", "tests"))
        self._child = subprocess.Popen(
            [
                sys.executable,
                "-P",
                "-m",
                "helpers.ingress_server",
                json.dumps({"roster": roster, **options}),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": paths},
            text=True,
        )
        self.started = self._answer()

    def ask(self, do, **arguments):
        self._child.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self._child.stdin.flush()
        return self._answer()

    def stop(self):
        try:
            self._child.stdin.close()
            return self._child.wait(60)
        finally:
            self._child.kill()
            self._child.wait()
            self._child.stdout.close()

    def _answer(self):
        line = self._child.stdout.readline()
        assert line, "the server has ended"
        answer = json.loads(line)
        assert "error" not in answer, answer["error"]
        return answer


class FakeController:
    """Says what the test has told it."""

    def __init__(self, roster):
        from cluster.control.frontends import FrontendBook

        self._roster, self._frontends = roster, FrontendBook()

    async def roster(self, with_metrics=False):
        from router.gateway.roster import Roster

        return Roster(**self._roster, process_metrics=self._frontends.metrics())

    async def frontend_news(self, frontend, news):
        return self._frontends.hear(frontend, news)

    async def drain(self, order, deadline_s):
        return self._frontends.drain(order, deadline_s)

    async def address_of(self, part):
        return self._roster.get("shards", {}).get(part)


def main():
    options = json.loads(sys.argv[1])
    answers, sys.stdout = sys.stdout, sys.stderr

    def answer(**fields):
        answers.write(json.dumps(fields) + "\n")
        answers.flush()

    try:
        _serve(options, answer)
    except Exception as error:
        answer(error=f"{type(error).__name__}: {error}")
        raise


def _serve(options, answer):
    from cluster.ingress.app import start_ingress
    from cluster.ingress.frontend_scaling import FrontendScaling
    from cluster.ingress.settings import IngressSettings
    from cluster.run_directory import RunDirectory
    from cluster.runtime import start_local_ray
    from cluster.shutdown import Shutdown

    shutdown = Shutdown()
    shutdown.install()
    with RunDirectory() as run:
        runtime = start_local_ray(run, num_cpus=2, namespace=NAMESPACE, deferred=shutdown.deferred)
        try:
            import ray

            controller = ray.remote(FakeController).options(name=CONTROLLER, num_cpus=0)
            actor = controller.remote(options["roster"])
            settings = IngressSettings(
                app_name="galerne",
                controller_name=CONTROLLER,
                namespace=NAMESPACE,
                cluster_token=TOKEN,
                api_keys_file=_key_file(run, "keys", options.get("api_keys")),
                admin_keys_file=_key_file(run, "admins", options.get("admin_keys")),
                audit_log=run.path / "audit.jsonl",
                start_timeout_s=options.get("start_timeout_s", 20.0),
                frontends=FrontendScaling(**options.get("frontends", {})),
            )
            ingress = start_ingress(
                settings, host="127.0.0.1", http_port=0, grpc_port=0, run=run, owns_ray=True
            )
            ingress.finish(timeout_s=90)
            _obey(ingress, actor, answer, run)
        finally:
            shutdown.ignore()
            runtime.leave()


def _replicas():
    """How many of our frontends are in which of Serve's states."""
    from ray import serve

    [deployment] = serve.status().applications["galerne"].deployments.values()
    return {str(getattr(s, "value", s)): num for s, num in deployment.replica_states.items() if num}


def _key_file(run, name, keys):
    if keys is None:
        return None
    path = run.path / name
    path.write_text("\n".join(keys))
    return path


def _obey(ingress, actor, answer, run):
    import ray

    from cluster.directory import RayAddressBook

    book = RayAddressBook(CONTROLLER, NAMESPACE)
    answer(
        http=ingress.http_address,
        grpc=ingress.grpc_address,
        mode=ingress.mode,
        note=ingress.note,
        run=str(run.path),
        pid=os.getpid(),
    )
    closed = False
    for line in sys.stdin:
        match json.loads(line):
            case {"do": "address_of", "shard": shard}:
                answer(address=book.address_of(shard))
            case {"do": "kill_controller"}:
                ray.kill(actor)
                answer()
            case {"do": "replicas"}:
                answer(**_replicas())
            case {"do": "close", "drain_s": drain_s}:
                ingress.close(drain_s)
                closed = True
                answer()
    if not closed:
        ingress.close()


if __name__ == "__main__":
    main()
