"""How the shop pages write figures."""

from decimal import Decimal

from django import template

from apps.firebrand.models import Price

register = template.Library()

_SIGNS = {"EUR": "€", "USD": "$", "GBP": "£"}


@register.filter
def thousands(number: int) -> str:
    """`5,000`."""
    return f"{number:,}"


@register.filter
def money(price: Price) -> str:
    """`€ 1,249.90`; the currency's letters where it has no sign here."""
    amount: Decimal = price.amount
    return f"{_SIGNS.get(price.currency, price.currency)} {amount:,.2f}"
