"""Common words of each language, 3 to 9 letters, as they are written in lower case.

German nouns start with a capital, so the German list holds other kinds of words. Dutch words with
"ij" are left out: whether that is one letter or two is a matter of taste.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from cluster.demo.lessons.document import Language

_EN = """
apple arm autumn bag ball banana beach bed bell bird boat book bottle box branch bread bridge
bright brother brown bucket butter button cake camel candle car carpet castle cat chair cheese
cherry child circle city clean clever cloud coat coffee cold cook corner cow cup dance dark day
desert dinner dog door dream dress drink early earth egg empty evening eye family farm fast feather
field finger fire fish flag floor flower forest fork fox friend garden glass gold grass green
guitar hammer hand happy heavy hill honey horse house island jacket juice jump kitchen kite knife
ladder lake lamp leaf lemon letter lion market meadow milk mirror money moon morning mountain mouse
music needle nest night north ocean onion orange oven owl paint paper pear pencil piano pillow
planet plate pocket potato queen quick quiet rabbit rain river road rose sand school sea shadow
sheep shoe silver sister sleep smile snow song spoon star stone street sugar summer table teacher
thunder tiger tomato train tree umbrella valley violin water wheel whisper white window winter wolf
yellow zebra
"""
_FR = """
abeille agneau aimer amour année arbre argent assiette atelier avion balle banane barque bateau
beau beurre blanc bleu boire bois boîte bonheur bouche bougie bras brosse bruit cadeau café
campagne canard carotte carte cerise chaise chambre champ chanson chapeau chat château chaud cheval
cheveu chien ciel citron clair colline content corde côté couleur courage cousin couteau crayon
cuisine danse début désert doigt doux école écrire église enfant épaule étoile été fenêtre ferme
fête feuille fille fleur fleuve forêt fraise frère froid fromage fruit garçon gâteau genou grand
hibou histoire hiver horloge huile jambe jardin jaune jeune jouer jour jupe lac laine lait lampe
lapin léger légume lettre lion lire livre loup lourd lune maison manger marché matin mer miel
miroir montagne mouton musique neige nid noir nuage nuit oiseau ombre orage oreille ours pain
panier papier parler pêche père pied pierre plage pluie poire poisson pomme porte prune reine rêve
rivière robe rouge route sable sel sentier soir soleil souris sucre table tasse temps terre tigre
tomate train vache vélo vent verre vert ville voisin voiture
"""
_DE = """
alt arm aufstehen backen baden bald bauen beginnen bekannt bequem berühmt billig bitter blau
bleiben blind blühen braun breit brennen bringen bunt danken dehnen denken dick drehen dumm dunkel
dünn dürfen echt eckig edel ehrlich eilig einfach einladen eng ernst erzählen essen fahren fallen
falsch fangen faul fein feucht finden flach fleißig fliegen fragen frech frei fremd freuen frisch
froh früh füllen ganz geben gehen gelb genau gerade gern gesund gießen glatt glücklich grau groß
grün gut halten hart heben heiß helfen hell heute hoch hören hungrig immer jung kalt kaufen kennen
klar klein klopfen klug kochen kommen krank kurz lachen lang langsam laufen laut leben leer leicht
leise lernen lesen lieben links lustig machen malen morgen müde mutig nah nass nehmen nett neu
niedrig öffnen oft packen pflegen putzen rechts reich reif reisen rennen rollen rot ruhig rund
sagen satt sauber sauer schlafen schnell schön schreiben schwarz sehen selten sicher singen sparen
spät spielen springen stark stehen steil still süß suchen tanzen tief tragen träumen treu trinken
trocken üben voll wach warm warten waschen weich weinen weiß weit werfen wild winken wissen wohnen
zahlen zart zeigen ziehen
"""
_NL = """
aap aardappel aarde adem anker appel arm auto avond baard baby bakker bal banaan bed beer berg
beter blad blauw bloem boek boer boom boot bord bos boter breed brief broek broer brood brug bruin
bui buik dag dak dans deken deur dier dochter donker doos dorp draad droom druif duif duim eend
eiland emmer engel ezel familie feest fiets fles fluit fruit gans geel geit geld gezond gitaar glas
goud gras groen groot haai haan haar hamer hand hart haven heuvel hond honing hoofd huis jas jong
kaars kaas kachel kamer kast kat keuken kip klein klok koe koffie kok koning kruid lamp land lente
lepel leraar licht lucht maan mand markt meer melk mes moeder molen mooi muis muur muziek naald
nacht nest neus noord olifant oog oor oven paard paars peer plant poes potlood raam regen rivier
rok rood rug schaap schip school sleutel sneeuw soep spiegel spin stad steen ster stoel storm
straat suiker taart tafel tak tand tent tomaat touw trap trein tuin vader veer venster vis vlag
vlinder voet vogel vork vos vriend warm water weg wiel winkel wind winter wit wolf wolk wortel zand
zee zeil zon zout zwaan zwart
"""
_ES = """
abeja abrazo abril abuela agua aire alegre alto amarillo amigo ancho anillo año árbol arena arroz
azúcar azul balcón ballena banco barco beber blanco boca bosque botella brazo bueno burro caballo
cabeza cabra café caja calle calor cama camino campo canción cantar cara carta casa castillo
cebolla cena cerca cereza cielo ciudad claro cocina coche color comer conejo copa corazón correr
cuchara cuello cuento delfín desierto día diente dormir dulce edad escuela espejo estrella familia
feliz fiesta flor fresa frío fruta fuego gato gente grande guitarra hermano hierba hoja hombre hora
hormiga huevo isla jabón jardín joven jugar juguete lago lámpara lápiz largo leche león lento libro
limón limpio llave lluvia lobo luna luz madera madre mañana mano manzana mapa mar mariposa mesa
miel montaña mujer mundo música naranja nariz negro nido nieve niño noche nombre norte nube nuevo
nuez oído ojo ola oso oveja pájaro pan papel pared pato pera perro pescado piano piedra pluma
puente puerta queso ratón reloj rey río rojo ropa rosa sal silla sol sombrero sopa sueño tarde taza
tierra tigre tomate torre tren uva vaca vaso vela verano verde viento zapato zorro
"""
_IT = """
acqua aereo albero allegro alto amico anello anno ape aprile arancia aria asino autunno azzurro
bacio bagno balena bambino banana banco barca basso bello bere bianco bocca bosco braccio bravo
burro caffè caldo calma cane cantare capello capra carota carta casa cavallo cena chiave chiesa
cielo cigno ciliegia cipolla città collina colore coltello corda corpo correre corto cucina cugino
cuore danza dente deserto dito dolce donna dormire erba estate faccia falco famiglia farfalla
felice ferro festa fiaba figlio fiore fiume foglia forno forte fragola fratello freddo frutta fuoco
gallo gamba gatto gelato gente ghiaccio giallo giardino giorno giovane gomito grande grano isola
lago lampada lana latte leggere lento leone lepre letto libro limone lingua lungo luna lupo madre
magro mangiare mano mare marito matita mattina mela mercato miele monte morbido mucca musica naso
nave nebbia nero neve nido nome nonna notte nuoto nuvola occhio onda orologio orso pane papà parola
penna pepe pera pesca pesce piazza piede pietra pioggia ponte porta prato quadro ragno ramo rana
regina riso rosa rosso sabbia sale scala scarpa scuola sedia sera sole sorella stella strada tavola
tempo terra tetto tigre topo torre treno uovo uva vento verde vino zaino
"""

WORDS: Final[Mapping[Language, tuple[str, ...]]] = {
    "en": tuple(_EN.split()),
    "fr": tuple(_FR.split()),
    "de": tuple(_DE.split()),
    "nl": tuple(_NL.split()),
    "es": tuple(_ES.split()),
    "it": tuple(_IT.split()),
}
