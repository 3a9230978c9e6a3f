import hashlib
import os
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cxr_model.data_config import DataConfig, LabelConfig
from cxr_model.errors import DataError
from cxr_model.index import (
    COLUMNS,
    build_index,
    data_digest,
    patient_summary,
    read_index,
    unreadable_films,
    write_index,
)

WriteFilm = Callable[[str, int], Path]
LENIENT = DataConfig(max_unreadable_fraction=0.5)


def index_of(root: Path, data: DataConfig = LENIENT) -> pd.DataFrame:
    return build_index(root, data, LabelConfig()).set_index("path", drop=False)


def test_each_film_has_a_row_with_the_facts_of_its_file(films: Path) -> None:
    index = build_index(films, DataConfig(), LabelConfig())
    assert tuple(index.columns) == COLUMNS
    assert list(index["path"]) == sorted(index["path"])
    assert len(index) == 18
    row = index.iloc[0]
    file = films / row["path"]
    assert row["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert re.fullmatch("[0-9a-f]{16}", row["phash"])
    assert row.drop(["sha256", "phash"]).to_dict() == {
        "path": "COVID-19/00000010_000.png",
        "label": "covid",
        "subclass": "COVID-19",
        "width": 40,
        "height": 48,
        "mode": "L",
        "format": "PNG",
        "patient": "00000010",
        "series": "",
        "mask": "",
        "error": "",
        "jpeg_quality": 0,
        "chroma": 0.0,
        "copies": "",
    }


@pytest.mark.parametrize("quality", [30, 50, 75, 90, 100])
def test_the_quality_of_a_jpeg_is_read_from_its_tables(films: Path, quality: int) -> None:
    draw = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(draw).save(films / "Normal" / "a.jpg", quality=quality)
    row = index_of(films).loc["Normal/a.jpg"]
    assert abs(row["jpeg_quality"] - quality) <= 1
    assert row["chroma"] > 5


def test_progress_ends_at_the_number_of_films(films: Path) -> None:
    seen: list[tuple[int, int]] = []
    build_index(films, DataConfig(), LabelConfig(), progress=lambda *now: seen.append(now))
    assert seen == [(done, 18) for done in range(1, 19)]


def test_a_mask_of_the_same_path_is_noted(films: Path, write_film: WriteFilm) -> None:
    write_film("masks/Normal/00000000_000.png", 1)
    masks = index_of(films)["mask"]
    assert masks["Normal/00000000_000.jpg"] == "masks/Normal/00000000_000.png"
    assert (masks != "").sum() == 1


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "no known image format"), (b"This is text, not a film.", "no known image format")],
)
def test_a_file_that_is_no_image_keeps_its_row(films: Path, content: bytes, reason: str) -> None:
    (films / "Normal" / "fake.jpg").write_bytes(content)
    index = index_of(films)
    row = index.loc["Normal/fake.jpg"]
    assert (row["error"], row["width"], row["height"], row["mode"]) == (reason, 0, 0, "")
    assert row["sha256"] == hashlib.sha256(content).hexdigest()
    assert unreadable_films(index) == [{"path": "Normal/fake.jpg", "error": reason}]


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "tif", "webp", "gif"])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_film_cut_short_is_unreadable(
    films: Path, write_film: WriteFilm, suffix: str, share: float
) -> None:
    file = write_film(f"Normal/cut.{suffix}", 1)
    whole = file.read_bytes()
    file.write_bytes(whole[: int(share * len(whole))])
    assert index_of(films)["error"][f"Normal/cut.{suffix}"]


def test_a_large_film_cut_short_is_noticed_at_reduced_scale(films: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (512, 512), dtype=np.uint8)
    file = films / "Normal" / "large.jpg"
    Image.fromarray(noise).save(file)
    file.write_bytes(file.read_bytes()[:-500])
    assert "truncated" in index_of(films)["error"]["Normal/large.jpg"]


@pytest.mark.parametrize("side", [9_500, 30_000])
def test_a_decompression_bomb_is_not_decoded(films: Path, side: int) -> None:
    file = films / "Normal" / "bomb.png"
    Image.new("L", (1, 1)).save(file)
    header = b"IHDR" + struct.pack(">II", side, side) + b"\x08\0\0\0\0"
    checked = header + struct.pack(">I", zlib.crc32(header))
    file.write_bytes(file.read_bytes()[:12] + checked + file.read_bytes()[12 + len(checked) :])
    assert "pixels" in index_of(films)["error"]["Normal/bomb.png"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_film_that_may_not_be_read_is_unreadable(films: Path) -> None:
    (films / "Normal" / "00000000_000.jpg").chmod(0)
    assert index_of(films)["error"]["Normal/00000000_000.jpg"] == "Permission denied"


def test_a_dangling_link_is_unreadable(films: Path) -> None:
    (films / "Normal" / "gone.jpg").symlink_to(films / "nowhere.jpg")
    row = index_of(films).loc["Normal/gone.jpg"]
    assert (row["error"], row["sha256"]) == ("No such file or directory", "")


def test_too_many_unreadable_films_stop_the_run(films: Path) -> None:
    (films / "Normal" / "fake.jpg").write_text("text")
    message = (
        "1 of 19 films cannot be decoded (Normal/fake.jpg: no known image format); replace or "
        "remove them, or raise data.max_unreadable_fraction (now 0.01)"
    )
    with pytest.raises(DataError, match=re.escape(message)):
        build_index(films, DataConfig(), LabelConfig())


def test_a_class_without_a_readable_film_stops_the_run(films: Path) -> None:
    for file in (films / "Normal").iterdir():
        file.write_text("text")
    with pytest.raises(DataError, match="no film of class 'normal' can be decoded"):
        build_index(films, LENIENT, LabelConfig())


def test_a_look_at_the_films_goes_on_until_no_film_is_readable(films: Path) -> None:
    all_may_fail = DataConfig(max_unreadable_fraction=1.0)
    for file in (films / "Normal").iterdir():
        file.write_text("text")
    index = build_index(films, all_may_fail, LabelConfig(), every_class=False)
    assert set(index.loc[index["error"] == "", "label"]) == {"covid", "pneumonia"}
    for file in index["path"]:
        (films / file).write_text("text")
    message = r"not one film can be decoded \(.*no known image format.*\); replace them"
    with pytest.raises(DataError, match=message):
        build_index(films, all_may_fail, LabelConfig(), every_class=False)


SERIES = [
    ["case2a.jpg", "case2b.jpg"],
    ["ciaa199.pdf-001-a.png", "ciaa199.pdf-001-c.png"],
    ["main.pdf-002-a1.png", "main.pdf-002-a2.png"],
    ["fig5-day0.jpeg", "fig5-day12-PA.jpeg"],
    ["rapidly-progressive-12-hours.jpg", "rapidly-progressive-admission.jpg"],
]
ALONE = ["covid-19-pneumonia-12.jpg", "covid-19-pneumonia-15-PA.jpg", "nejmoa_f3-PA.jpeg"]


def test_series_are_read_from_the_names_of_films_without_a_patient(
    tmp_path: Path, write_film: WriteFilm
) -> None:
    for number, name in enumerate([*(name for names in SERIES for name in names), *ALONE]):
        write_film(f"COVID-19/{name}", number)
    write_film("Normal/00000001_003a.jpg", 90)
    write_film("Normal/case2a.jpg", 91)
    write_film("Pneumonia/x.jpg", 92)
    found = index_of(tmp_path / "films", DataConfig())["series"]
    for names in SERIES:
        series = {found[f"COVID-19/{name}"] for name in names}
        assert len(series) == 1
        assert series != {""}
    assert {found[f"COVID-19/{name}"] for name in ALONE} == {""}
    assert found["Normal/case2a.jpg"] != found["COVID-19/case2a.jpg"], "of another folder"
    assert len(set(found)) == len(SERIES) + 2, "each, none, and that of the other folder"
    assert set(index_of(tmp_path / "films", DataConfig(series_pattern=""))["series"]) == {""}


def test_the_patient_rule_is_a_setting(films: Path) -> None:
    by_default = index_of(films)
    assert by_default["patient"]["Normal/00000001_003.jpg"] == "00000001"
    assert patient_summary(by_default) == {"count": 9, "in_several_classes": 0, "films_without": 0}
    by_tail = index_of(films, DataConfig(patient_pattern=r"_(\d+)\."))
    assert patient_summary(by_tail) == {"count": 6, "in_several_classes": 6, "films_without": 0}
    none = index_of(films, DataConfig(patient_pattern=""))
    assert patient_summary(none) == {"count": 0, "in_several_classes": 0, "films_without": 18}


def test_the_index_survives_its_file(films: Path, tmp_path: Path) -> None:
    (films / "Normal" / "NA, null.jpg").write_text("text")
    index = build_index(films, LENIENT, LabelConfig())
    write_index(index, tmp_path / "run" / "index.csv")
    pd.testing.assert_frame_equal(read_index(tmp_path / "run" / "index.csv"), index)


def test_a_file_that_is_no_index_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_index(tmp_path / "absent.csv")
    (tmp_path / "other.csv").write_text("path,label\n")
    with pytest.raises(DataError, match=r"has columns path, label instead of path, label, sub"):
        read_index(tmp_path / "other.csv")


def test_the_digest_hangs_on_contents_and_labels_alone(films: Path) -> None:
    index = index_of(films)
    digest = data_digest(index)
    assert data_digest(index.iloc[::-1].assign(path="moved")) == digest
    relabelled = index.copy()
    relabelled.iloc[0, relabelled.columns.get_loc("label")] = "normal"
    assert data_digest(relabelled) != digest
    (films / "Normal" / "fake.jpg").write_text("text")
    assert data_digest(index_of(films)) == digest
    (films / "Normal" / "00000000_000.jpg").unlink()
    assert data_digest(index_of(films)) != digest


@pytest.mark.real_data
@pytest.mark.skipif("CXR_REAL_DATA" not in os.environ, reason="set CXR_REAL_DATA")
def test_real_films_are_indexed_with_their_patients() -> None:
    index = build_index(Path(os.environ["CXR_REAL_DATA"]), DataConfig(), LabelConfig())
    assert index["label"].value_counts().to_dict() == {
        "normal": 500,
        "pneumonia": 500,
        "covid": 124,
    }
    assert patient_summary(index) == {"count": 682, "in_several_classes": 21, "films_without": 124}
    assert unreadable_films(index) == []
