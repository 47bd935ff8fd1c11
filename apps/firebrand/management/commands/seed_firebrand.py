"""`manage.py seed_firebrand`: a believable brand of any size."""

import time
from argparse import ArgumentTypeError
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils.text import slugify

from apps.firebrand.models import Brand
from apps.firebrand.palettes import PRESETS
from apps.firebrand.requests import valid_domain, valid_name, valid_slug
from apps.firebrand.seeding import seed_brand
from msgweb.errors import MsgwebError


def count(text: str) -> int:
    """A whole number from 1."""
    if not text.isdigit() or int(text) < 1:
        raise ArgumentTypeError(f"must be a whole number from 1, not {text!r}")
    return int(text)


class Command(BaseCommand):
    help = "Makes a brand with products, prices, translations, pictures and pages, from a seed."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--products", type=count, default=300, metavar="N", help="how many (default: 300)")
        parser.add_argument("--name", default="Ember & Oak", help="the brand's name (default: Ember & Oak)")
        parser.add_argument("--slug", help="default: made from the name")
        parser.add_argument("--domain", help="default: the slug below .example")
        parser.add_argument("--palette", choices=sorted(PRESETS), default="ember", help="its colours (default: ember)")
        parser.add_argument("--seed", help="the same seed makes the same brand (default: the slug)")
        parser.add_argument("--if-empty", action="store_true", help="do nothing where a brand exists already")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["if_empty"] and Brand.objects.exists():
            self.stdout.write("there are brands already; none was made")
            return
        began = time.perf_counter()
        try:
            name = valid_name(options["name"])
            slug = valid_slug(options["slug"] or slugify(name))
            brand = seed_brand(
                name=name,
                slug=slug,
                domain=valid_domain(options["domain"] or f"{slug}.example"),
                palette=PRESETS[options["palette"]],
                products=options["products"],
                seed=options["seed"] or slug,
            )
        except MsgwebError as error:
            raise CommandError(error.message) from error
        seconds = time.perf_counter() - began
        self.stdout.write(f"made brand {brand.slug} with {options['products']} products in {seconds:.1f} s")
