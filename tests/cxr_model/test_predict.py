"""Scoring: one row a film in order, bad films beside good ones, memory that does not grow."""

import shutil
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from cxr_model.errors import DataError, StorageError
from cxr_model.explanations.figure import TILE_PX
from cxr_model.explanations.overlays import overlay_name, write_overlays
from cxr_model.film_files import FilmFile
from cxr_model.predict import Predictor, decode_folder, score
from cxr_model.reliability.calibration import temper
from cxr_model.run_folder import RunFolder, sha256_file
from tests.tiny_model import ALWAYS_ANSWER

COLUMNS = ["probability_normal", "probability_pneumonia", "probability_covid"]
CALIBRATED = [f"calibrated_{name}" for name in COLUMNS]
MARKS = ["abstained", "outlier_score", "is_outlier"]


@pytest.fixture(scope="module")
def predictor(tiny_model: RunFolder) -> Predictor:
    return Predictor.load(tiny_model, torch.device("cpu"))


def film_bytes(seed: int) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, (48, 40), dtype=np.uint8)
    file = BytesIO()
    Image.fromarray(noise).save(file, "PNG")
    return file.getvalue()


def films_of(*contents: bytes) -> list[FilmFile]:
    return [
        FilmFile(f"{n}.png", str(n), lambda key: contents[int(key)]) for n in range(len(contents))
    ]


def table_of(films: list[FilmFile], predictor: Predictor, batch_size: int) -> pd.DataFrame:
    tables = [batch.table for batch in score(films, predictor, batch_size=batch_size)]
    return pd.concat(tables, ignore_index=True)


def test_each_film_has_a_row_in_order_with_the_networks_digest(
    predictor: Predictor, tiny_model: RunFolder
) -> None:
    films = films_of(*(film_bytes(seed) for seed in range(7)))
    batches = list(score(films, predictor, batch_size=3))
    assert [len(batch.table) for batch in batches] == [3, 3, 1]
    assert [batch.pixels.shape for batch in batches] == [(3, 32, 32), (3, 32, 32), (1, 32, 32)]
    table = pd.concat([batch.table for batch in batches])
    assert list(table) == [
        *("path", "sha256", "predicted", "decision", *COLUMNS, *CALIBRATED, *MARKS),
        *("model", "run_id", "error"),
    ]
    assert table["path"].tolist() == [film.name for film in films]
    assert set(table["model"]) == {sha256_file(tiny_model.weights)}
    assert set(table["run_id"]) == {"tiny"}
    np.testing.assert_allclose(table[COLUMNS].sum(axis=1), 1)
    np.testing.assert_allclose(
        table[CALIBRATED], temper(table[COLUMNS].to_numpy(), ALWAYS_ANSWER.temperature)
    )
    assert table["decision"].tolist() == table["predicted"].tolist()
    assert not table[["abstained", "is_outlier"]].any(axis=None)
    assert table["outlier_score"].isna().all()  # this network has no score
    best = table[COLUMNS].idxmax(axis=1).str.removeprefix("probability_")
    assert best.tolist() == table["predicted"].tolist()


def test_the_batch_size_changes_no_row_but_by_rounding(predictor: Predictor) -> None:
    films = films_of(*(film_bytes(seed) for seed in range(7)))
    one, many = (table_of(films, predictor, size) for size in (1, 7))
    np.testing.assert_allclose(one[COLUMNS], many[COLUMNS], atol=1e-6)
    pd.testing.assert_frame_equal(table_of(films, predictor, 3), table_of(films, predictor, 3))


def test_a_bad_film_has_its_error_and_changes_no_other(predictor: Predictor) -> None:
    good = [film_bytes(seed) for seed in range(3)]
    table = table_of(films_of(good[0], b"text", good[1], b"", good[2]), predictor, 2)
    assert table["error"].tolist() == ["", "no known image format", "", "no known image format", ""]
    bad = table[table["error"] != ""]
    assert bad["predicted"].tolist() == ["", ""]
    assert bad["decision"].tolist() == ["", ""]
    assert bad[[*COLUMNS, *CALIBRATED]].isna().all(axis=None)
    assert not bad[["abstained", "is_outlier"]].any(axis=None)
    assert (bad["sha256"].str.len() == 64).all()
    rest = table[table["error"] == ""]
    expected = table_of(films_of(*good), predictor, 2)
    np.testing.assert_allclose(rest[COLUMNS], expected[COLUMNS], atol=1e-6)
    assert table_of(films_of(b"text", b"text"), predictor, 2)["error"].ne("").all()


def test_a_file_that_cannot_be_read_is_an_error_of_its_own(
    predictor: Predictor, tmp_path: Path
) -> None:
    gone = FilmFile("gone.png", str(tmp_path / "gone.png"), lambda key: Path(key).read_bytes())
    (row,) = table_of([gone], predictor, 2).to_dict("records")
    assert (row["error"], row["sha256"]) == ("No such file or directory", "")


def test_a_store_that_stays_away_ends_the_run(predictor: Predictor) -> None:
    def refuse(key: str) -> bytes:
        raise StorageError(f"{key}: no answer")

    with pytest.raises(StorageError, match="no answer"):
        table_of([FilmFile("a", "a", refuse)], predictor, 2)


def test_films_are_read_only_a_little_ahead_of_the_network(predictor: Predictor) -> None:
    data, read = film_bytes(0), []
    films = (FilmFile(str(n), str(n), lambda key: read.append(key) or data) for n in range(1000))
    batches = score(films, predictor, batch_size=4)
    for number in range(1, 6):
        next(batches)
        assert len(read) <= 4 * number + 2 * 4 + 1
    batches.close()


def test_each_film_that_decodes_gets_a_small_overlay_of_its_name(
    predictor: Predictor, tmp_path: Path
) -> None:
    films = films_of(film_bytes(0), b"text", film_bytes(1))
    for batch in score(films, predictor):
        write_overlays(batch, predictor, tmp_path)
        table = batch.table
    good = table[table["error"] == ""]
    expected = {overlay_name(film.path, film.sha256) for film in good.itertuples()}
    assert {path.name for path in tmp_path.iterdir()} == expected
    for path in tmp_path.iterdir():
        assert path.stat().st_size < 60_000
        with Image.open(path) as image:
            assert image.mode == "RGB"
            assert image.width > 2 * TILE_PX


def test_an_overlay_bears_the_verdict_on_its_method(predictor: Predictor, tmp_path: Path) -> None:
    heights = []
    for verdict in ("Passed.", "Failed: noise too weak to see changes it. " * 5):
        judged = replace(predictor, verdicts=replace(predictor.verdicts, heat_maps=verdict))
        for batch in score(films_of(film_bytes(0)), judged):
            write_overlays(batch, judged, tmp_path)
        (path,) = tmp_path.iterdir()
        with Image.open(path) as image:
            heights.append(image.height)
    assert heights[1] > heights[0] + 20


def test_films_to_compare_on_come_from_all_parts_of_a_folder(
    predictor: Predictor, tmp_path: Path
) -> None:
    for name in [*(f"a/{i:02}" for i in range(20)), *(f"b/{i:02}" for i in range(12)), "masks/a/0"]:
        path = tmp_path / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), 200 if name[0] == "b" else 100).save(path)
    found = decode_folder(tmp_path, predictor.card, most=16)
    assert [int((found[:, 0, 0] == grey).sum()) for grey in (100, 200)] == [10, 6]
    assert len(decode_folder(tmp_path, predictor.card)) == 32


def test_films_of_one_name_have_overlays_of_their_own() -> None:
    names = {overlay_name("a/1.png", "0" * 64), overlay_name("b/1.png", "1" * 64)}
    assert names == {"1-00000000.jpg", "1-11111111.jpg"}
    assert len(overlay_name("ü" * 300 + ".png", "0" * 64).encode()) < 255


def test_a_network_without_what_judges_its_answers_is_refused(
    tiny_model: RunFolder, tmp_path: Path
) -> None:
    run = RunFolder(tmp_path)
    shutil.copytree(tiny_model.root, run.root, dirs_exist_ok=True)
    replace(ALWAYS_ANSWER, outlier_above=2.0).write(run.decision)
    with pytest.raises(DataError, match=r"outliers.safetensors: no readable outlier model .*fetch"):
        Predictor.load(run, torch.device("cpu"))
    run.decision.unlink()
    with pytest.raises(DataError, match=r"decision.json: no readable decision file"):
        Predictor.load(run, torch.device("cpu"))
