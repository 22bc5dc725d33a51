"""Ray and Serve as they run on a cluster that is not ours, for applications to be deployed there.

Run as a program it obeys commands; see ``JsonProgram``.
"""

import os
import time
from types import SimpleNamespace

from helpers.json_program import JsonProgram, commands, run_program
from helpers.ray_pages import ray_command


class ApplicationServer(JsonProgram):
    def __init__(self, **options):
        # Else a job that is stopped gets 3 seconds.
        environment = {"RAY_JOB_STOP_WAIT_TIME_S": "60"}
        super().__init__("helpers.application_server", environment, **options)

    def ray(self, *arguments):
        """What a ``ray`` command prints, with this cluster's token."""
        told = self.started
        return ray_command(told["dashboard"], told["token_file"], *arguments)

    def wait_for(self, status, timeout_s=90.0):
        """The application's status, when it is this one."""
        deadline_s = time.monotonic() + timeout_s
        while True:
            told = self.ask("status")
            if told["status"] == status:
                return told
            assert time.monotonic() < deadline_s, told
            time.sleep(0.2)


def main():
    run_program(_serve)


def _serve(options, answer):
    from cluster.ingress.environment import choose_ports, haproxy_environment
    from cluster.ingress.existing import SERVICERS
    from cluster.ingress.haproxy import end_leftovers, find_haproxy, write_wrapper
    from cluster.run_directory import RunDirectory
    from cluster.runtime import start_local_ray
    from cluster.shutdown import Shutdown

    shutdown = Shutdown()
    shutdown.install()
    with RunDirectory() as run:
        ports = choose_ports("127.0.0.1", 0, 0)
        os.environ |= haproxy_environment(
            ports,
            haproxy_dir=run.haproxy_dir,
            binary=write_wrapper(run, find_haproxy().binary, "127.0.0.1", ports),
            max_body_bytes=64 << 20,
        )
        runtime = start_local_ray(
            run,
            num_cpus=4,
            namespace="somebody",
            dashboard_port=options.get("dashboard_port"),
            deferred=shutdown.deferred,
        )
        from ray import serve

        try:
            serve.start(
                proxy_location="HeadOnly",
                http_options={"host": "127.0.0.1", "port": ports.http},
                grpc_options={"port": ports.grpc, "grpc_servicer_functions": list(SERVICERS)},
            )
            answer(
                http=f"127.0.0.1:{ports.http}",
                grpc=f"127.0.0.1:{ports.grpc}",
                session=f"{run.ray_dir}/session_latest",
                dashboard=runtime.dashboard_url,
                token_file=str(run.token_file),
            )
            _obey(answer)
            serve.shutdown()
        finally:
            shutdown.ignore()
            runtime.leave()
            end_leftovers(run)


def _obey(answer):
    from ray import serve
    from ray.serve.context import _get_global_client
    from ray.serve.schema import ServeDeploySchema
    from ray.util.state import list_actors, list_placement_groups

    from cluster.actors.ray_groups import RayGroups, remove_groups
    from cluster.nodes import Role

    spec = SimpleNamespace(groups_name="galerne-test-nodes")

    def states():
        return [group.state for group in list_placement_groups()]

    for command in commands():
        match command:
            case {"do": "deploy", "args": args}:
                # What ``serve deploy`` sends to the dashboard, which sends it on as it is.
                app = {
                    "name": "galerne",
                    "route_prefix": "/",
                    "import_path": "cluster.application:build",
                    "args": args,
                }
                config = ServeDeploySchema.model_validate({"applications": [app]})
                _get_global_client().deploy_apps(config)
                answer()
            case {"do": "status"}:
                apps = serve.status().applications
                app = apps.get("galerne")
                messages = [] if app is None else [d.message for d in app.deployments.values()]
                answer(
                    status="GONE" if app is None else app.status.value,
                    messages=[*([] if app is None else [app.message]), *messages],
                )
            case {"do": "actors"}:
                alive = list_actors(
                    filters=[("state", "=", "ALIVE")],
                    limit=1000,
                    timeout=60,
                    raise_on_missing_output=False,  # warns instead
                )
                answer(actors=[[a.class_name, a.name, a.pid] for a in alive])
            case {"do": "ask_nodes"}:
                RayGroups(spec.groups_name).create(f"{spec.groups_name}-1", [Role.SHARD])
                answer(states=states())
            case {"do": "let_nodes_go"}:
                remove_groups(spec)
                answer(states=states())
            case {"do": "delete"}:
                serve.delete("galerne")
                answer()


if __name__ == "__main__":
    main()
