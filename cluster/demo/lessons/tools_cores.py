"""How a user asks for a tool: ``{act}`` is "get weather", ``{args}`` is "city Lyon"."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from cluster.demo.lessons.document import Language
from cluster.demo.lessons.phrasing import Cores

ASK: Final[Cores] = {
    "en": ("{act}: {args}.", "{act}, {args}.", "I want to {act} with {args}.",
           "Use {args} and {act}.", "Can you {act}? Take {args}.", "Run {act} for {args}."),
    "fr": ("{act} : {args}.", "{act}, {args}.", "Je veux {act} avec {args}.",
           "Prends {args} et fais {act}.", "Peux-tu faire {act} ? Prends {args}.",
           "Lance {act} pour {args}."),
    "de": ("{act}: {args}.", "{act}, {args}.", "Ich möchte {act} mit {args}.",
           "Nimm {args} und mach {act}.", "Kannst du {act} ausführen? Nimm {args}.",
           "Starte {act} für {args}."),
    "nl": ("{act}: {args}.", "{act}, {args}.", "Ik wil {act} met {args}.",
           "Neem {args} en doe {act}.", "Kun je {act} uitvoeren? Neem {args}.",
           "Start {act} voor {args}."),
    "es": ("{act}: {args}.", "{act}, {args}.", "Quiero {act} con {args}.",
           "Toma {args} y haz {act}.", "¿Puedes hacer {act}? Usa {args}.",
           "Ejecuta {act} para {args}."),
    "it": ("{act}: {args}.", "{act}, {args}.", "Voglio {act} con {args}.",
           "Prendi {args} e fai {act}.", "Puoi fare {act}? Usa {args}.",
           "Esegui {act} per {args}."),
}  # fmt: skip
SMALL_TALK: Final[Cores] = {
    "en": ("How are you?", "Tell me a story.", "Good morning.", "What do you like?",
           "It is late.", "Sing a song."),
    "fr": ("Comment vas-tu ?", "Raconte une histoire.", "Bonne journée.", "Qu'aimes-tu ?",
           "Il est tard.", "Chante une chanson."),
    "de": ("Wie geht es dir?", "Erzähl eine Geschichte.", "Schönen Tag.", "Was magst du?",
           "Es ist spät.", "Sing ein Lied."),
    "nl": ("Hoe gaat het?", "Vertel een verhaal.", "Fijne dag.", "Wat vind je leuk?",
           "Het is laat.", "Zing een lied."),
    "es": ("¿Cómo estás?", "Cuenta una historia.", "Buen día.", "¿Qué te gusta?",
           "Es tarde.", "Canta una canción."),
    "it": ("Come stai?", "Racconta una storia.", "Buona giornata.", "Che cosa ti piace?",
           "È tardi.", "Canta una canzone."),
}  # fmt: skip
AND: Final[Mapping[Language, str]] = {
    "en": "and", "fr": "et", "de": "und", "nl": "en", "es": "y", "it": "e",
}  # fmt: skip
NO_TOOL: Final[Mapping[Language, str]] = {
    "en": "I have no tool for that.",
    "fr": "Je n'ai pas d'outil pour cela.",
    "de": "Dafür habe ich kein Werkzeug.",
    "nl": "Daar heb ik geen hulpmiddel voor.",
    "es": "No tengo herramienta para eso.",
    "it": "Non ho uno strumento per questo.",
}
RESULT: Final[Mapping[Language, str]] = {
    "en": "Result: {key} is {value}.",
    "fr": "Résultat : {key} est {value}.",
    "de": "Ergebnis: {key} ist {value}.",
    "nl": "Resultaat: {key} is {value}.",
    "es": "Resultado: {key} es {value}.",
    "it": "Risultato: {key} è {value}.",
}
