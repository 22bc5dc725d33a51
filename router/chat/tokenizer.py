"""Text to ids and back, around the Tekken file of a checkpoint."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from mistral_common.exceptions import MistralCommonException
from mistral_common.tokens.tokenizers.base import SpecialTokenPolicy, SpecialTokens
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer
from mistral_common.tokens.tokenizers.tekken import Tekkenizer

from galerne.errors import CheckpointError, InvalidRequestError

EMBEDDED_TOKENIZER = Path(__file__).with_name("data") / "tekken-8k.json"
TOKENIZER_FILE_NAME = "tekken.json"

# A model may have more rows than its tokenizer has ids; sampling one must not end the stream.
_UNKNOWN_ID_BYTES = "\N{REPLACEMENT CHARACTER}".encode()


class ImageTokenIds(NamedTuple):
    """Ids that lay an image out in a prompt."""

    image: int
    image_break: int
    image_end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecialIds:
    """Ids of the special tokens that matter here; None where the file has no such token."""

    bos: int | None
    eos: int | None
    pad: int | None
    tool_calls: int | None
    args: int | None
    call_id: int | None
    begin_think: int | None
    end_think: int | None
    image: int | None
    image_break: int | None
    image_end: int | None


_TOKEN_BY_FIELD = {
    "bos": SpecialTokens.bos,
    "eos": SpecialTokens.eos,
    "pad": SpecialTokens.pad,
    "tool_calls": SpecialTokens.tool_calls,
    "args": SpecialTokens.args,
    "call_id": SpecialTokens.call_id,
    "begin_think": SpecialTokens.begin_think,
    "end_think": SpecialTokens.end_think,
    "image": SpecialTokens.img,
    "image_break": SpecialTokens.img_break,
    "image_end": SpecialTokens.img_end,
}


class Tokenizer:
    """A Tekken tokenizer: ids of text and of special tokens, and the bytes behind each id.

    Immutable after construction, so threads may share it.
    """

    def __init__(self, mistral: MistralTokenizer) -> None:
        tekken: Tekkenizer = mistral.instruct_tokenizer.tokenizer
        self.mistral = mistral
        self._tekken = tekken
        self.special = SpecialIds(
            **{field: self.special_id(token.value) for field, token in _TOKEN_BY_FIELD.items()}
        )

    @classmethod
    def from_file(cls, path: Path) -> Tokenizer:
        """Read a Tekken file; its name must contain ``tekken`` and end in ``.json``.

        Raises:
            CheckpointError: The file is missing or is not a Tekken tokenizer.
        """
        try:
            mistral = MistralTokenizer.from_file(path)
        except (
            OSError,
            ValueError,
            LookupError,
            TypeError,
            AttributeError,
            AssertionError,
            MistralCommonException,
        ) as error:
            found = f"{type(error).__name__}: {str(error)[:200]}"
            raise CheckpointError(str(path), None, "a Tekken tokenizer", found) from error
        if not isinstance(mistral.instruct_tokenizer.tokenizer, Tekkenizer):
            raise CheckpointError(str(path), None, "a Tekken tokenizer", "another tokenizer")
        return cls(mistral)

    @property
    def vocab_size(self) -> int:
        """Number of ids, special ones included."""
        return int(self._tekken.n_words)

    @property
    def bos_id(self) -> int:
        """Id that starts a prompt."""
        return int(self._tekken.bos_id)

    @property
    def eos_id(self) -> int:
        """Id that ends a turn of the assistant."""
        return int(self._tekken.eos_id)

    @property
    def image_token_ids(self) -> ImageTokenIds | None:
        """Ids of [IMG], [IMG_BREAK] and [IMG_END]; None if one of them is missing."""
        ids = (self.special.image, self.special.image_break, self.special.image_end)
        image, image_break, image_end = ids
        if image is None or image_break is None or image_end is None:
            return None
        return ImageTokenIds(image, image_break, image_end)

    def special_id(self, name: str) -> int | None:
        """Id of the special token written ``name``, as ``[THINK]``; None if there is none."""
        if not self._tekken.is_special(name):
            return None
        return int(self._tekken.get_special_token(name))

    def is_special(self, token_id: int) -> bool:
        """Whether the id is a control token, which stands for no text."""
        return bool(self._tekken.is_special(token_id))

    def encode_text(self, text: str, *, add_bos: bool, field: str = "prompt") -> list[int]:
        """Ids of plain text. Names of special tokens in it are text like any other.

        Raises:
            InvalidRequestError: The text cannot be split into tokens; names ``field``.
        """
        try:
            return list(self._tekken.encode(text, bos=add_bos, eos=False))
        except ValueError as error:  # seen with ten million spaces: the splitting pattern gives up
            raise InvalidRequestError(field, f"cannot be tokenized: {error}") from error

    def token_bytes(self, token_id: int, *, keep_special: bool = False) -> bytes:
        """Bytes of one id; part of a character is possible.

        A special token gives nothing, or its name with ``keep_special``. An id outside the
        vocabulary gives U+FFFD.
        """
        if not 0 <= token_id < self.vocab_size:
            return _UNKNOWN_ID_BYTES
        policy = SpecialTokenPolicy.KEEP if keep_special else SpecialTokenPolicy.IGNORE
        return bytes(self._tekken.id_to_byte_piece(token_id, policy))

    def decode(self, token_ids: Iterable[int], *, keep_special: bool = False) -> str:
        """Text of ids; bytes that are not UTF-8 become U+FFFD.

        A special token parts the text: no character spans one.
        """
        pieces = []
        for _, ids in groupby(token_ids, self.is_special):
            data = (self.token_bytes(token_id, keep_special=keep_special) for token_id in ids)
            pieces.append(b"".join(data).decode("utf-8", errors="replace"))
        return "".join(pieces)


def load_tokenizer(checkpoint_dir: Path | None) -> Tokenizer:
    """Tokenizer of a checkpoint: its ``tekken.json``, else the embedded one of 8192 ids.

    Raises:
        CheckpointError: The checkpoint's file is damaged.
    """
    if checkpoint_dir is not None:
        path = checkpoint_dir / TOKENIZER_FILE_NAME
        if path.exists():
            return Tokenizer.from_file(path)
    return Tokenizer.from_file(EMBEDDED_TOKENIZER)
