import subprocess
import sys
from functools import cache
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mistral_common.tokens.tokenizers.base import SpecialTokenPolicy

from galerne.errors import CheckpointError
from router.chat.call_id import new_call_id
from router.chat.detokenize import IncrementalDetokenizer
from router.chat.tokenizer import EMBEDDED_TOKENIZER, ImageTokenIds, Tokenizer, load_tokenizer


@cache
def embedded() -> Tokenizer:
    return load_tokenizer(None)


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
IDS = st.lists(st.integers(0, 8191) | st.integers(0, 40) | st.integers(1000, 1255), max_size=30)


def test_embedded_tokenizer_knows_its_special_tokens_by_name():
    tokenizer = embedded()
    assert tokenizer.vocab_size == 8192
    assert (tokenizer.bos_id, tokenizer.eos_id) == (1, 2)
    assert (tokenizer.special.begin_think, tokenizer.special.end_think) == (34, 35)
    assert (tokenizer.special.tool_calls, tokenizer.special.args) == (9, 32)
    assert tokenizer.image_token_ids == ImageTokenIds(10, 12, 13)
    assert tokenizer.special_id("[AUDIO]") is None


def test_checkpoint_tokenizer_is_used_when_there_is_one_and_damage_is_named(tmp_path):
    assert load_tokenizer(tmp_path).vocab_size == 8192
    text = EMBEDDED_TOKENIZER.read_text().replace("<SPECIAL_500>", "[MINE]")
    (tmp_path / "tekken.json").write_text(text)
    assert load_tokenizer(tmp_path).special_id("[MINE]") == 500
    for damaged in ("{", "{}", "[]", '{"config": {"version": "v15"}}'):
        (tmp_path / "tekken.json").write_text(damaged)
        with pytest.raises(CheckpointError, match=r"tekken\.json"):
            load_tokenizer(tmp_path)


@settings(max_examples=100, deadline=None)
@given(TEXT)
def test_text_survives_the_round_trip(text):
    tokenizer = embedded()
    ids = tokenizer.encode_text(text, add_bos=False)
    assert tokenizer.decode(ids) == text
    assert tokenizer.encode_text(text, add_bos=True) == [1, *ids]
    assert not any(map(tokenizer.is_special, ids))


@settings(max_examples=100, deadline=None)
@given(IDS, st.booleans())
def test_decode_agrees_with_mistral_common(ids, keep_special):
    policy = SpecialTokenPolicy.KEEP if keep_special else SpecialTokenPolicy.IGNORE
    tokenizer = embedded()
    expected = tokenizer.mistral.decode(ids, special_token_policy=policy)
    assert tokenizer.decode(ids, keep_special=keep_special) == expected


@settings(max_examples=100, deadline=None)
@given(IDS, st.lists(st.integers(0, 30), max_size=6), st.booleans())
def test_detokenizer_gives_the_same_text_for_any_split(ids, cuts, keep_special):
    detokenizer = IncrementalDetokenizer(embedded(), keep_special=keep_special)
    bounds = [0, *sorted(cuts), len(ids)]
    pieces = [detokenizer.push(ids[a:b]) for a, b in pairwise(bounds)]
    text = "".join(pieces) + detokenizer.finish()
    assert text == embedded().decode(ids, keep_special=keep_special)


def test_detokenizer_holds_half_a_character_back():
    detokenizer = IncrementalDetokenizer(embedded())
    assert [detokenizer.push([1000 + byte]) for byte in "é日".encode()] == ["", "é", "", "", "日"]
    assert detokenizer.push([1000 + 0xE6]) == ""
    assert detokenizer.finish() == "\ufffd"
    assert detokenizer.finish() == ""


def test_special_token_has_bytes_only_when_asked_and_unknown_ids_are_visible():
    tokenizer = embedded()
    assert tokenizer.token_bytes(3) == b""
    assert tokenizer.token_bytes(3, keep_special=True) == b"[INST]"
    assert tokenizer.token_bytes(1000 + 65) == b"A"
    assert tokenizer.decode([1065, 8192, 131071, -1]) == "A\ufffd\ufffd\ufffd"


def test_call_id_is_nine_letters_and_digits_and_new_each_time():
    ids = {new_call_id() for _ in range(100)}
    assert len(ids) == 100
    assert all(len(i) == 9 and i.isascii() and i.isalnum() for i in ids)


def test_chat_package_starts_without_torch():
    modules = "encode, parse, detokenize, stop, images, tokenizer, call_id"
    code = f"import sys; from router.chat import {modules}; sys.exit('torch' in sys.modules)"
    path = {"PYTHONPATH": ".:proto"}
    root = EMBEDDED_TOKENIZER.parents[3]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root, env=path, timeout=60)
