"""Fill the shelf: `manage.py seed_taoshop`."""

from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from django.db import transaction

from apps.accounts.models import Namespace
from apps.taoshop import announcement
from apps.taoshop.models import Product

SHELF = [
    ("longjing", "Longjing green tea", "Pan-fired spring leaves from the hills above West Lake. 50 g.", 1890),
    ("oolong", "Tie Guan Yin oolong", "Half-oxidised and rolled, with a long floral finish. 75 g.", 2250),
    ("puerh", "Pu-erh cake", "A shou cake of 2019: dark, round, forgiving. 200 g.", 3400),
    ("teapot", "Clay teapot", "Unglazed red clay, 180 ml, pours without a drip.", 6900),
    ("cups", "Two celadon cups", "Thin-walled and grey-green, 60 ml each.", 2800),
    ("kettle", "Cast-iron kettle", "One litre, for stove and coals.", 11900),
    ("whisk", "Bamboo whisk", "A hundred prongs, cut by hand from one piece.", 1650),
    ("incense", "Sandalwood incense", "Forty sticks that burn for half an hour each.", 950),
]


class Command(BaseCommand):
    """Put the sample products on the shelf, or bring them up to date. Orders are left alone."""

    help = "Put Taoshop's sample products on the shelf."

    def add_arguments(self, parser: CommandParser) -> None:
        """See --help."""
        parser.add_argument("--if-empty", action="store_true", help="do nothing if there is any product already")

    @transaction.atomic
    def handle(self, *args: Any, **options: Any) -> None:
        """Do it."""
        Namespace.objects.get_or_create(name=announcement.namespace())
        if options["if_empty"] and Product.objects.exists():
            self.stdout.write("Taoshop's shelf is filled already.")
            return
        for position, (sku, title, blurb, price_cents) in enumerate(SHELF):
            Product.objects.update_or_create(
                sku=sku,
                defaults={"title": title, "blurb": blurb, "price_cents": price_cents, "position": position},
            )
        self.stdout.write(f"Taoshop: {len(SHELF)} products on the shelf.")
