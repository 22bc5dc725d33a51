from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.demo.lessons import facts, facts_table
from cluster.demo.lessons.document import LANGUAGES, Document
from cluster.demo.lessons.phrasing import num_phrasings

LESSONS = facts.LESSONS
CORES = facts.CORES
SEEDS = st.integers(0, 2**32)
TASKS = st.sampled_from(list(LESSONS))
SPLITS = st.sampled_from(["train", "test"])


def question_of(document: Document) -> str:
    return document.messages[-2].text


def answer_of(document: Document) -> str:
    return document.messages[-1].text


@given(SEEDS, TASKS, SPLITS, st.sampled_from(LANGUAGES))
def test_seed_gives_one_document_of_the_asked_kind(seed, task, split, language):
    document, again = (LESSONS[task](Random(seed), split, language) for _ in range(2))
    assert document == again
    assert (document.task, document.language) == (task, language)
    assert [message.role for message in document.messages] == ["user", "assistant"]
    assert answer_of(document)
    assert (document.effort == "high") == bool(document.messages[-1].thinking)
    assert "{" not in question_of(document)


@given(SEEDS, st.sampled_from(list(facts.LESSONS)), SPLITS)
def test_forced_effort_changes_the_thinking_and_nothing_else(seed, task, split):
    lesson = {
        "capital": facts.capital,
        "translate": facts.translate,
        "next": facts.following,
        "opposite": facts.opposite,
    }[task]
    quick = lesson(Random(seed), split, "en", effort="none")
    slow = lesson(Random(seed), split, "en", effort="high")
    assert (quick.effort, slow.effort) == ("none", "high")
    assert question_of(quick) == question_of(slow)
    assert answer_of(quick) == answer_of(slow)
    assert slow.messages[-1].thinking
    assert not quick.messages[-1].thinking


@pytest.mark.parametrize("language", LANGUAGES)
@settings(max_examples=5)
@given(seed=SEEDS)
def test_question_has_one_answer_and_one_split(language, seed):
    rng = Random(seed)
    answers: dict[str, str] = {}
    asked: dict[str, set[str]] = {"train": set(), "test": set()}
    for split, questions in asked.items():
        for task in facts.LESSONS:
            for _ in range(500):
                document = facts.LESSONS[task](rng, split, language)
                question, answer = question_of(document), answer_of(document)
                assert answers.setdefault(question, answer) == answer
                questions.add(question)
    assert not asked["train"] & asked["test"]


@pytest.mark.parametrize("task", list(CORES))
def test_every_task_has_enough_distinct_phrasings(task):
    for language in LANGUAGES:
        cores = CORES[task][language]
        assert len(set(cores)) == len(cores) >= 6
        assert num_phrasings(language, len(cores)) >= 40


def test_tables_are_complete_and_say_one_thing():
    for language in LANGUAGES:
        countries = facts_table.COUNTRIES[language]
        assert len(countries) == len(facts_table.COUNTRIES["en"]) >= 30
        assert all(country.of.endswith(country.name) for country in countries)
        assert len({country.name for country in countries}) == len(countries)
        assert all(len(set(column[language])) == len(column["en"]) for column in columns())
        assert len(facts_table.WORDS[language]) >= 50
        assert len(facts_table.OPPOSITES[language]) == len(facts_table.OPPOSITES["en"]) >= 40
        assert set(facts_table.LANGUAGE_NAMES[language]) == set(LANGUAGES)
        for word, other in facts_table.OPPOSITES[language].items():
            assert facts_table.OPPOSITES[language][other] == word
        items = [fact.fields["item"] for fact in facts.FACTS["next"][language]]
        assert len(set(items)) == len(items) == 7 + 12 + 19


def columns():
    return (facts_table.WORDS, facts_table.DAYS, facts_table.MONTHS, facts_table.NUMBERS)


def test_known_facts():
    def known(task, language):
        return {tuple(f.fields.values()): f.answer for f in facts.FACTS[task][language]}

    assert known("capital", "fr")["de l'Italie", "Italie"] == "Rome"
    assert known("capital", "it")["dei Paesi Bassi", "Paesi Bassi"] == "Amsterdam"
    assert known("capital", "de")["der Schweiz", "Schweiz"] == "Bern"
    assert known("translate", "en")["dog", "French"] == "chien"
    assert known("translate", "nl")["hond", "Duits"] == "Hund"
    assert known("next", "en")[("Sunday",)] == "Monday"
    assert known("next", "es")[("diciembre",)] == "enero"
    assert known("opposite", "de")[("kalt",)] == "heiß"
