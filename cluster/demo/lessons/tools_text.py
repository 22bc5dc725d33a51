"""Words of the tool lessons.

Tool and argument names are English as in most code. One word in ``HELD_OUT_EVERY`` is kept for the
test. A held-out value or argument name is cut into the same pieces after a blank as after a
quotation mark: copying a word whose spelling was never seen would ask for knowledge that a model
of this size cannot have.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

HELD_OUT_EVERY = 8

Kind = Literal["person", "place", "thing", "topic", "integer"]

VERBS: tuple[str, ...] = tuple(
    """get set send find open close start stop add remove cancel check create delete update print
    show move copy save read rate track share""".split()
)

NOUNS: tuple[str, ...] = tuple(
    """weather ticket invoice report meeting flight hotel order parcel letter email photo song
    movie recipe menu table room door light heater alarm timer clock calendar event task note
    list file folder backup server printer camera phone message contact account payment bill
    salary tax loan bus train taxi route map bike car garage garden plant pool pump fan oven
    fridge robot drone sensor battery cable router network password license contract policy
    claim doctor nurse clinic school lesson exam course student teacher library page chapter
    journal poster banner logo website domain forum survey poll vote match game team player
    coach ferry harbor ship tunnel bridge tower museum concert theater statue market store cart
    coupon refund tent bench cabinet locker lantern trophy parade castle temple""".split()
)

ARGUMENTS: Mapping[Kind, tuple[str, ...]] = {
    "person": tuple(
        """owner user name sender guest client worker leader friend driver buyer seller editor
        tenant pilot host agent manager artist visitor keeper helper mentor partner tester
        recipient assistant""".split()
    ),
    "place": tuple(
        """city town place location origin destination station office branch venue region depot
        street zone airport land""".split()
    ),
    "thing": tuple(
        """item product object gift article piece prize sample asset device brand stock part kit
        module widget""".split()
    ),
    "topic": tuple(
        """title topic tag label group theme subject category channel section keyword alias genre
        project field heading""".split()
    ),
    "integer": tuple(
        """count age year amount day hour size price level width height weight length minute number
        floor row total points delay rank speed volume version distance quantity offset seats
        meters rating budget grade pages steps units timeout""".split()
    ),
}

PERSONS: tuple[str, ...] = tuple(
    """Lena Paul Anna Max Clara Hugo Emma Louis Marie Felix Nora Oscar Julia Simon Laura Martin
    Sara David Elena Carla Alice Peter Helen Robert Diana Victor Daniel Eva Tom Jan Rosa Leo
    Noah Lucy Henry Grace Oliver Emily Arthur Jane Frank Linda George Nina Karl Maria Luca Paolo
    Chiara Diego Lucia Carlos Pablo Ines Miguel Pierre Camille Louise Jules Margot Andre Hans
    Greta Otto Frieda Kurt Heidi Willem Saskia Joost Anouk Bram Femke Adam Albert Bert Bella
    Claire Dora Edgar Ella Eric Fabio Fiona Fred Gina Hanna Irene Isabel Ivan Jacob Jonas Karen
    Lara Lisa Lotte Lukas Matteo Nathan Nicole Olga Pedro Petra Rachel Ralf Rita Roger Ruben
    Silvia Stella Susan Sven Thomas Tim Valentin Vera Walter Wendy""".split()
)
PLACES: tuple[str, ...] = tuple(
    """Lyon Oslo Paris Rome Berlin Madrid Lisbon Vienna Prague Dublin London Milan Turin Naples
    Venice Bonn Hamburg Munich Bremen Dresden Leipzig Cologne Ghent Bruges Brussels Utrecht
    Delft Leiden Rotterdam Amsterdam Haarlem Nice Nantes Lille Toulouse Bordeaux Dijon Rennes
    Metz Seville Valencia Granada Toledo Bilbao Porto Athens Helsinki Stockholm Bergen Warsaw
    Krakow Budapest Zagreb Sofia Riga Tallinn Vilnius Geneva Basel Bern Boston Chicago Denver
    Dallas Seattle Toronto Montreal Lima Tokyo Osaka Seoul Delhi Cairo Tunis Sydney Perth
    Cordoba Limerick Liverpool Murcia Tilburg Ankara Belfast Bologna Cannes Cork Dover Genoa
    Graz Houston Kiel Leeds Linz Lugano Mainz Miami Oxford Padua Pisa Quito Rouen Siena Trento
    Trier Ulm Vigo Zurich Hanoi""".split()
)
THINGS: tuple[str, ...] = tuple(
    """chair desk sofa shelf mirror carpet pillow candle vase basket bottle cup plate bowl spoon
    knife kettle hammer saw rope ladder bucket brush pencil eraser ruler paper stamp scarf glove
    jacket shirt coat shoe boot sock hat belt watch ring wallet umbrella helmet skate ball
    puzzle doll kite violin guitar piano flute bread cheese honey coffee lemon melon potato
    carrot onion rice pepper butter salt blender cloak cork jeans mask napkin sandal shield
    stapler toaster wrench noodle orange walnut cushion dress flag frame globe jar keyboard lens
    mug nail notebook pan pen pipe rake saddle screw skirt soap sponge stool sweater tile toy
    trumpet vest whistle berry cake cereal cookie cream jam juice mango olive pasta peach plum
    tea yogurt""".split()
)
QUALITIES: tuple[str, ...] = tuple(
    """red blue green yellow white brown pink grey small large old round square heavy wooden
    plastic golden cheap soft thin tall shiny antique sturdy violet wide bright dark thick dry
    flat sharp striped rusty sweet""".split()
)
TOPICS: tuple[str, ...] = tuple(
    """music travel winter summer spring autumn history sport nature health cooking fashion
    politics culture weekend holiday family energy water forest mountain river ocean island
    desert planet star comet moon silver copper marble crystal paint poetry drama comedy jazz
    opera dance chess tennis hockey rugby soccer animal insect eagle tiger dolphin panda falcon
    otter rabbit harvest journey shadow thunder rainbow breeze sunrise comics crafts gardening
    penguin horse monkey art coding diving fishing folklore geography geology hiking logic
    medicine mining peace robotics trade volcano whale wolf zebra parrot lion turtle lizard
    spider shark storm cloud frost sand stone amber ruby velvet cotton sunset""".split()
)
STATES: tuple[str, ...] = tuple(
    """ready done late sunny busy broken paid lost empty cold warm safe quiet fast slow rainy
    cloudy windy locked clean dirty active pending missing closed sold fresh stuck hidden
    perfect calm foggy invalid legal loud shut wet booked cool dead failed idle mild new online
    paused private public rejected shipped stable steady stormy tired valid weak""".split()
)
