"""Opens a checkpoint directory."""

from __future__ import annotations

from pathlib import Path

from galerne.errors import CheckpointError
from shards.checkpoint.check import check_tensors, warn_of_extra_tensors
from shards.checkpoint.config_hf import read_hf_config
from shards.checkpoint.config_native import read_native_config
from shards.checkpoint.layout_hf import find_prefixes, hf_layout
from shards.checkpoint.layout_native import native_layout
from shards.checkpoint.mapped import MappedCheckpoint
from shards.checkpoint.tensor_files import has_files, open_files

NATIVE_STEM, HF_STEM = "consolidated", "model"


def open_checkpoint(path: Path) -> MappedCheckpoint:
    """Open and check a checkpoint; reads headers and, for fp8, the scales.

    The native layout (``params.json``, ``consolidated*.safetensors``) is taken where it is there,
    also where the Hugging Face layout (``config.json``, ``model*.safetensors``) lies beside it:
    in fp8 it has a scale of its own for gate and up, so it is the more exact copy.

    Args:
        path: Directory of the checkpoint.

    Raises:
        CheckpointError: Anything is missing, damaged or contradictory, or belongs to another user:
            names the file, the tensor where there is one, what was expected and what was found.
    """
    try:
        return _open(path)
    except OSError as error:  # even whether a file is there may not be asked
        found = error.strerror or str(error)
        where = str(error.filename or path)
        raise CheckpointError(where, None, "a directory that may be read", found) from error


def _open(path: Path) -> MappedCheckpoint:
    if not path.is_dir():
        found = "no such directory" if not path.exists() else "a file"
        raise CheckpointError(str(path), None, "a directory", found)
    if (path / "params.json").exists() and has_files(path, NATIVE_STEM):
        config = read_native_config(path / "params.json")
        tensors = open_files(path, NATIVE_STEM)
        layout = native_layout(config)
    elif (path / "config.json").exists() and has_files(path, HF_STEM):
        config = read_hf_config(path / "config.json")
        tensors = open_files(path, HF_STEM)
        layout = hf_layout(config, find_prefixes(config, tensors.file_by_tensor))
    else:
        raise _nothing_to_open(path)
    checked = check_tensors(config, layout, tensors)
    warn_of_extra_tensors(checked, layout, tensors)
    return MappedCheckpoint(config, layout, tensors, checked)


def _nothing_to_open(path: Path) -> CheckpointError:
    expected = (
        f"params.json with {NATIVE_STEM}*.safetensors, or config.json with {HF_STEM}*.safetensors"
    )
    names = sorted(
        entry.name for entry in path.iterdir() if entry.suffix in (".json", ".safetensors")
    )
    return CheckpointError(str(path), None, expected, " ".join(names[:8]) or "neither")
