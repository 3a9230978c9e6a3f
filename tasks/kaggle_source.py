"""Data sets from Kaggle through its official client; the only module that knows that client.

The client resumes, but compares sizes only, the service sends no hash, and a file of the
right size counts as downloaded whatever it holds. So the zip's own checksums decide, and
``SOURCE.json`` is written last: a folder without it was never complete.
"""

import io
import json
import logging
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, redirect_stdout
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from cxr_model.archive import DamagedArchive, extract_zip
from cxr_model.errors import SourceError
from cxr_model.run_folder import sha256_file, write_json
from tasks.kaggle_errors import GET_TOKEN, TransientSourceError, errors_explained

logger = logging.getLogger(__name__)

Answer = TypeVar("Answer")

_NUM_TRIES = 3
_MAX_WAIT_S = 300.0
_FORM = re.compile(
    r"kaggle(:(?P<owner>[a-z0-9][\w-]*)/(?P<slug>[a-z0-9][\w-]*)(/(?P<version>[1-9]\d*))?)?",
    re.ASCII | re.IGNORECASE,
)


@dataclass(frozen=True)
class KaggleSource:
    """A data set on Kaggle; the default one is Sait et al. 2020, doi:10.17632/9xkhgts2s6.1."""

    owner: str = "unaissait"
    slug: str = "curated-chest-xray-image-dataset-for-covid19"
    version: int | None = None
    """None: the version that is current when the films are fetched."""

    def __str__(self) -> str:
        return f"kaggle:{self.owner}/{self.slug}" + (f"/{self.version}" if self.version else "")

    @property
    def url(self) -> str:
        page = f"https://www.kaggle.com/datasets/{self.owner}/{self.slug}"
        return page + (f"/versions/{self.version}" if self.version else "")


def parse_kaggle_source(text: str) -> KaggleSource:
    """Read ``kaggle``, ``kaggle:owner/slug`` or ``kaggle:owner/slug/version``."""
    match = _FORM.fullmatch(text)
    if match is None:
        raise SourceError(
            f"data.source={text!r}: use kaggle, kaggle:owner/slug or kaggle:owner/slug/version, "
            "as in the address of the data set's page"
        )
    if match["owner"] is None:
        return KaggleSource()
    version = int(match["version"]) if match["version"] else None
    return KaggleSource(match["owner"], match["slug"], version)


def has_credentials() -> bool:
    """Whether Kaggle's client would find a token or key here; imports and asks nobody."""
    home = Path("~/.kaggle").expanduser()
    config = Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser()
    files = [
        *(home / name for name in ("access_token", "access_token.txt", "credentials.json")),
        *(folder / "kaggle.json" for folder in (home, config / "kaggle")),
        Path(os.environ.get("KAGGLE_CONFIG_DIR") or home) / "kaggle.json",
    ]
    return (
        bool(os.environ.get("KAGGLE_API_TOKEN"))
        or bool(os.environ.get("KAGGLE_USERNAME") and os.environ.get("KAGGLE_KEY"))
        or any(file.is_file() and file.stat().st_size > 0 for file in files)
    )


def require_access(source: KaggleSource, downloads: Path) -> None:
    """Raise ``SourceError`` where `download_dataset` would want for credentials."""
    if not (_is_complete(source, downloads) or has_credentials()):
        raise SourceError(f"{source}: no Kaggle credentials here; {GET_TOKEN}")


def download_dataset(
    source: KaggleSource, downloads: Path, *, max_bytes: int, max_files: int
) -> tuple[Path, dict[str, Any]]:
    """Fetch a data set below ``downloads``; return the folder of its films and ``SOURCE.json``.

    A version that is complete there is reused, without any call where ``source`` names the
    version; an interrupted download resumes. Where Kaggle limits the rate or is out of order,
    up to 300 s are waited. The limits are those of ``extract_zip``. Raises ``SourceError``;
    ``TransientSourceError`` where a later call may succeed.
    """
    if _is_complete(source, downloads):
        return _reuse(source, downloads)
    require_access(source, downloads)
    return _ask(source, lambda kaggle: _download(kaggle, source, downloads, max_bytes, max_files))


def newest_version(source: KaggleSource) -> int:
    """The number of the data set's current version; waits and raises as `download_dataset`."""
    return _ask(source, lambda kaggle: int(kaggle.describe(source).current_version_number))


def _ask(source: KaggleSource, question: Callable[["_Connection"], Answer]) -> Answer:
    """The answer of a new connection, or of a later one where Kaggle is busy or out of order."""
    tries_left, wait_left_s = _NUM_TRIES, _MAX_WAIT_S
    while True:
        try:
            with _connect(source) as connection:
                return question(connection)
        except TransientSourceError as error:
            tries_left -= 1
            wait_left_s -= error.wait_s
            if tries_left == 0 or wait_left_s < 0:
                raise
            logger.warning("%s; next try in %.0f s", error, error.wait_s)
            time.sleep(error.wait_s)


def _folder(source: KaggleSource, downloads: Path) -> Path:
    return downloads / source.owner / source.slug / str(source.version)


def _is_complete(source: KaggleSource, downloads: Path) -> bool:
    return source.version is not None and (_folder(source, downloads) / "SOURCE.json").is_file()


def _reuse(source: KaggleSource, downloads: Path) -> tuple[Path, dict[str, Any]]:
    folder = _folder(source, downloads)
    provenance = json.loads((folder / "SOURCE.json").read_text(encoding="utf-8"))
    logger.info("%s: reused, retrieved %s", source, provenance["retrieved"])
    return folder / "films", provenance


def _download(
    connection: "_Connection",
    source: KaggleSource,
    downloads: Path,
    max_bytes: int,
    max_files: int,
) -> tuple[Path, dict[str, Any]]:
    dataset = connection.describe(source)
    source = replace(source, version=source.version or dataset.current_version_number)
    if not source.version:
        raise SourceError(f"{source}: Kaggle names no current version; use {source}/VERSION")
    folder = _folder(source, downloads)
    if _is_complete(source, downloads):
        return _reuse(source, downloads)
    archive = folder / "archive" / f"{source.slug}.zip"

    def fetch_films() -> int:
        connection.fetch(source, archive, max_bytes)
        return extract_zip(archive, folder / "films", max_bytes=max_bytes, max_files=max_files)

    num_files = _with_second_copy(fetch_films, archive)
    provenance = {
        "kind": "kaggle",
        **asdict(source),
        "url": source.url,
        "license": dataset.license_name,
        "archive_sha256": sha256_file(archive),
        "archive_bytes": archive.stat().st_size,
        "num_files": num_files,
        "retrieved": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    write_json(folder / "SOURCE.json", provenance)
    shutil.rmtree(archive.parent)  # its hash is on record
    logger.info("%s: downloaded, %d files", source, num_files)
    return folder / "films", provenance


def _with_second_copy(fetch_films: Callable[[], int], archive: Path) -> int:
    """Call ``fetch_films``; where the archive proves damaged, delete it and call once more."""
    try:
        return fetch_films()
    except DamagedArchive as error:
        logger.warning("%s; downloading it once more", error)
        shutil.rmtree(archive.parent)
    try:
        return fetch_films()
    except DamagedArchive as error:
        shutil.rmtree(archive.parent)
        raise SourceError(
            f"{error}; it came damaged twice: try later or another version"
        ) from error


@dataclass(frozen=True)
class _Connection:
    """An authenticated client; its errors leave it as ours."""

    api: Any  # kaggle.api.kaggle_api_extended.KaggleApi
    client: Any  # kagglesdk.KaggleClient

    def describe(self, source: KaggleSource) -> Any:
        """The data set's record (``ApiDataset``), whichever version ``source`` names."""
        from kagglesdk.datasets.types.dataset_api_service import ApiGetDatasetRequest

        request = ApiGetDatasetRequest()
        request.owner_slug, request.dataset_slug = source.owner, source.slug
        dataset = replace(source, version=None)
        with errors_explained(str(dataset), dataset.url):
            return self.client.datasets.dataset_api_client.get_dataset(request)

    def fetch(self, source: KaggleSource, archive: Path, max_bytes: int) -> None:
        """Complete ``archive`` on disk: the client resumes a part that it left there."""
        from kagglesdk.datasets.types.dataset_api_service import ApiDownloadDatasetRequest

        request = ApiDownloadDatasetRequest()
        request.owner_slug, request.dataset_slug = source.owner, source.slug
        request.dataset_version_number = source.version
        with (
            errors_explained(str(source), source.url),
            closing(self.client.datasets.dataset_api_client.download_dataset(request)) as response,
        ):
            num_bytes = int(response.headers.get("Content-Length", 0))
            if num_bytes > max_bytes:
                raise SourceError(
                    f"{source}: the archive alone has {num_bytes / 1e9:.3g} GB, more than the "
                    f"limit of {max_bytes / 1e9:.3g} GB; raise data.max_extracted_gb"
                )
            if not self.api.download_needed(response, str(archive)):
                return
            quiet = not sys.stderr.isatty()  # else a progress bar
            try:
                self.api.download_file(
                    response, str(archive), self.client.http_client(), quiet, resume=True
                )
            except ValueError as error:  # the client's word for another size than announced
                raise DamagedArchive(f"{archive}: not whole ({error}); fetch it again") from error


@contextmanager
def _connect(source: KaggleSource) -> Iterator[_Connection]:
    # Importing kaggle already authenticates; without success both print a page of help, and
    # authenticate() then exits the program.
    with errors_explained(str(source), source.url), redirect_stdout(io.StringIO()):
        try:
            from kaggle.api.kaggle_api_extended import KaggleApi

            api = KaggleApi()
            api.authenticate()
        except SystemExit as error:
            raise SourceError(
                f"{source}: Kaggle does not know the credentials found here; {GET_TOKEN}"
            ) from error
    # The client reports on standard output, which belongs to this program's results.
    with redirect_stdout(sys.stderr), api.build_kaggle_client() as client:
        yield _Connection(api, client)
