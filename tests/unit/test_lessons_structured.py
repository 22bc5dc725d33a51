import json
import re
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.demo.lessons import code, structured
from cluster.demo.lessons.document import LANGUAGES
from cluster.demo.lessons.phrasing import num_phrasings, phrase
from cluster.demo.lessons.tools_cores import AND

LESSONS = structured.LESSONS | code.LESSONS
SEEDS = st.integers(0, 2**32)
TASKS = st.sampled_from(list(LESSONS))
SPLITS = st.sampled_from(["train", "test"])
ANY_LANGUAGE = st.sampled_from(LANGUAGES)

SIGNATURE = re.compile(r"def (\w+)\((.*)\):\n    return .+")
# What the English name of an operation asks for, and arguments to try it with.
MEANINGS = {
    "the sum": (lambda a, b: a + b, [(2, 3), (5, -7)]),
    "the difference": (lambda a, b: a - b, [(2, 3), (5, -7)]),
    "the product": (lambda a, b: a * b, [(2, 3), (5, -7)]),
    "the larger": (lambda a, b: a if a > b else b, [(2, 3), (5, -7)]),
    "the smaller": (lambda a, b: a if a < b else b, [(2, 3), (5, -7)]),
    "whether they are equal": (lambda a, b: a == b, [(2, 3), (4, 4)]),
    "the double": (lambda a: a + a, [(3,), (-4,)]),
    "the square": (lambda a: a**2, [(3,), (-4,)]),
    "the negative": (lambda a: 0 - a, [(3,), (-4,)]),
    "the length": (lambda a: sum(1 for _ in a), [("word",), ([],)]),
    "the first element": (lambda a: next(iter(a)), [("word",), ([4, 5],)]),
    "the last element": (lambda a: list(a).pop(), [("word",), ([4, 5],)]),
}


def draw(seed, task, split, language, **options):
    document = LESSONS[task](Random(seed), split, language, **options)
    question, answer = document.messages
    return document, question.text, answer


def objects(split):
    rng = Random(5)
    for language in LANGUAGES:
        for _ in range(1000):
            yield json.loads(structured.to_json(rng, split, language).messages[-1].text)


def signatures(split):
    rng = Random(5)
    for language in LANGUAGES:
        for _ in range(1000):
            answer = code.function(rng, split, language).messages[-1].text
            yield SIGNATURE.fullmatch(answer).groups()


@given(SEEDS, TASKS, SPLITS, ANY_LANGUAGE)
def test_seed_gives_one_document_of_the_asked_kind(seed, task, split, language):
    document, question, answer = draw(seed, task, split, language)
    assert document == draw(seed, task, split, language)[0]
    assert (document.task, document.language) == (task, language)
    assert [message.role for message in document.messages] == ["user", "assistant"]
    assert bool(answer.thinking) == (document.effort == "high")
    assert question
    assert split == "train" or document.effort == "none"


@given(SEEDS, TASKS, SPLITS, ANY_LANGUAGE)
def test_forced_effort_changes_the_thinking_and_nothing_else(seed, task, split, language):
    quick, asked_quick, answer_quick = draw(seed, task, split, language, effort="none")
    slow, asked_slow, answer_slow = draw(seed, task, split, language, effort="high")
    assert (quick.effort, slow.effort) == ("none", "high")
    assert (asked_quick, answer_quick.text) == (asked_slow, answer_slow.text)


@given(SEEDS, SPLITS, ANY_LANGUAGE)
def test_json_has_the_pairs_of_the_question_in_their_order(seed, split, language):
    _, question, answer = draw(seed, "json", split, language)
    values = json.loads(answer.text)
    assert json.dumps(values, ensure_ascii=False) == answer.text
    assert 2 <= len(values) <= 4
    spoken = []
    for key, value in values.items():
        if isinstance(value, list):
            assert 2 <= len(value) <= 3
            spoken.append(f"{key} {f' {AND[language]} '.join(value)}")
        else:
            spoken.append(f"{key} {value if isinstance(value, str) else json.dumps(value)}")
    assert ", ".join(spoken) in question


def test_json_has_values_of_every_kind():
    kinds = {type(value) for values in objects("test") for value in values.values()}
    assert kinds == {str, int, bool, list}


def test_json_splits_share_no_key_and_no_string():
    used: dict[str, tuple[set[str], set[str]]] = {}
    for split in ("train", "test"):
        keys, strings = used[split] = (set(), set())
        for values in objects(split):
            keys |= set(values)
            for value in values.values():
                parts = value if isinstance(value, list) else [value]
                strings |= {part for part in parts if isinstance(part, str)}
    for taught, tested in zip(used["train"], used["test"], strict=True):
        assert tested
        assert not taught & tested


@given(SEEDS, SPLITS, ANY_LANGUAGE)
def test_code_compiles_and_computes_what_is_asked(seed, split, language):
    _, question, answer = draw(seed, "code", split, language)
    name, arguments = SIGNATURE.fullmatch(answer.text).groups()
    assert f"{name}({arguments})" in question
    (said,) = {o.said["en"] for o in code.OPERATIONS if f" {o.said[language]}." in question}
    meaning, trials = MEANINGS[said]
    names: dict[str, object] = {}
    exec(compile(answer.text, "answer", "exec"), names)
    for trial in trials:
        assert names[name](*trial) == meaning(*trial)


def test_every_operation_is_taught_and_tested():
    assert {operation.said["en"] for operation in code.OPERATIONS} == set(MEANINGS)
    for language in LANGUAGES:
        assert len({operation.said[language] for operation in code.OPERATIONS}) == len(MEANINGS)


def test_code_splits_share_no_name_with_its_arguments():
    taught, tested = set(signatures("train")), set(signatures("test"))
    assert len(tested) > 200
    assert not taught & tested


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("cores", [structured.CORES, code.CORES], ids=["json", "code"])
def test_splits_share_no_phrasing(cores, language):
    rng = Random(0)
    fields = {"pairs": "?", "name": "?", "args": "?", "what": "!"}
    taught, tested = (
        {phrase(rng, split, language, cores, **fields) for _ in range(3000)}
        for split in ("train", "test")
    )
    assert num_phrasings(language, len(cores[language])) >= 40
    assert not taught & tested
