"""What a user tells about himself and asks for later, and the values.

``{value}`` is the value; ``{mine}`` and ``{Mine}`` are "my favourite colour" and the same with a
capital. The sentences of a language are parted by "|".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from cluster.demo.lessons import word_lists
from cluster.demo.lessons.document import LANGUAGES, Language
from cluster.demo.lessons.phrasing import Cores


class Kind(NamedTuple):
    """One kind of thing to keep in mind."""

    tell: Cores
    ask: Cores
    noted: Mapping[Language, str]  # what the model answers to the telling
    values: Mapping[Language, tuple[str, ...]]
    mine: Mapping[Language, str]  # empty where the cores do not need it


def _cores(texts: Mapping[Language, str]) -> Cores:
    return {
        language: tuple(" ".join(core.split()) for core in text.split("|"))
        for language, text in texts.items()
    }


def _everywhere(values: tuple[str, ...]) -> Mapping[Language, tuple[str, ...]]:
    return dict.fromkeys(LANGUAGES, values)


def _listed(texts: Mapping[Language, str]) -> Mapping[Language, tuple[str, ...]]:
    return {
        language: tuple(value.strip() for value in text.split(","))
        for language, text in texts.items()
    }


_TELL_NAME: Mapping[Language, str] = {
    "en": """My name is {value}. | I am {value}. | I am called {value}. | Call me {value}. |
        It is {value} here. | The name is {value}.""",
    "fr": """Je m'appelle {value}. | Mon nom est {value}. | Moi, c'est {value}. |
        Appelle-moi {value}. | Ici {value}. | On m'appelle {value}.""",
    "de": """Ich heiße {value}. | Mein Name ist {value}. | Ich bin {value}. | Nenne mich {value}. |
        Hier ist {value}. | Man nennt mich {value}.""",
    "nl": """Ik heet {value}. | Mijn naam is {value}. | Ik ben {value}. | Noem me {value}. |
        Mijn naam? {value}. | Ze noemen me {value}.""",
    "es": """Me llamo {value}. | Mi nombre es {value}. | Soy {value}. | Llámame {value}. |
        Aquí {value}. | Todos me llaman {value}.""",
    "it": """Mi chiamo {value}. | Il mio nome è {value}. | Sono {value}. | Chiamami {value}. |
        Qui {value}. | Tutti mi chiamano {value}.""",
}
_ASK_NAME: Mapping[Language, str] = {
    "en": """What is my name? | Who am I? | Do you remember my name? | Tell me my name. |
        What am I called? | Say my name.""",
    "fr": """Comment je m'appelle ? | Qui suis-je ? | Te souviens-tu de mon nom ? |
        Dis-moi mon nom. | Quel est mon nom ? | Redis mon nom.""",
    "de": """Wie heiße ich? | Wer bin ich? | Erinnerst du dich an meinen Namen? |
        Sag mir meinen Namen. | Was ist mein Name? | Nenne meinen Namen.""",
    "nl": """Hoe heet ik? | Wie ben ik? | Weet je mijn naam nog? | Zeg me mijn naam. |
        Wat is mijn naam? | Noem mijn naam.""",
    "es": """¿Cómo me llamo? | ¿Quién soy? | ¿Recuerdas mi nombre? | Dime mi nombre. |
        ¿Cuál es mi nombre? | Repite mi nombre.""",
    "it": """Come mi chiamo? | Chi sono? | Ricordi il mio nome? | Dimmi il mio nome. |
        Qual è il mio nome? | Ripeti il mio nome.""",
}
_GREET: Mapping[Language, str] = {
    "en": "Hello, {value}.",
    "fr": "Bonjour, {value}.",
    "de": "Hallo, {value}.",
    "nl": "Hallo, {value}.",
    "es": "Hola, {value}.",
    "it": "Ciao, {value}.",
}

_TELL_FAVOURITE: Mapping[Language, str] = {
    "en": """{Mine} is {value}. | Remember that {mine} is {value}. | {Mine}: {value}. |
        Note that {mine} is {value}. | You know, {mine} is {value}. | For me, {mine} is {value}.""",
    "fr": """{Mine} est {value}. | Retiens que {mine} est {value}. | {Mine} : {value}. |
        Note que {mine} est {value}. | Tu sais, {mine} est {value}. |
        Pour moi, {mine} est {value}.""",
    "de": """{Mine} ist {value}. | Merke dir, dass {mine} {value} ist. | {Mine}: {value}. |
        Notiere, dass {mine} {value} ist. | Weißt du, {mine} ist {value}. |
        Übrigens: {mine} ist {value}.""",
    "nl": """{Mine} is {value}. | Onthoud dat {mine} {value} is. | {Mine}: {value}. | Noteer dat
        {mine} {value} is. | Weet je, {mine} is {value}. | Trouwens, {mine} is {value}.""",
    "es": """{Mine} es {value}. | Recuerda que {mine} es {value}. | {Mine}: {value}. |
        Anota que {mine} es {value}. | Sabes, {mine} es {value}. | Para mí, {mine} es {value}.""",
    "it": """{Mine} è {value}. | Ricorda che {mine} è {value}. | {Mine}: {value}. |
        Annota che {mine} è {value}. | Sai, {mine} è {value}. | Per me, {mine} è {value}.""",
}
_ASK_FAVOURITE: Mapping[Language, str] = {
    "en": """What is {mine}? | Do you remember {mine}? | Tell me {mine}. | Say {mine}. |
        {Mine}, what was it? | What did I say is {mine}?""",
    "fr": """Rappelle-moi {mine}. | Dis-moi {mine}. | Tu te rappelles {mine} ? | Redis {mine}. |
        {Mine}, c'était quoi ? | C'est quoi, {mine} ?""",
    "de": """Was ist {mine}? | Erinnerst du dich an {mine}? | Sag mir {mine}. | Nenne {mine}. |
        {Mine}, was war das? | Weißt du noch {mine}?""",
    "nl": """Wat is {mine}? | Weet je {mine} nog? | Zeg me {mine}. | Noem {mine}. |
        {Mine}, wat was dat? | Herinner je je {mine}?""",
    "es": """Dime otra vez {mine}. | ¿Recuerdas {mine}? | Dime {mine}. | Repite {mine}. |
        {Mine}, ¿cuál era? | ¿Cuál es {mine}?""",
    "it": """Qual è {mine}? | Ricordi {mine}? | Dimmi {mine}. | Ripeti {mine}. |
        {Mine}, qual era? | Sai ancora {mine}?""",
}
_NOTE: Mapping[Language, str] = {
    "en": "Noted: {value}.",
    "fr": "C'est noté : {value}.",
    "de": "Notiert: {value}.",
    "nl": "Genoteerd: {value}.",
    "es": "Anotado: {value}.",
    "it": "Annotato: {value}.",
}

_TELL_WORD: Mapping[Language, str] = {
    "en": """Remember the word {value}. | Keep the word {value} in mind. |
        Do not forget the word {value}. | The word is {value}. | Note the word {value}. |
        Here is a word: {value}.""",
    "fr": """Retiens le mot {value}. | Garde le mot {value} en tête. | N'oublie pas le mot
        {value}. | Le mot est {value}. | Note le mot {value}. | Voici un mot : {value}.""",
    "de": """Merke dir das Wort {value}. | Behalte das Wort {value} im Kopf. |
        Vergiss das Wort {value} nicht. | Das Wort ist {value}. | Notiere das Wort {value}. |
        Hier ist ein Wort: {value}.""",
    "nl": """Onthoud het woord {value}. | Houd het woord {value} in gedachten. |
        Vergeet het woord {value} niet. | Het woord is {value}. | Noteer het woord {value}. |
        Hier is een woord: {value}.""",
    "es": """Recuerda la palabra {value}. | Ten en mente la palabra {value}. |
        No olvides la palabra {value}. | La palabra es {value}. | Anota la palabra {value}. |
        Aquí va una palabra: {value}.""",
    "it": """Ricorda la parola {value}. | Tieni a mente la parola {value}. |
        Non dimenticare la parola {value}. | La parola è {value}. | Annota la parola {value}. |
        Ecco una parola: {value}.""",
}
_ASK_WORD: Mapping[Language, str] = {
    "en": """What was the word? | Which word was it? | Do you remember the word? |
        Tell me the word. | Say the word again. | What word did I give you?""",
    "fr": """Quel était le mot ? | C'était quel mot ? | Te souviens-tu du mot ? | Dis-moi le mot. |
        Redis le mot. | Quel mot t'ai-je donné ?""",
    "de": """Wie war das Wort? | Welches Wort war es? | Erinnerst du dich an das Wort? |
        Sag mir das Wort. | Sag das Wort noch einmal. | Welches Wort habe ich dir gegeben?""",
    "nl": """Wat was het woord? | Welk woord was het? | Weet je het woord nog? |
        Zeg me het woord. | Zeg het woord nog eens. | Welk woord gaf ik je?""",
    "es": """¿Cuál era la palabra? | ¿Qué palabra era? | ¿Recuerdas la palabra? |
        Dime la palabra. | Di la palabra otra vez. | ¿Qué palabra te di?""",
    "it": """Qual era la parola? | Che parola era? | Ricordi la parola? | Dimmi la parola. |
        Di' di nuovo la parola. | Quale parola ti ho dato?""",
}

_MINE_COLOUR: Mapping[Language, str] = {
    "en": "my favourite colour",
    "fr": "ma couleur préférée",
    "de": "meine Lieblingsfarbe",
    "nl": "mijn lievelingskleur",
    "es": "mi color favorito",
    "it": "il mio colore preferito",
}
_MINE_CITY: Mapping[Language, str] = {
    "en": "my favourite city",
    "fr": "ma ville préférée",
    "de": "meine Lieblingsstadt",
    "nl": "mijn lievelingsstad",
    "es": "mi ciudad favorita",
    "it": "la mia città preferita",
}
_MINE_ANIMAL: Mapping[Language, str] = {
    "en": "my favourite animal",
    "fr": "mon animal préféré",
    "de": "mein Lieblingstier",
    "nl": "mijn lievelingsdier",
    "es": "mi animal favorito",
    "it": "il mio animale preferito",
}
_MINE_NUMBER: Mapping[Language, str] = {
    "en": "my favourite number",
    "fr": "mon nombre préféré",
    "de": "meine Lieblingszahl",
    "nl": "mijn lievelingsgetal",
    "es": "mi número favorito",
    "it": "il mio numero preferito",
}

_NAMES = """
Ada Adam Agnes Albert Alice Alma Amir Ana Anton Aron Astrid Bella Ben Berta Bruno Carla Carlos
Cecilia Clara Cora Dana Daniel David Diana Dora Edgar Elena Elias Elsa Emil Emma Erik Esther Eva
Fabio Felix Fiona Frank Frida Gina Gloria Greta Hana Hannah Hector Helena Henri Hugo Ida Igor Ines
Ingrid Irene Iris Isabel Ivan Ivo Jakob Jana Jasmin Jens Joel Johan Jonas Julia Karim Karl Kira
Laila Lars Laura Lea Lena Leo Liam Lina Lisa Lola Louis Luca Lucia Luis Maja Malik Marco Maria
Marie Marta Martin Max Maya Mia Mila Milan Mina Mona Nadia Nico Nils Nina Noah Nora Olga Oliver
Omar Oscar Otto Pablo Paul Paula Pedro Petra Pia Rachel Rafael Ralf Rita Robert Roman Rosa Ruben
Ruth Samir Samuel Sandra Sara Silvia Simon Sofia Stella Sven Tamara Tara Teo Theo Thomas Tim Tina
Tom Tomas Uma Ursula Valentin Vera Victor Viola Yara Yasmin Yusuf Zoe
"""
_CITIES = """
Accra, Adelaide, Alicante, Amsterdam, Ankara, Atlanta, Bergen, Bilbao, Bogota, Bonn, Boston,
Braga, Bremen, Brest, Brisbane, Cali, Calgary, Cardiff, Cartagena, Chicago, Cork, Dakar, Dallas,
Delft, Denver, Detroit, Dortmund, Dresden, Dubai, Dublin, Durban, Essen, Faro, Gent, Glasgow,
Granada, Graz, Haarlem, Halifax, Hanoi, Helsinki, Houston, Ibiza, Innsbruck, Izmir, Kassel, Kiel,
Kobe, Lagos, Leeds, Leiden, Leipzig, Lille, Lima, Linz, Liverpool, Lyon, Madrid, Malmö,
Manchester, Melbourne, Memphis, Metz, Miami, Montreal, Nairobi, Nancy, Nantes, Narvik, Osaka,
Oslo, Ottawa, Oxford, Palermo, Perth, Pisa, Porto, Quito, Rabat, Reims, Rennes, Riga, Rimini,
Rostock, Rotterdam, Salzburg, San Diego, Santiago, Seattle, Siena, Stockholm, Sydney, Tallinn,
Tampere, Toledo, Toronto, Trento, Tunis, Utrecht, Vigo, Vilnius, Windhoek, York, Zagreb
"""
_COLOURS: Mapping[Language, str] = {
    "en": """red, blue, green, yellow, orange, purple, black, white, brown, pink, grey, turquoise,
        violet, gold, silver, beige, crimson, indigo, lilac, olive, ivory, navy, teal, maroon""",
    "fr": """le rouge, le bleu, le vert, le jaune, l'orange, le violet, le noir, le blanc, le brun,
        le rose, le gris, le turquoise, l'or, le beige, le lilas, l'indigo, l'ivoire, le pourpre,
        le marron, le cyan, le mauve, le kaki, le bordeaux, le corail""",
    "de": """Rot, Blau, Grün, Gelb, Orange, Lila, Schwarz, Weiß, Braun, Rosa, Grau, Türkis,
        Violett, Gold, Silber, Beige, Purpur, Indigo, Flieder, Oliv, Elfenbein, Hellblau,
        Dunkelgrün, Koralle""",
    "nl": """rood, blauw, groen, geel, oranje, paars, zwart, wit, bruin, roze, grijs, turquoise,
        violet, goud, zilver, beige, purper, indigo, lila, olijfgroen, ivoor, lichtblauw, koraal,
        donkerrood""",
    "es": """el rojo, el azul, el verde, el amarillo, el naranja, el morado, el negro, el blanco,
        el marrón, el rosa, el gris, el turquesa, el violeta, el dorado, el plateado, el beige,
        el granate, el índigo, el lila, el celeste, el marfil, el coral, el púrpura, el cian""",
    "it": """il rosso, il blu, il verde, il giallo, l'arancione, il viola, il nero, il bianco,
        il marrone, il rosa, il grigio, il turchese, l'oro, l'argento, il beige, il lilla,
        l'indaco, il celeste, l'avorio, il corallo, il porpora, il ciano, l'azzurro, il bordeaux""",
}
_ANIMALS: Mapping[Language, str] = {
    "en": """the dog, the cat, the horse, the cow, the bear, the wolf, the fox, the lion, the tiger,
        the owl, the duck, the goat, the sheep, the pig, the rabbit, the mouse, the frog, the snake,
        the whale, the dolphin, the eagle, the bee, the camel, the zebra, the otter,
        the hedgehog""",
    "fr": """le chien, le chat, le cheval, la vache, l'ours, le loup, le renard, le lion, le tigre,
        le hibou, le canard, la chèvre, le mouton, le cochon, le lapin, la souris, la grenouille,
        le serpent, la baleine, le dauphin, l'aigle, l'abeille, le chameau, le zèbre, la loutre""",
    "de": """der Hund, die Katze, das Pferd, die Kuh, der Bär, der Wolf, der Fuchs, der Löwe,
        der Tiger, die Eule, die Ente, die Ziege, das Schaf, das Schwein, der Hase, die Maus,
        der Frosch, die Schlange, der Wal, der Delfin, der Adler, die Biene, das Kamel,
        das Zebra""",
    "nl": """de hond, de kat, het paard, de koe, de beer, de wolf, de vos, de leeuw, de tijger,
        de uil, de eend, de geit, het schaap, het varken, het konijn, de muis, de kikker, de slang,
        de walvis, de dolfijn, de arend, de bij, de kameel, de zebra, de otter, de egel""",
    "es": """el perro, el gato, el caballo, la vaca, el oso, el lobo, el zorro, el león, el tigre,
        el búho, el pato, la cabra, la oveja, el cerdo, el conejo, el ratón, la rana, la serpiente,
        la ballena, el delfín, el águila, la abeja, el camello, la cebra, la nutria, el erizo""",
    "it": """il cane, il gatto, il cavallo, la mucca, l'orso, il lupo, la volpe, il leone, la tigre,
        il gufo, l'anatra, la capra, la pecora, il maiale, il coniglio, il topo, la rana,
        il serpente, la balena, il delfino, l'aquila, l'ape, il cammello, la zebra, la lontra""",
}
_NOTHING: Mapping[Language, str] = dict.fromkeys(LANGUAGES, "")


def _favourite(mine: Mapping[Language, str], values: Mapping[Language, tuple[str, ...]]) -> Kind:
    return Kind(_cores(_TELL_FAVOURITE), _cores(_ASK_FAVOURITE), _NOTE, values, mine)


_CITY_VALUES = tuple(city.strip() for city in _CITIES.split(","))
_NUMBER_VALUES = tuple(map(str, range(2, 1000)))
KINDS: Final[Mapping[str, Kind]] = {
    "name": Kind(
        _cores(_TELL_NAME), _cores(_ASK_NAME), _GREET, _everywhere(tuple(_NAMES.split())), _NOTHING
    ),
    "colour": _favourite(_MINE_COLOUR, _listed(_COLOURS)),
    "city": _favourite(_MINE_CITY, _everywhere(_CITY_VALUES)),
    "animal": _favourite(_MINE_ANIMAL, _listed(_ANIMALS)),
    "number": _favourite(_MINE_NUMBER, _everywhere(_NUMBER_VALUES)),
    "word": Kind(_cores(_TELL_WORD), _cores(_ASK_WORD), _NOTE, word_lists.WORDS, _NOTHING),
}
