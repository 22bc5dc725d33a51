"""Checksums with the C package and without."""

import google_crc32c
import pytest

from galerne.crc32c import crc32c, extended


def test_the_check_value_of_the_standard():
    assert crc32c(b"123456789") == extended(0, b"123456789") == 0xE3069283


@pytest.mark.parametrize("parts", [(b"",), (b"a", b""), (bytes(range(256)), b"\x00\xff" * 33)])
def test_python_and_c_agree_over_parts(parts):
    value = 0
    for part in parts:
        value = extended(value, part)
    assert value == crc32c(*parts) == google_crc32c.value(b"".join(parts))
