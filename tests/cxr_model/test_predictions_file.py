"""A table written in parts: whole or not there, gone on with, and the same in every format."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cxr_model import predictions_file, run_folder
from cxr_model.errors import ConfigError
from cxr_model.predictions_file import check_predictions_path, open_predictions

QUESTION = {"run_id": "r1", "model": "abc", "sources": ["films"]}
READERS = {
    ".csv": lambda path: pd.read_csv(path, keep_default_na=False,
                                     na_values={"probability_a": [""]}, dtype={"path": str}),
    ".parquet": pd.read_parquet,
    ".jsonl": lambda path: pd.read_json(path, lines=True, precise_float=True, dtype={"path": str}),
}  # fmt: skip


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictions_file, "ROWS_PER_PART", 4)


def rows(first: int, end: int) -> pd.DataFrame:
    """Names that tempt a reader to take them for numbers; the film before last has an error."""
    numbers = range(first, end)
    probabilities = np.random.default_rng(0).random(20)[first:end]
    probabilities[[n in (8, 9) for n in numbers]] = np.nan
    errors = ['no, "image"\n' if n in (8, 9) else "" for n in numbers]
    names = [f"{n:04d}" for n in numbers]
    return pd.DataFrame({"path": names, "probability_a": probabilities, "error": errors})


@pytest.mark.parametrize("suffix", READERS)
def test_every_format_gives_back_what_was_added(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    with open_predictions(path, QUESTION) as file:
        for first, end in ((0, 3), (3, 6), (6, 16), (16, 18)):
            file.add(rows(first, end))
        assert not path.exists()
        file.finish()
    found = READERS[suffix](path)
    pd.testing.assert_frame_equal(found, rows(0, 18), check_dtype=False)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_parts_of_an_answer_that_is_whole_are_no_beginning_of_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a kill came as they were removed, and half of them lie there."""
    path = tmp_path / "out.csv"

    def remove_half(folder: Path) -> None:
        (folder / "000000.csv").unlink()
        raise InterruptedError

    with open_predictions(path, QUESTION) as file, monkeypatch.context() as patch:
        file.add(rows(0, 11))
        patch.setattr(run_folder.shutil, "rmtree", remove_half)
        with pytest.raises(InterruptedError):
            file.finish()
    path.rename(tmp_path / "of-yesterday.csv")
    with open_predictions(path, QUESTION) as file:
        assert file.done == set()
        file.add(rows(0, 5))
        file.finish()
    assert len(pd.read_csv(path)) == 5
    assert {entry.name for entry in tmp_path.iterdir()} == {"out.csv", "of-yesterday.csv"}


@pytest.mark.parametrize("suffix", READERS)
def test_a_broken_run_goes_on_behind_its_last_whole_part(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    with open_predictions(path, QUESTION) as file:
        file.add(rows(0, 11))
    (path.with_name(f"{path.name}.parts") / f".000002{suffix}.1.tmp").write_text("torn")
    with open_predictions(path, QUESTION) as file:
        assert file.done == {f"{n:04d}" for n in range(8)}
        file.add(rows(8, 11))
        file.finish()
    assert READERS[suffix](path)["path"].tolist() == rows(0, 11)["path"].tolist()


def test_a_run_broken_before_the_end_only_joins(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    with open_predictions(path, QUESTION) as file:
        file.add(rows(0, 8))
    with open_predictions(path, QUESTION) as file:
        assert len(file.done) == 8
        file.finish()
    assert len(pd.read_csv(path)) == 8


def test_parts_of_another_question_are_refused_with_both(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    with open_predictions(path, QUESTION) as file:
        file.add(rows(0, 8))
    message = "out.csv.parts: was begun with run_id 'r1', now it is 'r2'; ask as before"
    with (
        pytest.raises(ConfigError, match=re.escape(message)),
        open_predictions(path, QUESTION | {"run_id": "r2"}),
    ):
        pass
    assert len(list(tmp_path.glob("out.csv.parts/*.csv"))) == 2


def test_a_file_that_is_there_and_an_unknown_format_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    path.write_text("mine")
    with pytest.raises(ConfigError, match="is there already; delete it or name another file"):
        check_predictions_path(path)
    with pytest.raises(ConfigError, match=r"out\.xls: name a file that ends in \.csv, \.parquet"):
        check_predictions_path(tmp_path / "out.xls")
    assert path.read_text() == "mine"


def test_two_processes_do_not_write_one_table(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    with (
        open_predictions(path, QUESTION),
        pytest.raises(ConfigError, match="is being written by another process"),
        open_predictions(path, QUESTION),
    ):
        pass
