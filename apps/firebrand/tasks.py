"""The tasks of this app."""

from typing import Any

from apps.firebrand import cloning
from apps.firebrand.requests import CloneRequest
from apps.jobs import JobContext, task


@task(name="firebrand.clone_brand", queue="firebrand", max_attempts=3)
def clone_brand(
    context: JobContext,
    *,
    brand: str,
    name: str,
    domain: str,
    slug: str | None = None,
    palette: dict[str, str] | None = None,
) -> dict[str, Any]:
    """Make a new brand out of an existing one. May be killed at any point: the next attempt goes on.

    Args:
        brand: the slug of the brand to clone.
        name: the new brand's name.
        domain: the new brand's domain; links are rewritten to it.
        slug: what it is called in addresses; made from the name unless given.
        palette: colours by role (see `palettes.ROLES`) that differ from the source's.

    Returns:
        The report: rows by table, files, bytes, seconds of work over all attempts, and what was changed.
    """
    request = CloneRequest.parse(brand=brand, name=name, domain=domain, slug=slug, palette=palette)
    return cloning.clone_brand(context, request)
