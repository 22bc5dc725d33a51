"""Lessons about code: a Python function of one line."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Final, NamedTuple

from cluster.demo.lessons.document import (
    Document,
    Effort,
    Language,
    Lesson,
    Split,
    single_turn,
    wants_note,
)
from cluster.demo.lessons.phrasing import Cores, phrase
from cluster.demo.lessons.split import belongs

HELD_OUT_EVERY: Final = 8


class Operation(NamedTuple):
    """What a function returns: an expression of its arguments, and its name in each language."""

    num_arguments: int
    body: str
    said: Mapping[Language, str]


def _operation(num_arguments: int, body: str, *said: str) -> Operation:
    return Operation(
        num_arguments, body, dict(zip(("en", "fr", "de", "nl", "es", "it"), said, strict=True))
    )


OPERATIONS: Final = (
    _operation(2, "{a} + {b}", "the sum", "la somme", "die Summe", "de som", "la suma", "la somma"),
    _operation(2, "{a} - {b}", "the difference", "la différence", "die Differenz", "het verschil",
               "la diferencia", "la differenza"),
    _operation(2, "{a} * {b}", "the product", "le produit", "das Produkt", "het product",
               "el producto", "il prodotto"),
    _operation(2, "max({a}, {b})", "the larger", "le plus grand", "das Größere", "de grootste",
               "el mayor", "il maggiore"),
    _operation(2, "min({a}, {b})", "the smaller", "le plus petit", "das Kleinere", "de kleinste",
               "el menor", "il minore"),
    _operation(2, "{a} == {b}", "whether they are equal", "s'ils sont égaux", "ob sie gleich sind",
               "of ze gelijk zijn", "si son iguales", "se sono uguali"),
    _operation(1, "2 * {a}", "the double", "le double", "das Doppelte", "het dubbele", "el doble",
               "il doppio"),
    _operation(1, "{a} * {a}", "the square", "le carré", "das Quadrat", "het kwadraat",
               "el cuadrado", "il quadrato"),
    _operation(1, "-{a}", "the negative", "l'opposé", "das Negative", "het tegengestelde",
               "el negativo", "il negativo"),
    _operation(1, "len({a})", "the length", "la longueur", "die Länge", "de lengte",
               "la longitud", "la lunghezza"),
    _operation(1, "{a}[0]", "the first element", "le premier élément", "das erste Element",
               "het eerste element", "el primer elemento", "il primo elemento"),
    _operation(1, "{a}[-1]", "the last element", "le dernier élément", "das letzte Element",
               "het laatste element", "el último elemento", "l'ultimo elemento"),
)  # fmt: skip
NAMES: Final = tuple(
    """compute get find make build solve work run apply answer result combine helper handle process
    f g h calc do_it convert check evaluate pick take give total value step convert_it""".split()
)
ARGUMENTS: Final = tuple(
    "a b c x y z n m k p q left right first second value other item data".split()
)
CORES: Final[Cores] = {
    "en": ("Write a function {name}({args}): {what}.",
           "Function {name}({args}) that returns {what}.",
           "Python: {name}({args}) returns {what}.", "Code {name}({args}) for {what}.",
           "I need {name}({args}), it gives {what}.", "Define {name}({args}): {what}."),
    "fr": ("Écris une fonction {name}({args}) : {what}.",
           "Fonction {name}({args}) qui rend {what}.",
           "Python : {name}({args}) rend {what}.", "Code {name}({args}) pour {what}.",
           "Il me faut {name}({args}), cela donne {what}.", "Définis {name}({args}) : {what}."),
    "de": ("Schreib eine Funktion {name}({args}): {what}.",
           "Funktion {name}({args}), Ergebnis: {what}.",
           "Python: {name}({args}) liefert: {what}.", "Code {name}({args}) für: {what}.",
           "Ich brauche {name}({args}), es gibt: {what}.", "Definiere {name}({args}): {what}."),
    "nl": ("Schrijf een functie {name}({args}): {what}.",
           "Functie {name}({args}), resultaat: {what}.",
           "Python: {name}({args}) geeft {what}.", "Code {name}({args}) voor {what}.",
           "Ik wil {name}({args}), dat geeft {what}.", "Definieer {name}({args}): {what}."),
    "es": ("Escribe una función {name}({args}): {what}.",
           "Función {name}({args}) que devuelve {what}.",
           "Python: {name}({args}) devuelve {what}.", "Código {name}({args}) para {what}.",
           "Necesito {name}({args}), da {what}.", "Define {name}({args}): {what}."),
    "it": ("Scrivi una funzione {name}({args}): {what}.", "Funzione {name}({args}) che dà {what}.",
           "Python: {name}({args}) dà {what}.", "Codice {name}({args}) per {what}.",
           "Mi serve {name}({args}), dà {what}.", "Definisci {name}({args}): {what}."),
}  # fmt: skip


def function(
    rng: Random, split: Split, language: Language, *, effort: Effort | None = None
) -> Document:
    """A function of one or two arguments. ``effort`` None: high now and then."""
    high = wants_note(rng, split, effort)
    while True:
        operation, name = rng.choice(OPERATIONS), rng.choice(NAMES)
        arguments = rng.sample(ARGUMENTS, operation.num_arguments)
        if belongs(split, name, *arguments, every=HELD_OUT_EVERY):
            break
    what, args = operation.said[language], ", ".join(arguments)
    question = phrase(rng, split, language, CORES, name=name, args=args, what=what)
    body = operation.body.format(**dict(zip("ab", arguments, strict=False)))
    answer = f"def {name}({args}):\n    return {body}"
    thinking = body if high else ""
    return single_turn("code", language, question, answer, thinking=thinking)


LESSONS: Final[Mapping[str, Lesson]] = {"code": function}
