import json
from typing import Any

import pytest

from cxr_model.errors import ConfigError, StorageError
from tasks.manifest import Manifest, ManifestError, ObjectRecord, check_run_id

ESTIMATE = {"value": 0.9, "ci_low": 0.8, "ci_high": 0.95, "n": 120}
HEADLINE: dict[str, Any] = {
    "preset": "smoke",
    "source": "phantom:60",
    "network": "cxresnet",
    "accuracy": ESTIMATE,
    "balanced_accuracy": ESTIMATE | {"value": None, "ci_low": None, "ci_high": None},
}


def manifest(**changes: Any) -> Manifest:
    fields: dict[str, Any] = {
        "run_id": "run-1",
        "created": "2026-11-23T12:00:00.000+00:00",
        "headline": HEADLINE,
        "objects": (ObjectRecord(key="figures/ü.png", size=3, sha256="ab"),),
    }
    return Manifest(**fields | changes)


def test_a_manifest_survives_json() -> None:
    assert Manifest.from_json(manifest().to_json(), origin="here") == manifest()
    assert json.loads(manifest().to_json())["schema_version"] == 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '"text"',
        b"\xff",
        manifest().to_json().replace('"schema_version": 1', '"schema_version": 2'),
        manifest().to_json().replace('"size": 3', '"size": "three"'),
        manifest().to_json().replace('"run_id": "run-1"', '"run_id": "../run-1"'),
        manifest().to_json().replace('"sha256"', '"md5"'),
    ],
)
def test_text_of_another_shape_is_no_manifest(text: str | bytes) -> None:
    with pytest.raises(ManifestError, match=r"^s3://b/M: is no manifest of schema 1 .*; publish"):
        Manifest.from_json(text, origin="s3://b/M")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("accuracy", None),
        ("accuracy", {"value": 0.5}),
        ("balanced_accuracy", ESTIMATE | {"ci_low": "low"}),
        ("accuracy", {**ESTIMATE, "n": None}),
    ],
)
def test_a_headline_that_cannot_be_shown_is_refused(name: str, value: object) -> None:
    with pytest.raises(ManifestError, match=f"run run-1: its headline lacks or misstates {name}"):
        manifest(headline=HEADLINE | {name: value})
    with pytest.raises(ManifestError, match="lacks or misstates network"):
        manifest(headline={key: HEADLINE[key] for key in HEADLINE if key != "network"})


def test_an_unknown_object_is_told_with_those_there_are() -> None:
    assert manifest().record("figures/ü.png").size == 3
    with pytest.raises(StorageError, match=r"has no object 'x'; it has figures/ü.png"):
        manifest().record("x")


@pytest.mark.parametrize(
    "run_id", ["", "latest", "champion", "models", "../x", "a/b", ".a", "a b", "ü", "a" * 101]
)
def test_a_run_id_that_cannot_be_a_key_is_refused(run_id: str) -> None:
    with pytest.raises(ConfigError, match="use up to 100 letters, digits"):
        check_run_id(run_id)
