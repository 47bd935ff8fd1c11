"""The STOMP gateway: one asyncio protocol a connection on top of the sans-I/O core, one Engine behind all of them.

`server` listens, `connections` is the conversation, `subscriptions`, `transactions`, `receipts`, `reply_queues` are
its parts, `errands` does what concerns jobs, `destinations` and `features` say what may be asked for, `ports` what
the gateway needs of others. It knows the broker by `apps.broker.engine` alone. `access` (Django) and `processes` are
for `manage.py runstomp`.
"""
