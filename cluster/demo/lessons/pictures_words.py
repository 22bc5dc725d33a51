"""How each language names the shapes, colours, sizes and places of a picture.

German and Dutch name a colour as "in Rot", "in rood", which is right for every gender. In the
Romance languages colour and size follow the noun; of the five shapes only the cross is feminine.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from cluster.demo.lessons.document import Language
from cluster.demo.lessons.scene import COLOURS, SHAPES, SIZES, Colour, Item, Shape, Size

ANY_SHAPE = len(SHAPES)  # the place of the word "shape" in the lists of nouns


class Words(NamedTuple):
    """One language.

    Lists in one string follow ``SHAPES``, ``COLOURS`` or the cells. Pairs are masculine, feminine:
    the same twice where the language does not bend the word.
    """

    pattern: str
    """Where the colour goes."""
    nouns: str
    """The shapes, then the word "shape"."""
    plurals: str
    feminine: str
    """Which of the nouns are feminine."""
    articles: str
    plural_articles: tuple[str, str]
    colours: tuple[str, str]
    plural_colours: tuple[str, str]
    sized: tuple[tuple[str, str], tuple[str, str], tuple[str, str]]
    """How each of ``SIZES`` goes with a named shape."""
    sizes: tuple[str, str, str]
    """The answer to "what size?"."""
    positions: str
    nothing: str
    places: str = ""
    """The positions inside a question, where they need a preposition there."""
    how_many: tuple[str, str] = ("", "")
    """Where it bends."""
    colon: str = ": "
    semicolon: str = "; "

    def thing(self, shape: Shape, colour: Colour) -> str:
        """For example "red circle"."""
        return self._coloured(self.nouns, self.colours, SHAPES.index(shape), colour)

    def the_thing(self, shape: Shape, colour: Colour) -> str:
        """For example "the red circle", as a subject."""
        return f"{self.articles.split()[SHAPES.index(shape)]} {self.thing(shape, colour)}"

    def whole_thing(self, item: Item) -> str:
        """For example "large red circle"."""
        gender = self._gender(SHAPES.index(item.shape))
        sized = self.sized[SIZES.index(item.size)][gender]
        return sized.format(self.thing(item.shape, item.colour))

    def things(self, shape: Shape | None, colour: Colour | None) -> str:
        """For example "red circles"; without a shape "red shapes", without a colour "circles"."""
        return self._coloured(self.plurals, self.plural_colours, _place(shape), colour)

    def the_things(self, shape: Shape | None, colour: Colour | None) -> str:
        """For example "the red circles"."""
        article = self.plural_articles[self._gender(_place(shape))]
        return f"{article} {self.things(shape, colour)}"

    def many(self, shape: Shape | None) -> str:
        """The "how many" that goes with the plural; empty where it does not bend."""
        return self.how_many[self._gender(_place(shape))]

    def size(self, size: Size) -> str:
        """The size alone."""
        return self.sizes[SIZES.index(size)]

    def position(self, cell: int) -> str:
        """A cell in an answer."""
        return self.positions.split(", ")[cell]

    def list_of_positions(self, cells: Iterable[int]) -> str:
        """Cells in an answer, in the order given."""
        return ", ".join(map(self.position, cells))

    def place(self, cell: int) -> str:
        """A cell in a question."""
        return (self.places or self.positions).split(", ")[cell]

    def _gender(self, place: int) -> int:
        return int(self.nouns.split()[place] in self.feminine.split())

    def _coloured(
        self, nouns: str, colours: tuple[str, str], place: int, colour: Colour | None
    ) -> str:
        noun = nouns.split()[place]
        if colour is None:
            return noun
        forms = colours[self._gender(place)].split()
        return self.pattern.format(noun=noun, colour=forms[COLOURS.index(colour)])


def _place(shape: Shape | None) -> int:
    return ANY_SHAPE if shape is None else SHAPES.index(shape)


def _twice(text: str) -> tuple[str, str]:
    return (text, text)


ENGLISH_COLOURS = _twice("red green blue yellow purple orange black brown")
GERMAN_COLOURS = _twice("Rot Grün Blau Gelb Lila Orange Schwarz Braun")
DUTCH_COLOURS = _twice("rood groen blauw geel paars oranje zwart bruin")

WORDS: Mapping[Language, Words] = {
    "en": Words(
        pattern="{colour} {noun}",
        nouns="circle square triangle cross diamond shape",
        plurals="circles squares triangles crosses diamonds shapes",
        feminine="",
        articles="the the the the the",
        plural_articles=_twice("the"),
        colours=ENGLISH_COLOURS,
        plural_colours=ENGLISH_COLOURS,
        sized=(_twice("small {}"), _twice("medium {}"), _twice("large {}")),
        sizes=("small", "medium", "large"),
        positions="top left, top centre, top right, left, centre, right, "
        "bottom left, bottom centre, bottom right",
        places="at the top left, at the top centre, at the top right, "
        "on the left, in the centre, on the right, "
        "at the bottom left, at the bottom centre, at the bottom right",
        nothing="nothing",
    ),
    "fr": Words(
        pattern="{noun} {colour}",
        nouns="cercle carré triangle croix losange forme",
        plurals="cercles carrés triangles croix losanges formes",
        feminine="croix forme",
        articles="le le le la le",
        plural_articles=_twice("les"),
        colours=(
            "rouge vert bleu jaune violet orange noir marron",
            "rouge verte bleue jaune violette orange noire marron",
        ),
        plural_colours=(
            "rouges verts bleus jaunes violets orange noirs marron",
            "rouges vertes bleues jaunes violettes orange noires marron",
        ),
        sized=(("petit {}", "petite {}"), ("{} moyen", "{} moyenne"), ("grand {}", "grande {}")),
        sizes=("petite", "moyenne", "grande"),
        positions="en haut à gauche, en haut au centre, en haut à droite, "
        "à gauche, au centre, à droite, "
        "en bas à gauche, en bas au centre, en bas à droite",
        nothing="rien",
        colon=" : ",
        semicolon=" ; ",
    ),
    "de": Words(
        pattern="{noun} in {colour}",
        nouns="Kreis Quadrat Dreieck Kreuz Raute Form",
        plurals="Kreise Quadrate Dreiecke Kreuze Rauten Formen",
        feminine="",
        articles="der das das das die",
        plural_articles=_twice("die"),
        colours=GERMAN_COLOURS,
        plural_colours=GERMAN_COLOURS,
        sized=(_twice("{}, klein"), _twice("{}, mittel"), _twice("{}, groß")),
        sizes=("klein", "mittel", "groß"),
        positions="oben links, oben in der Mitte, oben rechts, links, in der Mitte, rechts, "
        "unten links, unten in der Mitte, unten rechts",
        nothing="nichts",
    ),
    "nl": Words(
        pattern="{noun} in {colour}",
        nouns="cirkel vierkant driehoek kruis ruit vorm",
        plurals="cirkels vierkanten driehoeken kruisen ruiten vormen",
        feminine="",
        articles="de het de het de",
        plural_articles=_twice("de"),
        colours=DUTCH_COLOURS,
        plural_colours=DUTCH_COLOURS,
        sized=(_twice("{}, klein"), _twice("{}, middelgroot"), _twice("{}, groot")),
        sizes=("klein", "middelgroot", "groot"),
        positions="linksboven, boven in het midden, rechtsboven, links, in het midden, rechts, "
        "linksonder, onder in het midden, rechtsonder",
        nothing="niets",
    ),
    "es": Words(
        pattern="{noun} {colour}",
        nouns="círculo cuadrado triángulo cruz rombo figura",
        plurals="círculos cuadrados triángulos cruces rombos figuras",
        feminine="cruz figura",
        articles="el el el la el",
        plural_articles=("los", "las"),
        colours=(
            "rojo verde azul amarillo morado naranja negro marrón",
            "roja verde azul amarilla morada naranja negra marrón",
        ),
        plural_colours=(
            "rojos verdes azules amarillos morados naranjas negros marrones",
            "rojas verdes azules amarillas moradas naranjas negras marrones",
        ),
        sized=(("{} pequeño", "{} pequeña"), ("{} mediano", "{} mediana"), _twice("{} grande")),
        sizes=("pequeño", "mediano", "grande"),
        positions="arriba a la izquierda, arriba en el centro, arriba a la derecha, "
        "a la izquierda, en el centro, a la derecha, "
        "abajo a la izquierda, abajo en el centro, abajo a la derecha",
        nothing="nada",
        how_many=("Cuántos", "Cuántas"),
    ),
    "it": Words(
        pattern="{noun} {colour}",
        nouns="cerchio quadrato triangolo croce rombo figura",
        plurals="cerchi quadrati triangoli croci rombi figure",
        feminine="croce figura",
        articles="il il il la il",
        plural_articles=("i", "le"),
        colours=(
            "rosso verde blu giallo viola arancione nero marrone",
            "rossa verde blu gialla viola arancione nera marrone",
        ),
        plural_colours=(
            "rossi verdi blu gialli viola arancioni neri marroni",
            "rosse verdi blu gialle viola arancioni nere marroni",
        ),
        sized=(("{} piccolo", "{} piccola"), ("{} medio", "{} media"), _twice("{} grande")),
        sizes=("piccola", "media", "grande"),
        positions="in alto a sinistra, in alto al centro, in alto a destra, "
        "a sinistra, al centro, a destra, "
        "in basso a sinistra, in basso al centro, in basso a destra",
        nothing="niente",
        how_many=("Quanti", "Quante"),
    ),
}
