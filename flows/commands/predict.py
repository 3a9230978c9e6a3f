"""The command ``predict``."""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import Progress
from rich.table import Column, Table

from cxr_model.errors import ConfigError, DataError
from cxr_model.run_folder import make_folder
from flows.commands.results import fetch_model
from flows.commands.shared import Json, err, out
from flows.settings import Settings

if TYPE_CHECKING:
    import pandas as pd

    from cxr_model.film_files import FilmFile
    from cxr_model.predict import Predictor

_SHOWN = ("path", "decision")  # to people, and the calibrated probabilities and the score


def predict(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="Films, folders, zip archives, quoted patterns of such, or s3://bucket/prefix.",
        ),
    ],
    model: Annotated[
        str, typer.Option(help="champion or MODEL/champion of the registry, a run's id, or latest.")
    ] = "latest",
    to: Annotated[
        Path | None,
        typer.Option(help="Write a table (.csv, .parquet or .jsonl); a killed run goes on."),
    ] = None,
    explain: Annotated[
        Path | None,
        typer.Option(help="Folder for a heat map of each film (Grad-CAM).", file_okay=False),
    ] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV on standard output.")] = False,
    as_json: Json = False,
) -> None:
    """Class probabilities of films. For research only, not a diagnosis.

    The decision is a class; 'abstained' where no class is probable enough; 'outlier' where a
    film is unlike the radiographs of the training. --to, --csv and --json have all figures.
    """
    from cxr_model.film_files import distinct_films
    from cxr_model.predictions_file import check_predictions_path

    if (to is not None) + as_csv + as_json > 1:
        raise ConfigError("--to, --csv and --json exclude each other; use one")
    if to:
        check_predictions_path(to)
    if explain:
        make_folder(explain)
    with ExitStack() as stack:
        films = distinct_films([stack.enter_context(_open_source(source)) for source in sources])
        from cxr_model.device import resolve_device  # seconds of imports, after the refusals
        from cxr_model.predict import Predictor
        from tasks.named_model import PREDICTION_FILES

        found = fetch_model(model, PREDICTION_FILES)
        predictor = Predictor.load(found, resolve_device("auto"))
        err.print(f"network of run {predictor.card.run_id}{predictor.verdicts.told()}")
        if explain:
            err.print(f"Grad-CAM heat maps below {explain}: {predictor.verdicts.heat_maps}")
        scoring = _Scoring(predictor, explain)
        if to:
            _write(films, scoring, to, sources)
        elif as_csv:
            for number, table in enumerate(scoring.tables(films)):
                table.to_csv(sys.stdout, index=False, header=number == 0)
        else:
            _print(films, scoring, as_json=as_json)
        scoring.tell()


@contextmanager
def _open_source(source: str) -> Iterator[list["FilmFile"]]:
    if not source.startswith("s3://"):
        from cxr_model.film_files import open_films

        with open_films(source) as films:
            yield films
        return
    from flows.embedded_store import store_for
    from tasks.bucket_films import bucket_films
    from tasks.storage import ObjectStore

    with (
        store_for(Settings.from_environment()) as location,
        ObjectStore(location.at(source)) as store,
    ):
        yield bucket_films(store)


class _Scoring:
    """Scores films batch by batch, shows how far it is and tells at the end how it went."""

    def __init__(self, predictor: "Predictor", overlays: Path | None) -> None:
        self.predictor, self.overlays = predictor, overlays
        self.num_films = self.num_failed = self.num_outliers = self.num_abstained = 0
        self.failure = ""

    def tables(self, films: list["FilmFile"], num_done: int = 0) -> Iterator["pd.DataFrame"]:
        from cxr_model.predict import score

        if self.overlays:
            from cxr_model.explanations.overlays import write_overlays
        self.started = time.perf_counter()
        with Progress(console=err, transient=True, disable=not err.is_terminal) as progress:
            bar = progress.add_task("films", total=num_done + len(films), completed=num_done)
            for batch in score(films, self.predictor):
                if self.overlays:
                    write_overlays(batch, self.predictor, self.overlays)
                self._count(batch.table)
                yield batch.table
                progress.advance(bar, len(batch.table))

    def _count(self, table: "pd.DataFrame") -> None:
        failed = table[table["error"] != ""]
        if len(failed) and not self.num_failed:
            path, error = failed.iloc[0][["path", "error"]]
            self.failure = f"{path}: cannot be decoded ({error})"
        self.num_films += len(table)
        self.num_failed += len(failed)
        self.num_outliers += int((table["decision"] == "outlier").sum())
        self.num_abstained += int((table["decision"] == "abstained").sum())

    def tell(self) -> None:
        """One line about the run; raises DataError where not one film could be decoded."""
        if self.num_failed and self.num_failed == self.num_films:
            others = f", nor can {self.num_films - 1} others" if self.num_films > 1 else ""
            raise DataError(f"{self.failure}{others}; replace or remove it")
        seconds = time.perf_counter() - self.started
        failed = f"; {self.num_failed} not decoded, {self.failure}" if self.num_failed else ""
        rate = self.num_films / seconds
        err.print(
            f"films: {self.num_films:,} in {seconds:.1f} s, {rate:.1f} a second; outliers: "
            f"{self.num_outliers}; abstained: {self.num_abstained}{failed}"
        )


def _write(films: list["FilmFile"], scoring: _Scoring, to: Path, sources: list[str]) -> None:
    from cxr_model.predictions_file import open_predictions

    card = scoring.predictor.card
    question = {
        "run_id": card.run_id,
        "model": scoring.predictor.digest,
        "sources": sources,
        "explain": str(scoring.overlays) if scoring.overlays else None,
    }
    with open_predictions(to, question) as file:
        left = [film for film in films if film.name not in file.done]
        if file.done:
            err.print(f"{to}: goes on behind {len(file.done):,} films")
        for table in scoring.tables(left, num_done=len(films) - len(left)):
            file.add(table)
        file.finish()
    out.print(str(to))


def _print(films: list["FilmFile"], scoring: _Scoring, *, as_json: bool) -> None:
    import pandas as pd

    found = pd.concat(scoring.tables(films), ignore_index=True)
    if as_json:
        rows = found.astype(object).where(found.notna(), None).to_dict("records")
        print(json.dumps({"run_id": scoring.predictor.card.run_id, "films": rows}, indent=2))
        return
    figures = [f"calibrated_probability_{name}" for name in scoring.predictor.card.classes]
    score = [] if scoring.predictor.outliers is None else ["outlier_score"]
    shown = found[[*_SHOWN, *figures, *score, *(["error"] if scoring.num_failed else [])]]
    names = (
        name.removeprefix("calibrated_probability_").replace("_", " ") for name in shown.columns
    )
    table = Table(*(Column(name, overflow="fold") for name in names))
    for row in shown.itertuples(index=False):
        table.add_row(*(_cell(value) for value in row))
    out.print(table)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "" if value != value else f"{value:.3f}"  # NaN: not decoded
    return str(value)
