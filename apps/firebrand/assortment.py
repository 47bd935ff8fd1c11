"""What a made-up brand for the home sells, and what it says about it, in four languages.

Plain data and a seeded generator: the same seed gives the same brand. Names follow the pattern of furniture makers,
a series and a noun (`Alva floor lamp, oak`), which needs no grammar in any of the languages.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import NamedTuple

LANGUAGES = ("de", "fr", "es")  # besides English
PRICE_LISTS = (("retail", "EUR"), ("retail", "USD"), ("retail", "GBP"), ("members", "EUR"))


class Words(NamedTuple):
    """One meaning in English and in each of `LANGUAGES`."""

    en: str
    de: str
    fr: str
    es: str

    def in_language(self, language: str) -> str:
        return str(getattr(self, language))


class Shelf(NamedTuple):
    """A category at the leaves.

    Attributes:
        noun: what one of its things is called.
        shape: what it looks like; a key of `pictures.SHAPES`.
        materials: keys of `MATERIALS`.
        from_price: the least, in euros.
        size: the least and the greatest, in centimetres.
    """

    name: Words
    shape: str
    noun: Words
    materials: tuple[str, ...]
    from_price: int
    size: tuple[int, int]


MATERIALS: dict[str, Words] = {
    "oak": Words("oak", "Eiche", "chêne", "roble"),
    "ash": Words("ash", "Esche", "frêne", "fresno"),
    "walnut": Words("walnut", "Nussbaum", "noyer", "nogal"),
    "brass": Words("brass", "Messing", "laiton", "latón"),
    "steel": Words("steel", "Stahl", "acier", "acero"),
    "stoneware": Words("stoneware", "Steinzeug", "grès", "gres"),
    "porcelain": Words("porcelain", "Porzellan", "porcelaine", "porcelana"),
    "terracotta": Words("terracotta", "Terrakotta", "terre cuite", "terracota"),
    "glass": Words("glass", "Glas", "verre", "vidrio"),
    "linen": Words("linen", "Leinen", "lin", "lino"),
    "wool": Words("wool", "Wolle", "laine", "lana"),
    "cotton": Words("cotton", "Baumwolle", "coton", "algodón"),
}

_WOOD = ("oak", "ash", "walnut")
_CLAY = ("stoneware", "porcelain", "terracotta")
_CLOTH = ("linen", "wool", "cotton")

DEPARTMENTS: tuple[tuple[Words, tuple[Shelf, ...]], ...] = (
    (
        Words("Lighting", "Leuchten", "Luminaires", "Iluminación"),
        (
            Shelf(Words("Table lamps", "Tischleuchten", "Lampes de table", "Lámparas de mesa"), "lamp",
                  Words("table lamp", "Tischleuchte", "lampe de table", "lámpara de mesa"),
                  ("brass", "steel", "oak"), 69, (28, 60)),
            Shelf(Words("Floor lamps", "Stehleuchten", "Lampadaires", "Lámparas de pie"), "lamp",
                  Words("floor lamp", "Stehleuchte", "lampadaire", "lámpara de pie"),
                  ("brass", "steel", "ash"), 149, (130, 170)),
        ),
    ),
    (
        Words("Tableware", "Geschirr", "Arts de la table", "Vajilla"),
        (
            Shelf(Words("Bowls", "Schalen", "Bols", "Cuencos"), "bowl",
                  Words("bowl", "Schale", "bol", "cuenco"), _CLAY, 18, (9, 26)),
            Shelf(Words("Mugs", "Becher", "Tasses", "Tazas"), "mug",
                  Words("mug", "Becher", "tasse", "taza"), _CLAY, 12, (8, 13)),
            Shelf(Words("Bottles and carafes", "Flaschen und Karaffen", "Bouteilles et carafes", "Botellas y jarras"),
                  "bottle",
                  Words("carafe", "Karaffe", "carafe", "jarra"), ("glass", "stoneware", "steel"), 24, (20, 36)),
        ),
    ),
    (
        Words("Furniture", "Möbel", "Meubles", "Muebles"),
        (
            Shelf(Words("Chairs", "Stühle", "Chaises", "Sillas"), "chair",
                  Words("chair", "Stuhl", "chaise", "silla"), _WOOD, 159, (76, 98)),
            Shelf(Words("Side tables", "Beistelltische", "Tables d'appoint", "Mesas auxiliares"), "table",
                  Words("side table", "Beistelltisch", "table d'appoint", "mesa auxiliar"),
                  (*_WOOD, "steel"), 129, (38, 60)),
        ),
    ),
    (
        Words("Decoration", "Dekoration", "Décoration", "Decoración"),
        (
            Shelf(Words("Vases", "Vasen", "Vases", "Jarrones"), "vase",
                  Words("vase", "Vase", "vase", "jarrón"), (*_CLAY, "glass"), 29, (16, 52)),
            Shelf(Words("Clocks", "Uhren", "Horloges", "Relojes"), "clock",
                  Words("wall clock", "Wanduhr", "horloge murale", "reloj de pared"),
                  ("oak", "brass", "steel"), 59, (24, 48)),
            Shelf(Words("Planters", "Übertöpfe", "Cache-pots", "Macetas"), "plant",
                  Words("planter", "Übertopf", "cache-pot", "maceta"),
                  ("terracotta", "stoneware", "brass"), 22, (12, 40)),
        ),
    ),
    (
        Words("Textiles", "Textilien", "Textiles", "Textiles"),
        (
            Shelf(Words("Cushions", "Kissen", "Coussins", "Cojines"), "cushion",
                  Words("cushion", "Kissen", "coussin", "cojín"), _CLOTH, 32, (40, 65)),
        ),
    ),
)  # fmt: skip

_DESCRIPTIONS: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    "en": (
        (
            "{series} is a {noun} in {material}, made in small batches.",
            "A {noun} for every day: {material}, drawn with a calm line.",
            "{material}, a few good joints and nothing else: our {series} {noun}.",
        ),
        (
            "The surface is finished by hand, so no two are quite alike.",
            "It grows more beautiful with use.",
            "Designed to be repaired: each part can be ordered on its own.",
        ),
        ("Height {height} cm. Wipe with a damp cloth.", "Width {height} cm. Ships within three days."),
    ),
    "de": (
        (
            "{series}: {noun} aus {material}, in kleinen Serien gefertigt.",
            "{noun} für jeden Tag, {material}, mit ruhiger Linie gezeichnet.",
            "{material}, wenige gute Verbindungen, sonst nichts: {noun} {series}.",
        ),
        (
            "Die Oberfläche wird von Hand veredelt, kein Stück gleicht dem anderen.",
            "Wird mit dem Gebrauch nur schöner.",
            "Zum Reparieren entworfen: jedes Teil ist einzeln erhältlich.",
        ),
        ("Höhe {height} cm. Feucht abwischen.", "Breite {height} cm. Versand innerhalb von drei Tagen."),
    ),
    "fr": (
        (
            "{series} : {noun} en {material}, en petites séries.",
            "{noun} de tous les jours, en {material}, au trait calme.",
            "Du {material}, quelques bons assemblages, rien d'autre : {noun} {series}.",
        ),
        (
            "La surface est finie à la main, chaque pièce est unique.",
            "Plus on s'en sert, plus c'est beau.",
            "Conçu pour être réparé : chaque pièce se commande seule.",
        ),
        ("Hauteur {height} cm. Essuyer avec un chiffon humide.", "Largeur {height} cm. Expédié sous trois jours."),
    ),
    "es": (
        (
            "{series}: {noun} de {material}, en series pequeñas.",
            "{noun} para cada día, de {material}, con trazo sereno.",
            "{material}, pocas y buenas uniones, nada más: {noun} {series}.",
        ),
        (
            "La superficie se acaba a mano; no hay dos iguales.",
            "Con el uso se vuelve más bonito.",
            "Pensado para repararse: cada pieza se pide por separado.",
        ),
        ("Altura {height} cm. Limpiar con un paño húmedo.", "Ancho {height} cm. Envío en tres días."),
    ),
}

_ONSETS = (
    "Al",
    "Be",
    "Ca",
    "Do",
    "El",
    "Fin",
    "Gri",
    "Hal",
    "Ib",
    "Jo",
    "Kel",
    "Lu",
    "Mar",
    "Nor",
    "Ol",
    "Pil",
    "Ru",
    "Sol",
    "Tol",
    "Vin",
)
_MIDDLES = ("a", "be", "da", "di", "e", "la", "li", "ma", "ne", "ri", "sa", "to", "va", "vi")
_ENDS = ("", "da", "lo", "ma", "na", "ne", "ra", "rin", "sa", "to", "ve")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Item:
    """A product as it is made up.

    Attributes:
        number: from 0, in the order of the assortment.
        department, shelf: where it stands, as indices of `DEPARTMENTS` and its shelves.
        texts: name and description by language, English (`en`) among them.
        prices: in the order of `PRICE_LISTS`.
    """

    number: int
    department: int
    shelf: int
    shape: str
    sku: str
    texts: dict[str, tuple[str, str]]
    prices: tuple[Decimal, ...]
    stock: int


def items(count: int, seed: str) -> Iterator[Item]:
    """`count` products, spread over all shelves."""
    rng = random.Random(f"{seed}/items")
    places = [(d, s) for d, (_, shelves) in enumerate(DEPARTMENTS) for s in range(len(shelves))]
    for number in range(count):
        department, at = places[number % len(places)]
        shelf = DEPARTMENTS[department][1][at]
        series = (rng.choice(_ONSETS) + rng.choice(_MIDDLES) + rng.choice(_ENDS)).capitalize()
        material = MATERIALS[rng.choice(shelf.materials)]
        height = rng.randint(*shelf.size)
        picks = [rng.randrange(len(choices)) for choices in _DESCRIPTIONS["en"]]
        texts = {
            language: _texts(language, series, shelf.noun, material, height, picks) for language in ("en", *LANGUAGES)
        }
        euros = Decimal(shelf.from_price + rng.randrange(0, shelf.from_price * 2)) - Decimal("0.10")
        prices = (
            euros,
            _rounded(euros * Decimal("1.10")),
            _rounded(euros * Decimal("0.86")),
            _rounded(euros * Decimal("0.90")),
        )
        yield Item(
            number=number,
            department=department,
            shelf=at,
            shape=shelf.shape,
            sku=f"{shelf.shape[:2].upper()}{department}{at}-{number:06d}",
            texts=texts,
            prices=prices,
            stock=rng.randrange(0, 240),
        )


def _texts(language: str, series: str, noun: Words, material: Words, height: int, picks: list[int]) -> tuple[str, str]:
    words = {
        "series": series,
        "noun": noun.in_language(language),
        "material": material.in_language(language),
        "height": str(height),
    }
    name = "{series} {noun}, {material}" if language == "en" else "{noun} {series}, {material}"
    sentences = (choices[pick] for choices, pick in zip(_DESCRIPTIONS[language], picks, strict=True))
    description = " ".join(_capital(sentence.format_map(words)) for sentence in sentences)
    return _capital(name.format_map(words)), description


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _rounded(amount: Decimal) -> Decimal:
    """To whole units less ten cents."""
    return amount.quantize(Decimal(1)) - Decimal("0.10")
