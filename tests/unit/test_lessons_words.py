"""The word lessons: right answers, all tokens met, nothing shared by train and test."""

import re
from itertools import count
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.demo.lessons import words, words_text
from cluster.demo.lessons.document import LANGUAGES
from cluster.demo.lessons.phrasing import HELD_OUT_EVERY, num_phrasings
from cluster.demo.lessons.split import is_held_out
from cluster.demo.lessons.word_lists import WORDS
from helpers.questions import read_question
from router.chat.tokenizer import load_tokenizer

LESSONS = {
    "spell": words.spell,
    "reverse": words.reverse,
    "letters": words.count_letters,
    "letter": words.count_letter,
    "list": words.count_list,
    "sort": words.sort,
}
CORES = {
    "spell": words_text.SPELL,
    "reverse": words_text.REVERSE,
    "letters": words_text.COUNT_LETTERS,
    "letter": words_text.COUNT_LETTER,
    "list": words_text.COUNT_LIST,
    "sort": words_text.SORT,
}
LETTER = r"[^\W\d_]"
FIELDS = {
    "{w}": rf"(?P<w>{LETTER}{{3,}})",
    "{x}": rf"(?P<x>{LETTER})",
    "{words}": rf"(?P<words>{LETTER}+(?:, {LETTER}+)+)",
}

SEEDS = st.integers(0, 2**32)
SPLITS = st.sampled_from(["train", "test"])
LANGUAGE = st.sampled_from(LANGUAGES)
KINDS = st.sampled_from(sorted(LESSONS))


def parse(kind, document):
    """Opener, core, closer and fields of a question, read back from its text."""
    frame, match = read_question(document, CORES[kind][document.language], FIELDS)
    return frame, match.groupdict()


def check_answer(kind, fields, text):
    if "words" in fields:
        listed = fields["words"].split(", ")
        if kind == "sort":
            assert text.split(", ") == sorted(listed)
            return
        *numbered, total = re.split(", |: ", text)
        assert numbered == [f"{i + 1} {word}" for i, word in enumerate(listed)]
        assert total == str(len(listed))
        return
    letters, _, number = text.partition(": ")
    word = "".join(letters.split("-"))
    assert all(len(letter) == 1 for letter in letters.split("-"))
    assert word == (fields["w"][::-1] if kind == "reverse" else fields["w"])
    counted = {"letters": len(word), "letter": sum(c == fields.get("x") for c in word)}
    assert number == str(counted.get(kind, ""))


def held_out(word):
    return words.word_belongs("test", word)


@settings(max_examples=300, deadline=None)
@given(SEEDS, SPLITS, LANGUAGE, KINDS)
def test_answer_is_right_and_the_content_is_of_its_split(seed, split, language, kind):
    document = LESSONS[kind](Random(seed), split, language)
    assert document == LESSONS[kind](Random(seed), split, language)
    phrasing, fields = parse(kind, document)
    answer = document.messages[-1]
    check_answer(kind, fields, answer.text)
    assert is_held_out(*phrasing, every=HELD_OUT_EVERY) == (split == "test")
    assert (document.effort == "high") == bool(answer.thinking)
    if "w" in fields:
        assert 3 <= len(fields["w"]) <= 10
        assert held_out(fields["w"]) == (split == "test")
        return
    listed = fields["words"].split(", ")
    assert len(set(listed)) == len(listed)
    assert set(listed) <= set(WORDS[language])
    assert is_held_out(*sorted(listed), every=words.HELD_OUT_EVERY) == (split == "test")
    assert split == "test" or not any(map(held_out, listed))


@settings(max_examples=100, deadline=None)
@given(SEEDS, SPLITS, LANGUAGE, KINDS)
def test_forced_effort_keeps_the_problem_and_thinks_as_documented(seed, split, language, kind):
    none = LESSONS[kind](Random(seed), split, language, effort="none")
    high = LESSONS[kind](Random(seed), split, language, effort="high")
    assert (none.effort, high.effort) == ("none", "high")
    assert none.messages[0] == high.messages[0]
    assert none.messages[-1].text == high.messages[-1].text
    _, fields = parse(kind, high)
    assert high.messages[-1].thinking == thought(kind, **fields)


def thought(kind, *, w="", x="", words=""):
    """What is written down before the answer to a question about these fields."""
    listed = words.split(", ")
    match kind:
        case "list":
            return str(len(listed))
        case "sort":
            orders = (listed, sorted(listed))
            return "\n".join(", ".join(f"{word[:2]} {word}" for word in order) for order in orders)
        case "reverse":
            there = [f"{number}{letter}" for number, letter in enumerate(w, start=1)]
            return "-".join(there) + "\n" + "-".join(there[::-1])
        case "letters":
            return "-".join(f"{number}{letter}" for number, letter in enumerate(w, start=1))
        case "letter":
            numbers = count(1)
            return "-".join(f"{other}{next(numbers)}" if other == x else other for other in w)
        case _:
            return "-".join(w)


@settings(max_examples=60, deadline=None)
@given(SEEDS, SPLITS, LANGUAGE, st.sampled_from(sorted(words.LESSONS)))
def test_lessons_are_named_by_their_task(seed, split, language, task):
    document = words.LESSONS[task](Random(seed), split, language)
    assert document == words.LESSONS[task](Random(seed), split, language)
    assert (document.task, document.language) == (task, language)


def test_splits_share_no_word_no_list_and_no_phrasing():
    content, phrasings = {"train": set(), "test": set()}, {"train": set(), "test": set()}
    for split in ("train", "test"):
        rng = Random(split)
        for number in range(1800):
            kind = sorted(LESSONS)[number % 6]
            document = LESSONS[kind](rng, split, LANGUAGES[number // 6 % 6])
            phrasing, fields = parse(kind, document)
            phrasings[split].add((kind, document.language, *phrasing))
            content[split].add(fields.get("w") or frozenset(fields["words"].split(", ")))
    assert content["train"].isdisjoint(content["test"])
    assert phrasings["train"].isdisjoint(phrasings["test"])


@pytest.mark.parametrize("kind", sorted(CORES))
@pytest.mark.parametrize("language", LANGUAGES)
def test_there_are_enough_phrasings(kind, language):
    cores = CORES[kind][language]
    assert len(set(cores)) == len(cores) >= 6
    assert num_phrasings(language, len(cores)) >= 40
    if "{w}" in cores[0]:
        quoted = sum('"{w}"' in core for core in cores)
        assert 0 < quoted < len(cores)


@pytest.mark.parametrize("language", LANGUAGES)
def test_word_lists_are_words_and_both_splits_have_enough(language):
    listed = WORDS[language]
    assert len(set(listed)) == len(listed) >= 160
    assert all(re.fullmatch(f"{LETTER}{{3,9}}", word) and word.islower() for word in listed)
    assert set(words.TRAIN_WORDS[language]).isdisjoint(words.TEST_WORDS[language])
    assert len(words.TEST_WORDS[language]) >= 10


def test_pieces_are_the_short_lowercase_entries_of_the_vocabulary():
    tokenizer = load_tokenizer(None)
    texts = (tokenizer.token_bytes(i) for i in range(1000, tokenizer.vocab_size))
    bare = (text.removeprefix(b" ") for text in texts)
    short = {text.decode() for text in bare if re.fullmatch(rb"[a-z]{1,5}", text)}
    assert set(words.PIECES) == short


def test_half_of_the_words_are_made_up_and_three_quarters_of_the_letters_present():
    rng = Random(11)
    drawn = [parse("letter", words.count_letter(rng, "train", "en"))[1] for _ in range(1000)]
    real = sum(fields["w"] in WORDS["en"] for fields in drawn) / len(drawn)
    present = sum(fields["x"] in fields["w"] for fields in drawn) / len(drawn)
    assert real == pytest.approx(0.5, abs=0.06)
    assert present == pytest.approx(0.75, abs=0.06)


def test_a_letter_with_an_accent_is_never_asked_for_beside_its_plain_one():
    french = [fields for seed in range(400) if (fields := _asked(seed)) and "é" in fields["w"]]
    assert french
    assert all(fields["x"] != "e" for fields in french)


def _asked(seed):
    return parse("letter", words.count_letter(Random(seed), "train", "fr"))[1]
