"""Sources of films to predict: each film once, in a steady order, no stranger's bytes trusted."""

import os
from collections.abc import Callable
from pathlib import Path
from zipfile import ZIP_BZIP2, ZipFile

import pytest

from cxr_model import film_files
from cxr_model.errors import CxrError, DataError, SourceError
from cxr_model.film_files import distinct_films, open_films

WriteFilm = Callable[[str, int], Path]


@pytest.fixture
def tree(tmp_path: Path, write_film: WriteFilm, monkeypatch: pytest.MonkeyPatch) -> Path:
    for number, name in enumerate(("b/2.png", "b/1.jpg", "a.png", "c/d/3.PNG")):
        write_film(name, number)
    for name in ("masks/a.png", ".hidden/a.png", "b/.hidden.png", "notes.txt"):
        (tmp_path / "films" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "films" / name).write_text("no film")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "films"


def names(source: str) -> list[str]:
    with open_films(source) as films:
        return [film.name for film in films]


def packed(folder: Path, archive: Path) -> Path:
    paths = sorted(folder.rglob("*"))  # before the archive is there itself
    with ZipFile(archive, "w") as file:
        for path in paths:
            file.write(path, path.relative_to(folder))
    return archive


@pytest.mark.usefixtures("tree")
def test_a_folder_gives_its_films_at_any_depth_sorted() -> None:
    expected = ["films/a.png", "films/b/1.jpg", "films/b/2.png", "films/c/d/3.PNG"]
    assert names("films") == names("./films/") == expected


@pytest.mark.usefixtures("tree")
def test_a_pattern_gives_what_the_shell_would() -> None:
    assert names("films/b/*.[jp]*g") == ["films/b/1.jpg", "films/b/2.png"]
    assert names("films/**/[23].*") == ["films/b/2.png", "films/c/d/3.PNG"]
    assert names("films/[bc]") == ["films/b/1.jpg", "films/b/2.png", "films/c/d/3.PNG"]


def test_a_file_that_is_named_is_a_film_whatever_its_suffix(tree: Path) -> None:
    (tree / "IM0001").write_bytes((tree / "a.png").read_bytes())
    (tree / "a[1].png").write_bytes(b"brackets are no pattern here")
    assert names("films/IM0001") == ["films/IM0001"]
    assert names("films/IM*") == ["films/IM0001"]
    assert names("films/a[1].png") == ["films/a[1].png"]


def test_an_archive_gives_its_films_without_being_unpacked(tree: Path, tmp_path: Path) -> None:
    packed(tree, tmp_path / "films.zip")
    with open_films("films.zip") as films:
        assert [film.name for film in films] == [
            *("films.zip/a.png", "films.zip/b/1.jpg", "films.zip/b/2.png"),
            "films.zip/c/d/3.PNG",
        ]
        assert films[1].read() == (tree / "b/1.jpg").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["films", "films.zip"]


@pytest.mark.usefixtures("tree")
def test_a_film_that_several_sources_name_is_taken_once() -> None:
    with open_films("films/b") as b, open_films("films") as all_films:
        found = [film.name for film in distinct_films([b, all_films, b])]
    assert found == ["films/b/1.jpg", "films/b/2.png", "films/a.png", "films/c/d/3.PNG"]


def test_a_source_without_a_film_is_told(tree: Path) -> None:
    (tree / "empty").mkdir()
    packed(tree / "empty", tree / "empty.zip")
    (tree / "fake.zip").write_text("no archive")
    for source, message in (
        ("films/empty", "films/empty: holds no image file; name films"),
        ("films/empty.zip", "films/empty.zip: holds no image file"),
        ("nowhere", "nowhere: does not exist, nor does a file match it"),
        ("films/*.bmp", "does not exist, nor does a file match it"),
        ("films/fake.zip", "films/fake.zip: is no zip archive; fetch or pack it again"),
    ):
        with pytest.raises(CxrError, match=message.replace("*", r"\*")):
            names(source)


def test_an_archive_in_a_rare_compression_is_refused(tree: Path) -> None:
    with ZipFile(tree / "rare.zip", "w", ZIP_BZIP2) as file:
        file.write(tree / "a.png")
    with pytest.raises(SourceError, match="neither stored nor deflated"):
        names(str(tree / "rare.zip"))


def test_a_member_that_is_damaged_is_that_films_error(tree: Path) -> None:
    archive = packed(tree, tree / "films.zip")
    data = bytearray(archive.read_bytes())
    data[data.index(b"IHDR") + 40] ^= 1
    archive.write_bytes(data)
    with open_films(str(archive)) as films:
        with pytest.raises(DataError, match="damaged in the archive"):
            films[0].read()
        assert films[1].read()


def test_a_file_too_large_for_a_film_is_not_read(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed(tree, tree / "films.zip")
    monkeypatch.setattr(film_files, "_MAX_BYTES", 100)
    for source in (str(tree / "a.png"), str(tree / "films.zip")):
        with open_films(source) as films, pytest.raises(DataError, match="GB are no radiograph's"):
            films[0].read()


def test_a_name_that_is_no_text_is_written_in_escapes(tree: Path) -> None:
    (tree / os.fsdecode(b"f\xfclm.png")).write_bytes((tree / "a.png").read_bytes())
    with open_films("films/f*") as films:
        assert films[0].name == r"films/f\udcfclm.png"
        assert films[0].read()
