"""How facts are asked for.

Capital: ``{of}`` is "of the Netherlands", ``{name}`` "Netherlands". Translate: ``{word}`` and the
language ``{into}``, without article. Next: ``{item}``. Opposite: ``{word}``.
"""

from __future__ import annotations

from cluster.demo.lessons.phrasing import Cores

CAPITAL: Cores = {
    "en": (
        "What is the capital {of}?",
        "Which city is the capital {of}?",
        "Name the capital {of}.",
        "Tell me the capital {of}.",
        "Capital {of}?",
        "Do you know the capital {of}?",
        "{name}: what is its capital?",
    ),
    "fr": (
        "Quelle est la capitale {of} ?",
        "Quelle ville est la capitale {of} ?",
        "Donne la capitale {of}.",
        "Dis-moi la capitale {of}.",
        "Capitale {of} ?",
        "Connais-tu la capitale {of} ?",
        "{name} : quelle est sa capitale ?",
    ),
    "de": (
        "Was ist die Hauptstadt {of}?",
        "Wie heißt die Hauptstadt {of}?",
        "Nenne die Hauptstadt {of}.",
        "Sag mir die Hauptstadt {of}.",
        "Hauptstadt {of}?",
        "Kennst du die Hauptstadt {of}?",
        "{name}: Wie heißt die Hauptstadt?",
    ),
    "nl": (
        "Wat is de hoofdstad {of}?",
        "Welke stad is de hoofdstad {of}?",
        "Noem de hoofdstad {of}.",
        "Zeg me de hoofdstad {of}.",
        "Hoofdstad {of}?",
        "Ken je de hoofdstad {of}?",
        "{name}: wat is de hoofdstad?",
    ),
    "es": (
        "¿Cuál es la capital {of}?",
        "¿Qué ciudad es la capital {of}?",
        "Nombra la capital {of}.",
        "Dime la capital {of}.",
        "¿Capital {of}?",
        "¿Conoces la capital {of}?",
        "{name}: ¿cuál es su capital?",
    ),
    "it": (
        "Qual è la capitale {of}?",
        "Quale città è la capitale {of}?",
        "Nomina la capitale {of}.",
        "Dimmi la capitale {of}.",
        "Capitale {of}?",
        "Conosci la capitale {of}?",
        "{name}: qual è la capitale?",
    ),
}

TRANSLATE: Cores = {
    "en": (
        "How do you say '{word}' in {into}?",
        "What is '{word}' in {into}?",
        "Translate '{word}' into {into}.",
        "Say '{word}' in {into}.",
        "'{word}' in {into}?",
        "I need '{word}' in {into}.",
        "What is the {into} word for '{word}'?",
    ),
    "fr": (
        "Comment dit-on '{word}' en {into} ?",
        "Que veut dire '{word}' en {into} ?",
        "Traduis '{word}' en {into}.",
        "Dis '{word}' en {into}.",
        "'{word}' en {into} ?",
        "Il me faut '{word}' en {into}.",
        "Quel est le mot {into} pour '{word}' ?",
    ),
    "de": (
        "Wie sagt man '{word}' auf {into}?",
        "Was heißt '{word}' auf {into}?",
        "Übersetze '{word}' ins {into}e.",
        "Sag '{word}' auf {into}.",
        "'{word}' auf {into}?",
        "Ich brauche '{word}' auf {into}.",
        "Wie lautet '{word}' auf {into}?",
    ),
    "nl": (
        "Hoe zeg je '{word}' in het {into}?",
        "Wat is '{word}' in het {into}?",
        "Vertaal '{word}' in het {into}.",
        "Zeg '{word}' in het {into}.",
        "'{word}' in het {into}?",
        "Ik zoek '{word}' in het {into}.",
        "Hoe luidt '{word}' in het {into}?",
    ),
    "es": (
        "¿Cómo se dice '{word}' en {into}?",
        "¿Qué es '{word}' en {into}?",
        "Traduce '{word}' al {into}.",
        "Di '{word}' en {into}.",
        "¿'{word}' en {into}?",
        "Necesito '{word}' en {into}.",
        "¿Cuál es la palabra para '{word}' en {into}?",
    ),
    "it": (
        "Come si dice '{word}' in {into}?",
        "Che cos'è '{word}' in {into}?",
        "Traduci '{word}' in {into}.",
        "Di' '{word}' in {into}.",
        "'{word}' in {into}?",
        "Mi serve '{word}' in {into}.",
        "Qual è la parola per '{word}' in {into}?",
    ),
}

NEXT: Cores = {
    "en": (
        "What comes after {item}?",
        "What follows {item}?",
        "What is next after {item}?",
        "After {item} comes what?",
        "Tell me what comes after {item}.",
        "Which one comes right after {item}?",
    ),
    "fr": (
        "Qu'est-ce qui vient après {item} ?",
        "Que vient-il après {item} ?",
        "Qu'est-ce qui suit {item} ?",
        "Après {item}, il y a quoi ?",
        "Dis-moi ce qui vient après {item}.",
        "Après {item} vient quoi ?",
    ),
    "de": (
        "Was kommt nach {item}?",
        "Was folgt auf {item}?",
        "Was ist das Nächste nach {item}?",
        "Nach {item} kommt was?",
        "Sag mir, was nach {item} kommt.",
        "Was kommt direkt nach {item}?",
    ),
    "nl": (
        "Wat komt na {item}?",
        "Wat volgt op {item}?",
        "Wat is het volgende na {item}?",
        "Na {item} komt wat?",
        "Zeg me wat na {item} komt.",
        "Wat komt er direct na {item}?",
    ),
    "es": (
        "¿Qué viene después de '{item}'?",
        "¿Qué sigue a '{item}'?",
        "¿Qué hay después de '{item}'?",
        "Después de '{item}', ¿qué viene?",
        "Dime qué viene después de '{item}'.",
        "¿Qué viene justo después de '{item}'?",
    ),
    "it": (
        "Che cosa viene dopo {item}?",
        "Che cosa segue {item}?",
        "Che cosa c'è dopo {item}?",
        "Dopo {item} che cosa viene?",
        "Dimmi che cosa viene dopo {item}.",
        "Che cosa viene subito dopo {item}?",
    ),
}

OPPOSITE: Cores = {
    "en": (
        "What is the opposite of '{word}'?",
        "Give me the opposite of '{word}'.",
        "Name the opposite of '{word}'.",
        "Opposite of '{word}'?",
        "Which word means the opposite of '{word}'?",
        "'{word}': what is the opposite?",
    ),
    "fr": (
        "Quel est le contraire de '{word}' ?",
        "Donne-moi le contraire de '{word}'.",
        "Nomme le contraire de '{word}'.",
        "Contraire de '{word}' ?",
        "Quel mot est le contraire de '{word}' ?",
        "'{word}' : quel est le contraire ?",
    ),
    "de": (
        "Was ist das Gegenteil von '{word}'?",
        "Gib mir das Gegenteil von '{word}'.",
        "Nenne das Gegenteil von '{word}'.",
        "Gegenteil von '{word}'?",
        "Welches Wort ist das Gegenteil von '{word}'?",
        "'{word}': Was ist das Gegenteil?",
    ),
    "nl": (
        "Wat is het tegendeel van '{word}'?",
        "Geef me het tegendeel van '{word}'.",
        "Noem het tegendeel van '{word}'.",
        "Tegendeel van '{word}'?",
        "Welk woord is het tegendeel van '{word}'?",
        "'{word}': wat is het tegendeel?",
    ),
    "es": (
        "¿Cuál es el contrario de '{word}'?",
        "Dame el contrario de '{word}'.",
        "Nombra el contrario de '{word}'.",
        "¿Contrario de '{word}'?",
        "¿Qué palabra es el contrario de '{word}'?",
        "'{word}': ¿cuál es el contrario?",
    ),
    "it": (
        "Qual è il contrario di '{word}'?",
        "Dammi il contrario di '{word}'.",
        "Nomina il contrario di '{word}'.",
        "Contrario di '{word}'?",
        "Quale parola è il contrario di '{word}'?",
        "'{word}': qual è il contrario?",
    ),
}
