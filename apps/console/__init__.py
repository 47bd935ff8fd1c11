"""The web console, the status page for the person who waits, the health endpoints, and the event stream.

`events`, `feed`, `topics` and `tokens` are the live part: a plain ASGI application beside Django. Everything else is
ordinary Django views. Imported by `msgweb` alone, but for `tokens`, for any app that shows a live page, and `feed`, on
which the API's long poll stands.
"""
