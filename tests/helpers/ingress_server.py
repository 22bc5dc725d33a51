"""An ingress on a Ray of its own, in a process of its own: Serve reads its settings once a process.

Run as a program it serves until told to stop: one JSON command a line on stdin, one answer each.
"""

import os

from helpers.json_program import JsonProgram, commands, run_program

TOKEN = "test-token"
MODEL = "tiny"  # of the gateway behind it
NAMESPACE = "galerne-test"
CONTROLLER = "test-controller"


class IngressServer(JsonProgram):
    """The program as a child, and its answers."""

    def __init__(self, roster, **options):
        super().__init__("helpers.ingress_server", roster=roster, **options)


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
    run_program(_serve)


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
                start_timeout_s=options.get("start_timeout_s", 60.0),
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
    for command in commands():
        match command:
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
