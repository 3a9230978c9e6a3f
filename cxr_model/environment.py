"""What a run was computed with, for the record."""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    *("torch", "torchvision", "captum", "prefect", "numpy", "scipy", "scikit-learn", "pandas"),
    *("pillow", "boto3"),
)


def package_versions() -> dict[str, str]:
    """Installed versions of the packages that shape a result; absent ones are left out."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def git_revision() -> str:
    """Commit of the source tree, with ``-dirty`` when it was changed.

    Outside git what ``CXR_GIT_REVISION`` says, or ``unknown``.
    """
    here = Path(__file__)
    try:
        # Installed below some other project's working tree, it is not of that one's commit.
        _git("ls-files", "--error-unmatch", here.name, folder=here.parent)
        answer = _git(
            *("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"), folder=here.parent
        )
    except (OSError, subprocess.SubprocessError):
        return os.environ.get("CXR_GIT_REVISION") or "unknown"
    return answer.strip()


def _git(*arguments: str, folder: Path) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=folder, capture_output=True, text=True, check=True, timeout=10
    ).stdout


def environment_record(device: str) -> dict[str, Any]:
    return {
        "versions": package_versions(),
        "device": device,
        "platform": platform.platform(),
        "git_revision": git_revision(),
    }
