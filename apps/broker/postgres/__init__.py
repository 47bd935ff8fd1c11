"""The engine on Postgres. Only `PostgresEngine` is for others; the rest of the project knows the Engine protocol."""

from apps.broker.postgres.engine import PostgresEngine, new_process_name

__all__ = ["PostgresEngine", "new_process_name"]
