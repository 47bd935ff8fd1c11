"""Whether the other end of a socket is gone."""

import select


def hung_up(descriptor: int) -> bool:
    """Whether a socket's other end is closed or broken; what came before may still be there to be read.

    For readers that an event loop calls and that read only a part each time: uvloop calls them once more when a
    connection was reset (POLLERR), and never again, however much is left.
    """
    poll = select.poll()
    poll.register(descriptor, 0)  # errors and hang-ups are told in any case
    return bool(poll.poll(0))
