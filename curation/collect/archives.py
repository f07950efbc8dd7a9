"""The files in a folder or an archive, read one after another without unpacking it anywhere."""

import gzip
import io
import lzma
import os
import tarfile
import zipfile
import zlib
from calendar import timegm
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple

import zstandard

from configs.errors import UserError

ARCHIVES = (".deb", ".zip", ".whl", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")
BROKEN = (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError, zstandard.ZstdError, tarfile.TarError,
          zipfile.BadZipFile, ArithmeticError, NotImplementedError, RuntimeError)  # fmt: skip
"""What reading a damaged archive raises; RuntimeError for one with a password, ArithmeticError
for the time of a file that no calendar has."""
LARGEST = 32 << 20
"""Bytes of a file after decompression; one that is larger is refused before it fills the memory."""


class Member(NamedTuple):
    """One file of a source. `read` works until the next member is asked for."""

    path: str
    """Below the folder or in the archive, with `/`; the name of a file that is a source by itself."""
    changed: float
    """When, in seconds since 1970."""
    read: Callable[[], bytes]


def find_sources(paths: Sequence[Path]) -> list[Path]:
    """The named files, archives and folders, each folder before the archives in it. Raises UserError."""
    sources: dict[Path, None] = {}
    for path in paths:
        if not path.exists():
            raise UserError(f"no such file or folder: {path}")
        sources[path] = None
        if path.is_dir():
            sources |= dict.fromkeys(file for file in _files_in(path) if file.name.lower().endswith(ARCHIVES))
    return list(sources)


def members(source: Path) -> Iterator[Member]:
    """The regular files of a folder (sorted), of an archive (in its order), or the one file itself. Links are left out:
    what they lead to is a member of its own, or somebody else's. Raises one of `BROKEN`."""
    name = source.name.lower()
    if source.is_dir():
        for file_path in _files_in(source):
            relative = as_text(file_path.relative_to(source))
            yield Member(relative, file_path.stat().st_mtime, partial(_bounded, partial(open, file_path, "rb")))
    elif name.endswith((".zip", ".whl")):
        with zipfile.ZipFile(source) as archive:
            for packed in archive.infolist():
                if not packed.is_dir():
                    changed = timegm((*packed.date_time, 0, 0, 0))
                    yield Member(packed.filename, changed, partial(_bounded, partial(archive.open, packed)))
    elif name.endswith(ARCHIVES):
        with open(source, "rb") as file, _tar(file, name) as tar:
            for entry in tar:
                if entry.isfile():
                    path = entry.name.removeprefix("./")
                    yield Member(path, entry.mtime, partial(_bounded, partial(tar.extractfile, entry)))
    else:
        yield Member(source.name, source.stat().st_mtime, partial(_bounded, partial(open, source, "rb")))


def unpacked(data: bytes) -> bytes:
    """The content of a file that may be compressed by gzip, as manual pages are. Raises one of `BROKEN`."""
    return _bounded(partial(gzip.open, io.BytesIO(data))) if data.startswith(b"\x1f\x8b") else data


def as_text(path: Path | str) -> str:
    """A path, whose bytes need not be UTF-8."""
    return os.fsencode(path).decode(errors="backslashreplace")


def _files_in(folder: Path) -> Iterator[Path]:
    for root, folders, names in os.walk(folder):
        folders.sort()
        paths = (Path(root) / name for name in sorted(names))
        yield from (path for path in paths if path.is_file() and not path.is_symlink())


def _tar(file: IO[bytes], name: str) -> tarfile.TarFile:
    """The archive, read as a stream. That of a Debian package is a member of an `ar` archive: headers of 60 bytes, each
    with a name and, from byte 48 on, a size (deb(5), ar(5))."""
    if name.endswith(".deb"):
        if file.read(8) != b"!<arch>\n":
            raise tarfile.ReadError("not a Debian package")
        while not (header := file.read(60)).startswith(b"data.tar"):
            if len(header) < 60:
                raise tarfile.ReadError("a Debian package without its files")
            size = int(header[48:58])
            file.seek(size + size % 2, os.SEEK_CUR)
        name = header[:16].decode("ascii", "replace").strip(" /")
    if name.endswith(".zst"):
        return tarfile.open(fileobj=zstandard.ZstdDecompressor().stream_reader(file), mode="r|")
    return tarfile.open(fileobj=file, mode="r|*")


def _bounded(opened: Callable[[], Any]) -> bytes:
    with opened() as file:
        data = file.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise ValueError(f"larger than {LARGEST >> 20} MB")
    return data
