"""Phrasings: opener x core x closer, a fifth of the combinations held out whole for the test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random

from cluster.demo.lessons.document import Language, Split
from cluster.demo.lessons.split import MAX_DRAWS, belongs

HELD_OUT_EVERY = 5
PLAIN_SHARE = 0.5  # openers and closers are left out this often: short prompts train faster

Cores = Mapping[Language, Sequence[str]]

OPENERS: Mapping[Language, tuple[str, ...]] = {
    "en": ("", "Please: ", "Hello! ", "A question: ", "Quick one: ", "Hi there. ", "Now: ", "OK. "),
    "fr": (
        "",
        "Bonjour ! ",
        "Une question : ",
        "Salut. ",
        "Encore : ",
        "Vite : ",
        "Bien. ",
        "Dis : ",
    ),
    "de": ("", "Bitte: ", "Hallo! ", "Eine Frage: ", "Kurz: ", "Guten Tag. ", "Nun: ", "Gut. "),
    "nl": ("", "Graag: ", "Hallo! ", "Een vraag: ", "Even kort: ", "Goedendag. ", "Nu: ", "Goed. "),
    "es": (
        "",
        "Por favor: ",
        "¡Hola! ",
        "Una pregunta: ",
        "Rápido: ",
        "Buenas. ",
        "Ahora: ",
        "Bien. ",
    ),
    "it": ("", "Per favore: ", "Ciao! ", "Una domanda: ", "Veloce: ", "Salve. ", "Ora: ", "Bene. "),
}
CLOSERS: Mapping[Language, tuple[str, ...]] = {
    "en": ("", " Thanks!", " Thank you.", " Please."),
    "fr": ("", " Merci !", " Merci d'avance.", " S'il te plaît."),
    "de": ("", " Danke!", " Vielen Dank.", " Bitte."),
    "nl": ("", " Bedankt!", " Dank je.", " Alsjeblieft."),
    "es": ("", " ¡Gracias!", " Muchas gracias.", " Por favor."),
    "it": ("", " Grazie!", " Grazie mille.", " Per favore."),
}


def phrase(rng: Random, split: Split, language: Language, cores: Cores, /, **fields: object) -> str:
    """A question of ``split`` with ``{field}`` filled in.

    Raises:
        RuntimeError: The language has too few cores for a held-out combination.
    """
    for _ in range(MAX_DRAWS):
        opener = "" if rng.random() < PLAIN_SHARE else rng.choice(OPENERS[language])
        closer = "" if rng.random() < PLAIN_SHARE else rng.choice(CLOSERS[language])
        core = rng.choice(cores[language])
        if belongs(split, opener, core, closer, every=HELD_OUT_EVERY):
            return opener + core.format(**fields) + closer
    raise RuntimeError(f"no phrasing of the {split} split for {language}: {cores[language]}")


def num_phrasings(language: Language, num_cores: int) -> int:
    """How many combinations a task has."""
    return len(OPENERS[language]) * num_cores * len(CLOSERS[language])
