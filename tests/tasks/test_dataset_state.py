from dataclasses import replace
from pathlib import Path
from zipfile import ZipFile

from cxr_model.config import RunConfig
from tasks.dataset_state import look_at_source
from tasks.storage import ObjectStore
from tasks.storage_location import StoreLocation


def digest(source: object, location: StoreLocation) -> str:
    config = RunConfig()
    config = replace(config, data=replace(config.data, source=str(source)))
    return look_at_source.fn(config, location).digest


def test_a_folder_is_another_when_a_film_is_added_changed_or_gone(
    tmp_path: Path, location: StoreLocation
) -> None:
    films = tmp_path / "films"
    (films / "normal").mkdir(parents=True)
    (films / "normal" / "a.png").write_bytes(b"a")
    seen = [digest(films, location)]
    assert digest(films, location) == seen[0]
    (films / ".hidden").write_text("no film")
    assert digest(films, location) == seen[0]
    (films / "normal" / "b.png").write_bytes(b"b")
    seen.append(digest(films, location))
    (films / "normal" / "a.png").write_bytes(b"longer")
    seen.append(digest(films, location))
    (films / "normal" / "b.png").unlink()
    seen.append(digest(films, location))
    (tmp_path / "elsewhere").mkdir()
    (films / "covid").symlink_to(tmp_path / "elsewhere")
    (films / "gone.png").symlink_to(tmp_path / "nowhere.png")
    assert digest(films, location) == seen[-1]
    (tmp_path / "elsewhere" / "c.png").write_bytes(b"c")
    seen.append(digest(films, location))
    assert len(set(seen)) == 5


def test_a_bucket_is_another_when_an_object_is(store: ObjectStore) -> None:
    store.write_bytes("set/normal/a.png", b"a")
    source = store.location.uri("set")
    first = digest(source, store.location)
    assert digest(source, store.location) == first
    store.write_bytes("set/normal/a.png", b"b")
    assert digest(source, store.location) != first


def test_a_zip_is_told_by_its_bytes_and_phantoms_by_their_settings(
    tmp_path: Path, location: StoreLocation
) -> None:
    for name, content in (("a.zip", b"1"), ("copy.zip", b"1"), ("b.zip", b"2")):
        with ZipFile(tmp_path / name, "w") as archive:
            archive.writestr("normal/film.png", content)
    digests = [digest(tmp_path / name, location) for name in ("a.zip", "copy.zip", "b.zip")]
    assert digests[0] == digests[1] != digests[2]
    assert digest("phantom:30", location) != digest("phantom:31", location)
