"""The directory that a deployment's adapters lie in. Nothing outside of it is ever opened."""

from __future__ import annotations

from pathlib import Path

from galerne.adapters import AdapterInfo, check_plain_name
from galerne.errors import CheckpointError, ConfigError, InvalidRequestError
from shards.adapters.adapter import Adapter, open_adapter
from shards.checkpoint.config import ModelConfig


def find_adapter(root: Path | None, wanted: AdapterInfo, model: ModelConfig) -> Adapter:
    """Open an adapter by its directory's name.

    Raises:
        ConfigError: The deployment has no directory of adapters.
        InvalidRequestError: The name is not a plain one.
        CheckpointError: It cannot be used, or is not the one that is wanted.
    """
    if root is None:
        raise ConfigError("adapters", None, "no directory of adapters was given to galerne serve")
    path = root / check_plain_name("lora_path", wanted.directory)
    adapter = open_adapter(path, model)
    if wanted.id not in ("", adapter.id):
        raise CheckpointError(str(path), None, f"the adapter {wanted.id}", f"another, {adapter.id}")
    return adapter


def find_directory(root: Path | None, adapter_id: str, model: ModelConfig) -> AdapterInfo:
    """The directory of an adapter that is known by its content only.

    Raises:
        ConfigError: There is none.
    """
    paths = sorted(root.iterdir()) if root is not None and root.is_dir() else []
    for path in paths:
        wanted = AdapterInfo(name=path.name, directory=path.name, id=adapter_id)
        try:
            find_adapter(root, wanted, model)
        except (CheckpointError, InvalidRequestError):
            continue
        return wanted
    raise ConfigError("adapters", root, f"holds no adapter {adapter_id}, which is asked for")
