"""The safetensors files of one checkpoint, as one collection of tensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from galerne.errors import CheckpointError
from shards.checkpoint.fields import read_json
from shards.checkpoint.safetensors_file import SafetensorsFile
from shards.checkpoint.safetensors_header import TensorEntry


class TensorFiles:
    """Every tensor of a checkpoint and the file it lies in.

    Args:
        origin: What an error calls the place where a missing tensor was looked for.
        files: The files.

    Raises:
        CheckpointError: Two files have a tensor of one name.
    """

    def __init__(self, origin: Path, files: Iterable[SafetensorsFile]) -> None:
        self.origin = origin
        self.files = tuple(files)
        self.file_by_tensor: dict[str, SafetensorsFile] = {}
        for file in self.files:
            for name in file.entries:
                other = self.file_by_tensor.setdefault(name, file)
                if other is not file:
                    expected = "a tensor in one file only"
                    raise CheckpointError(str(file.path), name, expected, f"also in {other.path}")

    def __contains__(self, name: str) -> bool:
        return name in self.file_by_tensor

    def entry(self, name: str) -> TensorEntry:
        """Header entry of a tensor."""
        return self.file_by_tensor[name].entries[name]

    def read(self, names_and_ranges: Iterable[tuple[str, int, int]]) -> list[bytes]:
        """Small pieces ``[start, end)`` of tensors, counted from each tensor's first byte."""
        wanted = list(names_and_ranges)
        ranges_by_file: dict[SafetensorsFile, list[tuple[int, int]]] = {}
        for name, start, end in wanted:
            base = self.entry(name).start
            ranges = ranges_by_file.setdefault(self.file_by_tensor[name], [])
            ranges.append((base + start, base + end))
        pieces = {file: iter(file.read(ranges)) for file, ranges in ranges_by_file.items()}
        return [next(pieces[self.file_by_tensor[name]]) for name, _, _ in wanted]


def has_files(directory: Path, stem: str) -> bool:
    """Whether files of this layout are there: ``model`` or ``consolidated``."""
    return _index_path(directory, stem).exists() or any(directory.glob(f"{stem}*.safetensors"))


def open_files(directory: Path, stem: str) -> TensorFiles:
    """Open the files that the index names; without an index, all that are there.

    Raises:
        CheckpointError: A file is damaged or missing, or lacks a tensor that the index names.
    """
    index_path = _index_path(directory, stem)
    if not index_path.exists():
        paths = sorted(directory.glob(f"{stem}*.safetensors"))
        origin = paths[0] if len(paths) == 1 else directory
        return TensorFiles(origin, [SafetensorsFile(path) for path in paths])
    name_by_tensor = _read_index(index_path)
    for tensor, name in name_by_tensor.items():
        if not (directory / name).exists():
            expected = f"a file, as {index_path.name} says"
            raise CheckpointError(str(directory / name), tensor, expected, "no file")
    file_by_name = {
        name: SafetensorsFile(directory / name) for name in sorted(set(name_by_tensor.values()))
    }
    for tensor, name in name_by_tensor.items():
        if tensor not in file_by_name[name].entries:
            expected = f"a tensor, as {index_path.name} says"
            raise CheckpointError(str(directory / name), tensor, expected, "no such tensor")
    return TensorFiles(index_path, file_by_name.values())


def _index_path(directory: Path, stem: str) -> Path:
    return directory / f"{stem}.safetensors.index.json"


def _read_index(path: Path) -> Mapping[str, str]:
    weight_map = read_json(path).section("weight_map")
    result: dict[str, str] = {}
    for tensor, name in weight_map.values.items():
        # A plain name only: an index must not lead outside of its directory.
        if not isinstance(name, str) or Path(name).name != name:
            raise weight_map.error(tensor, "as the name of a file beside the index")
        result[tensor] = name
    return result
