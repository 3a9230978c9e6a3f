"""What ``data.source`` may say, and an early check that it can be had."""

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from zipfile import is_zipfile

from cxr_model.config import RunConfig
from cxr_model.data_config import PhantomConfig
from cxr_model.errors import SourceError
from cxr_model.labels import find_films
from tasks.kaggle_source import KaggleSource, parse_kaggle_source, require_access

_FORMS = "phantom[:N], kaggle[:owner/slug[/version]], a folder, a .zip file or s3://bucket/prefix"


@dataclass(frozen=True)
class PhantomSource:
    num_films: int | None
    """None: as ``phantom.num_films`` says."""

    def config(self, phantom: PhantomConfig) -> PhantomConfig:
        """Raises ``ConfigError`` for too few films."""
        return phantom if self.num_films is None else replace(phantom, num_films=self.num_films)


@dataclass(frozen=True)
class FolderSource:
    path: Path


@dataclass(frozen=True)
class ZipSource:
    path: Path


@dataclass(frozen=True)
class BucketSource:
    uri: str


Source = PhantomSource | KaggleSource | FolderSource | ZipSource | BucketSource


def parse_source(text: str) -> Source:
    """Read ``data.source``; paths come back absolute and exist. Raises ``SourceError``."""
    if match := re.fullmatch(r"phantom(?::(\d+))?", text, re.ASCII):
        return PhantomSource(int(match[1]) if match[1] else None)
    if text.startswith("phantom:"):
        raise SourceError(f"data.source={text!r}: N in phantom:N is a number of films")
    if text == "kaggle" or text.startswith("kaggle:"):
        return parse_kaggle_source(text)
    if re.match("s3://[^/]", text):
        return BucketSource(text)
    path = Path(os.path.abspath(Path(text).expanduser()))  # without '..', links as they are
    if path.is_dir():
        return FolderSource(path)
    if not path.exists():
        raise SourceError(f"data.source={text!r}: does not exist; use {_FORMS}")
    if path.suffix.lower() != ".zip" or not is_zipfile(path):
        raise SourceError(f"data.source={text!r}: is a file but no zip archive; use {_FORMS}")
    return ZipSource(path)


def check_source(config: RunConfig, data_dir: Path, *, every_class: bool = True) -> RunConfig:
    """Raise a ``CxrError`` before anything is started if the films cannot be had.

    Of a folder the labels are checked too, as `find_films` does. Returns ``config`` with its
    source in a form that means the same in any working directory.
    """
    source = parse_source(config.data.source)
    match source:
        case PhantomSource():
            source.config(config.phantom)
        case KaggleSource():
            require_access(source, data_dir / "kaggle")
        case FolderSource():
            find_films(source.path, config.labels, every_class=every_class)
    if isinstance(source, FolderSource | ZipSource):
        return replace(config, data=replace(config.data, source=str(source.path)))
    return config
