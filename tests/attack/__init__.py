"""Clients that mean ill, or are broken, against a real gateway, and a customer beside them who wants service."""
