import json
from collections import Counter
from random import Random
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.demo.lessons.document import LANGUAGES, Document, Message
from cluster.demo.lessons.phrasing import phrase
from cluster.demo.lessons.tools import LESSONS, SHARED_FRAMES
from cluster.demo.lessons.tools_cores import ASK, NO_TOOL, RESULT, SMALL_TALK
from cluster.demo.training.render import demo_renderer

SEEDS = st.integers(0, 2**32)
TASKS = st.sampled_from(list(LESSONS))
SPLITS = st.sampled_from(["train", "test"])
ANY_LANGUAGE = st.sampled_from(LANGUAGES)
PYTHON_TYPES = {"string": str, "integer": int}


def draw(seed, task, split, language, **options) -> Document:
    return LESSONS[task](Random(seed), split, language, **options)


def many(split, *, num_documents=300):
    """Documents of every task and language."""
    rng = Random(7)
    for task in LESSONS:
        for language in LANGUAGES:
            for _ in range(num_documents):
                yield LESSONS[task](rng, split, language)


def schemas(document: Document) -> dict[str, dict]:
    functions = [tool["function"] for tool in document.tools]
    return {function["name"]: function["parameters"] for function in functions}


def rounds(document: Document) -> list[tuple[Message, ...]]:
    starts = [i for i, message in enumerate(document.messages) if message.role == "user"]
    ends = [*starts[1:], len(document.messages)]
    return [document.messages[i:j] for i, j in zip(starts, ends, strict=True)]


def words_of(document: Document) -> set[str]:
    """What the splits may not share: nouns, names of arguments, words of values."""
    words: set[str] = set()
    for name, schema in schemas(document).items():
        words |= {name.partition("_")[2], *schema["properties"]}
    values = [value for m in document.messages for c in m.calls for value in c.arguments.values()]
    values += [
        v for m in document.messages if m.role == "tool" for v in json.loads(m.text).values()
    ]
    return words.union(*(value.split() for value in values if isinstance(value, str)))


@given(SEEDS, TASKS, SPLITS, ANY_LANGUAGE)
def test_seed_gives_one_document_of_the_asked_kind(seed, task, split, language):
    document = draw(seed, task, split, language)
    assert document == draw(seed, task, split, language)
    assert (document.task, document.language) == (task, language)
    shapes = {("user", "assistant"), ("user", "assistant", "tool", "assistant")}
    roles = [tuple(message.role for message in messages) for messages in rounds(document)]
    assert set(roles) <= shapes
    assert len(roles[-1]) == (4 if task == "tool-result" else 2)
    assert len(roles) <= (2 if split == "train" else 1)
    for message in document.messages:
        expected = message.role == "assistant" and document.effort == "high"
        assert bool(message.thinking) == expected
        assert bool(message.text) != bool(message.calls)


@given(SEEDS, TASKS, SPLITS, ANY_LANGUAGE)
def test_calls_are_offered_fit_their_schema_and_are_asked_for(seed, task, split, language):
    document = draw(seed, task, split, language)
    offered = schemas(document)
    assert 1 <= len(offered) == len(document.tools) <= 4
    assert len({name.partition("_")[2] for name in offered}) == len(offered)
    for messages in rounds(document):
        question = messages[0].text
        for call in messages[1].calls:
            schema = offered[call.name]
            assert list(call.arguments) == list(schema["properties"]) == schema["required"]
            assert call.name.replace("_", " ").lower() in question.lower()
            for name, value in call.arguments.items():
                assert type(value) is PYTHON_TYPES[schema["properties"][name]["type"]]
                assert f"{name} {value}" in question or f'{name} "{value}"' in question


@given(SEEDS, SPLITS, ANY_LANGUAGE)
def test_last_answer_is_what_the_task_is_about(seed, split, language):
    (call,) = draw(seed, "tool-call", split, language).messages[-1].calls
    assert call.arguments
    assert len(draw(seed, "tool-parallel", split, language).messages[-1].calls) == 2

    document = draw(seed, "tool-none", split, language)
    question, answer = document.messages[-2:]
    assert answer.text == NO_TOOL[language]
    assert not answer.calls
    padded = f" {question.text.lower()} "
    assert not any(f"{name.replace('_', ' ')} " in padded for name in schemas(document))

    *_, result, answer = draw(seed, "tool-result", split, language).messages
    ((key, value),) = json.loads(result.text).items()
    assert answer.text == RESULT[language].format(key=key, value=value)


@given(SEEDS, TASKS, SPLITS, ANY_LANGUAGE)
def test_forced_effort_changes_the_thinking_and_nothing_else(seed, task, split, language):
    quick = draw(seed, task, split, language, effort="none")
    slow = draw(seed, task, split, language, effort="high")
    assert (quick.effort, slow.effort) == ("none", "high")
    assert [m._replace(thinking="") for m in slow.messages] == list(quick.messages)
    for message in slow.messages:
        if message.calls:
            called = [call.name for call in message.calls]
            wanted, checks = message.thinking.split(": ")
            assert wanted.split(", ") == called
            offered = [tool["function"]["name"] for tool in slow.tools]
            assert dict(check.split() for check in checks.split(", ")) == {
                name: "yes" if name in called else "no" for name in offered
            }


def test_thinking_is_a_quarter_of_training_and_none_of_the_test():
    efforts = [document.effort for document in many("train", num_documents=100)]
    assert 0.21 < efforts.count("high") / len(efforts) < 0.29
    assert all(document.effort == "none" for document in many("test", num_documents=20))


def test_splits_share_no_noun_argument_name_or_word_of_a_value():
    taught = set().union(*map(words_of, many("train")))
    tested = set().union(*map(words_of, many("test")))
    assert len(taught) > 1000
    assert len(tested) > 60
    assert not taught & tested


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("cores", [ASK, SMALL_TALK], ids=["ask", "small talk"])
def test_splits_share_no_phrasing(cores, language):
    rng = Random(0)
    asked = {
        split: {phrase(rng, split, language, cores, act="?", args="!") for _ in range(3000)}
        for split in ("train", "test")
    }
    assert len(cores[language]) >= 6
    assert not asked["train"] & asked["test"]
    assert len(asked["train"]) >= 40
    assert len(asked["test"]) >= 10


def test_test_offers_each_number_of_tools_as_often():
    counts = Counter(len(document.tools) for document in many("test", num_documents=100))
    assert set(counts) == {1, 2, 3, 4}
    assert max(counts.values()) < 1.2 * min(counts.values())


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("task", ["tool-none", "tool-result"])
def test_a_question_answered_in_words_tells_its_language(task, split):
    assert "{act}: {args}." in SHARED_FRAMES
    told: dict[str, set[str]] = {}
    for seed in range(600):
        for language in LANGUAGES:
            document = LESSONS[task](Random(seed), split, language)
            question = [m.text for m in document.messages if m.role == "user"][-1]
            told.setdefault(question, set()).add(language)
    assert all(len(languages) == 1 for languages in told.values())


@pytest.mark.parametrize("split", ["train", "test"])
def test_documents_stay_short(split):
    renderer = demo_renderer()
    lengths = [len(renderer.render(document).ids) for document in many(split, num_documents=20)]
    print(f"{split}: median {median(lengths)} tokens, longest {max(lengths)}")
    assert median(lengths) < 280
    assert max(lengths) < 640
