"""The STOMP gateway: a sans-I/O protocol core and the server around it. Knows the broker by its Engine protocol only."""
