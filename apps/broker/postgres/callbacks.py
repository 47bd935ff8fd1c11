"""Calling code that is not ours."""

import logging
from collections.abc import Callable
from typing import ParamSpec

P = ParamSpec("P")

logger = logging.getLogger(__name__)


def guarded(callback: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
    """Call back; an error in there is its owner's, is logged, and must not end what carries everybody's messages."""
    try:
        callback(*args, **kwargs)
    except Exception:
        logger.exception("a callback failed: %r", callback)
