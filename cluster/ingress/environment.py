"""Ports and variables of one server's Ray Serve. Pure, but for ``choose_ports``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cluster.ports import check_port, free_ports, free_range

LOOPBACK_HOOK_VARIABLE = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
LOOPBACK_HOOK = "cluster.ingress.loopback.install_in_proxy"

# Calls open at one time on one HTTP/2 connection; HAProxy's default of 100 makes others wait,
# and a health Watch holds its place for ever.
MAX_STREAMS_PER_CONNECTION = 1000
LONGEST_STREAM_S = 24 * 3600
CLIENT_TIMEOUT_S = 60  # a client that stalls is given up
PROXY_START_S = 60  # Serve itself waits no longer for its first proxies
PROXY_CHECK_S = 2  # Serve replaces a proxy at the third check in a row that fails
HEADERS_TIMEOUT_S = 15  # until the head of a request is there
_MIB = 1 << 20
_NUM_REPLICA_PORTS = 64  # a restarted replica takes the next one
_LEAVE_S = 2.0  # a frontend that is to go still answers until HAProxy has heard of it


@dataclass(frozen=True, slots=True, kw_only=True)
class IngressPorts:
    """Every TCP port that Serve opens for us by number."""

    http: int
    grpc: int
    fallback_http: int  # of the Serve proxy behind HAProxy
    fallback_grpc: int
    haproxy_metrics: int
    haproxy_stats: int
    replica_http: range
    replica_grpc: range


def choose_ports(host: str, http_port: int, grpc_port: int) -> IngressPorts:
    """Check the public ports, choose them where they are 0, and choose the others.

    Raises:
        ConfigError: A port is taken; names it.
    """
    check_port("http_port", host, http_port)
    check_port("grpc_port", host, grpc_port)
    http, grpc = (given or free_ports(1, host)[0] for given in (http_port, grpc_port))
    others = free_range(4 + 2 * _NUM_REPLICA_PORTS, taken=[http, grpc])
    return IngressPorts(
        http=http,
        grpc=grpc,
        fallback_http=others[0],
        fallback_grpc=others[1],
        haproxy_metrics=others[2],
        haproxy_stats=others[3],
        replica_http=others[4 : 4 + _NUM_REPLICA_PORTS],
        replica_grpc=others[4 + _NUM_REPLICA_PORTS :],
    )


def proxy_environment(*, max_body_bytes: int, is_loopback: bool) -> dict[str, str]:
    """Variables for Serve with its own proxy. Read once, when a process imports ``ray.serve``."""
    environment: dict[str, object] = {
        # The second alone would turn direct ingress on.
        "RAY_SERVE_ENABLE_HA_PROXY": 0,
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": 0,
        # Otherwise handles fail in a driver that runs no event loop.
        "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": 1,
        "RAY_SERVE_LOG_TO_STDERR": 0,
        # Proxies start beside the parts, which load: Serve would end them after 5 s, and give up.
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": PROXY_START_S,
        # Serve's 10 s would shut clients out for half a minute when HAProxy has died.
        "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": PROXY_CHECK_S,
        "RAY_SERVE_GRPC_MAX_MESSAGE_SIZE": max_body_bytes,
        "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": max_body_bytes + _MIB,  # and what Serve adds
    }
    if is_loopback:
        environment[LOOPBACK_HOOK_VARIABLE] = LOOPBACK_HOOK
    return {key: str(value) for key, value in environment.items()}


def haproxy_environment(
    ports: IngressPorts,
    *,
    haproxy_dir: Path,
    binary: Path,
    max_body_bytes: int,
    is_scaled: bool = False,
) -> dict[str, str]:
    """The same for Serve behind HAProxy, with its files below ``haproxy_dir``.

    Only HAProxy itself listens on the public host; the proxy behind it stays on loopback.
    ``is_scaled``: frontends may go while others stay.
    """
    environment: dict[str, object] = {
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": ports.replica_http.start,
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": ports.replica_http[-1],
        "RAY_SERVE_DIRECT_INGRESS_MIN_GRPC_PORT": ports.replica_grpc.start,
        "RAY_SERVE_DIRECT_INGRESS_MAX_GRPC_PORT": ports.replica_grpc[-1],
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": ports.fallback_http,
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": ports.fallback_grpc,
        "RAY_SERVE_HAPROXY_METRICS_PORT": ports.haproxy_metrics,
        "RAY_SERVE_HAPROXY_STATS_PORT": ports.haproxy_stats,
        "RAY_SERVE_HAPROXY_BINARY_PATH": binary,
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": haproxy_dir / "haproxy.cfg",
        "RAY_SERVE_HAPROXY_SOCKET_PATH": haproxy_dir / "admin.sock",
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": haproxy_dir,
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": haproxy_dir / "server-state",
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": haproxy_dir / "metrics.sock",
    }
    common = haproxy_behaviour(max_body_bytes, is_scaled=is_scaled)
    return common | {key: str(v) for key, v in environment.items()}


def haproxy_behaviour(max_body_bytes: int, *, is_scaled: bool) -> dict[str, str]:
    """The part of it that is right for any Serve that carries us; also deploy/ray/serve.env."""
    environment: dict[str, object] = {
        "RAY_SERVE_ENABLE_HA_PROXY": 1,
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": 1,
        # Serve's 30 s would be the least time that an end takes; we drain before it.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": _LEAVE_S if is_scaled else 0,
        "RAY_SERVE_HAPROXY_H2_FE_MAX_CONCURRENT_STREAMS": MAX_STREAMS_PER_CONNECTION,
        "RAY_SERVE_HAPROXY_H2_BE_MAX_CONCURRENT_STREAMS": MAX_STREAMS_PER_CONNECTION,
        "RAY_SERVE_HAPROXY_NBTHREAD": 1,
        # Without a byte that the client sends, or takes, when it should.
        "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": CLIENT_TIMEOUT_S,
        # A reload leaves open streams to the old worker: it must outlive the longest of them. The
        # ports of a replica that ended need not: what comes after it there is the same application.
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": LONGEST_STREAM_S,
        "RAY_SERVE_PORT_QUARANTINE_S": 35,
    }
    common = proxy_environment(max_body_bytes=max_body_bytes, is_loopback=True)
    return common | {key: str(value) for key, value in environment.items()}
