"""The arithmetic lessons: right answers, true steps, nothing shared by train and test."""

import re
from itertools import accumulate
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.demo.lessons import arithmetic, arithmetic_text
from cluster.demo.lessons.document import LANGUAGES
from cluster.demo.lessons.phrasing import HELD_OUT_EVERY, num_phrasings
from cluster.demo.lessons.split import is_held_out
from helpers.questions import read_question

CORES = {
    "add": arithmetic_text.ADD,
    "subtract": arithmetic_text.SUBTRACT,
    "compare": arithmetic_text.COMPARE,
    "sum": arithmetic_text.SUM,
}
FIELDS = {
    "{a}": r"(?P<a>\d+)",
    "{b}": r"(?P<b>\d+)",
    "{numbers}": r"(?P<many>\d+(?:, \d+)+)",
    "{terms}": r"(?P<many>\d+(?: \+ \d+)+)",
    "{tight}": r"(?P<many>\d+(?:\+\d+)+)",
}
ADD_LINE = re.compile(r"(\d)\+(\d)(\+1)?=(\d\d?)")
SUBTRACT_LINE = re.compile(r"(\d)-(\d)(-1)?(\+10)?=(\d)")

SEEDS = st.integers(0, 2**32)
SPLITS = st.sampled_from(["train", "test"])
LANGUAGE = st.sampled_from(LANGUAGES)
OPERANDS = st.integers(0, 999)


def parse(document):
    """Opener, core, closer and numbers of a question, read back from its text."""
    frame, match = read_question(document, CORES[document.task][document.language], FIELDS)
    many = match.groupdict().get("many")
    found = re.findall(r"\d+", many) if many else [match["a"], match["b"]]
    return frame, tuple(map(int, found))


def expected(task, numbers):
    if task == "subtract":
        return numbers[0] - numbers[1]
    return max(numbers) if task == "compare" else sum(numbers)


def check_addition(lines, a, b):
    """``lines`` are exactly the steps of a + b."""
    assert lines[0] == f"{a}+{b}"
    assert lines[-1] == str(a + b)
    columns = lines[1:-1]
    assert len(columns) == max(len(str(a)), len(str(b)))
    carry, digits = 0, ""
    for place, line in enumerate(columns):
        match = ADD_LINE.fullmatch(line)
        assert match, line
        x, y, total = int(match[1]), int(match[2]), int(match[4])
        assert (x, y) == (a // 10**place % 10, b // 10**place % 10)
        assert bool(match[3]) == bool(carry)
        assert x + y + carry == total
        carry, digits = total // 10, f"{total % 10}{digits}"
    assert int(f"{carry}{digits}") == a + b


@settings(max_examples=200, deadline=None)
@given(SEEDS, SPLITS, LANGUAGE, st.sampled_from(sorted(CORES)))
def test_answer_is_right_and_the_problem_is_of_its_split(seed, split, language, task):
    document = arithmetic.LESSONS[task](Random(seed), split, language)
    assert document == arithmetic.LESSONS[task](Random(seed), split, language)
    assert (document.task, document.language) == (task, language)
    phrasing, numbers = parse(document)
    answer = document.messages[-1]
    assert answer.text == str(expected(task, numbers))
    assert all(0 <= number <= 999 for number in numbers)
    assert task != "compare" or numbers[0] != numbers[1]
    assert task != "sum" or len(numbers) in (3, 4)
    assert is_held_out(*phrasing, every=HELD_OUT_EVERY) == (split == "test")
    totals = accumulate(numbers)
    for pair in zip(totals, numbers[1:], strict=False):  # the operands, or every addition of a sum
        assert is_held_out(*sorted(pair), every=arithmetic.HELD_OUT_EVERY) == (split == "test")
    assert (document.effort == "high") == bool(answer.thinking)
    assert not answer.thinking or answer.thinking.split("\n")[-1] == answer.text


@settings(max_examples=60, deadline=None)
@given(SEEDS, SPLITS, LANGUAGE, st.sampled_from(sorted(CORES)))
def test_forced_effort_keeps_the_problem(seed, split, language, task):
    lesson = getattr(arithmetic, "sum_several" if task == "sum" else task)
    none = lesson(Random(seed), split, language, effort="none")
    high = lesson(Random(seed), split, language, effort="high")
    assert (none.effort, high.effort) == ("none", "high")
    assert none.messages[0] == high.messages[0]
    assert none.messages[-1].text == high.messages[-1].text
    assert high.messages[-1].thinking
    assert not none.messages[-1].thinking
    assert lesson(Random(seed), split, language) in (none, high)


@settings(max_examples=300, deadline=None)
@given(OPERANDS, OPERANDS)
def test_steps_of_addition_are_true(a, b):
    check_addition(arithmetic.add_steps(a, b).split("\n"), a, b)


@settings(max_examples=300, deadline=None)
@given(OPERANDS, OPERANDS)
def test_steps_of_subtraction_are_true(a, b):
    first, *columns, last = arithmetic.subtract_steps(a, b).split("\n")
    top, bottom = max(a, b), min(a, b)
    assert first == (f"{a}-{b}" if a >= b else f"{a}-{b}=-({b}-{a})")
    assert last == str(a - b)
    assert len(columns) == len(str(top))
    borrow, digits = False, ""
    for place, line in enumerate(columns):
        match = SUBTRACT_LINE.fullmatch(line)
        assert match, line
        x, y = int(match[1]), int(match[2])
        assert (x, y) == (top // 10**place % 10, bottom // 10**place % 10)
        assert bool(match[3]) == borrow
        borrow = bool(match[4])
        assert x - y - bool(match[3]) + 10 * borrow == int(match[5])
        digits = match[5] + digits
    assert not borrow
    assert int(digits) == abs(a - b)


@settings(max_examples=200, deadline=None)
@given(OPERANDS, OPERANDS)
def test_steps_of_comparison_are_true_and_stop_at_the_difference(a, b):
    first, *columns, last = arithmetic.compare_steps(a, b).split("\n")
    assert (first, last) == (f"{a} {b}", str(max(a, b)))
    for place, line in enumerate(columns):
        x, y = a // 10 ** (2 - place) % 10, b // 10 ** (2 - place) % 10
        assert line == f"{x}{'=' if x == y else '<' if x < y else '>'}{y}"
        assert (place == len(columns) - 1) == (x != y) or a == b


@settings(max_examples=200, deadline=None)
@given(st.lists(OPERANDS, min_size=3, max_size=4))
def test_steps_of_a_sum_are_chained_additions(numbers):
    lines = arithmetic.sum_steps(numbers).split("\n")
    total = numbers[0]
    for number in numbers[1:]:
        length = max(len(str(total)), len(str(number))) + 2
        check_addition(lines[:length], total, number)
        lines, total = lines[length:], total + number
    assert lines == []


@pytest.mark.parametrize(
    ("steps", "written"),
    [
        (arithmetic.add_steps(478, 356), "478+356\n8+6=14\n7+5+1=13\n4+3+1=8\n834"),
        (arithmetic.subtract_steps(912, 478), "912-478\n2-8+10=4\n1-7-1+10=3\n9-4-1=4\n434"),
        (arithmetic.subtract_steps(5, 12), "5-12=-(12-5)\n2-5+10=7\n1-0-1=0\n-7"),
        (arithmetic.compare_steps(478, 491), "478 491\n4=4\n7<9\n491"),
        (arithmetic.compare_steps(478, 91), "478 91\n4>0\n478"),
        (
            arithmetic.sum_steps((12, 45, 880)),
            "12+45\n2+5=7\n1+4=5\n57\n57+880\n7+0=7\n5+8=13\n0+8+1=9\n937",
        ),
    ],
)
def test_steps_look_as_documented(steps, written):
    assert steps == written


def test_splits_share_no_pair_and_no_phrasing():
    pairs, phrasings = {"train": set(), "test": set()}, {"train": set(), "test": set()}
    for split in ("train", "test"):
        rng = Random(split)
        for number in range(1200):
            task = sorted(CORES)[number % 4]
            document = arithmetic.LESSONS[task](rng, split, LANGUAGES[number % 6])
            phrasing, numbers = parse(document)
            phrasings[split].add((task, document.language, *phrasing))
            if task == "sum" and split == "train":  # every addition on the way
                totals = [sum(numbers[:length]) for length in range(1, len(numbers))]
                pairs[split].update(map(frozenset, zip(totals, numbers[1:], strict=True)))
            if task != "sum":
                pairs[split].add(frozenset(numbers))
    assert pairs["train"].isdisjoint(pairs["test"])
    assert phrasings["train"].isdisjoint(phrasings["test"])


@pytest.mark.parametrize("task", sorted(CORES))
@pytest.mark.parametrize("language", LANGUAGES)
def test_there_are_enough_phrasings(task, language):
    cores = CORES[task][language]
    assert len(set(cores)) == len(cores) >= 6
    assert num_phrasings(language, len(cores)) >= 40


def test_a_third_is_answered_at_once():
    rng = Random(7)
    documents = [arithmetic.add(rng, "train", "en") for _ in range(1500)]
    share = sum(document.effort == "none" for document in documents) / len(documents)
    assert share == pytest.approx(1 / 3, abs=0.04)
