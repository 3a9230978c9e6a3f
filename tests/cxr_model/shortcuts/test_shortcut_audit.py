"""The audit finds a planted marker and leaves clean films alone."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.shortcut_alarms import audit_phantoms, phantom_settings
from cxr_model.cache import FilmCache
from cxr_model.reports.shortcut_figures import shortcut_figures
from cxr_model.run_folder import RunFolder
from cxr_model.shortcuts.audit import audit_shortcuts

NUM_FILMS = 90


def audit(folder: Path, seed: int, num_films: int, marker_class: str = "") -> dict[str, Any]:
    config = phantom_settings(num_films, seed, marker_class, size_px=64, epochs=4)
    return audit_phantoms(config, folder)


def retrained(record: dict[str, Any]) -> set[str]:
    names = {probe["name"] for probe in record["probes"]}
    return {name for name in names if name.startswith("retrained-")}


@pytest.fixture(scope="module")
def marked(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], RunFolder]:
    folder = tmp_path_factory.mktemp("marked")
    return audit(folder, 0, NUM_FILMS, "covid"), RunFolder(folder / "run")


def test_planted_marker_raises_the_alarm(marked: tuple[dict[str, Any], RunFolder]) -> None:
    record, _ = marked
    assert record["alarm"]
    assert any(
        alarm.startswith("covid is told from the rest by border") for alarm in record["alarms"]
    )
    assert record["verdict"].startswith("Shortcut alarm: covid is told from the rest")


def test_record_is_what_stands_on_disk_and_each_probe_says_what_it_saw(
    marked: tuple[dict[str, Any], RunFolder],
) -> None:
    record, run = marked
    assert json.loads(run.shortcuts.read_text()) == record
    assert record["chance"] == pytest.approx(1 / 3)
    evidence = {probe["name"]: probe["evidence"] for probe in record["probes"]}
    assert evidence == {
        "metadata": "no lung",
        "thumbnail": "both",
        "border": "no lung",
        "surroundings": "no lung",
        "network-centre-50": "both",
        "network-centre-70": "both",
        "network-no-lungs": "no lung",
        "network-border": "no lung",
        "network-lungs": "lung",
        "network-standardised": "both",
        "corners-other-class": "both",
        "corners-own-class": "both",
    }
    assert all(probe["title"] and probe["how"] for probe in record["probes"])
    strongest = next(each for each in record["probes"] if each["name"] == record["strongest"])
    assert record["headline"]["value"] == pytest.approx(
        record["model"]["value"] - strongest["balanced_accuracy"]["value"]
    )
    assert set(shortcut_figures(record)) == {"shortcuts"}


def test_retraining_adds_a_probe_for_each_view_and_leaves_out_what_diverges(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = phantom_settings(30, 0, "", size_px=64, epochs=1)
    config = replace(config, shortcuts=replace(config.shortcuts, retrain=True))
    record = audit_phantoms(config, tmp_path)
    views = ("centre-50", "centre-70", "border", "lungs", "no-lungs")
    assert retrained(record) == {f"retrained-{name}" for name in views}
    titles = [probe["title"] for probe in record["probes"] if probe["title"].startswith("retr")]
    assert record["left_out"] == []
    diverging = replace(config, training=replace(config.training, weight_decay=1e45))
    run, cache = RunFolder(tmp_path / "run"), next((tmp_path / "cache").iterdir())
    record = audit_shortcuts(run, diverging, FilmCache.open(cache), tmp_path / "films")
    assert retrained(record) == set()
    for title, sentence in zip(titles, record["left_out"], strict=True):
        assert re.match(f"{title}: .*lower training.learning_rate", sentence)
        assert f"probe left out: {sentence}" in caplog.messages
    assert json.loads(run.shortcuts.read_text()) == record


@pytest.mark.slow
def test_clean_films_of_ten_seeds_raise_no_alarm(tmp_path: Path) -> None:
    """As many films as show the marker above; the rules were set on the seeds 0 to 19."""
    seeds = range(20, 30)
    alarms = {seed: audit(tmp_path / str(seed), seed, NUM_FILMS)["alarms"] for seed in seeds}
    assert alarms == {seed: [] for seed in seeds}
