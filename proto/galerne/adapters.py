"""LoRA adapters by name, as all parts speak of them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from galerne.errors import InvalidRequestError

MAX_ADAPTERS = 64  # loaded at one time: a step takes any of them together
_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterInfo:
    """One adapter."""

    name: str  # what clients ask for as ``model``
    directory: str  # its name inside the deployment's directory of adapters
    id: str = ""  # of its content: 16 hexadecimal digits; empty: not known yet
    rank: int = 0  # the largest
    num_bytes: int = 0


def check_plain_name(field: str, name: str) -> str:
    """A name that is one directory's, and leads nowhere else.

    Raises:
        InvalidRequestError: Names ``field``.
    """
    if not _PLAIN_NAME.fullmatch(name):
        problem = "must be 1 to 128 letters, digits, dots, dashes and underscores, the first of "
        raise InvalidRequestError(field, f"{problem}them a letter or digit, got {name[:150]!r}")
    return name
