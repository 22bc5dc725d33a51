"""Settings that are amounts of memory. Pure."""

from __future__ import annotations

import re

from galerne.errors import ConfigError

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}
_BYTES = re.compile(r"(\d+(?:\.\d+)?)\s*(k|m|g|ki|mi|gi)?b?", re.IGNORECASE)


def kv_share(setting: str) -> tuple[float | None, int]:
    """The KV pool as a fraction (0 to 1) of what is available, or None and an amount in bytes.

    Raises:
        ConfigError: It is neither.
    """
    number, unit = _parsed("kv_memory", setting, "must be a fraction (0.3) or bytes (2GiB, 500M)")
    if not number:
        raise ConfigError("kv_memory", setting, "must be above 0")
    if not unit and number > 1 and not number.is_integer():
        raise ConfigError("kv_memory", setting, "is neither a fraction up to 1 nor whole bytes")
    if number <= 1 and not unit:
        return number, 0
    return None, int(number * _UNITS[unit])


def kv_bytes(setting: str, available: int) -> int:
    """Bytes of the KV pool: an amount, or a fraction (0 to 1) of what is available.

    Raises:
        ConfigError: Neither a fraction nor an amount, or more than there is.
    """
    fraction, amount = kv_share(setting)
    if fraction is not None:
        amount = int(fraction * available)
    if not 0 < amount <= available:
        raise ConfigError("kv_memory", setting, f"must be above 0 and at most {available} bytes")
    return amount


def num_bytes(key: str, setting: str) -> int:
    """Bytes of a setting such as 2GiB or 500M; ``key``: its name.

    Raises:
        ConfigError: It is no amount.
    """
    problem = "must be bytes (2GiB, 500M)"
    number, unit = _parsed(key, setting, problem)
    if not unit and not number.is_integer():
        raise ConfigError(key, setting, problem)
    return int(number * _UNITS[unit])


def _parsed(key: str, setting: str, problem: str) -> tuple[float, str]:
    """A number and its unit, which may be empty."""
    matched = _BYTES.fullmatch(setting.strip())
    if matched is None:
        raise ConfigError(key, setting, problem)
    return float(matched[1]), (matched[2] or "").lower()
