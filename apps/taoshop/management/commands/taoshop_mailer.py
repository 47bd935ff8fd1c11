"""Mail a confirmation for each new order: `manage.py taoshop_mailer`."""

import os
import signal
from dataclasses import replace
from typing import Any

from django.conf import global_settings, settings
from django.core.mail import get_connection
from django.core.management.base import BaseCommand, CommandError, CommandParser

from apps.messaging import BadCredentials, Credentials, Message, Messaging, MessagingError
from apps.taoshop import announcement, mails

CONSOLE = "django.core.mail.backends.console.EmailBackend"
FILES = "django.core.mail.backends.filebased.EmailBackend"


class Command(BaseCommand):
    """Listens to `orders.new` through the Messaging API, like any program outside Django would."""

    help = "Mail a confirmation for each new order, until SIGTERM or Ctrl-C."

    def add_arguments(self, parser: CommandParser) -> None:
        """See --help."""
        parser.add_argument("--limit", type=int, help="end after so many orders")
        parser.add_argument("--folder", help="write the mails into this folder instead")

    def handle(self, *args: Any, **options: Any) -> None:
        """Do it."""
        if options["folder"]:
            self.backend = get_connection(FILES, file_path=options["folder"])
        else:
            # Django's own default is an SMTP server on this host, which a newcomer has not got.
            chosen = settings.EMAIL_BACKEND
            self.backend = get_connection(CONSOLE if chosen == global_settings.EMAIL_BACKEND else chosen)
        try:
            found = Credentials.from_environment({"MSGWEB_HOME": str(settings.MSGWEB_HOME), **os.environ})
        except BadCredentials as error:
            raise CommandError(error.message) from error
        given = replace(found, namespace=announcement.namespace())
        messaging = Messaging(given.host, given.port, given.login, given.passcode, given.namespace)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: messaging.stop())
        try:
            with messaging:
                messaging.on(f"/topic/{announcement.TOPIC}", self.mail)
                self.stdout.write("the mailer listens")
                self.stdout.flush()
                messaging.run(limit=options["limit"])
        except MessagingError as error:
            raise CommandError(f"{error.code}: {error.message}") from error

    def mail(self, message: Message) -> None:
        """Confirm one order."""
        self.backend.send_messages([mails.confirmation(message.body)])
        self.stdout.write(f"confirmed order {message.body['number']} to {message.body['email']}")
        self.stdout.flush()
