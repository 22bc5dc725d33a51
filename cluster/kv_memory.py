"""Bytes of the KV pool, from what the setting says."""

from __future__ import annotations

import re

from galerne.errors import ConfigError

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}
_BYTES = re.compile(r"(\d+(?:\.\d+)?)\s*(k|m|g|ki|mi|gi)?b?", re.IGNORECASE)


def kv_bytes(setting: str, available: int) -> int:
    """Bytes of the KV pool: an amount, or a fraction (0 to 1) of what is available.

    Raises:
        ConfigError: Neither a fraction nor an amount, or more than there is.
    """
    matched = _BYTES.fullmatch(setting.strip())
    if matched is None:
        raise ConfigError("kv_memory", setting, "must be a fraction (0.3) or bytes (2GiB, 500M)")
    number, unit = float(matched[1]), (matched[2] or "").lower()
    if not unit and number > 1 and not number.is_integer():
        raise ConfigError("kv_memory", setting, "is neither a fraction up to 1 nor whole bytes")
    amount = int(number * available) if number <= 1 and not unit else int(number * _UNITS[unit])
    if not 0 < amount <= available:
        raise ConfigError("kv_memory", setting, f"must be above 0 and at most {available} bytes")
    return amount
