"""A server that is open to the network and secured, and whoever may talk to it."""

from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import grpc
import psutil

from galerne.v1 import inference_pb2_grpc
from helpers.serve_process import ServeProcess
from helpers.tls import Certificates


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


def haproxy_workers(running):
    """Serve's, without the edge in front of them: that is never reloaded.

    Found by their configuration, wherever they hang: a manager that has died leaves some behind.
    """
    family = psutil.Process(running.process.pid).children(recursive=True)
    (run,) = {
        path.parent.parent for p in family if (path := _config(p)) and path.parent.name == "e"
    }
    workers = [
        p for p in psutil.process_iter() if (path := _config(p)) and run / "h" in path.parents
    ]
    assert workers, f"only {[p.name() for p in family]}; it said:\n{running.output}"
    return workers


def _config(process):
    """The configuration that an HAProxy runs on; None for any other process."""
    try:
        line = process.cmdline()
    except psutil.Error:
        return None
    return next((Path(part) for part in line if part.endswith("/haproxy.cfg")), None)
