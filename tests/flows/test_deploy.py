"""What is deployed, as Prefect's own code reads it; a whole stack is in `test_operation`."""

import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from uuid import uuid4

import pytest
import yaml
from prefect.client.orchestration import SyncPrefectClient
from prefect.context import TagsContext
from prefect.server.events.schemas.automations import Automation, EventTrigger
from prefect.server.events.schemas.events import ReceivedEvent
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.testing.utilities import prefect_test_harness
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools import validate
from prefect.variables import Variable

import flows.jobs
import flows.worker
from cxr_model.config import RunConfig
from cxr_model.data_config import DataConfig, LabelConfig
from cxr_model.errors import ConfigError
from cxr_model.evidence_config import GateConfig
from flows.deploy import Plan, _file, _keep_what_was_set, apply, definition, keep_plan, read_plan
from flows.settings import Settings


def deployments(plan: Plan) -> dict[str, Any]:
    return {each["name"]: each for each in definition(plan)["deployments"]}


def automation(name: str) -> EventTrigger:
    (found,) = (
        each
        for each in yaml.safe_load(_file("automations.yaml").read_text())
        if each["name"] == name
    )
    trigger = Automation.model_validate(found).trigger
    assert isinstance(trigger, EventTrigger)
    return trigger


@pytest.mark.parametrize("cron", ["99 3 * * *", "daily, at three"])
def test_a_schedule_that_cannot_be_read_is_refused_before_anything_is_deployed(cron: str) -> None:
    told = f"--schedule train='{re.escape(cron)}': is no cron expression; write minute"
    with pytest.raises(ConfigError, match=told):
        deployments(Plan(schedules={"train": cron}))
    assert deployments(Plan(schedules={"train": "0 4 * * 1"}))["train"]["schedules"] == [
        {"cron": "0 4 * * 1", "timezone": "UTC", "slug": "regular", "active": True}
    ]


def test_films_that_arrive_are_scored_by_the_model_of_the_deployed_data() -> None:
    """Not by whatever was registered first: a film is scored once, also if by phantoms' network."""
    config = replace(RunConfig(), data=DataConfig(source="s3://radiology/chest"))
    assert deployments(Plan(config=config))["predict"]["parameters"] == {"model": "chest"}
    named = replace(config, gates=GateConfig(model="thorax"))
    assert deployments(Plan(config=named))["predict"]["parameters"] == {"model": "thorax"}
    assert "parameters" not in deployments(Plan(schedules_active=False))["predict"]


def plan_for(source: str) -> Plan:
    return Plan(config=replace(RunConfig(), data=DataConfig(source=source)))


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({}, {"model": "thorax"}),
        ({"model": "chest"}, {"model": "thorax"}),  # what the last plan gave it
        ({"model": "chest", "prefix": "ward"}, {"model": "thorax", "prefix": "ward"}),
        ({"model": "lungs", "prefix": "ward"}, {"model": "lungs", "prefix": "ward"}),
    ],
)
def test_the_model_of_films_that_arrive_follows_the_data_unless_it_was_set(
    found: dict[str, str], expected: dict[str, str]
) -> None:
    keep_plan(plan_for("s3://radiology/chest"))
    there = SimpleNamespace(
        name="predict", parameters=found, job_variables={}, global_concurrency_limit=None
    )
    defined = definition(plan_for("s3://radiology/thorax"))
    _keep_what_was_set(
        cast(SyncPrefectClient, SimpleNamespace(read_deployments=lambda **_: [there])), defined
    )
    (predict,) = (each for each in defined["deployments"] if each["name"] == "predict")
    assert predict["parameters"] == expected


@pytest.mark.usefixtures("server")
def test_the_form_of_a_configured_deployment_keeps_what_no_option_names() -> None:
    keep_plan(plan_for("s3://radiology/chest"))
    dealt = {"num_folds": 10, "repeats": 3}
    there = SimpleNamespace(
        name="crossval",
        parameters={"config": {"preset": "smoke"}, "crossval": dealt},
        job_variables={},
        global_concurrency_limit=None,
    )
    defined = definition(plan_for("s3://radiology/thorax"))
    _keep_what_was_set(
        cast(SyncPrefectClient, SimpleNamespace(read_deployments=lambda **_: [there])), defined
    )
    (crossval,) = (each for each in defined["deployments"] if each["name"] == "crossval")
    assert crossval["parameters"]["crossval"] == dealt
    assert crossval["parameters"]["config"]["data"]["source"] == "s3://radiology/thorax"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with prefect_test_harness(server_startup_timeout=120):
        yield PREFECT_API_URL.value()


def test_a_plan_is_of_one_server(server: str) -> None:
    """Whatever its address is called: what was told it by one name is what it does by another."""
    Variable.unset("cxr_plan")
    assert read_plan() == Plan(schedules_active=False)
    plan = Plan(schedules={"train": "off"}, notify="slack-webhook/alerts", pool="cxr-kubernetes")
    keep_plan(plan)
    assert "127.0.0.1" in server
    with temporary_settings({PREFECT_API_URL: server.replace("127.0.0.1", "localhost")}):
        assert read_plan() == plan
    keep_plan(Plan())
    assert read_plan() == Plan()


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("kept", ["", {}, {"config": {"training": {"speed": 1}}}])
def test_a_plan_that_cannot_be_applied_is_named_with_the_way_out(
    kept: str | dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Variable.set("cxr_plan", kept, overwrite=True)
    told = "variable cxr_plan of the Prefect server: cannot be applied .* give 'cxr deploy' with"
    with pytest.raises(ConfigError, match=told):
        read_plan()
    # The stack comes up all the same: without it there is no 'cxr deploy'.
    monkeypatch.setattr(flows.worker, "end_with_parent", lambda _: None)
    monkeypatch.setenv("PREFECT_API_URL", PREFECT_API_URL.value())
    flows.worker._apply_deployments()
    assert re.fullmatch(f"the deployments stay as they are: {told}.*\n", capsys.readouterr().err)


def test_a_plan_that_no_server_would_keep_is_refused(tmp_path: Path) -> None:
    patterns = {f"class-{number}": [f"{number}*"] for number in range(200)}
    config = replace(RunConfig(), labels=LabelConfig(patterns=patterns))
    with pytest.raises(ConfigError, match=r"longer than the 5,000 characters .* in a table"):
        apply(Plan(config=config), Settings(home=tmp_path))


@pytest.mark.parametrize(
    "entrypoint", [each["entrypoint"] for each in definition(Plan())["deployments"]]
)
def test_every_field_of_a_deployments_form_is_explained(entrypoint: str) -> None:
    module, _, name = entrypoint.rpartition(".")
    schema = parameter_schema(getattr(import_module(module), name))
    assert [name for name, field in schema.properties.items() if not field.get("description")] == []


WRONG = {
    "run_id": ("../up", "two words", "latest", "a" * 101),
    "model": ("Two", "../up", "a" * 41),
    "version": ("../up", "champion"),
}


@pytest.mark.parametrize(
    ("name", "parameter"),
    [
        *((name, "run_id") for name in ("train", "crossval", "evaluate")),
        *(("predict", parameter) for parameter in ("model", "version")),
    ],
)
def test_a_name_that_cannot_be_is_refused_before_a_run_starts(name: str, parameter: str) -> None:
    module, _, flow = deployments(Plan())[name]["entrypoint"].rpartition(".")
    schema = parameter_schema(getattr(import_module(module), flow)).model_dump_for_openapi()
    for allowed in ("", "a-1.b"):
        validate({parameter: allowed}, schema, raise_on_error=True, ignore_required=True)
    for wrong in WRONG[parameter]:
        assert validate({parameter: wrong}, schema, ignore_required=True), wrong


def event_of_run(name: str, *tags: str, run_count: int = 1) -> ReceivedEvent:
    return ReceivedEvent(
        id=uuid4(),
        event=f"prefect.flow-run.{name}",
        occurred=datetime.now(UTC),
        resource={
            "prefect.resource.id": f"prefect.flow-run.{uuid4()}",
            "prefect.run-count": str(run_count),
        },
        related=[
            {"prefect.resource.id": f"prefect.tag.{tag}", "prefect.resource.role": "tag"}
            for tag in tags
        ],
    )


def test_silence_of_runs_that_are_not_ours_is_nobodys_crash_here() -> None:
    """Other users of a server keep Prefect's default, which is twice as long as we wait."""
    trigger = automation("cxr: a silent run has crashed")
    assert trigger.covers(event_of_run("heartbeat", "cxr", "cxr-restart"))
    assert not trigger.covers(event_of_run("heartbeat", "nightly-reports"))
    assert not trigger.covers(event_of_run("heartbeat"))


@pytest.mark.parametrize(
    "state",
    ["AwaitingRetry", "Scheduled", "Pending", "Cancelling", "Paused", "Suspended", "Completed"],
)
def test_a_run_that_waits_is_silent_by_right(state: str) -> None:
    """Given back when its node was taken, it may wait for another longer than heartbeats last."""
    trigger = automation("cxr: a silent run has crashed")
    assert trigger.expects(f"prefect.flow-run.{state}")
    assert not trigger.expects("prefect.flow-run.Running")


def test_a_run_that_crashed_before_it_began_is_not_started_for_ever() -> None:
    trigger = automation("cxr: a crashed run starts anew")
    crashes = [event_of_run("Crashed", "cxr-restart", run_count=n) for n in range(3)]
    assert [trigger.covers(crash) for crash in crashes] == [False, True, True]
    assert not trigger.covers(event_of_run("Crashed", "cxr"))


def test_a_run_of_this_process_is_marked_as_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[set[str]] = []
    flow = SimpleNamespace(train=lambda: seen.append(TagsContext.get().current_tags))
    monkeypatch.setattr(flows.jobs, "import_module", lambda _: flow)
    monkeypatch.setattr(flows.jobs, "prefect_environment", lambda _: {})
    job = flows.jobs.Job(name="train", run_id="r", parameters={})
    monkeypatch.setattr(flows.jobs, "require_healthy", lambda _: None)
    settings = Settings(home=tmp_path, bucket="any", prefect_api_url="http://unused/api")
    flows.jobs.run_here(job, settings, lambda _: None)
    assert seen == [{"cxr"}]
