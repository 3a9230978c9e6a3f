"""Every sin planted among phantoms is found, and clean phantoms have none."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageDraw, ImageOps

from cxr_model.config import RunConfig
from cxr_model.data_config import DataConfig, PhantomConfig
from cxr_model.errors import DataError
from cxr_model.evidence_config import HygieneConfig
from cxr_model.hygiene.audit import FINDINGS, audit_films
from cxr_model.hygiene.datasheet import write_datasheet
from cxr_model.index import build_index, write_index
from cxr_model.phantoms.phantom import write_phantoms
from cxr_model.reports.audit_page import write_audit_page
from cxr_model.run_folder import RunFolder, read_json

LENIENT = RunConfig(data=DataConfig(max_unreadable_fraction=0.5))
COPIES = ("bytes", "pixels", "near")


def look_at(root: Path, run_root: Path, config: RunConfig = LENIENT) -> dict[str, Any]:
    run = RunFolder(run_root)
    index = build_index(
        root,
        config.data,
        config.labels,
        near_duplicates=config.hygiene.near_duplicates,
        thumbnails=run.thumbnails,
    )
    write_index(index, run.index)
    return audit_films(run, config, root)


@pytest.fixture(scope="module")
def sinful(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunFolder, dict[str, Any]]:
    """60 phantoms, with copies and broken files; the films, the run and its record."""
    folder = tmp_path_factory.mktemp("sins")
    config = PhantomConfig(
        num_films=60,
        films_per_patient=2,
        num_exact_duplicates=6,
        num_near_duplicates=6,
        num_unreadable=4,
    )
    truth = write_phantoms(folder / "films", config)
    films = folder / "films"
    path, _ = truth.exact_duplicates[0]
    other = next(name for name in ("Normal", "Pneumonia") if not path.startswith(name))
    (films / other / "elsewhere.jpg").write_bytes((films / path).read_bytes())
    with Image.open(films / truth.exact_duplicates[1][0]) as image:
        image.save(films / "Normal" / "as-png.png")
    return films, RunFolder(folder / "run"), look_at(films, folder / "run")


def test_every_unreadable_film_is_told_and_no_other(
    sinful: tuple[Path, RunFolder, dict[str, Any]],
) -> None:
    films, _, record = sinful
    truth = read_json(films / "phantom.json")["truth"]
    assert {film["path"] for film in record["unreadable"]} == set(truth["unreadable"])


def test_every_exact_copy_is_found_by_bytes_or_by_pixels(
    sinful: tuple[Path, RunFolder, dict[str, Any]],
) -> None:
    films, _, record = sinful
    planted = read_json(films / "phantom.json")["truth"]["exact_duplicates"]
    exact = record["exact_duplicates"]
    groups = [set(paths) for paths in exact["groups"]]
    assert all(any(set(pair) <= group for group in groups) for pair in planted)
    assert exact["by_bytes"] == 2 * len(planted) + 1
    assert exact["by_pixels"] == 2
    assert any("Normal/as-png.png" in group for group in groups)


def test_copies_in_two_classes_are_a_conflict(
    sinful: tuple[Path, RunFolder, dict[str, Any]],
) -> None:
    _, _, record = sinful
    (by_bytes,) = [c for c in record["label_conflicts"] if c["kind"] == "bytes"]
    assert any(path.endswith("elsewhere.jpg") for path in by_bytes["paths"])
    assert len(by_bytes["labels"]) == 2
    assert all(len(set(c["labels"])) > 1 for c in record["label_conflicts"])


def test_the_groups_count_what_stays_together(
    sinful: tuple[Path, RunFolder, dict[str, Any]],
) -> None:
    _, run, record = sinful
    assert record["num_films"] == 60 + 6 + 6 + 4 + 2
    assert record["patients"]["films_sharing"] == 60
    shared = record["patients"]["shared"]
    assert sum(len(each["paths"]) for each in shared) == 60
    assert [len(each["labels"]) > 1 for each in shared] == sorted(
        (len(each["labels"]) > 1 for each in shared), reverse=True
    )
    assert record["groups"]["largest"] >= 3
    findings = pd.read_csv(run.findings, keep_default_na=False)
    assert set(findings["finding"]) <= set(FINDINGS)
    counts = findings.groupby("finding")["path"].nunique()
    assert {name: n for name, n in record["counts"].items() if n} == counts.to_dict()


def test_the_datasheet_says_what_is_known_and_what_is_not(
    sinful: tuple[Path, RunFolder, dict[str, Any]],
) -> None:
    _, run, record = sinful
    write_datasheet(run, LENIENT, "some_films", {"kind": "folder", "name": "some_films"})
    sheet = run.datasheet.read_text()
    for text in ("some\\_films", "78 image files", "4 cannot be decoded", "Unknown", "2021"):
        assert text in sheet
    assert str(record["groups"]["count"]) in sheet


def test_the_page_stands_alone(
    sinful: tuple[Path, RunFolder, dict[str, Any]], tmp_path: Path
) -> None:
    _, _, record = sinful
    record = record | {"blank": ["Normal/<script>.png"]}
    write_audit_page(record, "films & more", tmp_path / "audit.html")
    page = (tmp_path / "audit.html").read_text()
    assert "films &amp; more" in page
    assert "<script>" not in page
    assert "http" not in page.replace("http-equiv", "")
    assert page.count("data:image/svg+xml;base64,") == 4


def test_the_page_says_where_a_list_on_it_ends(
    sinful: tuple[Path, RunFolder, dict[str, Any]], tmp_path: Path
) -> None:
    _, _, record = sinful
    paths = [f"Normal/{n:04}.png" for n in range(1203)]
    copies = record["exact_duplicates"] | {"groups": [paths]}
    record = record | {"blank": paths, "exact_duplicates": copies}
    write_audit_page(record, "films", tmp_path / "audit.html")
    page = (tmp_path / "audit.html").read_text()
    assert '<th scope="row">blank</th><td>first 200 of 1,203</td>' in page
    assert page.count('<th scope="row">blank</th>') == 201
    assert "Normal/0199.png (first 200 of 1,203)</td>" in page


def test_the_json_lists_every_film(tmp_path: Path) -> None:
    root = tmp_path / "films"
    write_phantoms(root, PhantomConfig(num_films=15))
    for n in range(201):
        (root / "Normal" / f"empty-{n}.png").touch()
    config = replace(LENIENT, data=DataConfig(max_unreadable_fraction=1))
    record = look_at(root, tmp_path / "run", config)
    assert len(record["unreadable"]) == record["counts"]["unreadable"] == 201
    assert read_json(RunFolder(tmp_path / "run").hygiene) == record


@pytest.mark.parametrize("seed", range(3))
def test_clean_phantoms_raise_no_alarm(tmp_path: Path, seed: int) -> None:
    write_phantoms(tmp_path / "films", PhantomConfig(num_films=45, seed=seed))
    record = look_at(tmp_path / "films", tmp_path / "run")
    assert set(record["counts"].values()) == {0}
    assert record["common_picture"] > 0.5
    best = record["told_apart_by"][0]
    assert best["balanced_accuracy"]["ci_low"] < 0.6, best


def test_a_search_that_was_not_made_is_told_as_such(tmp_path: Path) -> None:
    write_phantoms(tmp_path / "films", PhantomConfig(num_films=15, num_near_duplicates=5))
    config = replace(LENIENT, hygiene=HygieneConfig(near_duplicates=False))
    record = look_at(tmp_path / "films", tmp_path / "run", config)
    assert not record["near_duplicates"]["searched"]
    write_audit_page(record, "films", tmp_path / "audit.html")
    page = (tmp_path / "audit.html").read_text()
    assert "re-encoded</th><td>not looked for</td>" in page
    run = RunFolder(tmp_path / "run")
    write_datasheet(run, config, "films", {"kind": "folder", "name": "films"})
    assert "an unknown number (not looked for) after cropping" in run.datasheet.read_text()


def spoil(root: Path, paths: list[str], change: Callable[[Image.Image], Image.Image]) -> set[str]:
    for path in paths:
        with Image.open(root / path) as image:
            changed = change(image)
        changed.save(root / path, quality=90)
    return set(paths)


def test_negatives_turned_blank_coloured_written_and_odd_films_are_told(tmp_path: Path) -> None:
    root = tmp_path / "films"
    write_phantoms(root, PhantomConfig(num_films=90, seed=5))
    paths = sorted(path.relative_to(root).as_posix() for path in root.glob("[A-Z]*/*.jpg"))
    some = np.random.default_rng(0).permutation(paths).tolist()

    def text(image: Image.Image) -> Image.Image:
        page = Image.new("L", image.size, 255)
        for line in range(10, image.height - 10, 14):
            ImageDraw.Draw(page).text((20, line), "Findings: the heart is of normal size. " * 3)
        return page

    inverted = spoil(root, some[:6], ImageOps.invert)
    turned = spoil(root, some[6:9], lambda image: image.rotate(180))
    blank = spoil(root, some[9:12], lambda image: Image.new("L", image.size, 60))
    tint = ("black", "red")
    colored = spoil(root, some[12:15], lambda image: ImageOps.colorize(image, *tint))
    written = spoil(root, some[15:17], text)
    narrow = spoil(root, some[17:19], lambda image: image.resize((image.width // 3, image.height)))
    record = look_at(root, tmp_path / "run")
    assert set(record["inverted"]) == inverted
    assert set(record["blank"]) == blank
    why = {film["path"]: film["why"] for film in record["not_radiographs"]}
    assert set(why) == turned | colored | written
    assert {why[path] for path in turned} == {"resembles the others when turned"}
    assert {why[path] for path in colored} == {"coloured"}
    assert {film["path"] for film in record["odd_sizes"]} == narrow


def test_a_class_of_other_files_is_told_apart_by_them(tmp_path: Path) -> None:
    root = tmp_path / "films"
    write_phantoms(root, PhantomConfig(num_films=60, seed=2))
    for path in (root / "COVID-19").glob("*.jpg"):
        with Image.open(path) as image:
            image.convert("RGB").save(path.with_suffix(".png"))
        path.unlink()
    record = look_at(root, tmp_path / "run")
    assert record["fingerprint"]["covid"]["modes"] == {"RGB": 20}
    assert record["fingerprint"]["covid"]["jpeg_quality"] is None
    assert sum(record["fingerprint"]["normal"]["histogram"]) == pytest.approx(1, abs=1e-3)
    best = {row["property"]: row["balanced_accuracy"] for row in record["told_apart_by"]}
    assert best["mode"] == best["format"]
    assert best["mode"]["value"] == pytest.approx(2 / 3, abs=0.01)
    assert best["mode"]["n"] == 60
    for estimate in best.values():
        assert 0 <= estimate["ci_low"] <= estimate["value"] <= estimate["ci_high"] <= 1
    assert best["mean_grey"]["ci_high"] - best["mean_grey"]["ci_low"] > 0.1
    (mode,) = (row for row in record["told_apart_by"] if row["property"] == "mode")
    covid = mode["against_the_rest"]["covid"]
    assert covid["value"] == covid["ci_high"] == 1
    assert 0.75 < covid["ci_low"] < 1  # of 20 films, and 40: nothing is certain
    assert mode["against_the_rest"]["normal"]["value"] == pytest.approx(0.75, abs=0.01)


def test_one_black_film_in_two_classes_is_a_conflict_of_exact_copies(tmp_path: Path) -> None:
    root = tmp_path / "films"
    write_phantoms(root, PhantomConfig(num_films=15))
    black = Image.new("L", (70, 60))
    paths = ["COVID-19/black.bmp", "Normal/black.png"]
    for path in paths:
        black.save(root / path)
    off = replace(LENIENT, hygiene=HygieneConfig(near_duplicates=False))
    for config in (LENIENT, off):
        record = look_at(root, tmp_path / "run", config)
        assert record["exact_duplicates"]["groups"] == [paths]
        assert record["exact_duplicates"]["by_pixels"] == 2
        assert record["near_duplicates"]["films"] == 0
        (conflict,) = record["label_conflicts"]
        assert conflict == {"paths": paths, "labels": ["covid", "normal"], "kind": "pixels"}


def test_a_film_in_two_conflicts_counts_once(tmp_path: Path) -> None:
    root = tmp_path / "films"
    write_phantoms(root, PhantomConfig(num_films=15))
    film = next((root / "Normal").iterdir())
    (root / "COVID-19" / "again.jpg").write_bytes(film.read_bytes())
    with Image.open(film) as image:
        image.point(lambda grey: int(grey * 0.95)).save(root / "Normal" / "darker.png")
    record = look_at(root, tmp_path / "run")
    assert [c["kind"] for c in record["label_conflicts"]] == ["bytes", "near"]
    assert record["counts"]["label conflict"] == 3


def test_nothing_is_judged_by_a_common_picture_that_is_not_there(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(60):
        label = ("Normal", "Pneumonia", "COVID-19")[number % 3]
        noise = Image.fromarray(rng.integers(0, 255, (6, 6), dtype=np.uint8)).resize((64, 64))
        (tmp_path / "films" / label).mkdir(parents=True, exist_ok=True)
        noise.save(tmp_path / "films" / label / f"{number}.png")
    record = look_at(tmp_path / "films", tmp_path / "run")
    assert record["common_picture"] < 0.5
    assert record["inverted"] == record["not_radiographs"] == []


def test_a_look_without_thumbnails_or_with_others_is_refused(films: Path, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    write_index(build_index(films, LENIENT.data, LENIENT.labels), run.index)
    with pytest.raises(DataError, match=r"cannot be read .*; index the films anew"):
        audit_films(run, LENIENT, films)
    np.save(run.thumbnails, np.zeros((3, 32, 32), dtype=np.uint8))
    with pytest.raises(DataError, match="holds 3 films, the index 18; index the films anew"):
        audit_films(run, LENIENT, films)


def test_a_film_that_went_away_is_told(tmp_path: Path) -> None:
    root = tmp_path / "films"
    write_phantoms(root, PhantomConfig(num_films=15))
    path = next((root / "Normal").glob("*.jpg"))
    with Image.open(path) as image:
        image.save(path.with_suffix(".png"))
    run = RunFolder(tmp_path / "run")
    index = build_index(root, LENIENT.data, LENIENT.labels, thumbnails=run.thumbnails)
    write_index(index, run.index)
    path.unlink()
    with pytest.raises(DataError, match=r"is not as indexed .*; index the films anew"):
        audit_films(run, LENIENT, root)


@pytest.mark.real_data
@pytest.mark.skipif("CXR_REAL_DATA" not in os.environ, reason="set CXR_REAL_DATA")
def test_what_lies_in_the_real_films_is_found(tmp_path: Path) -> None:
    record = look_at(Path(os.environ["CXR_REAL_DATA"]), tmp_path / "run")
    patients = record["patients"]
    assert (patients["count"], patients["in_several_classes"]) == (682, 21)
    assert (patients["films_sharing"], patients["films_without"]) == (482, 124)
    assert record["counts"] | {"not a radiograph": 0} == dict.fromkeys(FINDINGS, 0) | {
        "exact duplicate": 2,
        "near duplicate": 2,
        "shared patient": 482,
    }
    assert [len(each["labels"]) for each in patients["shared"]].count(2) == 21
    assert record["counts"]["not a radiograph"] <= 6
    best = record["told_apart_by"][0]
    assert best["balanced_accuracy"]["ci_low"] > 0.6, (
        "a class from elsewhere: two of three told at least"
    )
    assert record["fingerprint"]["normal"]["modes"] == {"L": 500}
