"""API keys of clients: kept as hashes, compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable

from galerne.errors import ConfigError, UnauthenticatedError

_HASHED = "sha256:"
_SCHEME = "bearer "


class ApiKeys:
    """The keys that may ask. With none at all, everyone may."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        """``keys`` are written out, or as ``sha256:`` and 64 hex digits.

        Raises:
            ConfigError: A key is empty, or its hash is not one.
        """
        self._digests = tuple(_digest_of(key) for key in keys)

    def __bool__(self) -> bool:
        return bool(self._digests)

    def check(self, authorization: str | None) -> None:
        """Let a request with this ``Authorization`` value pass.

        Raises:
            UnauthenticatedError: It is missing, is no bearer token, or names no key.
        """
        if not self._digests:
            return
        header = authorization or ""
        is_bearer = header[: len(_SCHEME)].lower() == _SCHEME
        digest = _hash(header[len(_SCHEME) :].strip())
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        if not is_bearer or not any(matches):
            raise UnauthenticatedError("API key (Authorization: Bearer ...)")

    def owner(self, authorization: str | None) -> bytes:
        """Stands for the key of a client that was let pass: its hash; empty without any keys."""
        if not self._digests:
            return b""
        return _hash((authorization or "")[len(_SCHEME) :].strip())


def _digest_of(key: str) -> bytes:
    if not key.startswith(_HASHED):
        if not key.strip():
            raise ConfigError("api_keys", "(empty)", "a key must not be empty")
        return _hash(key)
    try:
        digest = bytes.fromhex(key.removeprefix(_HASHED))
    except ValueError:
        digest = b""
    if len(digest) != hashlib.sha256().digest_size:
        raise ConfigError("api_keys", "sha256:(hidden)", "must be followed by 64 hex digits")
    return digest


def _hash(key: str) -> bytes:
    # A key is random, not a password: one round of SHA-256 keeps it secret.
    return hashlib.sha256(key.encode("utf-8", errors="surrogateescape")).digest()
