"""Zip archives are unpacked whole and inside their folder, or not at all."""

import stat
import zipfile
from pathlib import Path

import pytest

from cxr_model.archive import DamagedArchive, extract_zip
from cxr_model.errors import SourceError

LIMITS = {"max_bytes": 10_000, "max_files": 10}


def make_zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members.items():
            file.writestr(zipfile.ZipInfo(name), content)
    return path


def assert_nothing_is_left(tmp_path: Path) -> None:
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


def flip(path: Path, old: bytes, new: bytes) -> None:
    path.write_bytes(path.read_bytes().replace(old, new))


def test_every_film_arrives_with_its_bytes(tmp_path: Path) -> None:
    films = {"set/normal/1.jpg": b"one", "set/covid/2.jpg": b"two" * 900, "3.jpg": b""}
    archive = make_zip(tmp_path / "a.zip", films)
    assert extract_zip(archive, tmp_path / "deep" / "films", **LIMITS) == 3
    for name, content in films.items():
        assert (tmp_path / "deep" / "films" / name).read_bytes() == content


def test_names_of_windows_programs_become_folders(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", {"normal\\1.jpg": b"one"})
    extract_zip(archive, tmp_path / "films", **LIMITS)
    assert (tmp_path / "films" / "normal" / "1.jpg").read_bytes() == b"one"


def test_folder_entries_and_hidden_files_are_left_out(tmp_path: Path) -> None:
    members = {"normal/": b"", "normal/1.jpg": b"1", "__MACOSX/normal/._1.jpg": b"", ".git/x": b""}
    archive = make_zip(tmp_path / "a.zip", members)
    assert extract_zip(archive, tmp_path / "films", **LIMITS) == 1
    assert [path.name for path in (tmp_path / "films").iterdir()] == ["normal"]


def test_unpacking_again_replaces_the_folder_and_a_leftover(tmp_path: Path) -> None:
    for stale in (tmp_path / "films" / "old.jpg", tmp_path / ".films.partial" / "half.jpg"):
        stale.parent.mkdir()
        stale.touch()
    extract_zip(make_zip(tmp_path / "a.zip", {"new.jpg": b"1"}), tmp_path / "films", **LIMITS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zip", "films"]
    assert [path.name for path in (tmp_path / "films").iterdir()] == ["new.jpg"]


@pytest.mark.parametrize(
    "name",
    ["../1.jpg", "/etc/1.jpg", "a/../../1.jpg", "C:\\1.jpg", "C:1.jpg", "..\\1.jpg", "\\\\h\\s\\1"],
)
def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    archive = make_zip(tmp_path / "a.zip", {"1.jpg": b"1", name: b"1"})
    with pytest.raises(SourceError, match="leads out of the folder; pack plain files"):
        extract_zip(archive, tmp_path / "films", **LIMITS)
    assert_nothing_is_left(tmp_path)


def test_a_link_is_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("1.jpg")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr(link, "/etc/passwd")
    with pytest.raises(SourceError, match=r"'1\.jpg' is a link or device"):
        extract_zip(tmp_path / "a.zip", tmp_path / "films", **LIMITS)
    assert_nothing_is_left(tmp_path)


def test_an_encrypted_member_is_refused(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", {"1.jpg": b"1"})
    content = bytearray(archive.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1  # general purpose flag: encrypted
    archive.write_bytes(content)
    with pytest.raises(SourceError, match=r"'1\.jpg' is encrypted"):
        extract_zip(archive, tmp_path / "films", **LIMITS)
    assert_nothing_is_left(tmp_path)


def test_a_compression_without_memory_bound_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_BZIP2) as file:
        file.writestr("1.jpg", b"1")
    with pytest.raises(SourceError, match="neither stored nor deflated"):
        extract_zip(tmp_path / "a.zip", tmp_path / "films", **LIMITS)


def test_more_members_than_the_limit_are_refused(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", {f"{number}.jpg": b"" for number in range(11)})
    with pytest.raises(SourceError, match=r"holds 11 members.*raise data\.max_extracted_files"):
        extract_zip(archive, tmp_path / "films", **LIMITS)
    assert_nothing_is_left(tmp_path)


def test_more_bytes_than_the_limit_are_refused(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", {"1.jpg": bytes(6_000), "2.jpg": bytes(6_000)})
    with pytest.raises(SourceError, match=r"unpacks to 1\.2e-05 GB.*raise data\.max_extracted_gb"):
        extract_zip(archive, tmp_path / "films", **LIMITS)
    assert_nothing_is_left(tmp_path)


def test_a_bomb_that_declares_few_bytes_is_refused(tmp_path: Path) -> None:
    num_bytes = 1_000_000
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("1.jpg", bytes(num_bytes))
    flip(tmp_path / "a.zip", num_bytes.to_bytes(4, "little"), (10).to_bytes(4, "little"))
    with pytest.raises(DamagedArchive, match="Bad CRC"):
        extract_zip(tmp_path / "a.zip", tmp_path / "films", **LIMITS)
    assert_nothing_is_left(tmp_path)


def test_a_flipped_bit_is_found(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", {"1.jpg": b"one", "2.jpg": b"two"})
    flip(archive, b"two", b"twp")
    with pytest.raises(DamagedArchive, match=r"Bad CRC-32 for file '2\.jpg'.*fetch or pack it"):
        extract_zip(archive, tmp_path / "films", **LIMITS)
    assert_nothing_is_left(tmp_path)


@pytest.mark.parametrize("num_bytes", [0, 10, 4_000])
def test_a_truncated_archive_is_found(tmp_path: Path, num_bytes: int) -> None:
    archive = make_zip(tmp_path / "a.zip", {"1.jpg": bytes(5_000)})
    archive.write_bytes(archive.read_bytes()[:num_bytes])
    with pytest.raises(DamagedArchive, match="not a whole zip archive"):
        extract_zip(archive, tmp_path / "films", **LIMITS)
    assert_nothing_is_left(tmp_path)


def test_damaged_deflate_data_is_found(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("1.jpg", bytes(range(256)) * 30)
    content = bytearray((tmp_path / "a.zip").read_bytes())
    content[40:60] = bytes(20 * [0xFF])
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(DamagedArchive, match="not a whole zip archive"):
        extract_zip(tmp_path / "a.zip", tmp_path / "films", **LIMITS)


def test_a_missing_archive_and_a_clash_of_names_are_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="No such file or directory"):
        extract_zip(tmp_path / "no.zip", tmp_path / "films", **LIMITS)
    archive = make_zip(tmp_path / "a.zip", {"a": b"1", "a/b": b"1"})
    with pytest.raises(SourceError, match="cannot be unpacked as"):
        extract_zip(archive, tmp_path / "films", **LIMITS)
    assert_nothing_is_left(tmp_path)
