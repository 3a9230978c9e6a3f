"""``cxr predict`` as a user has it: every source, every output, and a kill in the middle."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from typing import Any
from zipfile import ZipFile

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from pydicom import examples
from shell import Shell, shell_in

from cxr_model.run_folder import RunFolder, sha256_file
from flows.embedded_store import store_for
from tasks.run_store import publish_run
from tasks.storage import ObjectStore

pytestmark = pytest.mark.slow
NUM_FILMS = 6000


@pytest.fixture(scope="module")
def here(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: RunFolder, headline: dict[str, Any]
) -> Shell:
    """A folder ``films`` of three, an archive and a prefix of them, and a published network."""
    shell = shell_in(tmp_path_factory.mktemp("predict"))
    (shell.folder / "films").mkdir()
    for seed in range(3):
        noise = np.random.default_rng(seed).integers(0, 256, (40, 40), dtype=np.uint8)
        Image.fromarray(noise).save(shell.folder / f"films/{seed}.png")
    films = sorted(shell.folder.glob("films/*"))
    with ZipFile(shell.folder / "films.zip", "w") as file:
        for film in films:
            file.write(film, f"inner/{film.name}")
    with store_for(shell.settings) as location, ObjectStore(location) as store:
        publish_run(store, tiny_model, "tiny", headline)
    with store_for(shell.settings) as location, ObjectStore(location.at("s3://films")) as store:
        store.check()
        for film in films:
            store.upload_file(film, f"inbox/{film.name}")
    return shell


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(text.splitlines()))


def test_folders_patterns_archives_buckets_and_dicom_give_one_table(
    here: Shell, tiny_model: RunFolder
) -> None:
    dicom = examples.get_path("mr")
    sources = ["films", "films/[01].png", "films.zip", "s3://films/inbox", dicom]
    rows = rows_of(here.ok("predict", *sources, "--csv"))
    assert [row["path"] for row in rows] == [
        *(f"films/{n}.png" for n in range(3)),
        *(f"films.zip/inner/{n}.png" for n in range(3)),
        *(f"s3://films/inbox/{n}.png" for n in range(3)),
        str(dicom),
    ]
    same = [{**row, "path": ""} for row in rows]
    assert same[:3] == same[3:6] == same[6:9]
    assert {row["model"] for row in rows} == {sha256_file(tiny_model.weights)}
    assert {(row["run_id"], row["error"]) for row in rows} == {("tiny", "")}


def test_a_bad_film_is_told_beside_the_others_and_each_good_one_is_drawn(here: Shell) -> None:
    (here.folder / "notes.jpg").write_text("no film")
    done = here("predict", "notes.jpg", "films/0.png", "--json", "--explain", "maps")
    assert done.returncode == 0, done.stderr
    bad, good = json.loads(done.stdout)["films"]
    assert (bad["predicted"], bad["probability_covid"]) == ("", None)
    assert bad["error"] == "no known image format"
    assert good["predicted"]
    assert "films: 2 in" in done.stderr
    told = " ".join(done.stderr.split())  # lines are folded at the terminal's width
    assert "network of run tiny; red gates: shortcut Grad-CAM heat maps below maps:" in told
    assert "This method was not put to the test in its run." in told
    assert "1 not decoded, notes.jpg: cannot be decoded (no known image" in done.stderr
    (overlay,) = (here.folder / "maps").iterdir()
    assert overlay.name == f"0-{good['sha256'][:8]}.jpg"


def test_a_folder_that_cannot_be_made_is_refused_before_a_film_is_scored(here: Shell) -> None:
    (here.folder / "taken").write_text("a file")
    told = here.refused("predict", "films", "--explain", "taken/maps")
    assert "taken/maps: cannot be made (Not a directory); name another place" in told


def test_people_get_a_table_and_parquet_and_json_lines_the_same_numbers(here: Shell) -> None:
    shown = here("predict", "films")
    assert "films/0.png" in shown.stdout
    assert "decision" in shown.stdout
    assert "outliers: 0; abstained: 0" in shown.stderr
    for name in ("out.parquet", "out.jsonl"):
        assert here.ok("predict", "films", "--to", name, "--model", "tiny").strip() == name
    parquet = pd.read_parquet(here.folder / "out.parquet")
    lines = [json.loads(line) for line in (here.folder / "out.jsonl").read_text().splitlines()]
    plain = parquet.astype(object).where(parquet.notna(), None)  # this network has no score
    assert plain.to_dict("records") == lines


def test_what_cannot_be_answered_is_refused_before_a_network_is_fetched(here: Shell) -> None:
    (here.folder / "there.csv").write_text("mine")
    (here.folder / "empty").mkdir()
    for arguments, message in (
        (["films", "--to", "there.csv"], "there.csv: is there already; delete it"),
        (["films", "--to", "there.xls"], "name a file that ends in .csv, .parquet, .jsonl"),
        (["films", "--to", "new.csv", "--json"], "--to, --csv and --json exclude each other"),
        (["films", "empty"], "empty: holds no image file"),
        (["gone.png"], "gone.png: does not exist, nor does a file match it"),
        (["s3://films/nothing"], "s3://films/nothing/: holds no image file"),
        (["notes.jpg"], "notes.jpg: cannot be decoded (no known image format); replace"),
    ):
        (here.folder / "notes.jpg").write_text("no film")
        assert message in here.refused("predict", *arguments)


def test_a_run_killed_in_the_middle_goes_on_to_the_rows_of_an_unbroken_one(here: Shell) -> None:
    many = here.folder / "many"
    many.mkdir()
    for number in range(NUM_FILMS):
        os.link(here.folder / f"films/{number % 3}.png", many / f"{number:05d}.png")
    first_part = here.folder / "killed.csv.parts/000000.csv"
    with _started(here, "predict", "many", "--to", "killed.csv") as process:
        deadline = time.monotonic() + 120
        while not first_part.exists():
            assert process.poll() is None, "ended before its first part was seen"
            assert time.monotonic() < deadline
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not (here.folder / "killed.csv").exists()
    other = here.refused("predict", "films", "--to", "killed.csv")
    assert "killed.csv.parts: was begun with sources ['many'], now it is ['films']" in other

    again = here("predict", "many", "--to", "killed.csv")
    assert again.returncode == 0, again.stderr
    assert "killed.csv: goes on behind" in again.stderr
    here.ok("predict", "many", "--to", "whole.csv")
    assert (here.folder / "killed.csv").read_bytes() == (here.folder / "whole.csv").read_bytes()
    names = [row["path"] for row in rows_of((here.folder / "killed.csv").read_text())]
    assert names == [f"many/{number:05d}.png" for number in range(NUM_FILMS)]
    assert not first_part.parent.exists()


def _started(shell: Shell, *arguments: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-m", "flows.cli", *arguments],
        cwd=shell.folder,
        env=shell.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
