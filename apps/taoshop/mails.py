"""The customer's confirmation, made from an announcement alone: the mailer may run where there is no database."""

from collections.abc import Mapping
from typing import Any

from django.core.mail import EmailMessage

SENDER = "Taoshop <orders@taoshop.example>"


def confirmation(order: Mapping[str, Any]) -> EmailMessage:
    """The mail that says what was ordered.

    Raises:
        KeyError: the announcement lacks something.
    """
    lines = "\n".join(f"  {line['quantity']:3} x {line['title']:<28} {line['total']:>10}" for line in order["lines"])
    text = (
        f"Dear {order['name']},\n\n"
        f"thank you for your order {order['number']}:\n\n"
        f"{lines}\n\n"
        f"  {'Total':<34} {order['total']:>10}\n\n"
        "It leaves our warehouse within a day.\n\nTaoshop\n"
    )
    return EmailMessage(
        subject=f"Your order {order['number']}",
        body=text,
        from_email=SENDER,
        to=[order["email"]],
        # The same order announced twice makes the same id, by which mail programs drop the second.
        headers={"Message-ID": f"<order-{order['number']}@taoshop.example>"},
    )
