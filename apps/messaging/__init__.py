"""The Messaging API for Python programs: send, publish, request, on/run, over STOMP. A client: imports no server code."""
