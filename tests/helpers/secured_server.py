"""A server that is open to the network and secured, and whoever may talk to it."""

import subprocess
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace

import grpc
import psutil

from galerne.v1 import inference_pb2_grpc
from helpers.processes import family, haproxies, haproxy_config, listening
from helpers.serve_process import ServeProcess
from helpers.tls import Certificates
from helpers.waiting import wait_until


@contextmanager
def secured_server(directory):
    """Of two gateways, with keys, TLS within and without, and settings in a file."""
    (directory / "keys").write_text("open-sesame\n")
    certificates = Certificates(directory / "certs")
    shown, inside = certificates.edge_files(), certificates.internal()
    (directory / "serve.yaml").write_text(
        "mode: throughput\nshards: 2\nreplicas: 2\ngateways: 2\nkv-memory: 0.2\n"
        f"api_keys_file: {directory}/keys\nhost: 0.0.0.0\nmax_model_len: 2048\n"
        f"tls: {{cert: {shown.cert}, key: {shown.key}}}\n"
        f"internal_tls: {{cert: {inside.cert}, key: {inside.key}, ca: {inside.ca}}}\n"
    )
    config = str(directory / "serve.yaml")
    running = ServeProcess("--config", config, "--http-port", "0", "--grpc-port", "0")
    running.target = running.grpc.replace("0.0.0.0", "127.0.0.1")
    running.url = f"https://{running.http.replace('0.0.0.0', '127.0.0.1')}"
    running.certificates = certificates
    try:
        yield running
    finally:
        running.stop()


@contextmanager
def secured_stub(running):
    """Its RPCs with a key, and the stub without one."""
    key = (("authorization", "Bearer open-sesame"),)
    trusted = grpc.ssl_channel_credentials(running.certificates.ca.read_bytes())
    with grpc.secure_channel(running.target, trusted) as channel:
        made = inference_pb2_grpc.InferenceServiceStub(channel)
        yield SimpleNamespace(
            GenerateOnce=partial(made.GenerateOnce, metadata=key, timeout=60),
            GetServerInfo=partial(made.GetServerInfo, metadata=key),
            Generate=partial(made.Generate, metadata=key, timeout=100),
            without_key=made,
        )


@contextmanager
def reloaded(running):
    """Within it a new worker has the place of Serve's HAProxy, as after a change of replicas.

    Gives the old one, which takes no connection any more and lives as long as its last stream.
    """
    old = _serves_haproxy(running)
    config, line = haproxy_config(old), old.cmdline()
    plain = line[: line.index("-sf")] if "-sf" in line else line
    # As Serve does it: the new one takes the sockets, and then signals the old one.
    takes = ("-sf", str(old.pid), "-x", str(config.with_name("admin.sock")))
    new = subprocess.Popen([*plain, *takes])
    try:
        wait_until(lambda: listening([psutil.Process(new.pid)]) and not listening([old]))
        yield old
    finally:
        new.terminate()
        new.wait(60)


def _serves_haproxy(running):
    """The worker that takes connections; not the edge in front of it: that is never reloaded.

    Found by its configuration, wherever it hangs: a manager that has died leaves its own behind.
    """
    (run,) = {
        path.parent.parent
        for process in family(running.process.pid)
        if (path := haproxy_config(process)) and path.parent.name == "e"
    }
    (worker,) = (process for process in haproxies(run / "h") if listening([process]))
    return worker
