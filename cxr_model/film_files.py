"""Film files to predict, wherever they lie: listed at once, each read when its turn comes."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from zipfile import ZipFile, is_zipfile

from cxr_model.archive import ZIP_DAMAGE, checked_members
from cxr_model.data_config import LabelConfig
from cxr_model.errors import DataError, SourceError
from cxr_model.labels import IMAGE_SUFFIXES, image_paths, is_image_path

_MAX_BYTES = 512 * 2**20  # the largest film that decodes, uncompressed at 16 bits, has 180 MB
_IGNORE = tuple(LabelConfig().ignore)


@dataclass(frozen=True, slots=True)
class FilmFile:
    """Small, as there may be a million of them: the reader is shared by films of one source."""

    name: str
    """As its source was named by the user; no two films of a run have the same."""
    key: str
    """What ``reader`` knows it by."""
    reader: Callable[[str], bytes]
    """Called from several threads. DataError or OSError is this film's fault alone."""

    def read(self) -> bytes:
        return self.reader(self.key)


def is_film(path: str) -> bool:
    """Whether a relative path in a folder, an archive or a bucket is taken for a film's.

    As in training, hidden files and folders named ``mask*`` are left out.
    """
    return is_image_path(path, _IGNORE)


@contextmanager
def open_films(source: str) -> Iterator[list[FilmFile]]:
    """Films of a file, a folder and all below it, a zip archive, or a pattern of such, sorted.

    A file that is named or matched is a film whatever its suffix; in folders and archives the
    suffix tells. Members of archives are read inside the block without unpacking the rest.
    Raises DataError for a source without a film, SourceError for an archive that
    `cxr_model.archive.checked_members` refuses.
    """
    # A file may well have brackets in its name: it comes before the pattern.
    paths = [source] if Path(source).exists() else sorted(glob(source, recursive=True))
    with ExitStack() as stack:
        films = [film for path in paths for film in _films_at(Path(path), stack)]
        if not films:
            reason = "holds no image file" if paths else "does not exist, nor does a file match it"
            raise DataError(
                f"{source}: {reason}; name films ({', '.join(sorted(IMAGE_SUFFIXES))}), a folder, "
                "a zip archive, a pattern or s3://bucket/prefix"
            )
        yield films


def distinct_films(sources: Iterable[Iterable[FilmFile]]) -> list[FilmFile]:
    """The films of all sources in order; one that several sources name stands there once."""
    films: dict[str, FilmFile] = {}
    for source in sources:
        for film in source:
            films.setdefault(film.name, film)
    return list(films.values())


def check_film_size(num_bytes: int) -> None:
    """Raise DataError for a file that is too large to be read into memory as one film."""
    if num_bytes > _MAX_BYTES:
        raise DataError(f"{num_bytes / 1e9:.1f} GB are no radiograph's")


def _films_at(path: Path, stack: ExitStack) -> list[FilmFile]:
    if path.is_dir():
        found = (str(path / name) for name in sorted(image_paths(path, _IGNORE)))
        return [FilmFile(_utf8(name), name, _read_file) for name in found]
    if path.suffix.lower() == ".zip":
        return _members(path, stack)
    return [FilmFile(_utf8(str(path)), str(path), _read_file)]


def _members(archive: Path, stack: ExitStack) -> list[FilmFile]:
    if not is_zipfile(archive):
        raise SourceError(f"{archive}: is no zip archive; fetch or pack it again")
    try:
        file = stack.enter_context(ZipFile(archive))
        members = checked_members(archive, file)  # read one by one: however many there are
    except ZIP_DAMAGE as error:
        raise SourceError(f"{archive}: is damaged ({error}); fetch or pack it again") from error
    infos = {str(path): member for path, member in members.items() if is_film(str(path))}

    def read(path: str) -> bytes:
        check_film_size(infos[path].file_size)
        try:
            return file.read(infos[path])
        except ZIP_DAMAGE as error:
            raise DataError(f"damaged in the archive: {error}") from error

    return [FilmFile(_utf8(f"{archive}/{path}"), path, read) for path in sorted(infos)]


def _read_file(name: str) -> bytes:
    path = Path(name)
    check_film_size(path.stat().st_size)
    return path.read_bytes()


def _utf8(name: str) -> str:
    """File names need not be text; tables must be."""
    return name.encode(errors="backslashreplace").decode()
