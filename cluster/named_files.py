"""Files that the settings name: checkpoint, tokenizer, certificates. Imports no torch."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from cluster.certificates import read_authorities, read_identity
from cluster.config import ServeConfig
from cluster.demo import MODEL_DIRECTORY
from galerne.internal_tls import InternalTls


def checkpoint_directory(config: ServeConfig) -> Path:
    """The one that the settings name; unset: the embedded model's."""
    return (config.model or MODEL_DIRECTORY).resolve()


def tokenizer_directory(checkpoint: Path) -> Path | None:
    """Where the checkpoint's tokenizer lies; None: it has none, and the embedded one is taken."""
    return checkpoint if (checkpoint / "tekken.json").exists() else None


def internal_tls(config: ServeConfig) -> InternalTls | None:
    """Certificates of internal ports.

    Raises:
        ConfigError: They cannot be used; names the file.
    """
    told = config.internal_tls
    if told is None:
        return None
    read_identity("internal_tls", told.cert, told.key, datetime.now(tz=UTC))
    read_authorities("internal_tls.ca", told.ca)
    files = (path.absolute() for path in (told.cert, told.key, told.ca))
    cert, key, ca = files
    return InternalTls(cert=cert, key=key, ca=ca, name=told.name)
