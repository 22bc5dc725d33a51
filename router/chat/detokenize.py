"""Ids to text as they arrive: never half a character."""

from __future__ import annotations

import codecs
from collections.abc import Iterable

from router.chat.tokenizer import Tokenizer

_Utf8Decoder = codecs.getincrementaldecoder("utf-8")


class Utf8Buffer:
    """Turns bytes into text, holding back an incomplete character at the end."""

    def __init__(self) -> None:
        self._decoder = _Utf8Decoder(errors="replace")

    def push(self, data: bytes) -> str:
        """Text that is now complete. Bytes that can never be UTF-8 become U+FFFD."""
        return self._decoder.decode(data)

    def finish(self) -> str:
        """U+FFFD if a character was left incomplete, else nothing. The buffer is empty again."""
        text = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return text


class IncrementalDetokenizer:
    """Text of a growing sequence of ids.

    Over any split of the ids, the pieces joined are ``Tokenizer.decode`` of all of them.
    """

    def __init__(self, tokenizer: Tokenizer, *, keep_special: bool = False) -> None:
        self._tokenizer = tokenizer
        self._keep_special = keep_special
        self._buffer = Utf8Buffer()

    def push(self, token_ids: Iterable[int]) -> str:
        """Text that the new ids complete; may be empty."""
        pieces = []
        for token_id in token_ids:
            if self._tokenizer.is_special(token_id):
                pieces.append(self._buffer.finish())
            data = self._tokenizer.token_bytes(token_id, keep_special=self._keep_special)
            pieces.append(self._buffer.push(data))
        return "".join(pieces)

    def finish(self) -> str:
        """What was held back, at the end of the sequence."""
        return self._buffer.finish()
