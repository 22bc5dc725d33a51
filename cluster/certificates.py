"""Certificates in PEM: whether they can be used, and small ones for trying."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from galerne.errors import ConfigError

_BACKDATED = timedelta(minutes=5)  # clocks of other hosts may be behind


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate, with those that lead to its CA, and its key; both in PEM."""

    certificate: bytes
    key: bytes
    expires: datetime


def read_identity(key: str, certificate: Path, private_key: Path, now: datetime) -> Identity:
    """What a server or client shows of itself.

    Args:
        key: Name of the setting, for errors.
        certificate: File with the certificate, then those between it and its CA.
        private_key: File with its key, without a passphrase.
        now: With time zone.

    Raises:
        ConfigError: A file cannot be read, the two do not fit, or the certificate has expired.
    """
    pem = _read(f"{key}.cert", certificate)
    secret = _read(f"{key}.key", private_key)
    first = _certificates(f"{key}.cert", certificate, pem)[0]
    try:
        private = serialization.load_pem_private_key(secret, None)
    except (TypeError, ValueError, UnsupportedAlgorithm) as error:
        problem = "is no private key without a passphrase, in PEM"
        raise ConfigError(f"{key}.key", private_key, problem) from error
    try:
        shown = _public_bytes(first.public_key())
    except (ValueError, UnsupportedAlgorithm) as error:
        problem = f"has a key that cannot be used: {error}"
        raise ConfigError(f"{key}.cert", certificate, problem) from error
    if _public_bytes(private.public_key()) != shown:
        raise ConfigError(f"{key}.key", private_key, f"does not belong to {certificate}")
    expires = first.not_valid_after_utc
    if expires <= now:
        raise ConfigError(f"{key}.cert", certificate, f"has expired on {expires:%Y-%m-%d %H:%M}")
    return Identity(pem, secret, expires)


def read_authorities(key: str, path: Path) -> bytes:
    """Certificates of CAs, in PEM.

    Raises:
        ConfigError: The file cannot be read, or holds none.
    """
    pem = _read(key, path)
    _certificates(key, path, pem)
    return pem


def _read(key: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(key, path, str(error)) from error


def _certificates(key: str, path: Path, pem: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise ConfigError(key, path, "holds no certificate in PEM") from error


def _public_bytes(key: PublicKeyTypes) -> bytes:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_bytes(serialization.Encoding.DER, form)


class SmallAuthority:
    """A CA for trying: its key is made here, and is as safe as the files it is written to."""

    def __init__(self, days: int, now: datetime | None = None) -> None:
        """Valid from now on for ``days``, as what it signs is unless told otherwise."""
        self._days, self._now = days, now or datetime.now(tz=UTC)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "galerne test CA")])
        builder = self._builder(self._name, self._key.public_key(), days)
        usage = x509.KeyUsage(
            digital_signature=True,
            key_cert_sign=True,
            crl_sign=True,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            encipher_only=False,
            decipher_only=False,
        )
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
        self._certificate = builder.add_extension(usage, True).sign(self._key, hashes.SHA256())
        self.certificate = self._certificate.public_bytes(serialization.Encoding.PEM)
        self.key = _private_bytes(self._key)

    def issue(self, name: str, hosts: Sequence[str], days: int | None = None) -> Identity:
        """A certificate for servers and clients that are reached at ``hosts``: names, addresses.

        ``days`` may be negative: then it has expired.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        days = self._days if days is None else days
        uses = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        certificate = (
            self._builder(subject, key.public_key(), days)
            .add_extension(x509.SubjectAlternativeName([_general_name(h) for h in hosts]), False)
            .add_extension(x509.ExtendedKeyUsage(uses), False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), True)
            .sign(self._key, hashes.SHA256())
        )
        pem = certificate.public_bytes(serialization.Encoding.PEM)
        return Identity(pem, _private_bytes(key), certificate.not_valid_after_utc)

    def _builder(
        self, subject: x509.Name, public: ec.EllipticCurvePublicKey, days: int
    ) -> x509.CertificateBuilder:
        end = self._now + timedelta(days=days)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(min(self._now, end) - _BACKDATED)
            .not_valid_after(end)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), False
            )
        )


def _private_bytes(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
