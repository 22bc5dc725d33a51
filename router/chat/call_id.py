"""Ids of tool calls: the model writes none, so the server invents them."""

from __future__ import annotations

import secrets
import string

_ALPHABET = string.ascii_letters + string.digits
_NUM_CHARACTERS = 9  # the only length that mistral-common accepts for every tokenizer version


def new_call_id() -> str:
    """A fresh id of nine letters and digits (53 bits of chance)."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(_NUM_CHARACTERS))
