"""The clone of a brand: a long job that may be killed at any point and ends with the same result.

The work is cut into steps (`STEPS`), which the job keeps (`context.step`), and a step into chunks. A chunk is one
transaction: it locks the run, checks that this attempt is still the job's newest, copies some rows or files, and writes
down how far it came (`CloneRun.step`, `cursor`, counters). So a worker that dies loses at most the chunk it was in, the
next attempt goes on behind the last one that was committed, and an attempt that was taken for dead but lives is refused
at its next chunk.

Rows are mapped from source to clone by `source_id`, unique in a brand. Files are whole or not there (see `media`); a
file that was copied in a chunk which never committed is copied again, to the same name and with the same bytes.

The clone stays in the state `cloning` until the last chunk, which makes it active and writes the report. It belongs to
its run, and its run to the job, one to one: a job makes one brand, however often it is begun.

Lock order: the run, then the brand's rows. Nobody else writes to a brand that is being cloned.
"""

import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar

from django.db import IntegrityError, connection, transaction
from django.db.models import Q
from django.utils import timezone

from apps.firebrand import media
from apps.firebrand.errors import BrandExists, CloneDiffers, MediaDamaged, Superseded, UnknownBrand
from apps.firebrand.links import NOWHERE, CloneRewriter, mentions, references
from apps.firebrand.models import Brand, BrandSetting, Category, CloneRun, MediaFile, Page, Product, Template
from apps.firebrand.palettes import merged
from apps.firebrand.requests import CloneRequest
from apps.firebrand.sql import COPY, REMOVE, VERIFY
from apps.jobs import JobCancelled
from apps.jobs.models import Job

FILES_SECONDS = 0.08  # a chunk of files ends after this, so that the bar moves however slow the disk is
DONE = "done"
CANCELLED = "cancelled"

Report = dict[str, Any]
R = TypeVar("R")


class Context(Protocol):
    """What a clone needs of its job; `apps.jobs.JobContext` has it."""

    job_id: uuid.UUID
    attempt: int

    def progress(self, done: int, total: int, text: str = "") -> None: ...

    def log(self, text: object, level: str = "info") -> None: ...

    def checkpoint(self) -> None: ...

    def step(self, name: str, work: Callable[..., R], *args: Any) -> R: ...

    def forget_steps(self) -> None: ...

    def shield(self) -> AbstractContextManager[None]: ...


class Chunk(NamedTuple):
    """What a chunk did.

    Attributes:
        rows: how many of the source's rows are behind it.
        last: the cursor for the next chunk; None when there was nothing left.
    """

    rows: int
    last: int | None


@dataclass(frozen=True, slots=True)
class Step:
    """A part of the work.

    Attributes:
        name: what `CloneRun.step` holds.
        table: the name of its rows in the counts; they say how much there is to do.
        text: what the progress says is being done.
        size: rows in a chunk at most; some tens of milliseconds of work.
        weight: units of progress for a row: its cost, beside that of a row copied in SQL.
        counts: whether its rows are in the report's counts.
    """

    name: str
    table: str
    text: str
    size: int
    weight: int
    copy: "Callable[[Clone, CloneRun, int], Chunk]"
    counts: bool = True


def counts(brand: Brand) -> dict[str, int]:
    """Rows by table."""
    return _row(VERIFY["counts"], {"brand": brand.pk})


def _row(sql: str, parameters: dict[str, int]) -> dict[str, int]:
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        names = [column.name for column in cursor.description]
        return dict(zip(names, cursor.fetchone(), strict=True))


def clone_brand(context: Context, request: CloneRequest) -> Report:
    """Make the clone that the job asks for, or go on with it; the job's result.

    Raises:
        UnknownBrand: the source does not exist or is not active.
        BrandExists: another brand has the slug or the domain.
        MediaDamaged: a source file is not what the record says; a later attempt goes on.
        CloneDiffers: the source was changed meanwhile.
        Superseded: a newer attempt has begun.
        JobCancelled: the job was cancelled; whatever had been made is removed.
    """
    return Clone(context, request).run()


class Clone:
    """One attempt at a clone."""

    def __init__(self, context: Context, request: CloneRequest) -> None:
        self._context = context
        self._request = request
        self._source = Brand()
        self._target = Brand()
        self._available: dict[str, int] = {}
        self._mark = time.monotonic()

    def run(self) -> Report:
        remove_leftovers(self._request.slug, self._request.domain, except_job=self._context.job_id)
        run = self._begin()
        if run.report is not None:
            return dict(run.report)
        try:
            self._tell_start(run)
            for step in STEPS.values():
                self._context.step(step.name, self._finish, step)
        except JobCancelled:
            self._undo()
            raise
        except Superseded:
            raise
        except Exception:
            self._mark_failed()
            raise
        run.refresh_from_db()
        report: Report = dict(run.report or {})
        with self._context.shield():  # the brand is there: too late to cancel
            self._context.progress(run.total, run.total, f"{self._target.name} is ready")
            self._context.log(
                f"{self._target.name} is ready: {sum(report['rows'].values()):,} rows and {report['files']:,} files "
                f"in {report['seconds']:.1f} s of work"
            )
        return report

    # Beginning

    def _begin(self) -> CloneRun:
        """Take the run over, or make it together with its brand."""
        request = self._request
        with transaction.atomic():
            source = Brand.objects.filter(slug=request.brand, state=Brand.State.ACTIVE).first()
            if source is None:
                raise UnknownBrand(f"there is no active brand {request.brand[:80]!r} to clone")
            first = next(iter(STEPS))
            CloneRun.objects.get_or_create(
                job_id=self._context.job_id, defaults={"source": source, "attempt": 0, "step": first}
            )
            run = CloneRun.objects.select_for_update().get(job_id=self._context.job_id)
            if self._context.attempt <= run.attempt:
                raise Superseded(f"attempt {run.attempt} of job {run.job_id} has begun already")
            self._source = source
            self._available = counts(source)
            if run.target_id is None:
                self._target = self._make_target()
                self._context.forget_steps()
                run.target = self._target
                run.step, run.cursor, run.done, run.report, run.finished_at = first, 0, 0, None, None
                run.counters = {"rows": {}, "here": 0, "bytes": 0, "links": 0, "names": 0, "colours": 0, "nowhere": 0}
                run.total = sum(step.weight * self._available[step.table] for step in STEPS.values())
                # A folder of that slug belongs to nobody: what is in it was left by a clone that was removed.
                media.remove_folder(self._target)
            else:
                self._target = Brand.objects.get(pk=run.target_id)
                if run.report is None:
                    Brand.objects.filter(clone_run=run).update(state=Brand.State.CLONING)
            run.attempt = self._context.attempt
            run.save()
        return run

    def _make_target(self) -> Brand:
        request = self._request
        target = Brand(
            slug=request.slug,
            name=request.name,
            domain=request.domain,
            palette=merged(self._source.palette, request.changes),
            state=Brand.State.CLONING,
            cloned_from=self._source,
        )
        try:
            with transaction.atomic():
                target.save()
        except IntegrityError:
            raise BrandExists(
                f"a brand with the slug {request.slug} or the domain {request.domain} exists already"
            ) from None
        return target

    def _tell_start(self, run: CloneRun) -> None:
        if run.done:
            step = STEPS[run.step]
            self._context.log(f"attempt {run.attempt} goes on at: {self._text(step, run)}")
        else:
            self._context.log(
                f"cloning {self._source.name} ({self._source.domain}) as {self._target.name} ({self._target.domain}): "
                + ", ".join(f"{count:,} {table.replace('_', ' ')}" for table, count in self._available.items())
            )
        self._context.progress(run.done, run.total, self._text(STEPS[run.step], run))

    # Going on

    @contextmanager
    def _locked(self) -> Iterator[CloneRun]:
        """A transaction in which this attempt, and no other, may write.

        Raises:
            Superseded: a newer attempt has begun, or the brand was removed.
        """
        with transaction.atomic():
            run = CloneRun.objects.select_for_update().filter(job_id=self._context.job_id).first()
            if run is None or run.attempt != self._context.attempt or run.target_id is None:
                raise Superseded(f"job {self._context.job_id} is no longer attempt {self._context.attempt}'s")
            yield run
            now = time.monotonic()
            run.seconds += now - self._mark
            run.save()
        self._mark = now

    def _finish(self, step: Step) -> int:
        """Do what is left of a step; how many rows it has. Nothing is left if an attempt died right behind its end."""
        run = CloneRun.objects.get(job_id=self._context.job_id)
        while run.step == step.name:
            self._context.checkpoint()
            run = self._advance(step)
        return self._available[step.table]

    def _advance(self, step: Step) -> CloneRun:
        """Do one chunk of a step and say so."""
        with self._locked() as run:
            if run.step != step.name:
                raise Superseded(f"job {run.job_id} is at {run.step}, not at {step.name}")
            try:
                chunk = step.copy(self, run, step.size)
            except IntegrityError as error:
                raise CloneDiffers(f"a row of {step.table} refers to nothing of {self._source.name}'s own") from error
            here = run.counters["here"] + chunk.rows
            run.counters["here"] = here
            if step.counts:
                run.counters["rows"][step.table] = here
            run.done += chunk.rows * step.weight
            text = self._text(step, run)
            if chunk.last is None:
                run.step, run.cursor, run.counters["here"] = following(step.name), 0, 0
                if run.step == DONE:
                    self._activate(run)
            else:
                run.cursor = chunk.last
        self._context.progress(min(run.done, run.total), run.total, text)
        if run.step != step.name and here:
            self._context.log(f"{step.text}: {here:,} done")
        return run

    def _text(self, step: Step, run: CloneRun) -> str:
        return f"{step.text} {run.counters['here']:,} of {self._available[step.table]:,}"

    def _activate(self, run: CloneRun) -> None:
        """Write the report and show the brand, in the transaction of the last chunk."""
        changed = {key: run.counters[key] for key in ("links", "names", "colours")}
        palette = {
            role: [self._source.palette.get(role), colour]
            for role, colour in self._target.palette.items()
            if self._source.palette.get(role) != colour
        }
        run.finished_at = timezone.now()
        run.report = {
            "brand": self._target.slug,
            "source": self._source.slug,
            "rows": run.counters["rows"],
            "files": run.counters["rows"]["media_files"],
            "bytes": run.counters["bytes"],
            "seconds": round(run.seconds + time.monotonic() - self._mark, 3),
            "attempts": run.attempt,
            "changed": {
                "name": [self._source.name, self._target.name],
                "domain": [self._source.domain, self._target.domain],
                "palette": palette,
                **changed,
                "links_to_nowhere": run.counters["nowhere"],
            },
        }
        Brand.objects.filter(clone_run=run).update(state=Brand.State.ACTIVE)

    # Ending otherwise

    def _undo(self) -> None:
        with self._locked() as run:
            remove_brand(self._target)
            run.target = None
            run.step, run.finished_at = CANCELLED, timezone.now()
        self._context.log("cancelled: what had been made was removed")

    def _mark_failed(self) -> None:
        with self._locked() as run:
            Brand.objects.filter(clone_run=run).update(state=Brand.State.FAILED)

    # The steps

    def _copy_in_sql(self, run: CloneRun, size: int) -> Chunk:
        parameters = {"source": run.source_id, "target": run.target_id, "cursor": run.cursor, "size": size}
        with connection.cursor() as cursor:
            cursor.execute(COPY[run.step], parameters)
            read, written, last = cursor.fetchone()
        if written != read:
            raise CloneDiffers(f"{read - written} rows of {run.step} found no place in the copy")
        return Chunk(read, last)

    def _copy_media(self, run: CloneRun, size: int) -> Chunk:
        rewriter = self._rewriter()
        began = time.monotonic()
        copies: list[MediaFile] = []
        for original in MediaFile.objects.filter(brand=self._source, pk__gt=run.cursor).order_by("pk")[:size]:
            duplicate = MediaFile(
                brand=self._target,
                source_id=original.pk,
                path=media.path_in_clone(self._source, self._target, original.path),
                sha256=original.sha256,
                size=original.size,
                kind=original.kind,
                alt=rewriter.plain(original.alt),
            )
            media.make_folder(duplicate.file.parent)
            media.copy(original, duplicate)
            copies.append(duplicate)
            if time.monotonic() - began > FILES_SECONDS:
                break
        for folder in {duplicate.file.parent for duplicate in copies}:
            media.sync_folder(folder)
        MediaFile.objects.bulk_create(copies)
        run.counters["bytes"] += sum(duplicate.size for duplicate in copies)
        _count(run, rewriter)
        return Chunk(len(copies), copies[-1].source_id if copies else None)

    def _copy_templates(self, run: CloneRun, size: int) -> Chunk:
        originals = list(Template.objects.filter(brand=self._source, pk__gt=run.cursor).order_by("pk")[:size])
        rewriter = self._rewriter(*(template.content for template in originals))
        Template.objects.bulk_create(
            Template(
                brand=self._target,
                slug=template.slug,
                content=rewriter.css(template.content)
                if template.slug.endswith(".css")
                else rewriter.html(template.content),
            )
            for template in originals
        )
        _count(run, rewriter)
        return _chunk(originals)

    def _copy_pages(self, run: CloneRun, size: int) -> Chunk:
        originals = list(Page.objects.filter(brand=self._source, pk__gt=run.cursor).order_by("pk")[:size])
        rewriter = self._rewriter(*(page.html for page in originals))
        Page.objects.bulk_create(
            Page(
                brand=self._target,
                slug=page.slug,
                title=rewriter.plain(page.title),
                html=rewriter.html(page.html),
                position=page.position,
            )
            for page in originals
        )
        _count(run, rewriter)
        return _chunk(originals)

    def _copy_settings(self, run: CloneRun, size: int) -> Chunk:
        originals = list(BrandSetting.objects.filter(brand=self._source, pk__gt=run.cursor).order_by("pk")[:size])
        texts = [text for setting in originals for text in _texts(setting.value)]
        rewriter = self._rewriter(*texts)
        BrandSetting.objects.bulk_create(
            BrandSetting(brand=self._target, key=setting.key, value=rewriter.value(setting.value))
            for setting in originals
        )
        _count(run, rewriter)
        return _chunk(originals)

    def _rewriter(self, *documents: str) -> CloneRewriter:
        """A rewriter that knows what these documents refer to."""
        found = references(self._source.domain, *documents)
        originals = MediaFile.objects.filter(brand=self._source, path__in=found.media)
        paths = {original.pk: original.path for original in originals}
        return CloneRewriter(
            domains=(self._source.domain, self._target.domain),
            names=(self._source.name, self._target.name),
            palettes=(self._source.palette, self._target.palette),
            products=self._mapped(Product, found.products),
            categories=self._mapped(Category, found.categories),
            media={
                paths[copy.source_id]: copy.path
                for copy in MediaFile.objects.filter(brand=self._target, source_id__in=paths)
                if copy.source_id is not None
            },
        )

    def _mapped(self, model: type[Product] | type[Category], ids: set[int]) -> dict[int, int]:
        """The copies of these rows of the source, by the ids of the originals."""
        rows = model._default_manager.filter(brand=self._target, source_id__in=ids)
        return {source_id: pk for source_id, pk in rows.values_list("source_id", "pk") if source_id is not None}

    def _verify_rows(self, run: CloneRun, size: int) -> Chunk:
        """Counts, references, the tree, and what the few rows of templates and settings say."""
        source, target = counts(self._source), counts(self._target)
        wrong = [
            f"{target[table]:,} {table} of {source[table]:,}" for table in source if source[table] != target[table]
        ]
        strays = _row(VERIFY["strays"], {"brand": self._target.pk})
        wrong += [f"{count:,} {table} that refer to another brand" for table, count in strays.items() if count]
        lost = _row(VERIFY["lost_parents"], {"source": run.source_id, "target": self._target.pk})["count"]
        wrong += [f"{lost:,} categories elsewhere in the tree"] if lost else []
        for template in Template.objects.filter(brand=self._target):
            wrong += self._faults(f"template {template.slug}", template.content)
        for setting in BrandSetting.objects.filter(brand=self._target):
            wrong += self._faults(f"setting {setting.key}", *_texts(setting.value))
        if wrong:
            raise CloneDiffers(f"the copy has {'; '.join(wrong[:5])}: was {self._source.name} changed meanwhile?")
        return Chunk(self._available["templates"], None)

    def _verify_files(self, run: CloneRun, size: int) -> Chunk:
        """Each file is there with its checksum; one that was lost since is copied again."""
        began = time.monotonic()
        rows, last = 0, None
        originals = MediaFile.objects.filter(brand=self._source)
        for duplicate in MediaFile.objects.filter(brand=self._target, pk__gt=run.cursor).order_by("pk")[:size]:
            try:
                media.verify(duplicate)
            except MediaDamaged as error:
                self._context.log(f"{error.message}; it is copied again", "warning")
                media.make_folder(duplicate.file.parent)
                media.copy(originals.get(pk=duplicate.source_id or 0), duplicate)
                media.sync_folder(duplicate.file.parent)
            rows, last = rows + 1, duplicate.pk
            if time.monotonic() - began > FILES_SECONDS:
                break
        if last is None:
            media.sweep(self._target, set(MediaFile.objects.filter(brand=self._target).values_list("path", flat=True)))
        return Chunk(rows, last)

    def _verify_pages(self, run: CloneRun, size: int) -> Chunk:
        pages = list(Page.objects.filter(brand=self._target, pk__gt=run.cursor).order_by("pk")[:size])
        wrong = [fault for page in pages for fault in self._faults(f"page {page.slug}", page.title, page.html)]
        if wrong:
            raise CloneDiffers(f"the copy has {'; '.join(wrong[:5])}")
        return Chunk(len(pages), pages[-1].pk if pages else None)

    def _faults(self, where: str, *documents: str) -> list[str]:
        """Whether documents of the clone refer to anything that is not its own."""
        faults = [
            f"a mention of {host} in {where}"
            for document in documents
            for host in mentions(self._source.domain, document, except_below=self._target.domain)
        ]
        found = references(self._target.domain, *documents)
        strange: set[int | str] = set()
        if found.products:
            mine = Product.objects.filter(brand=self._target, pk__in=found.products)
            strange |= found.products - set(mine.values_list("pk", flat=True))
        if found.categories:
            shelves = Category.objects.filter(brand=self._target, pk__in=found.categories)
            strange |= found.categories - set(shelves.values_list("pk", flat=True))
        if paths := found.media - {str(NOWHERE)}:
            files = MediaFile.objects.filter(brand=self._target, path__in=paths)
            strange |= paths - set(files.values_list("path", flat=True))
        return faults + [f"a reference to {key} in {where}, which is not its own" for key in strange]


def _chunk(rows: Sequence[Template | Page | BrandSetting]) -> Chunk:
    return Chunk(len(rows), rows[-1].pk if rows else None)


def _texts(value: object) -> list[str]:
    """All texts in a JSON value."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [text for item in value for text in _texts(item)] if isinstance(value, list) else []


def _count(run: CloneRun, rewriter: CloneRewriter) -> None:
    for key in ("links", "names", "colours", "nowhere"):
        run.counters[key] += getattr(rewriter, key)


STEPS: dict[str, Step] = {
    step.name: step
    for step in (
        Step("categories", "categories", "categories", 250, 1, Clone._copy_in_sql),
        Step("category_parents", "categories", "tree of categories", 250, 1, Clone._copy_in_sql, counts=False),
        Step("products", "products", "products", 500, 1, Clone._copy_in_sql),
        Step("prices", "prices", "prices", 1000, 1, Clone._copy_in_sql),
        Step("translations", "translations", "translations", 1000, 1, Clone._copy_in_sql),
        Step("media", "media_files", "media files", 100, 40, Clone._copy_media),
        Step("images", "product_images", "product images", 1000, 1, Clone._copy_in_sql),
        Step("templates", "templates", "templates", 20, 5, Clone._copy_templates),
        Step("pages", "pages", "pages", 20, 30, Clone._copy_pages),
        Step("settings", "settings", "settings", 100, 2, Clone._copy_settings),
        Step("verify_rows", "templates", "checking templates", 1, 1, Clone._verify_rows, counts=False),
        Step("verify_files", "media_files", "checking files", 200, 4, Clone._verify_files, counts=False),
        Step("verify_pages", "pages", "checking pages", 20, 30, Clone._verify_pages, counts=False),
    )
}
_FOLLOWING = dict(zip(STEPS, [*list(STEPS)[1:], DONE], strict=True))


def following(step: str) -> str:
    """The step after a step."""
    return _FOLLOWING[step]


# Removing


def remove_brand(brand: Brand) -> None:
    """Remove a brand with all its rows and files, in the caller's transaction, which holds its run locked.

    The files go first: rows without files can be removed again, files without rows would be nobody's.
    """
    media.remove_folder(brand)
    with connection.cursor() as cursor:
        for sql in REMOVE.values():
            cursor.execute(sql, {"brand": brand.pk})
    brand.delete()


def remove_leftovers(slug: str, domain: str, *, except_job: uuid.UUID | None = None) -> list[str]:
    """Remove what stands in the way of a new brand though nobody works on it any more: the remains of clones whose
    jobs have ended without success. The slugs of what was removed.
    """
    removed = []
    taken = Brand.objects.filter(Q(slug=slug) | Q(domain=domain), clone_run__isnull=False)
    for brand in taken.exclude(state=Brand.State.ACTIVE):
        with transaction.atomic():
            run = CloneRun.objects.select_for_update().filter(target=brand).first()
            if run is None or run.job_id == except_job or run.report is not None or not is_over(run):
                continue
            remove_brand(brand)
            removed.append(brand.slug)
    return removed


def is_over(run: CloneRun) -> bool:
    """Whether the run's job has ended, or is gone."""
    job = Job.objects.filter(pk=run.job_id).first()
    return job is None or job.is_final
