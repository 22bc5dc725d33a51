"""The configuration of the edge's HAProxy. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cluster.ingress.environment import (
    CLIENT_TIMEOUT_S,
    HEADERS_TIMEOUT_S,
    LONGEST_STREAM_S,
    MAX_STREAMS_PER_CONNECTION,
)
from cluster.ports import LOOPBACK
from router.api.http_errors import plain_error

SERVER_PEM, CLIENT_CA_PEM = "server.pem", "client-ca.pem"
CONFIG_FILE, SOCKET_FILE, LOG_FILE = "haproxy.cfg", "admin.sock", "haproxy.log"


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeSettings:
    """Where the edge listens, what is behind it, and what it bears."""

    host: str
    http_port: int  # TLS, HTTP/1.1 and HTTP/2
    grpc_port: int  # TLS, HTTP/2
    metrics_port: int  # plain, on loopback
    http_behind: str  # host:port of Serve
    grpc_behind: str
    checks_clients: bool  # they must show a certificate of the client CA
    max_body_bytes: int
    max_connections: int = 4096
    headers_timeout_s: float = HEADERS_TIMEOUT_S  # until a request's head is there
    client_timeout_s: float = CLIENT_TIMEOUT_S  # of a client that should send or take
    server_timeout_s: float = LONGEST_STREAM_S  # a watch may say nothing for hours


def edge_config(settings: EdgeSettings, directory: Path) -> str:
    """The file; certificates and the admin socket lie in ``directory``."""
    tls = f"ssl crt {directory / SERVER_PEM}"
    if settings.checks_clients:
        tls += f" ca-file {directory / CLIENT_CA_PEM} verify required"
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"""\
global
    maxconn {settings.max_connections}
    nbthread 1
    stats socket {directory / SOCKET_FILE} mode 600 level admin
    ssl-default-bind-options ssl-min-ver TLSv1.2
    ssl-default-bind-ciphers ECDHE+AESGCM:ECDHE+CHACHA20
    tune.h2.fe.max-concurrent-streams {MAX_STREAMS_PER_CONNECTION}
    tune.h2.be.max-concurrent-streams {MAX_STREAMS_PER_CONNECTION}

defaults
    mode http
    option http-no-delay
    option abortonclose
    option forwardfor
    timeout connect 5s
    timeout http-request {_ms(settings.headers_timeout_s)}
    timeout http-keep-alive {_ms(settings.client_timeout_s)}
    timeout client {_ms(settings.client_timeout_s)}
    timeout server {_ms(settings.server_timeout_s)}

frontend https
    bind {host}:{settings.http_port} {tls} alpn h2,http/1.1
    http-request del-header x-forwarded-for
    http-request return status 413 content-type application/json string {_too_large(settings)} \
if {{ req.body_size gt {settings.max_body_bytes} }}
    default_backend http

frontend grpcs
    bind {host}:{settings.grpc_port} {tls} alpn h2
    http-request del-header x-forwarded-for
    default_backend grpc

frontend metrics
    bind {LOOPBACK}:{settings.metrics_port}
    http-request use-service prometheus-exporter if {{ path /metrics }}
    http-request deny deny_status 404

backend http
    server serve {settings.http_behind}

backend grpc
    server serve {settings.grpc_behind} proto h2
"""


def _ms(seconds: float) -> str:
    return f"{round(seconds * 1000)}ms"


def _too_large(settings: EdgeSettings) -> str:
    """As the frontend would refuse it, quoted for HAProxy."""
    message = f"body: is larger than {settings.max_body_bytes} bytes"
    text = str(plain_error(413, message, param="body")).replace("'", '"').replace("None", "null")
    return f"'{text}'"
