"""Notices that files have changed: by their content, so that a mounted secret's swap counts too."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path


class FileWatch:
    """What was last read of some files, and whether there is something new. Has no clock."""

    def __init__(self, paths: Sequence[Path]) -> None:
        """Takes what is there now for known."""
        self._paths = tuple(paths)
        self._known = self._seen = content_digest(self._paths)

    def look(self) -> bool:
        """Whether new content is there that was the same at the look before.

        Twice, or the first half of a file that is being written would count. Says so once.
        """
        now = content_digest(self._paths)
        is_new = now is not None and now != self._known and now == self._seen
        self._seen = now
        if is_new:
            self._known = now
        return is_new


def content_digest(paths: Sequence[Path]) -> bytes | None:
    """Of files, and of the files in directories; None while one cannot be read."""
    digest = hashlib.sha256()
    try:
        for path in paths:
            for file in files_at(path):
                content = file.read_bytes()
                digest.update(f"{file}\0{len(content)}\0".encode(errors="surrogateescape"))
                digest.update(content)
    except OSError:
        return None
    return digest.digest()


def files_at(path: Path) -> list[Path]:
    """The file itself, or those in a directory by name, but for hidden ones.

    A secret that Kubernetes mounts is a directory whose hidden entries are its own.

    Raises:
        OSError: It cannot be read.
    """
    if not path.is_dir():
        return [path]
    return sorted(p for p in path.iterdir() if not p.name.startswith(".") and p.is_file())
