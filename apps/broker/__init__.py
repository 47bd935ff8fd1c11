"""Queues and topics: the Engine protocol and the engine on Postgres. Nobody outside this folder knows its tables."""
