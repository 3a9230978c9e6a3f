import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from cxr_model.cache import FilmCache, build_cache
from cxr_model.config import RunConfig
from cxr_model.data_config import DataConfig, LabelConfig
from cxr_model.errors import DataError
from cxr_model.external import evaluate_elsewhere, unseen_films
from cxr_model.index import build_index, write_index
from cxr_model.run_comparison import unseen_films as comparable_films
from cxr_model.run_folder import RunFolder, write_json
from cxr_model.summary import headline
from tests.tiny_model import ALWAYS_ANSWER

CONFIG = RunConfig(data=DataConfig(size_px=64))


@pytest.fixture
def index(films: Path) -> pd.DataFrame:
    return build_index(films, DataConfig(), LabelConfig())


@pytest.fixture
def run(index: pd.DataFrame, tmp_path: Path) -> RunFolder:
    run = RunFolder(tmp_path / "run")
    write_index(index, run.index)
    return run


@pytest.fixture
def model(tiny_model: RunFolder, index: pd.DataFrame, tmp_path: Path) -> RunFolder:
    """A network that has met the first four films."""
    model = RunFolder(tmp_path / "model")
    for path in (tiny_model.weights, tiny_model.model_card, tiny_model.decision):
        target = model.root / path.relative_to(tiny_model.root)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    write_index(index.head(4), model.index)
    return model


def test_films_of_the_models_own_data_are_left_out_and_the_rest_is_measured(
    run: RunFolder, model: RunFolder, index: pd.DataFrame, films: Path, tmp_path: Path
) -> None:
    report = build_cache(films, index, tmp_path / "cache", size_px=32, color="grey")
    found = evaluate_elsewhere(
        run, "elsewhere", model, CONFIG, FilmCache.open(report.folder), source="films"
    )
    assert found["holdout"]["n"] == len(index) - 4
    assert found["data"]["num_left_out"] == 4
    assert found["data"]["left_out"] == {"bytes": 4, "near": 0, "relatives": 0}
    predictions = pd.read_csv(run.predictions)
    assert not set(predictions["sha256"]) & set(index.head(4)["sha256"])
    hits = (predictions["predicted"] == predictions["label"]).mean()
    assert found["holdout"]["accuracy"]["value"] == pytest.approx(hits)
    assert json.loads(run.metrics.read_text()) == json.loads(json.dumps(found))
    assert headline(found)["network"] == "cxresnet"
    decisions = {name: estimate["value"] for name, estimate in found["decisions"].items()}
    assert decisions == {
        "answered": 1,
        "abstained": 0,
        "outlier": 0,
        "accuracy_of_answers": pytest.approx(hits),
    }
    page = run.report.read_text()
    assert "4 of 18 films" in page
    assert "14 films it has never met" in page
    assert "speaks against it" not in page


def test_what_the_networks_own_run_found_against_it_stands_beside_its_figures_elsewhere(
    run: RunFolder, model: RunFolder, index: pd.DataFrame, films: Path, tmp_path: Path
) -> None:
    states = {"leakage": True, "shortcut": False, "calibration": None}
    gates = [
        {"name": name, "passed": passed, "found": f"{name} found", "fails": False}
        for name, passed in states.items()
    ]
    write_json(model.metrics, {"gates": gates})
    report = build_cache(films, index, tmp_path / "cache", size_px=32, color="grey")
    cache = FilmCache.open(report.folder)
    found = evaluate_elsewhere(run, "elsewhere", model, CONFIG, cache, source="films")
    assert headline(found)["gates"] == {
        "leakage": "passed",
        "shortcut": "failed",
        "calibration": "undecided",
    }
    page = run.report.read_text()
    assert "The evidence of the network&#39;s own run speaks against it" in page.replace(
        "'", "&#39;"
    )
    assert "<strong>Shortcut: failed.</strong> Shortcut found." in page
    assert "Calibration: failed" not in page


@pytest.mark.parametrize("present", [["normal", "covid"], ["normal"]])
def test_a_set_without_films_of_a_class_is_measured_and_says_so(
    present: list[str],
    run: RunFolder,
    model: RunFolder,
    index: pd.DataFrame,
    films: Path,
    tmp_path: Path,
) -> None:
    report = build_cache(films, index, tmp_path / "cache", size_px=32, color="grey")
    write_index(index[index["label"].isin(present)], run.index)
    found = evaluate_elsewhere(
        run, "elsewhere", model, CONFIG, FilmCache.open(report.folder), source="films"
    )
    absent = [name for name in ("normal", "pneumonia", "covid") if name not in present]
    assert found["data"]["absent_classes"] == absent
    per_class = found["holdout"]["per_class"]
    for name in absent:
        assert per_class[name]["sensitivity"]["value"] is None
    told = [per_class[name]["sensitivity"]["value"] for name in present]
    assert found["holdout"]["balanced_accuracy"]["value"] == pytest.approx(sum(told) / len(told))
    assert f"No film here is of {', '.join(absent)}:" in run.report.read_text()
    unseen = comparable_films(run, None)
    assert len(unseen) == found["holdout"]["n"]
    assert unseen["group"].notna().all()


def test_nothing_new_and_unknown_classes_are_told(
    run: RunFolder, model: RunFolder, index: pd.DataFrame
) -> None:
    write_index(index, model.index)
    with pytest.raises(DataError, match="all 18 films are of the model's own data"):
        unseen_films(run, model)
    write_index(index.assign(label=index["label"].replace("covid", "effusion")), run.index)
    with pytest.raises(DataError, match=r"label 'effusion': the model knows normal, pneumonia"):
        unseen_films(replace(run), model)


def test_films_without_an_answer_are_counted_and_not_held_against_the_others(
    run: RunFolder, model: RunFolder, index: pd.DataFrame, films: Path, tmp_path: Path
) -> None:
    cache = FilmCache.open(
        build_cache(films, index, tmp_path / "cache", size_px=32, color="grey").folder
    )
    first = evaluate_elsewhere(run, "first", model, CONFIG, cache, source="films")
    largest = pd.read_csv(run.predictions).filter(regex="^calibrated_").max(axis=1)
    replace(ALWAYS_ANSWER, abstain_below=largest.median()).write(model.decision)
    found = evaluate_elsewhere(run, "second", model, CONFIG, cache, source="films")
    table = pd.read_csv(run.predictions)
    answered = table[table["decision"] != "abstained"]
    assert 0 < len(answered) < len(table)
    assert found["decisions"]["answered"]["value"] == pytest.approx(len(answered) / len(table))
    right = (answered["predicted"] == answered["label"]).mean()
    assert found["decisions"]["accuracy_of_answers"]["value"] == pytest.approx(right)
    assert found["decisions"]["accuracy_of_answers"]["n"] == len(answered)
    assert found["holdout"] == first["holdout"]
    replace(ALWAYS_ANSWER, abstain_below=1.1).write(model.decision)
    silent = evaluate_elsewhere(run, "third", model, CONFIG, cache, source="films")
    assert silent["decisions"]["accuracy_of_answers"]["value"] is None


@pytest.mark.parametrize(
    ("num_copies", "copies", "known"), [(2, "00ff", "00fe"), (7, "00ff", "00ff")]
)
def test_every_copy_of_a_picture_that_the_model_met_is_left_out(
    run: RunFolder, model: RunFolder, index: pd.DataFrame, num_copies: int, copies: str, known: str
) -> None:
    far = [f"5a5a{number:012x}" for number in range(len(index))]
    hashes = [copies.zfill(16)] * num_copies + far[num_copies:]
    unrelated = index.assign(phash=hashes, patient="", series="", copies="")
    write_index(unrelated, run.index)
    met = index.head(1).assign(sha256="of other bytes", phash=known.zfill(16))
    write_index(met, model.index)
    left, left_out, _ = unseen_films(run, model)
    assert left_out == {"bytes": 0, "near": num_copies, "relatives": 0}
    assert set(left["path"]) == set(index["path"][num_copies:])


def test_all_relatives_of_known_films_are_left_out_and_like_numbers_are_counted(
    run: RunFolder, model: RunFolder, index: pd.DataFrame
) -> None:
    names = [f"patient {number}" for number in range(len(index))]
    theirs = index.assign(patient=names, series="", copies="")
    theirs.loc[index.index[[0, 5]], "copies"] = "one picture"  # 5: of no known hash
    theirs.loc[index.index[[1, 6]], "series"] = "one case"
    write_index(theirs, run.index)
    met = index.head(2).assign(patient=["", names[9]])
    write_index(met, model.index)
    left, left_out, num_like = unseen_films(run, model)
    assert left_out == {"bytes": 2, "near": 0, "relatives": 2}
    assert set(left["path"]) == set(index["path"]) - set(index["path"].iloc[[0, 1, 5, 6]])
    assert num_like == 1


def test_a_picture_that_the_model_met_in_other_bytes_is_left_out_too(
    run: RunFolder, model: RunFolder, index: pd.DataFrame, films: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    for path in index["path"]:
        with Image.open(films / path) as image:
            target = (other / path).with_suffix(".png")
            target.parent.mkdir(parents=True, exist_ok=True)
            image.convert("L").resize((80, 96)).save(target)
    write_index(build_index(other, DataConfig(), LabelConfig()), run.index)
    left, left_out, _ = unseen_films(run, model)
    assert left_out == {"bytes": 0, "near": 4, "relatives": 0}
    stems = {Path(path).stem for path in left["path"]}
    assert stems == {Path(path).stem for path in index["path"][4:]}
