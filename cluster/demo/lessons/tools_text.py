"""Words and sentences of the tool lessons.

Tool and argument names are English as in most code; the sentences around them are in the user's
language. One word in ``HELD_OUT_EVERY`` is kept for the test. A held-out value or argument name is
cut into the same pieces after a blank as after a quotation mark: copying a word whose spelling was
never seen would ask for knowledge that a model of this size cannot have.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from cluster.demo.lessons.document import Language
from cluster.demo.lessons.phrasing import Cores

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

# {tool} is "get weather", {Tool} "Get weather"; {pairs} is 'city Lyon, day 3', {quoted} the same
# with strings in quotation marks. Every core has a word of its language.
REQUESTS: Cores = {
    "en": (
        "{Tool}: {pairs}.",
        "Could you {tool} with {pairs}?",
        "I would like to {tool} with {quoted}.",
        "It is time to {tool}: {pairs}.",
        "Can we {tool} with {quoted}?",
        "I need to {tool}, {pairs}.",
        "My wish is to {tool} with {quoted}.",
        "Let us {tool}, {pairs}.",
    ),
    "fr": (
        "Lance {tool} avec {pairs}.",
        "Peux-tu faire {tool} avec {quoted} ?",
        "Je voudrais {tool} : {pairs}.",
        "J'ai besoin de {tool}, {pairs}.",
        "Il me faut {tool} : {quoted}.",
        "Utilise {tool} pour {pairs}.",
        "On fait {tool} avec {pairs}.",
        "Mon souhait est {tool} avec {quoted}.",
    ),
    "de": (
        "Starte {tool} mit {pairs}.",
        "Kannst du {tool} mit {quoted} machen?",
        "Ich brauche {tool}: {pairs}.",
        "Mach {tool} mit {pairs}.",
        "Mein Wunsch ist {tool} mit {quoted}.",
        "Es ist Zeit für {tool}, {pairs}.",
        "Nutze {tool} mit {quoted}.",
        "Wir wollen {tool}: {pairs}.",
    ),
    "nl": (
        "Start {tool} met {pairs}.",
        "Kun je {tool} doen met {quoted}?",
        "Ik heb {tool} nodig: {pairs}.",
        "Doe {tool} met {pairs}.",
        "Mijn wens is {tool} met {quoted}.",
        "Het is tijd voor {tool}, {pairs}.",
        "Gebruik {tool} met {quoted}.",
        "We willen {tool}: {pairs}.",
    ),
    "es": (
        "Ejecuta {tool} con {pairs}.",
        "¿Puedes hacer {tool} con {quoted}?",
        "Necesito {tool}: {pairs}.",
        "Haz {tool} con {pairs}.",
        "Mi deseo es {tool} con {quoted}.",
        "Es hora de {tool}, {pairs}.",
        "Utiliza {tool} con {quoted}.",
        "Queremos {tool}: {pairs}.",
    ),
    "it": (
        "Esegui {tool} con {pairs}.",
        "Puoi fare {tool} con {quoted}?",
        "Ho bisogno di {tool}: {pairs}.",
        "Fai {tool} con {pairs}.",
        "Il mio desiderio è {tool} con {quoted}.",
        "È ora di {tool}, {pairs}.",
        "Usa {tool} con {quoted}.",
        "Vogliamo {tool}: {pairs}.",
    ),
}

# Two requests in one sentence: the first and the second tool with their arguments.
DOUBLE_REQUESTS: Cores = {
    "en": (
        "First {tool1} with {pairs1}, then {tool2} with {pairs2}.",
        "I need to {tool1}, {pairs1}, and to {tool2}, {pairs2}.",
        "Two things: {tool1}, {pairs1}; {tool2}, {pairs2}.",
        "Could you {tool1} with {quoted1} and also {tool2} with {quoted2}?",
        "{Tool1}: {pairs1}. And {tool2}: {pairs2}.",
        "Both at once: {tool1} with {quoted1}; {tool2} with {quoted2}.",
    ),
    "fr": (
        "D'abord {tool1} avec {pairs1}, puis {tool2} avec {pairs2}.",
        "J'ai besoin de {tool1}, {pairs1}, et de {tool2}, {pairs2}.",
        "Deux choses : {tool1}, {pairs1} ; {tool2}, {pairs2}.",
        "Peux-tu faire {tool1} avec {quoted1} et aussi {tool2} avec {quoted2} ?",
        "Lance {tool1} : {pairs1}. Et {tool2} : {pairs2}.",
        "Les deux à la fois : {tool1} avec {quoted1} ; {tool2} avec {quoted2}.",
    ),
    "de": (
        "Zuerst {tool1} mit {pairs1}, dann {tool2} mit {pairs2}.",
        "Ich brauche {tool1}, {pairs1}, und {tool2}, {pairs2}.",
        "Zwei Dinge: {tool1}, {pairs1}; {tool2}, {pairs2}.",
        "Kannst du {tool1} mit {quoted1} und auch {tool2} mit {quoted2} machen?",
        "Starte {tool1}: {pairs1}. Und {tool2}: {pairs2}.",
        "Beides zugleich: {tool1} mit {quoted1}; {tool2} mit {quoted2}.",
    ),
    "nl": (
        "Eerst {tool1} met {pairs1}, dan {tool2} met {pairs2}.",
        "Ik heb {tool1} nodig, {pairs1}, en {tool2}, {pairs2}.",
        "Twee dingen: {tool1}, {pairs1}; {tool2}, {pairs2}.",
        "Kun je {tool1} met {quoted1} en ook {tool2} met {quoted2} doen?",
        "Start {tool1}: {pairs1}. En {tool2}: {pairs2}.",
        "Allebei tegelijk: {tool1} met {quoted1}; {tool2} met {quoted2}.",
    ),
    "es": (
        "Primero {tool1} con {pairs1}, luego {tool2} con {pairs2}.",
        "Necesito {tool1}, {pairs1}, y también {tool2}, {pairs2}.",
        "Dos cosas: {tool1}, {pairs1}; {tool2}, {pairs2}.",
        "¿Puedes hacer {tool1} con {quoted1} y además {tool2} con {quoted2}?",
        "Ejecuta {tool1}: {pairs1}. Y {tool2}: {pairs2}.",
        "Las dos cosas a la vez: {tool1} con {quoted1}; {tool2} con {quoted2}.",
    ),
    "it": (
        "Prima {tool1} con {pairs1}, poi {tool2} con {pairs2}.",
        "Ho bisogno di {tool1}, {pairs1}, e di {tool2}, {pairs2}.",
        "Due cose: {tool1}, {pairs1}; {tool2}, {pairs2}.",
        "Puoi fare {tool1} con {quoted1} e anche {tool2} con {quoted2}?",
        "Esegui {tool1}: {pairs1}. E {tool2}: {pairs2}.",
        "Tutte e due insieme: {tool1} con {quoted1}; {tool2} con {quoted2}.",
    ),
}

# Wishes that no tool of the lessons can grant.
OTHER_WISHES: Cores = {
    "en": (
        "Tell me a joke.",
        "Sing me a song.",
        "What should I wear today?",
        "Make me laugh.",
        "Give me some advice.",
        "I am bored, what can we do?",
    ),
    "fr": (
        "Raconte-moi une blague.",
        "Chante-moi une chanson.",
        "Que dois-je porter aujourd'hui ?",
        "Fais-moi rire.",
        "Donne-moi un conseil.",
        "Je m'ennuie, que faire ?",
    ),
    "de": (
        "Erzähl mir einen Witz.",
        "Sing mir ein Lied.",
        "Was soll ich heute anziehen?",
        "Bring mich zum Lachen.",
        "Gib mir einen Rat.",
        "Mir ist langweilig, was tun?",
    ),
    "nl": (
        "Vertel me een mop.",
        "Zing een liedje voor me.",
        "Wat zal ik vandaag aantrekken?",
        "Maak me aan het lachen.",
        "Geef me goede raad.",
        "Ik verveel me, wat nu?",
    ),
    "es": (
        "Cuéntame un chiste.",
        "Cántame una canción.",
        "¿Qué me pongo hoy?",
        "Hazme reír.",
        "Dame un consejo.",
        "Me aburro, ¿qué hacemos?",
    ),
    "it": (
        "Raccontami una barzelletta.",
        "Cantami una canzone.",
        "Che cosa mi metto oggi?",
        "Fammi ridere.",
        "Dammi un consiglio.",
        "Mi annoio, che facciamo?",
    ),
}

NO_TOOL: Mapping[Language, str] = {
    "en": "I have no tool for that.",
    "fr": "Je n'ai pas d'outil pour cela.",
    "de": "Dafür habe ich kein Werkzeug.",
    "nl": "Daar heb ik geen hulpmiddel voor.",
    "es": "No tengo ninguna herramienta para eso.",
    "it": "Non ho uno strumento per questo.",
}

# {pairs} is 'weather sunny, delay 12'.
RESULTS: Mapping[Language, str] = {
    "en": "Result: {pairs}.",
    "fr": "Résultat : {pairs}.",
    "de": "Ergebnis: {pairs}.",
    "nl": "Resultaat: {pairs}.",
    "es": "Resultado: {pairs}.",
    "it": "Risultato: {pairs}.",
}

AND: Mapping[Language, str] = {
    "en": "and",
    "fr": "et",
    "de": "und",
    "nl": "en",
    "es": "y",
    "it": "e",
}
