import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cxr_model.data_config import LabelConfig
from cxr_model.errors import DataError
from cxr_model.labels import Film, find_films, order_classes

WriteFilm = Callable[[str, int], Path]
TWO_CLASSES = LabelConfig(patterns={"ill": ["ill*"], "well": ["well*", "fit"]})


def refuse(root: Path, config: LabelConfig, message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        find_films(root, config)
    assert "\n" not in str(caught.value)


def test_folder_names_give_class_and_subclass(films: Path, write_film: WriteFilm) -> None:
    write_film("more/pneumonia-bacterial/a/b.TIF", 1)
    found, classes = find_films(films, LabelConfig())
    assert classes == ["normal", "pneumonia", "covid"]
    assert found == sorted(found)
    assert {(film.label, film.subclass) for film in found} == {
        ("normal", "Normal"),
        ("pneumonia", "Pneumonia-Viral"),
        ("pneumonia", "pneumonia-bacterial"),
        ("covid", "COVID-19"),
    }
    assert found[-1] == Film("more/pneumonia-bacterial/a/b.TIF", "pneumonia", "pneumonia-bacterial")


def test_films_to_look_at_or_to_measure_on_may_lack_classes(films: Path) -> None:
    shutil.rmtree(films / "COVID-19")
    refuse(films, LabelConfig(), "has no folder for class 'covid'")
    found, _ = find_films(films, LabelConfig(), every_class=False)
    assert {film.label for film in found} == {"normal", "pneumonia"}
    shutil.rmtree(films / "Pneumonia-Viral")
    for config in (LabelConfig(), LabelConfig(mode="folders")):
        found, _ = find_films(films, config, every_class=False)
        assert len({film.label for film in found}) == 1


def test_the_order_of_classes_outlives_a_database_that_sorts_their_names() -> None:
    patterns = {name: [f"{name}*"] for name in ("tb", "normal", "pneumonia", "covid", "asthma")}
    stored = dict(sorted(patterns.items(), key=lambda item: (len(item[0]), item[0])))
    for each in (patterns, stored):
        classes = order_classes([], LabelConfig(patterns=each))
        assert classes == ["normal", "pneumonia", "covid", "asthma", "tb"]


def test_classes_of_folders_stand_in_the_same_order() -> None:
    folders = LabelConfig(mode="folders")
    assert order_classes(["tb", "covid", "tb", "normal"], folders) == ["normal", "covid", "tb"]


def test_the_deepest_matching_folder_decides(write_film: WriteFilm, tmp_path: Path) -> None:
    write_film("ill/well/a.png", 1)
    write_film("well/ill/a.png", 2)
    found, _ = find_films(tmp_path / "films", TWO_CLASSES)
    assert [film.label for film in found] == ["well", "ill"]


def test_hidden_ignored_and_other_files_are_no_films(films: Path, write_film: WriteFilm) -> None:
    before = find_films(films, LabelConfig())
    write_film("Masks/Normal/a.png", 1)
    write_film(".cache/Normal/a.png", 2)
    write_film("Normal/.a.png", 3)
    (films / "Normal" / "notes.txt").write_text("no film")
    assert find_films(films, LabelConfig()) == before


def test_linked_folders_are_followed_and_loops_are_not(films: Path, tmp_path: Path) -> None:
    linked = tmp_path / "linked"
    linked.mkdir()
    for folder in films.iterdir():
        (linked / folder.name).symlink_to(folder)
    before = find_films(films, LabelConfig())
    (films / "Normal" / "loop").symlink_to(films)
    assert find_films(linked, LabelConfig()) == before
    assert find_films(films, LabelConfig()) == before


def test_in_folders_mode_each_folder_is_a_class(films: Path) -> None:
    found, classes = find_films(films, LabelConfig(mode="folders"))
    assert classes == ["COVID-19", "Normal", "Pneumonia-Viral"]
    assert all(film.path.startswith(f"{film.label}/") for film in found)


def test_a_table_labels_films_by_path_or_by_a_name_that_occurs_once(films: Path) -> None:
    names = sorted(path.name for path in (films / "Normal").iterdir())
    (films / "labels.csv").write_text(
        f"image,finding\n./Normal/{names[0]},ill\n{names[1]},well\n{names[1]},well\n"
    )
    config = LabelConfig(mode="csv", csv="labels.csv", path_column="image", label_column="finding")
    found, classes = find_films(films, config)
    assert classes == ["ill", "well"]
    assert found == [Film(f"Normal/{names[0]}", "ill", ""), Film(f"Normal/{names[1]}", "well", "")]


def test_a_missing_or_empty_root_is_refused(tmp_path: Path) -> None:
    refuse(tmp_path / "absent", LabelConfig(), "absent: is no folder; name a folder")
    (tmp_path / "film.png").touch()
    refuse(tmp_path / "film.png", LabelConfig(), "is no folder")
    (tmp_path / "empty").mkdir()
    refuse(tmp_path / "empty", LabelConfig(), "holds no image file (.bmp, .dcm")


def test_a_class_without_films_is_refused_with_the_setting(write_film: WriteFilm) -> None:
    write_film("normal/a.png", 1)
    root = write_film("pneumonia/a.png", 2).parents[1]
    refuse(
        root,
        LabelConfig(),
        "has no folder for class 'covid' (folders with films: 'normal', 'pneumonia'); "
        "set labels.covid=PATTERN, or labels.covid=none to drop the class",
    )


def test_a_folder_that_matches_nothing_is_refused(films: Path, write_film: WriteFilm) -> None:
    write_film("tb/a.png", 1)
    refuse(films, LabelConfig(), "folder 'tb' matches no class (folders with films: 'COVID-19', ")
    refuse(
        films,
        LabelConfig(),
        "labels.CLASS=PATTERN (normal, pneumonia, covid), add it to labels.ignore",
    )


def test_a_folder_that_matches_two_classes_is_refused(films: Path) -> None:
    config = LabelConfig(patterns={"a": ["*"], "b": ["covid*"]})
    refuse(films, config, "folder 'COVID-19' matches the classes 'a', 'b'; narrow the patterns")


def test_films_outside_of_class_folders_are_refused(films: Path, write_film: WriteFilm) -> None:
    write_film("a.png", 1)
    refuse(films, LabelConfig(), "films lie outside of any class folder")
    refuse(films, LabelConfig(mode="folders"), "films lie outside of any class folder")


def test_one_class_alone_is_refused(write_film: WriteFilm) -> None:
    root = write_film("well/a.png", 1).parents[1]
    refuse(root, LabelConfig(mode="folders"), "all 1 films are of one class, 'well'")


def test_a_long_list_of_folders_is_cut(write_film: WriteFilm, tmp_path: Path) -> None:
    for number in range(9):
        write_film(f"x{number}/a.png", number)
    refuse(tmp_path / "films", LabelConfig(), "'x3', 'x4' and 4 more)")


def test_a_file_name_that_is_not_utf8_is_refused(films: Path) -> None:
    file = films / "Normal" / b"caf\xe9.png".decode(errors="surrogateescape")
    try:
        file.touch()
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    refuse(films, LabelConfig(), r"file name 'Normal/caf\udce9.png' is not UTF-8; rename")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (None, "cannot be read as CSV"),
        ("", "cannot be read as CSV"),
        ("file,label\n", "has no column 'path' (columns: 'file', 'label'); set labels.path_column"),
        (
            "path,class\n",
            "has no column 'label' (columns: 'path', 'class'); set labels.label_column",
        ),
        ("path,label\n", "lists no film; set labels.csv"),
        ("path,label\nnone.png,a\n", "1 of 1 films are not below"),
        (
            "path,label\nsame.png,a\n",
            "or several bear the name ('same.png'); correct column 'path'",
        ),
        ("path,label\na/same.png,\n", "film 'a/same.png' has no label or two"),
        ("path,label\na/same.png,x\na/same.png,y\n", "film 'a/same.png' has no label or two"),
        ("path,label\na/same.png,x\n", "all 1 films are of one class, 'x'"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(
    write_film: WriteFilm, table: str | None, message: str
) -> None:
    write_film("a/same.png", 1)
    root = write_film("b/same.png", 2).parents[1]
    if table is not None:
        (root / "labels.csv").write_text(table)
    refuse(root, LabelConfig(mode="csv", csv="labels.csv"), message)


def test_films_of_several_findings_and_dropped_classes_are_left_out(
    write_film: WriteFilm, tmp_path: Path
) -> None:
    labels = {"a": "Mass", "b": "Effusion", "c": "Effusion|Mass", "d": "Hernia"}
    for number, name in enumerate(labels):
        write_film(f"{name}.png", number)
    lines = [f"{name}.png,{label}" for name, label in labels.items()]
    (tmp_path / "films/table.csv").write_text("\n".join(["path,label", *lines]))
    config = LabelConfig(mode="csv", csv="table.csv", separator="|", drop=["Hernia"])
    found, classes = find_films(tmp_path / "films", config)
    assert classes == ["Effusion", "Mass"]
    assert [film.path for film in found] == ["a.png", "b.png"]
    everything = LabelConfig(mode="csv", csv="table.csv", drop=list(labels.values()))
    refuse(tmp_path / "films", everything, "labels.drop leaves no film")
    apart = LabelConfig(mode="csv", csv="table.csv", separator="f")
    (tmp_path / "films/table.csv").write_text("path,label\nb.png,Effusion")
    refuse(tmp_path / "films", apart, "every label holds labels.separator='f'")
