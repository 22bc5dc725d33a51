"""API keys: kept as hashes, compared in constant time, with a name and limits of their own."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NamedTuple

from galerne.errors import ConfigError, UnauthenticatedError
from galerne.file_watch import files_at

_HASHED = "sha256:"
_SCHEME = "bearer "
_SHOWN_CHARS = 8  # of the hash of a key without a name


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyLimits:
    """What one key may ask of the deployment; None: no limit."""

    requests_per_min: int | None = None
    tokens_per_min: int | None = None  # of prompts and answers
    concurrency: int | None = None  # requests at one time


_LIMITS = tuple(field.name for field in fields(KeyLimits))


class Client(NamedTuple):
    """Who asks. Keys of one name are one client, so that a key can be replaced by another."""

    name: str  # as logs show it
    owner: bytes  # stands for the client where requests outlive a call; empty: anyone
    limits: KeyLimits = KeyLimits()
    is_admin: bool = False


ANYONE = Client("anyone", b"")


class ApiKeys:
    """The keys that may ask, and those that may also change the cluster.

    Without keys of clients everyone may ask; without any key at all everyone may do everything.
    """

    def __init__(self, keys: Iterable[str] = (), admins: Iterable[str] = ()) -> None:
        """Entries as in a key file, see ``parse_entry``.

        Raises:
            ConfigError: An entry is wrong.
        """
        self.replace(keys, admins)

    def replace(self, keys: Iterable[str], admins: Iterable[str] = ()) -> None:
        """Know these from now on. Nothing changes if one is wrong.

        Raises:
            ConfigError: An entry is wrong.
        """
        clients = dict(parse_entry(entry) for entry in keys)
        operators = dict(parse_entry(entry, is_admin=True) for entry in admins)
        self._is_open = not clients
        self._has_admins = bool(operators)
        self._clients = clients | operators

    def __len__(self) -> int:
        return len(self._clients)

    def check(self, authorization: str | None) -> Client:
        """The client with this ``Authorization`` value.

        Raises:
            UnauthenticatedError: It is missing, is no bearer token, or names no key.
        """
        found = self._find(authorization)
        if found is not None:
            return found
        if self._is_open:
            return ANYONE
        raise UnauthenticatedError("API key (Authorization: Bearer ...)")

    def may_administer(self, client: Client) -> bool:
        """Whether a client may change the cluster."""
        return client.is_admin or not self._clients

    @property
    def has_admins(self) -> bool:
        """Whether anyone's key may change the cluster."""
        return self._has_admins

    def owner(self, authorization: str | None) -> bytes:
        """Stands for the client: the same for all keys of its name; empty for anyone."""
        return (self._find(authorization) or ANYONE).owner

    def _find(self, authorization: str | None) -> Client | None:
        header = authorization or ""
        is_bearer = header[: len(_SCHEME)].lower() == _SCHEME
        digest = _hash(header[len(_SCHEME) :].strip())
        found = None
        for known, client in self._clients.items():  # all of them, in the same time
            if hmac.compare_digest(digest, known):
                found = client
        return found if is_bearer else None


def parse_entry(entry: str, *, is_admin: bool = False) -> tuple[bytes, Client]:
    """The hash of a key and its client.

    An entry is a key, written out or as ``sha256:`` and 64 hex digits, and after spaces ``name=``
    and the fields of ``KeyLimits``: ``sha256:9f86... name=ci requests_per_min=60``.

    Raises:
        ConfigError: It is wrong; the key itself is not told.
    """
    key, *settings = entry.split() or [""]
    digest = _digest_of(key)
    values = {}
    for setting in settings:
        field, separator, value = setting.partition("=")
        if not separator or field not in ("name", *_LIMITS) or field in values:
            problem = f"after a key come name=, {'=, '.join(_LIMITS)}=, each once"
            raise ConfigError("api_keys", setting[:20], problem)
        values[field] = value
    name = values.pop("name", "")
    limits = {field: _at_least_1(field, value) for field, value in values.items()}
    owner = _hash(f"name\0{name}") if name else digest
    shown = name or digest.hex()[:_SHOWN_CHARS]
    return digest, Client(shown, owner, KeyLimits(**limits), is_admin)


def read_entries(path: Path) -> tuple[str, ...]:
    """Entries of a key file, one a line, written-out keys hashed; ``#`` begins a comment.

    A directory, as a mounted secret is, stands for the files in it.

    Raises:
        ConfigError: It cannot be read, holds no key, or an entry is wrong.
    """
    try:
        texts = [file.read_text() for file in files_at(path)]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("api_keys", path, str(error)) from error
    lines = [line.strip() for text in texts for line in text.splitlines()]
    entries = [_hashed(line) for line in lines if line and not line.startswith("#")]
    if not entries:  # an empty file must not open the server to everyone
        raise ConfigError("api_keys", path, "holds no key")
    for entry in entries:
        parse_entry(entry)
    return tuple(entries)


def _hashed(entry: str) -> str:
    key, *settings = entry.split()
    return " ".join((f"{_HASHED}{_digest_of(key).hex()}", *settings))


def _digest_of(key: str) -> bytes:
    if not key.startswith(_HASHED):
        if not key:
            raise ConfigError("api_keys", "(empty)", "a key must not be empty")
        return _hash(key)
    try:
        digest = bytes.fromhex(key.removeprefix(_HASHED))
    except ValueError:
        digest = b""
    if len(digest) != hashlib.sha256().digest_size:
        raise ConfigError("api_keys", "sha256:(hidden)", "must be followed by 64 hex digits")
    return digest


def _at_least_1(field: str, value: str) -> int:
    if not (value.isascii() and value.isdigit() and 0 < int(value[:19]) <= 10**15):
        raise ConfigError(f"api_keys.{field}", value[:20], "must be a whole number above 0")
    return int(value)


def _hash(key: str) -> bytes:
    # A key is random, not a password: one round of SHA-256 keeps it secret.
    return hashlib.sha256(key.encode("utf-8", errors="surrogateescape")).digest()
