"""Ids of tool calls: the model writes none, so the server invents them."""

from __future__ import annotations

import hashlib
import secrets
import string

_ALPHABET = string.ascii_letters + string.digits
_NUM_CHARACTERS = 9  # the only length that mistral-common accepts for every tokenizer version


def new_call_id() -> str:
    """A fresh id of nine letters and digits (53 bits of chance)."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(_NUM_CHARACTERS))


def derived_call_id(key: str, choice: int, index: int) -> str:
    """The id of call ``index`` of a choice, always the same for a ``key`` of chance."""
    number = int.from_bytes(hashlib.sha256(f"{key}:{choice}:{index}".encode()).digest())
    characters = []
    for _ in range(_NUM_CHARACTERS):
        number, digit = divmod(number, len(_ALPHABET))
        characters.append(_ALPHABET[digit])
    return "".join(characters)
