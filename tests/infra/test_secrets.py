import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from infra_files import INFRA, compose

from tasks.storage_location import read_keys


def make_secrets(folder: Path) -> list[str]:
    done = subprocess.run(
        ["sh", INFRA / "make-secrets", folder], capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


def with_secrets(*words: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["sh", INFRA / "with-secrets", *words],
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_secrets_are_made_once_and_shut_off_from_others(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    made = make_secrets(folder)
    texts = {path.name: path.read_text() for path in folder.iterdir()}
    assert all(line.endswith(": made") for line in made)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert all(line.endswith(": kept") for line in make_secrets(folder))
    assert texts == {path.name: path.read_text() for path in folder.iterdir()}
    assert len(texts["postgres_password"]) == 48
    assert ",".join(read_keys(folder / "s3_credentials")) == texts["s3_keys"]


def test_every_secret_of_the_compose_file_is_made(tmp_path: Path) -> None:
    make_secrets(tmp_path / "secrets")
    document = compose()
    for secret in document["secrets"].values():
        assert (tmp_path / secret["file"]).exists()
    used = {name for each in document["services"].values() for name in each.get("secrets", [])}
    assert used == set(document["secrets"])


def test_two_folders_have_no_secret_in_common(tmp_path: Path) -> None:
    for name in ("one", "other"):
        make_secrets(tmp_path / name)
    for path in (tmp_path / "one").iterdir():
        if path.name != "kaggle_api_token":  # empty until its owner fills it in
            assert path.read_text() != (tmp_path / "other" / path.name).read_text()


@pytest.mark.parametrize(
    "name",
    [
        "PREFECT_API_AUTH_STRING",
        "PREFECT_SERVER_API_AUTH_STRING",
        "PREFECT_SERVER_DATABASE_PASSWORD",
        "KAGGLE_API_TOKEN",
    ],
)
def test_a_program_finds_the_content_of_a_secret_in_its_environment(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / "secret").write_text("cxr:pass word$'\"\n")
    shown = f"import os; print(os.environ['{name}'], '{name}_FILE' in os.environ)"
    done = with_secrets(sys.executable, "-c", shown, **{f"{name}_FILE": str(tmp_path / "secret")})
    assert done.stdout == "cxr:pass word$'\" False\n"


def test_an_empty_secret_sets_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    done = with_secrets("env", KAGGLE_API_TOKEN_FILE=str(tmp_path / "empty"))
    assert "KAGGLE_API_TOKEN" not in done.stdout


def test_a_secret_that_cannot_be_read_stops_the_program(tmp_path: Path) -> None:
    path = tmp_path / "absent"
    done = with_secrets("echo", "started", PREFECT_API_AUTH_STRING_FILE=str(path))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"error: PREFECT_API_AUTH_STRING_FILE={path}: cannot be read; check the secret and who "
        "may read it\n"
    )


def test_the_exit_code_is_the_programs() -> None:
    assert with_secrets("sh", "-c", "exit 7").returncode == 7
