"""Certificates in files, and a TLS edge in front of a frontend in this process."""

import asyncio
import ssl
from contextlib import asynccontextmanager
from types import SimpleNamespace

from cluster.certificates import SmallAuthority
from cluster.edge.config import EdgeSettings
from cluster.edge.keeper import Edge, TlsFiles
from cluster.edge.start import tls_haproxy
from cluster.ports import free_ports
from galerne.internal_tls import DEFAULT_NAME, InternalTls
from helpers.api_servers import http_served
from router.api.grpc_server import build_grpc_server

HOSTS = ("127.0.0.1", "localhost")


class Certificates:
    """A CA and what it has signed, as files in a directory."""

    def __init__(self, directory):
        self.directory = directory
        directory.mkdir(exist_ok=True)
        self.authority = SmallAuthority(2)
        self.ca = directory / "ca.pem"
        self.ca.write_bytes(self.authority.certificate)

    def issue(self, name, hosts=HOSTS, days=2):
        """Certificate and key; earlier ones of that name are replaced, as an operator does it."""
        identity = self.authority.issue(name, hosts, days)
        cert, key = self.directory / f"{name}.pem", self.directory / f"{name}-key.pem"
        for path, content in ((cert, identity.certificate), (key, identity.key)):
            new = path.with_suffix(".new")
            new.write_bytes(content)
            new.rename(path)
        return cert, key

    def edge_files(self, client_ca=None, **options):
        return TlsFiles(*self.issue("server", **options), client_ca)

    def internal(self, name="internal", **options):
        cert, key = self.issue(name, (DEFAULT_NAME,), **options)
        return InternalTls(cert=cert, key=key, ca=self.ca)

    def context(self, client=None, alpn=("http/1.1",)):
        """Of a client that trusts this CA, and shows a certificate if there is one."""
        context = ssl.create_default_context(cafile=self.ca)
        context.set_alpn_protocols(list(alpn))
        if client is not None:
            context.load_cert_chain(*client)
        return context


@asynccontextmanager
async def edge_before(frontend, files, directory, **changes):
    """A running edge: its addresses, and the keeper."""
    built = build_grpc_server(frontend, "127.0.0.1:0")
    await built.server.start()
    async with http_served(frontend) as url:
        http, grpc, metrics = free_ports(3)
        fields = {
            "host": "127.0.0.1",
            "http_port": http,
            "grpc_port": grpc,
            "metrics_port": metrics,
            "http_behind": url.removeprefix("http://"),
            "grpc_behind": f"127.0.0.1:{built.port}",
            "checks_clients": files.client_ca is not None,
            "max_body_bytes": 1 << 20,
            **changes,
        }
        settings = EdgeSettings(**fields)
        edge = await asyncio.to_thread(
            lambda: Edge(settings, files, directory / "e", tls_haproxy(), period_s=0.05)
        )
        try:
            yield SimpleNamespace(
                keeper=edge,
                http=f"https://127.0.0.1:{http}",
                grpc=f"127.0.0.1:{grpc}",
                metrics=f"http://127.0.0.1:{metrics}/metrics",
                port=http,
            )
        finally:
            await asyncio.to_thread(edge.close)
            await built.server.stop(None)


def sample(edge, name, **labels):
    """A metric of the keeper; 0 if it has none yet."""
    text = edge.keeper.metrics.text().decode()
    wanted = name + (
        "{" + ",".join(f'{k}="{v}"' for k, v in labels.items()) + "}" if labels else ""
    )
    return next((float(x.split()[-1]) for x in text.splitlines() if x.split()[0] == wanted), 0.0)
