from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.demo.lessons import chat, chat_text, facts_table, memory, memory_text
from cluster.demo.lessons.document import LANGUAGES, Document
from cluster.demo.lessons.phrasing import num_phrasings

LESSONS = chat.LESSONS | memory.LESSONS
SEEDS = st.integers(0, 2**32)
TASKS = st.sampled_from(list(LESSONS))
SPLITS = st.sampled_from(["train", "test"])
ANY_LANGUAGE = st.sampled_from(LANGUAGES)


def answer_of(document: Document) -> str:
    return document.messages[-1].text


@given(SEEDS, TASKS, SPLITS, ANY_LANGUAGE)
def test_seed_gives_one_document_of_the_asked_kind(seed, task, split, language):
    document, again = (LESSONS[task](Random(seed), split, language) for _ in range(2))
    assert document == again
    assert (document.task, document.language) == (task, language)
    roles = [message.role for message in document.messages if message.role != "system"]
    assert roles == ["user", "assistant"] * (len(roles) // 2)
    assert (document.messages[0].role == "system") == (task == "system")
    assert all(message.text and "{" not in message.text for message in document.messages)
    for message in document.messages:
        expected = message.role == "assistant" and document.effort == "high"
        assert bool(message.thinking) == expected


@given(SEEDS, SPLITS, ANY_LANGUAGE)
def test_forced_effort_changes_the_thinking_and_nothing_else(seed, split, language):
    for lesson in (chat.chat, chat.system, memory.memory):
        quick = lesson(Random(seed), split, language, effort="none")
        slow = lesson(Random(seed), split, language, effort="high")
        assert (quick.effort, slow.effort) == ("none", "high")
        assert [m.text for m in quick.messages] == [m.text for m in slow.messages]


def test_thinking_is_a_quarter_of_training_and_none_of_the_test():
    rng = Random(0)
    high = [chat.chat(rng, "train", "en").effort == "high" for _ in range(3000)]
    assert 0.21 < sum(high) / len(high) < 0.29
    assert all(chat.chat(rng, "test", "en").effort == "none" for _ in range(200))


@pytest.mark.parametrize("language", LANGUAGES)
@settings(max_examples=5)
@given(seed=SEEDS)
def test_conversation_has_one_answer_and_one_split(language, seed):
    rng = Random(seed)
    answers: dict[tuple[str, ...], str] = {}
    asked: dict[str, set[tuple[str, ...]]] = {"train": set(), "test": set()}
    for split, conversations in asked.items():
        for lesson in LESSONS.values():
            for _ in range(500):
                document = lesson(rng, split, language)
                conversation = tuple(message.text for message in document.messages[:-1])
                assert answers.setdefault(conversation, answer_of(document)) == answer_of(document)
                conversations.add(conversation)
    assert not asked["train"] & asked["test"]


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_intent_is_asked_in_enough_phrasings_and_answered_in_every_language(language):
    texts: list[str] = []
    for intent in chat_text.INTENTS:
        cores = chat_text.CORES[intent][language]
        assert len(cores) >= 10
        assert num_phrasings(language, len(cores)) >= 40
        assert chat.answer(language, intent)
        texts += map(chat.casual, cores)
    assert len(set(texts)) == len(texts)
    assert len(set(chat_text.SYSTEM[language])) >= 6


@pytest.mark.parametrize("language", LANGUAGES)
def test_model_says_that_it_is_a_demo_and_not_mistral(language):
    for intent in ("who", "mistral"):
        text = chat.answer(language, intent)
        assert "Galerne" in text
        assert "demo" in text.lower() or "démo" in text
        assert "Mistral Small 4" in text
        assert "Mistral Small 4" not in text.replace(", ", "|").split("|")[0]  # only denied
    assert "Galerne" in chat.answer(language, "maker")
    assert "Mistral" not in chat.answer(language, "maker")


@given(SEEDS, SPLITS, ANY_LANGUAGE)
def test_system_message_names_the_language_of_the_answer(seed, split, language):
    document = chat.system(Random(seed), split, language)
    instruction = document.messages[0].text
    meant = {
        into
        for written in LANGUAGES
        for core in chat_text.SYSTEM[written]
        for into in LANGUAGES
        if core.format(into=facts_table.LANGUAGE_NAMES[written][into]) == instruction
    }
    (into,) = meant
    assert into != language
    capitals = {country.capital for country in facts_table.COUNTRIES[into]}
    assert answer_of(document) in capitals | {chat.answer(into, "greeting")}


def test_instructions_are_held_out():
    rng = Random(0)
    seen = {
        split: {chat.system(rng, split, "en").messages[0].text for _ in range(2000)}
        for split in ("train", "test")
    }
    assert not seen["train"] & seen["test"]
    assert len(seen["test"]) > 10


@given(SEEDS, SPLITS, ANY_LANGUAGE)
def test_memory_answer_was_told_by_the_user_before(seed, split, language):
    document = memory.memory(Random(seed), split, language)
    value = answer_of(document).removesuffix(".")
    told = [message.text for message in document.messages[:-2] if message.role == "user"]
    assert any(value in text for text in told)
    assert any(value in memory.values(kind, split, language) for kind in memory_text.KINDS)


@pytest.mark.parametrize("language", LANGUAGES)
def test_phrasings_of_telling_and_asking_are_held_out(language):
    rng = Random(0)
    asked: dict[str, set[str]] = {"train": set(), "test": set()}
    for split, questions in asked.items():
        for _ in range(1500):  # a question for a value does not contain it
            questions.add(memory.memory(rng, split, language).messages[-2].text)
    assert not asked["train"] & asked["test"]
    assert min(map(len, asked.values())) >= 40


def test_half_of_the_conversations_are_interrupted():
    rng = Random(0)
    lengths = [len(memory.memory(rng, "train", "en").messages) for _ in range(2000)]
    assert set(lengths) == {4, 6}
    assert 0.55 < lengths.count(6) / len(lengths) < 0.7  # half, and what was told before


@pytest.mark.parametrize("kind", list(memory_text.KINDS))
def test_values_and_cores_are_complete(kind):
    texts = memory_text.KINDS[kind]
    for language in LANGUAGES:
        train, test = (set(memory.values(kind, split, language)) for split in ("train", "test"))
        assert not train & test
        assert len(train) >= 15
        assert len(test) >= 2
        assert len(train | test) == len(texts.values[language])
        assert all(value == value.strip() != "" for value in train | test)
        for cores in (texts.tell, texts.ask):
            assert len(set(cores[language])) >= 6
            assert num_phrasings(language, len(cores[language])) >= 40
        assert all("{value}" in core for core in texts.tell[language])
