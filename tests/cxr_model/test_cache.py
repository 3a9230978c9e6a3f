import os
import re
import subprocess
import sys
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cxr_model import cache as cache_module
from cxr_model.cache import CacheReport, FilmCache, build_cache, decode_film
from cxr_model.data_config import DataConfig, LabelConfig
from cxr_model.errors import DataError
from cxr_model.index import build_index

WriteFilm = Callable[[str, int], Path]
ROW_BYTES = 32 * 32


def index_of(root: Path) -> pd.DataFrame:
    return build_index(root, DataConfig(), LabelConfig())


def build(root: Path, folder: Path, **changes: Any) -> CacheReport:
    settings: dict[str, Any] = {"size_px": 32, "color": "grey"} | changes
    return build_cache(root, index_of(root), folder, **settings)


def pixels_by_path(report: CacheReport, root: Path) -> dict[str, bytes]:
    cache, index = FilmCache.open(report.folder), index_of(root)
    films = cache.films[cache.rows(list(index["sha256"]))]
    return {path: film.tobytes() for path, film in zip(index["path"], films, strict=True)}


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


@pytest.fixture
def one_film_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "_CHUNK_BYTES", ROW_BYTES)


class Killed(Exception):
    pass


def kill_after(num_films: int) -> Callable[[int, int], None]:
    def progress(done: int, _total: int) -> None:
        if done >= num_films:
            raise Killed

    return progress


def test_each_film_is_kept_as_decode_film_gives_it(films: Path, tmp_path: Path) -> None:
    report = build(films, tmp_path / "cache")
    assert (report.num_written, report.num_reused) == (18, 0)
    assert report.folder.name == "32px-grey-v1"
    for path, pixels in pixels_by_path(report, films).items():
        assert pixels == decode_film(films / path, 32, "grey").tobytes()


def test_colour_films_have_three_channels(films: Path, tmp_path: Path) -> None:
    report = build(films, tmp_path / "cache", color="rgb")
    assert report.folder.name == "32px-rgb-v1"
    assert FilmCache.open(report.folder).films.shape == (18, 32, 32, 3)


def test_films_are_opened_read_only(films: Path, tmp_path: Path) -> None:
    opened = FilmCache.open(build(films, tmp_path / "cache").folder).films
    assert opened.dtype == np.uint8
    with pytest.raises(ValueError, match="read-only"):
        opened[0] = 0


def test_a_second_build_reuses_every_film(films: Path, tmp_path: Path) -> None:
    first = build(films, tmp_path / "cache")
    before = (first.folder / "films.u8").read_bytes()
    seen: list[tuple[int, int]] = []
    second = build(films, tmp_path / "cache", progress=lambda *now: seen.append(now))
    assert (second.num_written, second.num_reused) == (0, 18)
    assert (first.folder / "films.u8").read_bytes() == before
    assert seen == [(18, 18)]


def test_a_changed_film_alone_is_decoded_anew(
    films: Path, tmp_path: Path, write_film: WriteFilm
) -> None:
    before = pixels_by_path(build(films, tmp_path / "cache"), films)
    write_film("Normal/00000000_000.jpg", 99)
    report = build(films, tmp_path / "cache")
    assert (report.num_written, report.num_reused) == (1, 17)
    after = pixels_by_path(report, films)
    assert {path for path in after if after[path] != before[path]} == {"Normal/00000000_000.jpg"}


def test_duplicates_share_a_row(films: Path, tmp_path: Path) -> None:
    original = films / "Normal" / "00000000_000.jpg"
    (films / "COVID-19" / "copy.jpg").write_bytes(original.read_bytes())
    report = build(films, tmp_path / "cache")
    assert report.num_written == 18
    assert len(pixels_by_path(report, films)) == 19


@pytest.mark.usefixtures("one_film_a_chunk")
@pytest.mark.parametrize("num_films", [0, 1, 7])
def test_a_killed_build_resumes_where_it_stood(films: Path, tmp_path: Path, num_films: int) -> None:
    whole = build(films, tmp_path / "whole")
    with pytest.raises(Killed):
        build(films, tmp_path / "cache", progress=kill_after(num_films))
    report = build(films, tmp_path / "cache")
    assert (report.num_written, report.num_reused) == (18 - num_films, num_films)
    assert_same_files(report, whole)


def test_a_process_killed_between_two_chunks_leaves_a_store_that_resumes(
    films: Path, tmp_path: Path
) -> None:
    index_of(films).to_pickle(tmp_path / "index.pkl")
    script = f"""
import os, signal, pandas as pd
from pathlib import Path
from cxr_model import cache
cache._CHUNK_BYTES = {ROW_BYTES}
def progress(done, total):
    if done == 5:
        os.kill(os.getpid(), signal.SIGKILL)
cache.build_cache(Path({str(films)!r}), pd.read_pickle({str(tmp_path / "index.pkl")!r}),
                  Path({str(tmp_path / "cache")!r}), size_px=32, color="grey", progress=progress)
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -9
    report = build(films, tmp_path / "cache")
    assert (report.num_written, report.num_reused) == (13, 5)
    assert_same_files(report, build(films, tmp_path / "whole"))


@pytest.mark.parametrize(
    ("name", "num_bytes", "num_lost"),
    [
        ("rows.csv", -1, 1),
        ("rows.csv", -40, 1),
        ("rows.csv", -100, 2),
        ("rows.csv", 10, 18),
        ("rows.csv", 0, 18),
        ("films.u8", -1, 1),
        ("films.u8", -2 * ROW_BYTES, 2),
        ("films.u8", 0, 18),
    ],
)
def test_a_torn_file_loses_its_torn_rows_only(
    films: Path, tmp_path: Path, name: str, num_bytes: int, num_lost: int
) -> None:
    whole = build(films, tmp_path / "whole")
    torn = build(films, tmp_path / "cache").folder / name
    os.truncate(torn, num_bytes if num_bytes >= 0 else torn.stat().st_size + num_bytes)
    if num_lost < 18:
        assert len(FilmCache.open(torn.parent).films) == 18 - num_lost
    report = build(films, tmp_path / "cache")
    assert (report.num_written, report.num_reused) == (num_lost, 18 - num_lost)
    assert_same_files(report, whole)


def assert_same_files(one: CacheReport, other: CacheReport) -> None:
    for name in ("films.u8", "rows.csv"):
        assert (one.folder / name).read_bytes() == (other.folder / name).read_bytes()


def test_a_corrupt_row_is_found_and_mended(films: Path, tmp_path: Path) -> None:
    first = build(films, tmp_path / "cache")
    before = pixels_by_path(first, films)
    with (first.folder / "films.u8").open("r+b") as file:
        file.seek(4 * ROW_BYTES + 7)
        file.write(b"\x00\xff")
    assert pixels_by_path(first, films) != before
    for num_written in (1, 0):
        report = build(films, tmp_path / "cache")
        assert (report.num_written, report.num_reused) == (num_written, 18 - num_written)
        assert pixels_by_path(report, films) == before


def test_the_ledger_names_each_row_with_its_checksum(films: Path, tmp_path: Path) -> None:
    folder = build(films, tmp_path / "cache").folder
    ledger = pd.read_csv(folder / "rows.csv", dtype={"crc32": str})
    pixels = np.fromfile(folder / "films.u8", np.uint8).reshape(-1, ROW_BYTES)
    assert list(ledger["row"]) == list(range(18))
    assert list(ledger["crc32"]) == [f"{zlib.crc32(row.tobytes()):08x}" for row in pixels]
    assert list(ledger["sha256"]) == list(index_of(films)["sha256"])


def test_two_processes_build_one_store_in_turn(films: Path, tmp_path: Path) -> None:
    index_of(films).to_pickle(tmp_path / "index.pkl")
    script = f"""
import pandas as pd
from pathlib import Path
from cxr_model.cache import build_cache
report = build_cache(Path({str(films)!r}), pd.read_pickle({str(tmp_path / "index.pkl")!r}),
                     Path({str(tmp_path / "cache")!r}), size_px=32, color="grey")
print(report.num_written)
"""
    command = [sys.executable, "-c", script]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert sorted(int(process.communicate()[0]) for process in both) == [0, 18]
    assert build(films, tmp_path / "cache").num_reused == 18


def test_a_film_changed_or_gone_since_the_index_is_refused(films: Path, tmp_path: Path) -> None:
    index = index_of(films)
    file = films / "Normal" / "00000000_000.jpg"
    Image.new("L", (9, 9)).save(file)
    message = "Normal/00000000_000.jpg: is not as indexed (it has changed); index the films anew"
    with pytest.raises(DataError, match=re.escape(message)):
        build_cache(films, index, tmp_path / "cache", size_px=32, color="grey")
    file.unlink()
    with pytest.raises(DataError, match=r"is not as indexed \(.*No such file"):
        build_cache(films, index, tmp_path / "cache", size_px=32, color="grey")


def test_a_folder_that_is_no_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="other: is no film cache of format 1; build it anew"):
        FilmCache.open(tmp_path / "other")
    with pytest.raises(DataError, match="32px-grey-v1: holds no films; build the cache first"):
        FilmCache.open(tmp_path / "32px-grey-v1")


def test_a_film_that_is_not_cached_is_refused_by_its_digest(films: Path, tmp_path: Path) -> None:
    cache = FilmCache.open(build(films, tmp_path / "cache").folder)
    with pytest.raises(DataError, match="film 0123abc is not cached; build the cache anew"):
        cache.rows(["0123abc"])


def test_a_file_that_does_not_decode_is_named_with_the_reason(tmp_path: Path) -> None:
    file = tmp_path / "fake.jpg"
    file.write_text("text")
    message = "fake.jpg: cannot be decoded (no known image format); replace or remove it"
    with pytest.raises(DataError, match=re.escape(message)):
        decode_film(file, 32, "grey")
    with pytest.raises(DataError, match="image of 4 bytes: cannot be decoded"):
        decode_film(b"text", 32, "grey")
    with pytest.raises(DataError, match=r"cannot be decoded .*No such file"):
        decode_film(tmp_path / "absent.jpg", 32, "grey")


RAMP = np.tile(np.linspace(0, 1, 32), (32, 1))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_deep_grey_levels_are_scaled_to_the_whole_range(kind: str, bits: int) -> None:
    film = Image.fromarray(np.round(RAMP * (2**bits - 1)).astype(np.uint16))
    pixels = decode_film(encoded(film, kind), 32, "grey")
    np.testing.assert_allclose(pixels, RAMP * 255, atol=0.51)


@pytest.mark.parametrize(
    "levels",
    [
        (RAMP * 2000 - 1000).astype(np.int32),
        (RAMP * (2**31 - 1)).astype(np.int32),
        (RAMP * 0.3).astype(np.float32),
    ],
    ids=["Hounsfield", "32 bits", "float"],
)
def test_wide_grey_levels_are_scaled_to_the_whole_range(levels: np.ndarray) -> None:
    pixels = decode_film(encoded(Image.fromarray(levels), "TIFF"), 32, "grey")
    np.testing.assert_allclose(pixels, RAMP * 255, atol=0.6)


def test_grey_levels_that_are_no_numbers_are_refused() -> None:
    film = Image.fromarray(np.full((8, 8), np.nan, np.float32))
    with pytest.raises(DataError, match="grey levels that are no numbers"):
        decode_film(encoded(film, "TIFF"), 32, "grey")


def test_a_uniform_float_film_decodes() -> None:
    film = Image.fromarray(np.full((8, 8), 0.5, np.float32))
    assert (decode_film(encoded(film, "TIFF"), 32, "grey") == 0).all()


@pytest.mark.parametrize("mode", ["1", "P", "LA", "RGB", "RGBA", "CMYK"])
def test_every_mode_becomes_the_same_grey(mode: str) -> None:
    halves = Image.fromarray(np.repeat([[0, 255]], 16, axis=0).astype(np.uint8)).resize((32, 32), 0)
    pixels = decode_film(encoded(halves.convert(mode), "TIFF"), 32, "grey")
    np.testing.assert_array_equal(pixels, np.asarray(halves))


def test_transparency_is_dropped() -> None:
    film = Image.new("RGBA", (32, 32), (90, 90, 90, 0))
    assert (decode_film(encoded(film), 32, "grey") == 90).all()
    palette = Image.new("L", (32, 32), 90).convert("P")
    data = encoded(palette, transparency=bytes(256))
    assert (decode_film(data, 32, "grey") == 90).all()


def test_colours_survive_where_the_setting_keeps_them() -> None:
    film = Image.new("RGB", (40, 40), (250, 10, 90))
    pixels = decode_film(encoded(film), 32, "rgb")
    assert pixels.shape == (32, 32, 3)
    assert (pixels == [250, 10, 90]).all()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_film_is_turned_upright(kind: str, orientation: int) -> None:
    upright = Image.fromarray(np.kron([[0, 90], [180, 255]], np.ones((64, 64))).astype(np.uint8))
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Image.Transpose that stores it turned
    stored = upright.transpose(Image.Transpose(undo[orientation])) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = decode_film(encoded(stored, kind, exif=exif), 32, "grey")
    corners = pixels[[4, 4, 27, 27], [4, 27, 4, 27]].astype(int)
    np.testing.assert_allclose(corners, [0, 90, 180, 255], atol=3)


@pytest.mark.parametrize("size", [(1000, 1000), (70, 900), (20, 30)])
def test_reduced_decoding_of_a_jpeg_shows_the_same_film(size: tuple[int, int]) -> None:
    waves = np.sin(np.linspace(0, 9, size[0]))[:, None] * np.cos(np.linspace(0, 9, size[1]))
    film = Image.fromarray((waves * 100 + 128).astype(np.uint8))
    data = encoded(film, "JPEG", quality=95)
    whole = np.asarray(Image.open(BytesIO(data)).resize((32, 32), Image.Resampling.BILINEAR))
    pixels = decode_film(data, 32, "grey")
    assert np.abs(pixels.astype(int) - whole).max() <= 6


def test_a_fine_pattern_is_averaged_not_aliased() -> None:
    board = np.indices((320, 320)).sum(axis=0) % 2 * 255
    pixels = decode_film(encoded(Image.fromarray(board.astype(np.uint8))), 32, "grey")
    assert np.abs(pixels.astype(int) - 127).max() <= 3


@pytest.mark.real_data
@pytest.mark.skipif("CXR_REAL_DATA" not in os.environ, reason="set CXR_REAL_DATA")
def test_real_films_are_cached_and_reused(tmp_path: Path) -> None:
    root = Path(os.environ["CXR_REAL_DATA"])
    index = index_of(root).iloc[::10]
    report = build_cache(root, index, tmp_path, size_px=224, color="grey")
    assert report.num_written == index["sha256"].nunique()
    films = FilmCache.open(report.folder).films
    assert (films.reshape(len(films), -1).std(axis=1) > 10).all()
    again = build_cache(root, index, tmp_path, size_px=224, color="grey")
    assert (again.num_written, again.num_reused) == (0, report.num_written)
