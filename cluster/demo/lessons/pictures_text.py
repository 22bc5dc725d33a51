"""Cores of the questions about a picture.

Fields: ``{things}`` "red circles", ``{the_things}`` the same with its article, ``{many}`` "how
many" where it bends with the noun, ``{the}`` "the red circle" (as a subject; as a direct object
only where the article stays the same), ``{at}`` a place.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

from cluster.demo.lessons.phrasing import Cores

Task = Literal["picture-count", "picture-which", "picture-size", "picture-where", "picture-all"]
TASKS: tuple[Task, ...] = get_args(Task)

COUNT_CORES: Cores = {
    "en": (
        "How many {things} are there?",
        "How many {things} do you see?",
        "Count the {things}.",
        "What is the number of {things}?",
        "Find all {things} and count them.",
        "Tell me how many {things} there are.",
    ),
    "fr": (
        "Combien de {things} y a-t-il ?",
        "Combien de {things} vois-tu ?",
        "Compte les {things}.",
        "Quel est le nombre de {things} ?",
        "Trouve les {things} et compte-les.",
        "Dis-moi combien il y a de {things}.",
    ),
    "de": (
        "Wie viele {things} gibt es?",
        "Wie viele {things} siehst du?",
        "Zähle die {things}.",
        "Wie groß ist die Zahl der {things}?",
        "Finde alle {things} und zähle sie.",
        "Sag mir, wie viele {things} es gibt.",
    ),
    "nl": (
        "Hoeveel {things} zijn er?",
        "Hoeveel {things} zie je?",
        "Tel de {things}.",
        "Wat is het aantal {things}?",
        "Zoek alle {things} en tel ze.",
        "Zeg me hoeveel {things} er zijn.",
    ),
    "es": (
        "¿{many} {things} hay?",
        "¿{many} {things} ves?",
        "Cuenta {the_things}.",
        "¿Cuál es el número de {things}?",
        "Busca {the_things} y da el número.",
        "Dime el número de {things}.",
    ),
    "it": (
        "{many} {things} ci sono?",
        "{many} {things} vedi?",
        "Conta {the_things}.",
        "Qual è il numero di {things}?",
        "Trova {the_things} e dammi il numero.",
        "Dimmi il numero di {things}.",
    ),
}

WHICH_CORES: Cores = {
    "en": (
        "Which shape is {at}?",
        "What is {at}?",
        "What do you see {at}?",
        "What has been drawn {at}?",
        "Name the shape {at}.",
        "Tell me what is {at}.",
    ),
    "fr": (
        "Quelle forme est {at} ?",
        "Qu'y a-t-il {at} ?",
        "Que vois-tu {at} ?",
        "Qu'est-ce qui se trouve {at} ?",
        "Nomme la forme {at}.",
        "Dis-moi ce qu'il y a {at}.",
    ),
    "de": (
        "Welche Form ist {at}?",
        "Was ist {at}?",
        "Was siehst du {at}?",
        "Was befindet sich {at}?",
        "Nenne die Form {at}.",
        "Sag mir, was {at} ist.",
    ),
    "nl": (
        "Welke vorm staat {at}?",
        "Wat staat {at}?",
        "Wat zie je {at}?",
        "Wat is er {at} te zien?",
        "Noem de vorm {at}.",
        "Zeg me wat {at} staat.",
    ),
    "es": (
        "¿Qué figura está {at}?",
        "¿Qué hay {at}?",
        "¿Qué ves {at}?",
        "¿Qué se encuentra {at}?",
        "Nombra la figura que está {at}.",
        "Dime qué hay {at}.",
    ),
    "it": (
        "Quale figura si trova {at}?",
        "Che cosa c'è {at}?",
        "Che cosa vedi {at}?",
        "Che figura vedi {at}?",
        "Di' il nome della figura {at}.",
        "Dimmi che cosa c'è {at}.",
    ),
}

SIZE_CORES: Cores = {
    "en": (
        "How large is {the}?",
        "What size is {the}?",
        "What is the size of {the}?",
        "Which size does {the} have?",
        "Is {the} small, medium or large?",
        "Tell me how large {the} is.",
    ),
    "fr": (
        "Quelle taille a {the} ?",
        "Quelle taille fait {the} ?",
        "De quelle taille est {the} ?",
        "Petite, moyenne ou grande taille pour {the} ?",
        "Regarde {the} : quelle taille ?",
        "Dis-moi de quelle taille est {the}.",
    ),
    "de": (
        "Wie groß ist {the}?",
        "Welche Größe hat {the}?",
        "Schau genau hin: Wie groß ist {the}?",
        "Ist {the} klein, mittel oder groß?",
        "Sag mir, wie groß {the} ist.",
        "Sag mir, welche Größe {the} hat.",
    ),
    "nl": (
        "Hoe groot is {the}?",
        "Welke grootte heeft {the}?",
        "Welk formaat heeft {the}?",
        "Kijk goed: hoe groot is {the}?",
        "Is {the} klein, middelgroot of groot?",
        "Zeg me hoe groot {the} is.",
    ),
    "es": (
        "¿Qué tamaño tiene {the}?",
        "¿De qué tamaño es {the}?",
        "Mira bien: ¿qué tamaño tiene {the}?",
        "¿Tiene {the} un tamaño pequeño, mediano o grande?",
        "Dime qué tamaño tiene {the}.",
        "Dime de qué tamaño es {the}.",
    ),
    "it": (
        "Che dimensione ha {the}?",
        "Di che dimensione è {the}?",
        "Quale grandezza ha {the}?",
        "Guarda bene: che dimensione ha {the}?",
        "Ha dimensione piccola, media o grande {the}?",
        "Dimmi che dimensione ha {the}.",
    ),
}

WHERE_CORES: Cores = {
    "en": (
        "Where is {the}?",
        "Where do you see {the}?",
        "In which cell is {the}?",
        "What is the position of {the}?",
        "Find {the}.",
        "Tell me where {the} is.",
    ),
    "fr": (
        "Où est {the} ?",
        "Où se trouve {the} ?",
        "Où vois-tu {the} ?",
        "À quel endroit est {the} ?",
        "Trouve {the}.",
        "Dis-moi où est {the}.",
    ),
    "de": (
        "Wo ist {the}?",
        "Wo befindet sich {the}?",
        "Wo liegt {the}?",
        "An welcher Stelle ist {the}?",
        "In welchem Feld ist {the}?",
        "Sag mir, wo {the} ist.",
    ),
    "nl": (
        "Waar is {the}?",
        "Waar staat {the}?",
        "Waar zie je {the}?",
        "In welk vak staat {the}?",
        "Zoek {the}.",
        "Zeg me waar {the} staat.",
    ),
    "es": (
        "¿Dónde está {the}?",
        "¿Dónde se encuentra {the}?",
        "¿Dónde ves {the}?",
        "¿En qué lugar está {the}?",
        "Busca {the}.",
        "Dime dónde está {the}.",
    ),
    "it": (
        "Dov'è {the}?",
        "Dove si trova {the}?",
        "Dove vedi {the}?",
        "In quale posto è {the}?",
        "Trova {the}.",
        "Dimmi dov'è {the}.",
    ),
}

ALL_CORES: Cores = {
    "en": (
        "Describe the picture.",
        "What is in the picture?",
        "List everything that you see.",
        "Name every shape and its place.",
        "Which shapes are where?",
        "Tell me all that the picture shows.",
    ),
    "fr": (
        "Décris l'image.",
        "Qu'y a-t-il sur l'image ?",
        "Fais la liste de tout ce que tu vois.",
        "Nomme chaque forme et sa place.",
        "Quelles formes sont où ?",
        "Dis-moi tout ce que montre l'image.",
    ),
    "de": (
        "Beschreibe das Bild.",
        "Was ist auf dem Bild?",
        "Zähle alles auf, was du siehst.",
        "Nenne jede Form und ihren Platz.",
        "Welche Formen sind wo?",
        "Sag mir alles, was das Bild zeigt.",
    ),
    "nl": (
        "Beschrijf het plaatje.",
        "Wat staat er op het plaatje?",
        "Noem alles wat je ziet.",
        "Noem elke vorm en zijn plaats.",
        "Welke vormen staan waar?",
        "Zeg me alles wat het plaatje toont.",
    ),
    "es": (
        "Describe la imagen.",
        "¿Qué hay en la imagen?",
        "Haz la lista de todo lo que ves.",
        "Nombra cada figura y su lugar.",
        "¿Qué figuras hay y dónde?",
        "Dime todo lo que muestra la imagen.",
    ),
    "it": (
        "Descrivi l'immagine.",
        "Che cosa c'è nell'immagine?",
        "Elenca tutto quello che vedi.",
        "Nomina ogni figura e il suo posto.",
        "Quali figure ci sono e dove?",
        "Dimmi tutto quello che mostra l'immagine.",
    ),
}

CORES: Mapping[Task, Cores] = {
    "picture-count": COUNT_CORES,
    "picture-which": WHICH_CORES,
    "picture-size": SIZE_CORES,
    "picture-where": WHERE_CORES,
    "picture-all": ALL_CORES,
}
