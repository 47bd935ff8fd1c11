"""Filters that say figures, ages and JSON the way the whole console says them."""

import json
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django import template
from django.utils import timezone

from apps.broker.catalogue import COUNT_LIMIT
from apps.console import charts

register = template.Library()
register.filter("figure", charts.figure)


@register.filter
def capped(number: int) -> str:
    """A count that stops at the catalogue's limit: `9,412`, and `10,000+` at the limit."""
    return f"{number:,}+" if number >= COUNT_LIMIT else f"{number:,}"


@register.filter
def seconds(value: float | timedelta | None) -> str:
    """A span of time in one unit: `340 ms`, `12 s`, `3 min`, `2 h`, `5 d`; empty for None."""
    if value is None:
        return ""
    span = value.total_seconds() if isinstance(value, timedelta) else float(value)
    if span < 1:
        return f"{max(0, round(span * 1000))} ms"
    if span < 10:
        return f"{span:.1f} s"
    return age(span)


@register.filter
def age(span: float) -> str:
    """Like `seconds`, in whole seconds at least; `age()` in static/js/page.js says it alike."""
    if span < 90:
        return f"{max(0, int(span))} s"
    if span < 5400:
        return f"{round(span / 60)} min"
    if span < 129600:
        return f"{round(span / 3600)} h"
    return f"{round(span / 86400)} d"


@register.filter
def ago(moment: datetime | None) -> str:
    """`12 s ago`."""
    return "" if moment is None else f"{age((timezone.now() - moment).total_seconds())} ago"


@register.filter
def since(moment: datetime) -> str:
    """How long ago, without the word `ago`."""
    return age((timezone.now() - moment).total_seconds())


@register.filter
def duration(run: Any) -> timedelta | None:
    """How long a job or an attempt took, or has taken until now; None when it has not begun."""
    if run.started_at is None:
        return None
    started: datetime = run.started_at
    ended: datetime | None = run.finished_at if hasattr(run, "finished_at") else run.ended_at
    return (ended or timezone.now()) - started


@register.filter
def grouped(number: int) -> str:
    """`12,345`."""
    return f"{number:,}"


@register.filter
def short_id(job_id: UUID) -> str:
    """The first eight digits of a job's id: enough for people to tell jobs apart."""
    return str(job_id)[:8]


@register.filter
def pretty(value: Any) -> str:
    """JSON for reading."""
    return json.dumps(value, indent=2, ensure_ascii=False, sort_keys=False, default=str)
