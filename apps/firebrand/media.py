"""Media files on disk: written so that a file is either whole or not there, and copied with proof.

A file is written under a temporary name beside its place, synced, and renamed; `sync_folder` then makes the names
durable. So a crash leaves whole files and temporary ones (`.*.part`), which nobody reads and `sweep` removes.
"""

import hashlib
import os
import shutil
from pathlib import Path, PurePosixPath

from apps.firebrand.errors import MediaDamaged
from apps.firebrand.models import Brand, MediaFile

PART = ".part"
BLOCK = 1024 * 1024  # bytes read at a time


def checksum(data: bytes) -> str:
    """SHA-256, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def path_in(brand: Brand, *parts: str) -> str:
    """The path, relative to MEDIA_ROOT, of a file of that brand."""
    return str(PurePosixPath("firebrand", brand.slug, *parts))


def path_in_clone(source: Brand, target: Brand, path: str) -> str:
    """Where the clone keeps its copy of the source's file at `path`."""
    return path_in(target, str(PurePosixPath(path).relative_to(path_in(source))))


def write(file: Path, data: bytes) -> None:
    """Put a file in its place, whole or not at all; not synced."""
    part = _part(file)
    part.write_bytes(data)
    part.replace(file)


def _part(file: Path) -> Path:
    return file.with_name(f".{file.name}{PART}")


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def verify(media: MediaFile) -> None:
    """Whether a file is there and has the size and the checksum on record.

    Raises:
        MediaDamaged: it is missing, or its bytes are others.
    """
    try:
        with media.file.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
            size = stream.tell()
    except FileNotFoundError:
        raise MediaDamaged(f"media file {media.path} is missing") from None
    _compare(media, size, found)


def _compare(media: MediaFile, size: int, found: str) -> None:
    if size != media.size or found != media.sha256:
        raise MediaDamaged(
            f"media file {media.path} is damaged: it has {size} bytes and the checksum {found[:12]}…, "
            f"on record are {media.size} bytes and {media.sha256[:12]}…"
        )


def copy(source: MediaFile, target: MediaFile) -> None:
    """Copy a file, block by block, and prove the copy by its checksum, read back from the file system.

    The copy's folder must be there, and be synced by the caller once all its copies are made.

    Raises:
        MediaDamaged: the source is missing or damaged, or the copy is not like it.
    """
    digest, size = hashlib.sha256(), 0
    part = _part(target.file)
    try:
        with source.file.open("rb") as original, part.open("wb") as duplicate:
            while block := original.read(BLOCK):
                digest.update(block)
                size += duplicate.write(block)
            _compare(source, size, digest.hexdigest())
            duplicate.flush()
            os.fsync(duplicate.fileno())
    except FileNotFoundError as error:
        if error.filename != str(source.file):
            raise
        raise MediaDamaged(f"media file {source.path} is missing") from None
    part.replace(target.file)
    verify(target)


def make_folder(folder: Path) -> None:
    """Make a folder with its parents, each name durable."""
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for new in reversed(missing):
        new.mkdir(exist_ok=True)
        sync_folder(new.parent)


def sweep(brand: Brand, keep: set[str]) -> int:
    """Remove from the brand's folder whatever is not among `keep` (paths relative to MEDIA_ROOT); how many files."""
    removed = 0
    kept = {str(PurePosixPath(path).relative_to(path_in(brand))) for path in keep}
    for folder, _, names in os.walk(brand.folder):
        for name in names:
            file = Path(folder, name)
            if file.relative_to(brand.folder).as_posix() not in kept:
                file.unlink()
                removed += 1
    return removed


def remove_folder(brand: Brand) -> None:
    """Remove all files of a brand; none there is no error."""
    if brand.folder.exists():
        shutil.rmtree(brand.folder)
