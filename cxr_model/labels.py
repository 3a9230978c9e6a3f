"""Which films a folder holds and which class each belongs to: by folder names or by a table."""

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

import pandas as pd

from cxr_model.data_config import LabelConfig, default_patterns
from cxr_model.errors import DataError

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".dcm", ".dicom"}
)
_NUM_SHOWN = 5


@dataclass(frozen=True, order=True)
class Film:
    path: str
    """Relative to the data's root, with forward slashes."""
    label: str
    subclass: str
    """Name of the folder that gave the label; empty where a table did."""


def find_films(
    root: Path, config: LabelConfig, *, every_class: bool = True
) -> tuple[list[Film], list[str]]:
    """The films below ``root`` sorted by path, and the classes in the order of output units.

    Hidden files and folders and those named by ``config.ignore`` are left out, and with
    ``config.mode="csv"`` all that the table does not list. Raises
    DataError where a film has no class or two and, if ``every_class`` is wanted, where a class
    has no film or there is one class only: to train on, not to look at or to measure on.
    """
    if not root.is_dir():
        raise DataError(f"{root}: is no folder; name a folder that holds the films of each class")
    paths = sorted(image_paths(root, config.ignore))
    if not paths:
        raise DataError(
            f"{root}: holds no image file ({', '.join(sorted(IMAGE_SUFFIXES))}); "
            "name the folder that holds the films"
        )
    for path in paths:
        if path.encode(errors="replace").decode() != path:
            raise DataError(f"{root}: file name {path!r} is not UTF-8; rename the file")
    if config.mode == "csv":
        films = _label_by_table(root, paths, config)
    else:
        films = _label_by_folder(root, paths, config, every_class=every_class)
    if config.mode != "patterns":
        films = [film for film in films if film.label not in config.drop]
    classes = order_classes((film.label for film in films), config)
    if not films:
        remedy = "labels.drop leaves no film; name fewer classes"
        if config.mode == "csv" and not config.drop:
            remedy = (
                f"every label holds labels.separator={config.separator!r} and counts as several; "
                "set another separator"
            )
        raise DataError(f"{root}: {remedy}")
    if every_class and len(classes) < 2:
        raise DataError(
            f"{root}: all {len(films)} films are of one class, {classes[0]!r}, and a classifier "
            "needs two or more; add films of another class or change labels.mode"
        )
    return films, classes


def order_classes(labels: Iterable[str], config: LabelConfig) -> list[str]:
    """Classes in the order of output units: the default ones first, as they stand, then by name.

    The order of ``config.patterns`` says nothing: it travels as the parameter of a flow run, and
    a database may keep that as JSON of its own order (PostgreSQL: by length of the names).
    """
    names = set(config.patterns if config.mode == "patterns" else labels)
    return [*(name for name in default_patterns() if name in names),
            *sorted(names.difference(default_patterns()))]  # fmt: skip


def image_paths(root: Path, ignore: Sequence[str]) -> Iterator[str]:
    """Image files below ``root``, relative to it; none that is hidden or in an ignored folder."""
    for path in visible_files(root, ignore):
        if is_image_path(path.name, ignore):
            yield path.relative_to(root).as_posix()


def visible_files(root: Path, ignore: Sequence[str] = ()) -> Iterator[Path]:
    """Files below ``root``, also behind links; none that is hidden or in an ignored folder."""
    # Links are followed: image sets too big for one disk are often put together from them.
    for parent, folders, names in os.walk(root, followlinks=True):
        here = Path(parent)
        folders[:] = [
            name for name in folders if not (_is_left_out(name, ignore) or _leads_back(here / name))
        ]
        yield from (here / name for name in names if not name.startswith("."))


def is_image_path(path: str, ignore: Sequence[str]) -> bool:
    """Whether ``image_paths`` would name this relative path, if it were a file's on disk."""
    *folders, name = PurePosixPath(path).parts or ("",)
    left_out = any(_is_left_out(folder, ignore) for folder in folders)
    return not left_out and PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES and name[0] != "."


def _is_left_out(folder: str, ignore: Sequence[str]) -> bool:
    return folder.startswith(".") or _matches(folder, ignore)


def _leads_back(folder: Path) -> bool:
    return folder.is_symlink() and folder.parent.resolve().is_relative_to(folder.resolve())


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name.lower(), pattern.lower()) for pattern in patterns)


def _label_by_folder(
    root: Path, paths: list[str], config: LabelConfig, *, every_class: bool
) -> list[Film]:
    num_films = Counter(str(PurePosixPath(path).parent) for path in paths)
    named = {folder: _class_of(root, folder, list(num_films), config) for folder in num_films}
    if every_class and config.mode == "patterns":
        found = {label for label, _ in named.values()}
        for label in config.patterns:
            if label not in found:
                raise DataError(
                    f"{root}: has no folder for class {label!r} {_folders_found(num_films)}; "
                    f"set labels.{label}=PATTERN, or labels.{label}=none to drop the class"
                )
    return [Film(path, *named[str(PurePosixPath(path).parent)]) for path in paths]


def _class_of(root: Path, folder: str, found: list[str], config: LabelConfig) -> tuple[str, str]:
    """Class and sub-class of the films that lie directly in ``folder``."""
    if folder == ".":
        raise DataError(
            f"{root}: films lie outside of any class folder {_folders_found(found)}; "
            "move each into a folder named after its class, or list them: labels=FILE.csv"
        )
    deepest_first = PurePosixPath(folder).parts[::-1]
    if config.mode == "folders":
        return deepest_first[0], deepest_first[0]
    for name in deepest_first:
        labels = [label for label, globs in config.patterns.items() if _matches(name, globs)]
        if len(labels) > 1:
            raise DataError(
                f"{root}: folder {name!r} matches the classes {_quoted(labels)}; narrow the "
                f"patterns labels.{labels[0]} and labels.{labels[1]}"
            )
        if labels:
            return labels[0], name
    raise DataError(
        f"{root}: folder {folder!r} matches no class {_folders_found(found)}; set "
        f"labels.CLASS=PATTERN ({', '.join(config.patterns)}), add it to labels.ignore, "
        "or set labels.mode=folders"
    )


def _folders_found(folders: Iterable[str]) -> str:
    return f"(folders with films: {_quoted(sorted(folders))})"


def _quoted(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:_NUM_SHOWN])
    return shown if len(names) <= _NUM_SHOWN else f"{shown} and {len(names) - _NUM_SHOWN} more"


def _label_by_table(root: Path, paths: list[str], config: LabelConfig) -> list[Film]:
    file = root / config.csv
    table = _read_label_table(file, config)
    known = set(paths)
    by_name: defaultdict[str, list[str]] = defaultdict(list)
    for path in paths:
        by_name[PurePosixPath(path).name].append(path)
    labels: dict[str, str] = {}
    missing = []
    for listed, label in zip(table[config.path_column], table[config.label_column], strict=True):
        if config.separator and config.separator in label:
            continue
        path = PurePosixPath(listed).as_posix()
        # Tables as the NIH's name the bare file, wherever in the tree it lies.
        fitting = [path] if path in known else by_name.get(path, [])
        if len(fitting) != 1:
            missing.append(listed)
        elif not label or labels.setdefault(fitting[0], label) != label:
            raise DataError(
                f"{file}: film {listed!r} has no label or two; "
                f"give it one value in column {config.label_column!r}"
            )
    if missing:
        raise DataError(
            f"{file}: {len(missing)} of {len(table)} films are not below {root}, or several bear "
            f"the name ({_quoted(missing)}); correct column {config.path_column!r}"
        )
    return sorted(Film(path, label, "") for path, label in labels.items())


def _read_label_table(file: Path, config: LabelConfig) -> pd.DataFrame:
    try:
        table = pd.read_csv(file, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:  # pandas' parser errors are ValueErrors
        raise DataError(f"{file}: cannot be read as CSV ({error}); set labels.csv") from error
    for setting in ("path_column", "label_column"):
        name = getattr(config, setting)
        if name not in table.columns:
            raise DataError(
                f"{file}: has no column {name!r} (columns: {_quoted(list(table.columns))}); "
                f"set labels.{setting}"
            )
    if table.empty:
        raise DataError(f"{file}: lists no film; set labels.csv to the table of films and labels")
    return table
