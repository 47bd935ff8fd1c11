"""The STOMP gateway: a sans-I/O protocol core and the server around it, which knows the broker by its Engine alone."""
