"""The Django project: settings, urls, ASGI, errors, and the launcher behind `make run`.

`msgweb.errors`, `msgweb.home` and `msgweb.database` may be imported from anywhere; nothing else here may be.
"""

__version__ = "0.1.0"
