"""Mutual TLS between the cluster's own processes, from files that may be replaced at any time.

Both ends show a certificate of one CA. Addresses come and go, so certificates are not checked
against them but against one name that all carry: who has such a certificate belongs to the cluster.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc

from galerne.errors import ConfigError
from galerne.file_watch import content_digest

logger = logging.getLogger(__name__)

DEFAULT_NAME = "galerne.internal"


@dataclass(frozen=True, slots=True, kw_only=True)
class InternalTls:
    """Files in PEM, at the same place on every host."""

    cert: Path
    key: Path  # without a passphrase
    ca: Path
    name: str = DEFAULT_NAME  # a DNS name in every certificate

    @property
    def paths(self) -> tuple[Path, Path, Path]:
        """All of them."""
        return self.cert, self.key, self.ca

    def read(self) -> tuple[bytes, bytes, bytes]:
        """Certificate, key and CA.

        Raises:
            ConfigError: One cannot be read.
        """
        try:
            return self.cert.read_bytes(), self.key.read_bytes(), self.ca.read_bytes()
        except OSError as error:
            raise ConfigError("internal_tls", error.filename, str(error)) from error


def add_port(server: grpc.aio.Server, address: str, tls: InternalTls | None) -> int:
    """Bind a server's internal port; without ``tls`` in plain text.

    New files count from the next handshake on; unreadable ones do not.

    Raises:
        ConfigError: The files cannot be read.
    """
    if tls is None:
        return int(server.add_insecure_port(address))
    fetch = _Fetcher(tls)
    credentials = grpc.dynamic_ssl_server_credentials(
        fetch.current,
        fetch,  # type: ignore[arg-type]  # None: nothing new, as grpc says and its stubs do not
        require_client_authentication=True,
    )
    return int(server.add_secure_port(address, credentials))


class _Fetcher:
    """What gRPC asks at every handshake: the new certificate, if there is one."""

    def __init__(self, tls: InternalTls) -> None:
        self._tls = tls
        self._digest = content_digest(tls.paths)
        self.current = _server_configuration(tls)

    def __call__(self) -> grpc.ServerCertificateConfiguration | None:
        digest = content_digest(self._tls.paths)
        if digest is None or digest == self._digest:
            return None
        try:
            self.current = _server_configuration(self._tls)
        except ConfigError as error:
            logger.warning("internal_certificate_not_taken reason=%s", error)
            return None
        self._digest = digest
        logger.warning("internal_certificate_taken cert=%s", self._tls.cert)
        return self.current


def _server_configuration(tls: InternalTls) -> grpc.ServerCertificateConfiguration:
    cert, key, ca = tls.read()
    return grpc.ssl_server_certificate_configuration([(key, cert)], ca)


Options = Sequence[tuple[str, int | str]]


def open_channel(address: str, options: Options, tls: InternalTls | None) -> grpc.aio.Channel:
    """A channel to an internal port, with the files as they are now.

    A connection lasts as long as it lasts, whatever becomes of the files; ``Channels`` follow them.

    Raises:
        ConfigError: The files cannot be read.
    """
    if tls is None:
        return grpc.aio.insecure_channel(address, options=options)
    cert, key, ca = tls.read()
    credentials = grpc.ssl_channel_credentials(ca, key, cert)
    named = [*options, ("grpc.ssl_target_name_override", tls.name)]
    return grpc.aio.secure_channel(address, credentials, options=named)


def version_of(tls: InternalTls | None) -> bytes | None:
    """Changes when the files do; None without any, or while one cannot be read."""
    return None if tls is None else content_digest(tls.paths)
