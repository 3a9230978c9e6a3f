"""The record of what a run was computed with."""

import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from cxr_model import environment
from cxr_model.environment import environment_record, git_revision, package_versions


def test_versions_are_those_installed_and_absent_packages_are_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(environment, "PACKAGES", ("numpy", "no-such-package-here"))
    python = ".".join(map(str, sys.version_info[:3]))
    assert package_versions() == {"python": python, "numpy": metadata.version("numpy")}


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError("git"),
        subprocess.CalledProcessError(128, "git"),
        subprocess.TimeoutExpired("git", 10),
    ],
)
def test_the_revision_is_unknown_where_git_does_not_answer(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(subprocess, "run", fail)
    monkeypatch.delenv("CXR_GIT_REVISION", raising=False)
    assert git_revision() == "unknown"
    monkeypatch.setenv("CXR_GIT_REVISION", "0123abc")  # as an image knows it
    assert git_revision() == "0123abc"


def test_a_copy_below_another_projects_tree_is_not_of_its_commit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    installed = tmp_path / ".venv" / "environment.py"
    installed.parent.mkdir()
    installed.touch()
    monkeypatch.setattr(environment, "__file__", str(installed))
    monkeypatch.setenv("CXR_GIT_REVISION", "0123abc")
    assert git_revision() == "0123abc"


def test_the_revision_is_one_word_and_the_record_is_plain_json() -> None:
    record = environment_record("cpu")
    assert json.loads(json.dumps(record)) == record
    assert record["device"] == "cpu"
    assert len(record["git_revision"].split()) == 1
