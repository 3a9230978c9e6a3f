"""Films that arrive below a prefix of the bucket, each scored exactly once.

``predictions/<inbox>/<batch>/`` holds a batch's ``predictions.csv``, ``report.html`` and, last,
``BATCH.json``, which names every film of the batch by key, ETag and SHA-256: a batch without it
was never scored. All ``BATCH.json`` together are the ledger. A film is known by its SHA-256; key
and ETag only spare its download. Nothing below the prefix is moved or changed.
"""

import hashlib
import json
import re
import tempfile
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from prefect import get_run_logger

from cxr_model.device import resolve_device
from cxr_model.errors import DataError
from cxr_model.film_files import FilmFile, check_film_size, is_film
from cxr_model.predict import Predictor, score
from cxr_model.reliability.judgement import ABSTAINED, OUTLIER
from cxr_model.run_folder import RunFolder, sha256_file
from tasks.registry import find_champion, list_models
from tasks.retries import storage_task
from tasks.storage import ObjectStore, StoredObject, in_parallel
from tasks.storage_errors import MissingObjectError
from tasks.storage_location import StoreLocation

BATCH_FILMS = 256
"""Films that are fetched, scored and written down together: a killed run repeats so many."""
_SHOWN_FILMS = 500  # in a batch's page; the CSV has them all


@dataclass(frozen=True)
class InboxFilm:
    """An object as it stood in the inbox."""

    key: str
    etag: str
    size: int
    """Bytes."""


@dataclass(frozen=True, kw_only=True)
class BatchRecord:
    """What ``BATCH.json`` says."""

    batch: str
    when: str
    """UTC, ISO 8601."""
    model_run_id: str
    model_digest: str
    """SHA-256 of the weights."""
    films: list[dict[str, str]]
    """``key``, ``etag`` and ``sha256`` of every film seen, copies of known ones too. One that is
    too large to be a film has no digest: it is not fetched."""
    num_scored: int
    num_copies: int
    num_unreadable: int
    num_decided: dict[str, int]
    """Films a class, then those that were abstained from and outliers."""
    model_red_gates: list[str] = field(default_factory=list)
    """What the network's run failed of leakage, shortcut, calibration and explanation."""


@storage_task()
def find_new_films(location: StoreLocation, prefix: str) -> list[InboxFilm]:
    """Films below ``prefix`` that no batch names, sorted by key."""
    with ObjectStore(location) as store:
        known = {
            (film["key"], film["etag"])
            for record in read_ledger(store, prefix)
            for film in record.films
        }
        found = [
            InboxFilm(stored.key, stored.etag, stored.size)
            for stored in store.list_objects(f"{prefix.strip('/')}/")
            if _is_film(stored, prefix)
        ]
    new = [film for film in found if (film.key, film.etag) not in known]
    get_run_logger().info("%s: %d films, %d new", location.uri(prefix), len(found), len(new))
    return new


@storage_task()
def lacks_champion(location: StoreLocation, model: str) -> bool:
    """Whether ``model`` has no champion yet; without a name, whether no model has one."""
    with ObjectStore(location) as store:
        models = [model] if model else list_models(store)
        return not any(find_champion(store, each) for each in models)


@storage_task(task_run_name="score-{batch}")
def score_batch(
    location: StoreLocation, prefix: str, batch: str, films: list[InboxFilm], model_root: Path
) -> BatchRecord:
    """Fetch, hash, score and publish; a film whose bytes are known is not scored again."""
    predictor = Predictor.load(RunFolder(model_root), resolve_device("auto"))
    with ObjectStore(location) as store, tempfile.TemporaryDirectory() as folder:
        known = {
            film["sha256"]
            for record in read_ledger(store, prefix)
            if record.batch != batch  # a second attempt, after one that ended as it wrote it down
            for film in record.films
            if film["sha256"]
        }
        fetched = _fetch(store, films, Path(folder))
        fresh: dict[str, FilmFile] = {}
        for film in fetched:
            if film.sha256 not in known:
                fresh.setdefault(film.sha256 or film.seen.key, film.file())
        table = _score(list(fresh.values()), predictor)
        is_readable = table["error"] == ""
        decided = table.loc[is_readable, "decision"].value_counts()
        record = BatchRecord(
            batch=batch,
            when=datetime.now(UTC).isoformat(timespec="seconds"),
            model_run_id=predictor.card.run_id,
            model_digest=predictor.digest,
            model_red_gates=list(predictor.verdicts.red_gates),
            films=[
                {"key": film.seen.key, "etag": film.seen.etag, "sha256": film.sha256}
                for film in fetched
            ],
            num_scored=int(is_readable.sum()),
            num_copies=len(fetched) - len(fresh),
            num_unreadable=int((~is_readable).sum()),
            num_decided={
                name: int(decided.get(name, 0))
                for name in (*predictor.card.classes, ABSTAINED, OUTLIER)
            },
        )
        _publish(store, prefix, record, table)
    get_run_logger().info(
        "%s: %d scored, %d copies, %d unreadable",
        batch,
        record.num_scored,
        record.num_copies,
        record.num_unreadable,
    )
    return record


def read_ledger(store: ObjectStore, prefix: str) -> list[BatchRecord]:
    """Every batch that was scored to its end."""

    def read(batch: str) -> BatchRecord | None:
        try:
            values = json.loads(store.read_bytes(f"{root}{batch}/BATCH.json"))
        except MissingObjectError:
            return None
        # Another version may have written it; what was scored counts all the same.
        return BatchRecord(**{name: values[name] for name in names if name in values})

    names = [field.name for field in fields(BatchRecord)]
    root = predictions_prefix(prefix)
    return [record for record in in_parallel(read, store.list_folders(root)) if record]


def name_batch(moment: datetime, films: list[InboxFilm]) -> str:
    """The same for the same films, so that a second attempt overwrites what a first one left."""
    told = json.dumps([asdict(film) for film in films]).encode()
    return f"{moment:%Y%m%d-%H%M%S}-{hashlib.sha256(told).hexdigest()[:8]}"


def predictions_prefix(prefix: str) -> str:
    """Where the predictions of the films below ``prefix`` lie, and those of no other prefix."""
    prefix = prefix.strip("/")
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", prefix)
    if name != prefix:  # "ward/3" and "ward 3" are two, and "ward-3" is a third
        name += f"-{hashlib.sha256(prefix.encode()).hexdigest()[:8]}"
    return f"predictions/{name}/"


def _is_film(stored: StoredObject, prefix: str) -> bool:
    return is_film(stored.key.removeprefix(f"{prefix.strip('/')}/"))


@dataclass(frozen=True)
class _Fetched:
    seen: InboxFilm
    path: Path
    sha256: str
    """Empty where the object is too large to be fetched."""

    def file(self) -> FilmFile:
        def read(_: str) -> bytes:
            check_film_size(self.seen.size)
            return self.path.read_bytes()

        return FilmFile(self.seen.key, str(self.path), read)


def _fetch(store: ObjectStore, films: list[InboxFilm], folder: Path) -> list[_Fetched]:
    """The films in ``folder``; one that has gone since it was listed is left out."""

    def fetch(numbered: tuple[int, InboxFilm]) -> _Fetched | None:
        number, film = numbered
        path = folder / str(number)
        try:
            check_film_size(film.size)
            store.download_file(film.key, path)
        except DataError:
            return _Fetched(film, path, "")
        except MissingObjectError:
            return None
        return _Fetched(film, path, sha256_file(path))

    return [found for found in in_parallel(fetch, enumerate(films)) if found]


def _score(films: list[FilmFile], predictor: Predictor) -> pd.DataFrame:
    tables = [scored.table for scored in score(films, predictor)]
    empty = pd.DataFrame({"decision": [], "error": []})
    return pd.concat(tables, ignore_index=True) if tables else empty


def _publish(store: ObjectStore, prefix: str, record: BatchRecord, table: pd.DataFrame) -> None:
    root = f"{predictions_prefix(prefix)}{record.batch}/"
    if len(table):  # else copies of known films alone
        store.write_bytes(f"{root}predictions.csv", table.to_csv(index=False).encode())
        store.write_bytes(f"{root}report.html", _render(prefix, record, table).encode())
    store.write_bytes(f"{root}BATCH.json", json.dumps(asdict(record), indent=1).encode())


def _render(prefix: str, record: BatchRecord, table: pd.DataFrame) -> str:
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
    )
    rows: list[dict[str, Any]] = table.head(_SHOWN_FILMS).to_dict("records")  # type: ignore[assignment]
    classes = [name for name in record.num_decided if f"probability_{name}" in table]
    return templates.get_template("batch.html.j2").render(
        prefix=prefix, record=record, rows=rows, classes=classes, num_rows=len(table)
    )
