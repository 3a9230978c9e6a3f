"""The files of ``infra/``, read as the programs that use them read them."""

import json
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"


def locked() -> dict[str, str]:
    """Name to version, of each package that ``requirements.lock`` pins."""
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pins = (line.split(";")[0].strip().split("==") for line in lines if line)
    return dict(pins)


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def compose() -> dict[str, Any]:
    """``compose.yaml`` with the values that its variables have where none is set."""
    text = (INFRA / "compose.yaml").read_text()
    document: dict[str, Any] = yaml.safe_load(re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text))
    return document


def variables(name: str) -> dict[str, str]:
    """An environment file of ``infra/``."""
    lines = (INFRA / name).read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def manifests(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((INFRA / "kubernetes" / name).read_text()))


def base_job_template() -> dict[str, Any]:
    text = (INFRA / "kubernetes/base-job-template.json").read_text()
    template: dict[str, Any] = json.loads(text)
    return template


def image_command(target: str) -> list[str]:
    """The command of the Dockerfile's stage ``target``, which must name one itself."""
    text = (INFRA / "Dockerfile").read_text()
    stage = re.split(r"^FROM .* AS (\w[\w-]*)$", text, flags=re.M)
    of_stage = dict(zip(stage[1::2], stage[2::2], strict=True))[target]
    (command,) = re.findall(r"^CMD (.*)$", of_stage, flags=re.M)
    words: list[str] = json.loads(command)
    return words


def prefect_commands(words: list[str]) -> list[list[str]]:
    """The calls of ``prefect`` in a container's command, also in those that a shell runs."""
    if words[:1] == ["sh"]:
        lines = words[-1].replace("exec ", "").splitlines()
        return [shlex.split(line)[1:] for line in lines if line.startswith("prefect ")]
    return [words[1:]] if words[:1] == ["prefect"] else []


def image_environment(target: str) -> dict[str, str]:
    """What the Dockerfile sets for the stage ``target``, that of the stages below it included."""
    text = (INFRA / "Dockerfile").read_text().replace("\\\n", " ")
    pattern = r"^FROM (\S+) AS (\S+)\n((?:(?!FROM ).*\n)*)"
    stages = {name: (below, body) for below, name, body in re.findall(pattern, text, flags=re.M)}
    below, body = stages[target]
    inherited = image_environment(below) if below in stages else {}
    lines = re.findall(r"^ENV (.*)$", body, flags=re.M)
    return inherited | dict(pair.split("=", 1) for line in lines for pair in shlex.split(line))
