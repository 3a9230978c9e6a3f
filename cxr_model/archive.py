"""Zip archives from strangers: checked member by member, inflated within limits, all or nothing."""

import os
import shutil
import stat
import struct
import zlib
from pathlib import Path, PurePosixPath, PureWindowsPath
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile, ZipInfo

from cxr_model.errors import SourceError

_CHUNK_BYTES = 1 << 20
_IS_ENCRYPTED = 0x1
ZIP_DAMAGE = (BadZipFile, EOFError, NotImplementedError, ValueError, struct.error, zlib.error)
"""What zipfile raises on bytes that are no zip, by where the damage lies."""


class DamagedArchive(SourceError):
    """An archive whose bytes are not those that were packed; another copy may be sound."""


def extract_zip(archive: Path, folder: Path, *, max_bytes: int, max_files: int) -> int:
    """Unpack ``archive`` as ``folder`` and return the number of files written.

    ``folder`` appears, or is replaced, only when every member is on disk with the right
    CRC. ``__MACOSX`` and hidden files are left out. Raises ``DamagedArchive`` for a file
    that is no whole zip, ``SourceError`` for one that is refused: a name or link that leads
    out of the folder, a password, a rare compression, more than ``max_bytes`` unpacked or
    ``max_files`` members.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with ZipFile(archive) as file:
            _check_limits(archive, file.infolist(), max_bytes, max_files)
            targets = checked_members(archive, file)
            partial.mkdir(parents=True)
            for target, member in targets.items():
                _inflate(file, member, partial / target)
        os.sync()  # once for all members, instead of thousands of fsync
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    except ZIP_DAMAGE as error:
        raise DamagedArchive(
            f"{archive}: not a whole zip archive ({error}); fetch or pack it again"
        ) from error
    except OSError as error:
        raise SourceError(
            f"{archive}: cannot be unpacked as {folder} ({error.strerror or error}); "
            "check the path, its permissions and the free disk space"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return len(targets)


def checked_members(archive: Path, file: ZipFile) -> dict[PurePosixPath, ZipInfo]:
    """The members of ``file`` by their relative paths; any that ``extract_zip`` refuses is."""
    return {
        target: member
        for member in file.infolist()
        if (target := _target(archive, member)) is not None
    }


def _check_limits(archive: Path, members: list[ZipInfo], max_bytes: int, max_files: int) -> None:
    if len(members) > max_files:
        raise SourceError(
            f"{archive}: holds {len(members)} members, more than the limit of {max_files}; "
            "if the archive can be trusted, raise data.max_extracted_files or unpack it yourself"
        )
    # zipfile hands out no byte beyond a member's declared size (its CRC is then wrong), so
    # that the declared sum also bounds what a lying header can write.
    num_bytes = sum(member.file_size for member in members)
    if num_bytes > max_bytes:
        raise SourceError(
            f"{archive}: unpacks to {num_bytes / 1e9:.3g} GB, more than the limit of "
            f"{max_bytes / 1e9:.3g} GB; if the archive can be trusted, raise "
            "data.max_extracted_gb or unpack it yourself"
        )


def _target(archive: Path, member: ZipInfo) -> PurePosixPath | None:
    """Path of a member below the folder; None for what is not unpacked."""
    # Windows rules know both slashes and drive letters, and so cover the POSIX ones.
    path = PureWindowsPath(member.filename)
    file_type = stat.S_IFMT(member.external_attr >> 16)
    if path.drive or path.root or ".." in path.parts or not (path.parts or member.is_dir()):
        reason = "has a name that leads out of the folder"
    elif file_type not in (0, stat.S_IFREG, stat.S_IFDIR):
        reason = "is a link or device"
    elif member.flag_bits & _IS_ENCRYPTED:
        reason = "is encrypted"
    elif member.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
        # zipfile bounds the memory of these two only: 1 MiB of bzip2 can inflate to 20 GiB.
        reason = "is neither stored nor deflated"
    elif member.is_dir() or any(part == "__MACOSX" or part[0] == "." for part in path.parts):
        return None
    else:
        return PurePosixPath(path.as_posix())
    raise SourceError(
        f"{archive}: member {member.filename!r} {reason}; pack plain files as an ordinary zip"
    )


def _inflate(file: ZipFile, member: ZipInfo, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with file.open(member) as source, path.open("xb") as sink:
        shutil.copyfileobj(source, sink, _CHUNK_BYTES)  # checks the CRC at the end
