"""The images: what can be said of a Dockerfile without building it."""

import re
import subprocess
import sysconfig
from importlib.metadata import requires
from pathlib import Path

import pytest
from infra_files import (
    INFRA,
    ROOT,
    compose,
    image_command,
    image_environment,
    locked,
    prefect_commands,
    project,
)
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from prefect.cli._app import _app as prefect_cli
from typer.testing import CliRunner

from flows.cli import app as cxr
from flows.settings import Settings, prefect_environment
from flows.stack import WORK_POOL

DOCKERFILE = (INFRA / "Dockerfile").read_text()


def test_the_linter_finds_nothing() -> None:
    hadolint = Path(sysconfig.get_path("scripts")) / "hadolint"
    done = subprocess.run(
        [hadolint, INFRA / "Dockerfile"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_images_have_the_oldest_python_that_the_project_takes() -> None:
    bases = set(re.findall(r"^FROM (\S+:\S+)", DOCKERFILE, flags=re.M))
    (base,) = bases
    (version,) = re.findall(r"^python:(\d+\.\d+)-slim-\w+$", base)
    assert SpecifierSet(project()["requires-python"]) == SpecifierSet(f">={version}")
    assert f"--python-version {version}" in (ROOT / "Makefile").read_text()


def test_every_package_of_the_images_is_installed_as_the_lock_has_it() -> None:
    installs = re.findall(r"pip install(.*?)(?:;|&&|$)", DOCKERFILE.replace("\\\n", ""), flags=re.M)
    free = [
        line
        for line in installs
        if "--constraint requirements.lock" not in line
        and "--requirement torch.txt" not in line  # lines of the lock
        and "--no-deps --no-build-isolation ." not in line  # the project itself
    ]
    assert len(installs) == 6
    assert free == []
    assert "COPY pyproject.toml requirements.lock ./" in DOCKERFILE


@pytest.mark.parametrize("asked", [project()["dependencies"], ["prefect", "prefect-redis"]])
def test_the_lock_pins_all_that_an_image_installs(asked: list[str]) -> None:
    pins, todo, seen = locked(), [Requirement(line) for line in asked], set()
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        extras = requirement.extras or {""}
        if (name, *extras) in seen:
            continue
        seen.add((name, *extras))
        assert name in pins
        assert requirement.specifier.contains(pins[name], prereleases=True), requirement
        todo += [
            needed
            for needed in map(Requirement, requires(name) or [])
            if needed.marker is None
            or any(needed.marker.evaluate({"extra": extra}) for extra in extras | {""})
        ]
    assert len(seen) > 50


def test_the_lock_has_the_torch_that_the_project_asks_for() -> None:
    asked = {Requirement(line).name: Requirement(line) for line in project()["dependencies"]}
    for name in ("torch", "torchvision", "prefect"):
        assert str(asked[name].specifier) == f"=={locked()[name]}"


def test_nothing_but_source_reaches_the_builder() -> None:
    first, *rest = [
        line
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    assert first == "*"
    assert all(line.startswith("!") for line in rest)
    let_in = {path for line in rest for path in ROOT.glob(line[1:])}
    assert all(any(ROOT.glob(line[1:])) for line in rest)
    kinds = {path.suffix or path.name for path in let_in}
    assert kinds == {
        ".py",
        ".j2",
        ".js",
        ".css",
        ".html",
        ".yaml",
        ".toml",
        ".lock",
        ".md",
        "with-secrets",
    }
    packages = [
        ROOT / name for name in ("cxr_model", "tasks", "flows", "deployments", "benchmarks")
    ]
    source = {path for package in packages for path in package.rglob("*") if path.is_file()}
    left_out = {path.suffix for path in source - let_in if "__pycache__" not in path.parts}
    assert left_out <= {".json", ".csv"}  # results of benchmarks


def test_the_images_run_as_a_user_without_rights() -> None:
    finals = re.split(r"^FROM ", DOCKERFILE, flags=re.M)
    users = {
        stage.split()[2]: re.findall(r"^USER (.*)$", stage, flags=re.M) for stage in finals[1:]
    }
    assert users["server"] == users["worker"] == ["10001:10001"]
    parents = {stage.split()[2]: stage.split()[0] for stage in finals[1:]}
    assert parents["cpu"] == parents["cuda"] == "worker"
    assert users["cpu"] == users["cuda"] == []


def test_every_service_has_a_health_check_of_its_image_or_of_its_own() -> None:
    for stage in ("server", "worker"):
        assert re.search(rf"AS {stage}\n(?:(?!^FROM ).*\n)*?HEALTHCHECK ", DOCKERFILE, flags=re.M)
    for name, service in compose()["services"].items():
        own_image = service["image"].startswith("cxresnet:")
        assert own_image or "test" in service["healthcheck"], name


@pytest.mark.parametrize(
    "words",
    [
        image_command("server"),
        image_command("worker"),
        *(each["command"] for each in compose()["services"].values() if "command" in each),
    ],
    ids=" ".join,
)
def test_prefect_knows_the_commands_that_containers_run(words: list[str]) -> None:
    for command in prefect_commands(words):
        function, bound, _ = prefect_cli.parse_args(command, exit_on_error=False, print_error=False)
        assert callable(function)
        assert bound is not None


def test_the_images_listen_to_the_pool_of_the_deployments() -> None:
    assert image_environment("worker")["CXR_WORK_POOL"] == WORK_POOL


def test_a_worker_in_a_container_has_the_settings_of_the_local_stacks(tmp_path: Path) -> None:
    image = image_environment("worker")
    local = prefect_environment(Settings(home=tmp_path))
    for name in ("CXR_PREFECT_PORT", "CXR_S3_PORT"):  # it has no stack of its own
        del local[name]
    origins = local.pop("PREFECT_SERVER_CORS_ALLOWED_ORIGINS")
    server = compose()["x-server"]["environment"]["PREFECT_SERVER_CORS_ALLOWED_ORIGINS"]
    assert server.replace("${CXR_PREFECT_PORT:-4200}", "4200") == origins
    del local["PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE"]
    expected = {key: value.replace(str(tmp_path), "/var/lib/cxr") for key, value in local.items()}
    assert expected.items() <= image.items()


def test_cxr_knows_the_commands_that_containers_run() -> None:
    commands = [each.get("command", []) for each in compose()["services"].values()]
    (deploy,) = (words for words in commands if words[:1] == ["cxr"])
    assert CliRunner().invoke(cxr, [*deploy[1:], "--help"]).exit_code == 0
    # It runs at every 'up': what the operator has deployed since is not to be undone.
    assert deploy == ["cxr", "deploy", "--again"]


def test_a_container_starts_in_a_folder_that_holds_nothing() -> None:
    # Prefect takes it for the flows' source and copies it for every run.
    (worker,) = re.findall(r"AS worker\n((?:(?!^FROM ).*\n)*)", DOCKERFILE, flags=re.M)
    (folder,) = re.findall(r"^WORKDIR (\S+)$", worker, flags=re.M)
    volumes = compose()["x-worker"]["volumes"]
    assert not any(folder.startswith(volume.split(":")[1]) for volume in volumes)
    assert "COPY" not in worker
