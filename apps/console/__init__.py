"""The web console, the status page for the person who waits, the health endpoints, and the event stream.

`events`, `feed`, `topics` and `tokens` are the live part: a plain ASGI application beside Django. Everything else is
ordinary Django views. Imported by `msgweb` alone; `tokens` may be imported by any app that shows a live page.
"""
