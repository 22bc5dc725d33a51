"""CRC32C, by the package that has it in C; where that is not installed, slowly by a table."""

from __future__ import annotations

from functools import cache

try:
    import google_crc32c
except ImportError:  # a GPU machine's tests need few packages
    google_crc32c = None

_POLYNOMIAL = 0x82F63B78  # Castagnoli, reflected: RFC 3720, appendix B.4


def crc32c(*parts: bytes) -> int:
    """Of all parts, one after the other."""
    value = 0
    for part in parts:
        if google_crc32c is not None:
            value = int(google_crc32c.extend(value, part))
        else:
            value = extended(value, part)
    return value


def extended(value: int, part: bytes) -> int:
    """The checksum of what ``value`` is that of, and then ``part``; in Python."""
    table, value = _table(), value ^ 0xFFFFFFFF
    for byte in part:
        value = table[(value ^ byte) & 0xFF] ^ value >> 8
    return value ^ 0xFFFFFFFF


@cache
def _table() -> tuple[int, ...]:
    entries = []
    for entry in range(256):
        for _ in range(8):
            entry = entry >> 1 ^ (_POLYNOMIAL if entry & 1 else 0)
        entries.append(entry)
    return tuple(entries)
