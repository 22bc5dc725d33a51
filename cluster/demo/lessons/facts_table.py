"""What the facts lessons teach: capitals, everyday words, sequences and opposites.

The tables are text: one line a row, one column a language in the order of ``LANGUAGES``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from cluster.demo.lessons.document import LANGUAGES, Language


class Country(NamedTuple):
    """A country in one language: "de l'Italie", "Italie", "Rome"."""

    of: str  # with preposition and article, as it follows the word "capital"
    name: str  # without article
    capital: str


# Three lines a country: what stands before the name, the name, the capital.
# A preposition that ends in an apostrophe is written together with the name.
_CAPITALS = """
of         | de la       | von        | van              | de                | della
France     | France      | Frankreich | Frankrijk        | Francia           | Francia
Paris      | Paris       | Paris      | Parijs           | París             | Parigi
of         | de l'       | von        | van              | de                | della
Germany    | Allemagne   | Deutschland | Duitsland       | Alemania          | Germania
Berlin     | Berlin      | Berlin     | Berlijn          | Berlín            | Berlino
of         | de l'       | von        | van              | de                | dell'
Italy      | Italie      | Italien    | Italië           | Italia            | Italia
Rome       | Rome        | Rom        | Rome             | Roma              | Roma
of         | de l'       | von        | van              | de                | della
Spain      | Espagne     | Spanien    | Spanje           | España            | Spagna
Madrid     | Madrid      | Madrid     | Madrid           | Madrid            | Madrid
of         | du          | von        | van              | de                | del
Portugal   | Portugal    | Portugal   | Portugal         | Portugal          | Portogallo
Lisbon     | Lisbonne    | Lissabon   | Lissabon         | Lisboa            | Lisbona
of the     | des         | der        | van              | de los            | dei
Netherlands | Pays-Bas   | Niederlande | Nederland       | Países Bajos      | Paesi Bassi
Amsterdam  | Amsterdam   | Amsterdam  | Amsterdam        | Ámsterdam         | Amsterdam
of         | de la       | von        | van              | de                | del
Belgium    | Belgique    | Belgien    | België           | Bélgica           | Belgio
Brussels   | Bruxelles   | Brüssel    | Brussel          | Bruselas          | Bruxelles
of         | de l'       | von        | van              | de                | dell'
Austria    | Autriche    | Österreich | Oostenrijk       | Austria           | Austria
Vienna     | Vienne      | Wien       | Wenen            | Viena             | Vienna
of         | de la       | der        | van              | de                | della
Switzerland | Suisse     | Schweiz    | Zwitserland      | Suiza             | Svizzera
Bern       | Berne       | Bern       | Bern             | Berna             | Berna
of         | de la       | von        | van              | de                | della
Poland     | Pologne     | Polen      | Polen            | Polonia           | Polonia
Warsaw     | Varsovie    | Warschau   | Warschau         | Varsovia          | Varsavia
of         | de la       | von        | van              | de                | della
Greece     | Grèce       | Griechenland | Griekenland    | Grecia            | Grecia
Athens     | Athènes     | Athen      | Athene           | Atenas            | Atene
of         | de la       | von        | van              | de                | della
Sweden     | Suède       | Schweden   | Zweden           | Suecia            | Svezia
Stockholm  | Stockholm   | Stockholm  | Stockholm        | Estocolmo         | Stoccolma
of         | de la       | von        | van              | de                | della
Norway     | Norvège     | Norwegen   | Noorwegen        | Noruega           | Norvegia
Oslo       | Oslo        | Oslo       | Oslo             | Oslo              | Oslo
of         | du          | von        | van              | de                | della
Denmark    | Danemark    | Dänemark   | Denemarken       | Dinamarca         | Danimarca
Copenhagen | Copenhague  | Kopenhagen | Kopenhagen       | Copenhague        | Copenaghen
of         | de la       | von        | van              | de                | della
Finland    | Finlande    | Finnland   | Finland          | Finlandia         | Finlandia
Helsinki   | Helsinki    | Helsinki   | Helsinki         | Helsinki          | Helsinki
of         | de l'       | von        | van              | de                | dell'
Ireland    | Irlande     | Irland     | Ierland          | Irlanda           | Irlanda
Dublin     | Dublin      | Dublin     | Dublin           | Dublín            | Dublino
of         | de l'       | von        | van              | de                | dell'
England    | Angleterre  | England    | Engeland         | Inglaterra        | Inghilterra
London     | Londres     | London     | Londen           | Londres           | Londra
of         | de la       | von        | van              | de                | dell'
Hungary    | Hongrie     | Ungarn     | Hongarije        | Hungría           | Ungheria
Budapest   | Budapest    | Budapest   | Boedapest        | Budapest          | Budapest
of         | de la       | von        | van              | de                | della
Russia     | Russie      | Russland   | Rusland          | Rusia             | Russia
Moscow     | Moscou      | Moskau     | Moskou           | Moscú             | Mosca
of         | de la       | der        | van              | de                | della
Turkey     | Turquie     | Türkei     | Turkije          | Turquía           | Turchia
Ankara     | Ankara      | Ankara     | Ankara           | Ankara            | Ankara
of         | de l'       | von        | van              | de                | dell'
Egypt      | Égypte      | Ägypten    | Egypte           | Egipto            | Egitto
Cairo      | Le Caire    | Kairo      | Caïro            | El Cairo          | Il Cairo
of         | du          | von        | van              | de                | del
Japan      | Japon       | Japan      | Japan            | Japón             | Giappone
Tokyo      | Tokyo       | Tokio      | Tokio            | Tokio             | Tokyo
of         | de la       | von        | van              | de                | della
China      | Chine       | China      | China            | China             | Cina
Beijing    | Pékin       | Peking     | Peking           | Pekín             | Pechino
of         | du          | von        | van              | de                | del
Canada     | Canada      | Kanada     | Canada           | Canadá            | Canada
Ottawa     | Ottawa      | Ottawa     | Ottawa           | Ottawa            | Ottawa
of the     | des         | der        | van de           | de                | degli
United States | États-Unis | USA       | Verenigde Staten | Estados Unidos    | Stati Uniti
Washington | Washington  | Washington | Washington       | Washington        | Washington
of         | du          | von        | van              | de                | del
Mexico     | Mexique     | Mexiko     | Mexico           | México            | Messico
Mexico City | Mexico     | Mexiko-Stadt | Mexico-Stad    | Ciudad de México  | Città del Messico
of         | du          | von        | van              | de                | del
Brazil     | Brésil      | Brasilien  | Brazilië         | Brasil            | Brasile
Brasilia   | Brasilia    | Brasilia   | Brasilia         | Brasilia          | Brasilia
of         | de l'       | von        | van              | de                | dell'
Argentina  | Argentine   | Argentinien | Argentinië      | Argentina         | Argentina
Buenos Aires | Buenos Aires | Buenos Aires | Buenos Aires | Buenos Aires     | Buenos Aires
of         | du          | von        | van              | de                | del
Peru       | Pérou       | Peru       | Peru             | Perú              | Perù
Lima       | Lima        | Lima       | Lima             | Lima              | Lima
of         | de          | von        | van              | de                | di
Cuba       | Cuba        | Kuba       | Cuba             | Cuba              | Cuba
Havana     | La Havane   | Havanna    | Havana           | La Habana         | L'Avana
of         | de l'       | von        | van              | de                | dell'
India      | Inde        | Indien     | India            | India             | India
New Delhi  | New Delhi   | Neu-Delhi  | New Delhi        | Nueva Delhi       | Nuova Delhi
"""

_WORDS = """
dog chien Hund hond perro cane
cat chat Katze kat gato gatto
horse cheval Pferd paard caballo cavallo
cow vache Kuh koe vaca mucca
bird oiseau Vogel vogel pájaro uccello
fish poisson Fisch vis pez pesce
mouse souris Maus muis ratón topo
house maison Haus huis casa casa
door porte Tür deur puerta porta
window fenêtre Fenster raam ventana finestra
table table Tisch tafel mesa tavolo
chair chaise Stuhl stoel silla sedia
bed lit Bett bed cama letto
key clé Schlüssel sleutel llave chiave
book livre Buch boek libro libro
water eau Wasser water agua acqua
bread pain Brot brood pan pane
milk lait Milch melk leche latte
cheese fromage Käse kaas queso formaggio
apple pomme Apfel appel manzana mela
egg œuf Ei ei huevo uovo
salt sel Salz zout sal sale
wine vin Wein wijn vino vino
sun soleil Sonne zon sol sole
moon lune Mond maan luna luna
star étoile Stern ster estrella stella
tree arbre Baum boom árbol albero
flower fleur Blume bloem flor fiore
rain pluie Regen regen lluvia pioggia
snow neige Schnee sneeuw nieve neve
wind vent Wind wind viento vento
fire feu Feuer vuur fuego fuoco
sea mer Meer zee mar mare
mountain montagne Berg berg montaña montagna
island île Insel eiland isla isola
city ville Stadt stad ciudad città
street rue Straße straat calle strada
bridge pont Brücke brug puente ponte
train train Zug trein tren treno
garden jardin Garten tuin jardín giardino
school école Schule school escuela scuola
woman femme Frau vrouw mujer donna
child enfant Kind kind niño bambino
friend ami Freund vriend amigo amico
mother mère Mutter moeder madre madre
father père Vater vader padre padre
hand main Hand hand mano mano
head tête Kopf hoofd cabeza testa
nose nez Nase neus nariz naso
heart cœur Herz hart corazón cuore
day jour Tag dag día giorno
night nuit Nacht nacht noche notte
"""

# Row by row: what a language calls the six.
_LANGUAGE_NAMES = """
English anglais Englisch Engels inglés inglese
French français Französisch Frans francés francese
German allemand Deutsch Duits alemán tedesco
Dutch néerlandais Niederländisch Nederlands neerlandés olandese
Spanish espagnol Spanisch Spaans español spagnolo
Italian italien Italienisch Italiaans italiano italiano
"""

_DAYS = """
Monday lundi Montag maandag lunes lunedì
Tuesday mardi Dienstag dinsdag martes martedì
Wednesday mercredi Mittwoch woensdag miércoles mercoledì
Thursday jeudi Donnerstag donderdag jueves giovedì
Friday vendredi Freitag vrijdag viernes venerdì
Saturday samedi Samstag zaterdag sábado sabato
Sunday dimanche Sonntag zondag domingo domenica
"""
_MONTHS = """
January janvier Januar januari enero gennaio
February février Februar februari febrero febbraio
March mars März maart marzo marzo
April avril April april abril aprile
May mai Mai mei mayo maggio
June juin Juni juni junio giugno
July juillet Juli juli julio luglio
August août August augustus agosto agosto
September septembre September september septiembre settembre
October octobre Oktober oktober octubre ottobre
November novembre November november noviembre novembre
December décembre Dezember december diciembre dicembre
"""
_NUMBERS = """
one un eins één uno uno
two deux zwei twee dos due
three trois drei drie tres tre
four quatre vier vier cuatro quattro
five cinq fünf vijf cinco cinque
six six sechs zes seis sei
seven sept sieben zeven siete sette
eight huit acht acht ocho otto
nine neuf neun negen nueve nove
ten dix zehn tien diez dieci
eleven onze elf elf once undici
twelve douze zwölf twaalf doce dodici
thirteen treize dreizehn dertien trece tredici
fourteen quatorze vierzehn veertien catorce quattordici
fifteen quinze fünfzehn vijftien quince quindici
sixteen seize sechzehn zestien dieciséis sedici
seventeen dix-sept siebzehn zeventien diecisiete diciassette
eighteen dix-huit achtzehn achttien dieciocho diciotto
nineteen dix-neuf neunzehn negentien diecinueve diciannove
twenty vingt zwanzig twintig veinte venti
"""

# No adjective stands in two pairs of a language: it would have two opposites.
_OPPOSITES = """
big/small grand/petit groß/klein groot/klein grande/pequeño grande/piccolo
hot/cold chaud/froid heiß/kalt heet/koud caliente/frío caldo/freddo
young/old jeune/vieux jung/alt jong/oud joven/viejo giovane/vecchio
fast/slow rapide/lent schnell/langsam snel/langzaam rápido/lento veloce/lento
long/short long/court lang/kurz lang/kort largo/corto lungo/corto
high/low haut/bas hoch/niedrig hoog/laag alto/bajo alto/basso
heavy/light lourd/léger schwer/leicht zwaar/licht pesado/ligero pesante/leggero
good/bad bon/mauvais gut/schlecht goed/slecht bueno/malo buono/cattivo
rich/poor riche/pauvre reich/arm rijk/arm rico/pobre ricco/povero
full/empty plein/vide voll/leer vol/leeg lleno/vacío pieno/vuoto
open/closed ouvert/fermé offen/geschlossen open/gesloten abierto/cerrado aperto/chiuso
clean/dirty propre/sale sauber/schmutzig schoon/vuil limpio/sucio pulito/sporco
strong/weak fort/faible stark/schwach sterk/zwak fuerte/débil forte/debole
dry/wet sec/mouillé trocken/nass droog/nat seco/mojado asciutto/bagnato
easy/difficult facile/difficile einfach/schwierig makkelijk/moeilijk fácil/difícil facile/difficile
happy/sad gai/triste fröhlich/traurig blij/verdrietig feliz/triste felice/triste
true/false vrai/faux wahr/falsch waar/onwaar verdadero/falso vero/falso
thick/thin épais/mince dick/dünn dik/dun grueso/fino spesso/sottile
wide/narrow large/étroit breit/schmal breed/smal ancho/estrecho largo/stretto
hard/soft dur/mou hart/weich hard/zacht duro/blando duro/morbido
beautiful/ugly beau/laid schön/hässlich mooi/lelijk hermoso/feo bello/brutto
"""

Column = Mapping[Language, tuple[str, ...]]


def _columns(rows: str, separator: str | None = None) -> Column:
    """One column a language, of rows whose cells are parted by ``separator`` (None: blanks)."""
    cells = [[cell.strip() for cell in row.split(separator)] for row in rows.strip().splitlines()]
    return dict(zip(LANGUAGES, zip(*cells, strict=True), strict=True))


def _countries(column: tuple[str, ...]) -> tuple[Country, ...]:
    """Countries of a column with three cells each."""
    rows = zip(column[::3], column[1::3], column[2::3], strict=True)
    return tuple(
        Country(f"{before}{'' if before.endswith(chr(39)) else ' '}{name}", name, capital)
        for before, name, capital in rows
    )


def _opposites(column: tuple[str, ...]) -> Mapping[str, str]:
    """Both directions of each pair."""
    pairs = [cell.split("/") for cell in column]
    return {a: b for a, b in pairs} | {b: a for a, b in pairs}


COUNTRIES: Final[Mapping[Language, tuple[Country, ...]]] = {
    language: _countries(column) for language, column in _columns(_CAPITALS, "|").items()
}
WORDS: Final = _columns(_WORDS)  # row i means the same in every language
# LANGUAGE_NAMES["fr"]["de"] is "allemand"
LANGUAGE_NAMES: Final[Mapping[Language, Mapping[Language, str]]] = {
    language: dict(zip(LANGUAGES, names, strict=True))
    for language, names in _columns(_LANGUAGE_NAMES).items()
}
DAYS: Final = _columns(_DAYS)
MONTHS: Final = _columns(_MONTHS)
NUMBERS: Final = _columns(_NUMBERS)  # one to twenty
OPPOSITES: Final[Mapping[Language, Mapping[str, str]]] = {
    language: _opposites(column) for language, column in _columns(_OPPOSITES).items()
}


def in_language(language: Language, note: str) -> str:
    """A thought that begins with the language to answer in: "Spanish: Austria"."""
    return f"{LANGUAGE_NAMES['en'][language]}: {note}"
