"""Deployments, triggers, queues and the registry, on a real stack."""

import json
import shutil
import time
from collections.abc import Iterator
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any
from uuid import uuid4

import httpx
import pandas as pd
import pytest
from fastapi import Body, FastAPI
from http_service import serving
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.settings import PREFECT_API_URL, temporary_settings
from shell import QUICK, Shell, wait_until

from cxr_model.data_config import PhantomConfig
from cxr_model.phantoms.phantom import write_phantoms
from tasks.promotion import RED_GATE
from tasks.storage import ObjectStore

pytestmark = pytest.mark.slow

ONE_EPOCH = [*QUICK, "--set", "training.epochs=1", "--set", "gates.model=chest"]


class Api:
    """The little of Prefect's API that a watcher needs."""

    def __init__(self, stack: Shell) -> None:
        self.client = httpx.Client(base_url=stack.settings.local_api_url, timeout=150)

    def ask(self, method: str, path: str, body: object = None) -> httpx.Response:
        """SQLite under a busy server answers 503 now and then, after a minute's wait for its
        lock; Prefect's clients ask again too."""
        answer = self.client.request(method, path, json=body)
        for _ in range(5):
            if answer.status_code != 503:
                break
            time.sleep(1)
            answer = self.client.request(method, path, json=body)
        return answer

    def get(self, path: str) -> dict[str, Any]:
        found: dict[str, Any] = self.ask("GET", path).raise_for_status().json()
        return found

    def filter(self, what: str, **query: Any) -> list[dict[str, Any]]:
        answer = self.ask("POST", f"/{what}/filter", query)
        answer.raise_for_status()
        found: list[dict[str, Any]] = answer.json()
        return found

    def runs(self, flow: str) -> list[dict[str, Any]]:
        """Flow runs of ``flow`` that were not merely scheduled for later."""
        found = self.filter(
            "flow_runs", flows={"name": {"any_": [flow]}}, sort="EXPECTED_START_TIME_ASC"
        )
        return [run for run in found if not run["auto_scheduled"]]

    def start(self, deployment: str, **parameters: Any) -> str:
        found = self.get(f"/deployments/name/{deployment}/{deployment}")
        run = self.ask(
            "POST", f"/deployments/{found['id']}/create_flow_run", {"parameters": parameters}
        )
        assert run.is_success, run.text
        return str(run.json()["id"])

    def wait(self, run_id: str) -> None:
        def state() -> str:
            run: dict[str, Any] = self.get(f"/flow_runs/{run_id}")
            return str(run["state_type"])

        wait_until(lambda: state() in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"))
        assert state() == "COMPLETED"

    def emit(self, event: str, resource: str, *tags: str) -> None:
        now = datetime.now().astimezone().isoformat()
        body = {
            "id": str(uuid4()),
            "event": event,
            "occurred": now,
            "resource": {"prefect.resource.id": resource},
            "payload": {},
            "related": [
                {"prefect.resource.id": f"prefect.tag.{tag}", "prefect.resource.role": "tag"}
                for tag in tags
            ],
        }
        self.ask("POST", "/events", [body]).raise_for_status()


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("watched") / "films"
    write_phantoms(root, PhantomConfig(num_films=45))
    return root


@pytest.fixture(scope="module")
def api(stack: Shell, films: Path) -> Iterator[Api]:
    """The stack with everything deployed for ``films``."""
    stack.ok("deploy", "--data", films, *ONE_EPOCH, "--schedule", "predict=off")
    api = Api(stack)
    with api.client:
        yield api


def deployed(api: Api) -> dict[str, Any]:
    deployments = api.filter("deployments")
    return {
        "deployments": sorted(
            (
                each["name"],
                each["id"],
                each["work_queue_name"],
                [(one["schedule"]["cron"], one["active"]) for one in each["schedules"]],
                json.dumps(each["parameters"]),
            )
            for each in deployments
        ),
        "automations": sorted(each["name"] for each in api.filter("automations")),
        "limits": sorted(each["name"] for each in api.filter("v2/concurrency_limits")),
        "queues": sorted(
            (each["priority"], each["name"]) for each in api.filter("work_pools/cxr-local/queues")
        ),
    }


def test_deployed_twice_is_the_same(stack: Shell, api: Api, films: Path) -> None:
    """Also what was set in the forms of deployments and no option of ours configures."""
    found = api.get("/deployments/name/housekeeping/housekeeping")
    kept = {"parameters": {"dry_run": False, "retention": {"max_runs": 7}}}
    assert api.ask("PATCH", f"/deployments/{found['id']}", kept).is_success
    predict = api.get("/deployments/name/predict/predict")
    asked = {"job_variables": {"env": {"WARD": "3"}}, "concurrency_limit": 2}
    assert api.ask("PATCH", f"/deployments/{predict['id']}", asked).is_success
    first = deployed(api)
    (parameters,) = (json.loads(each[-1]) for each in first["deployments"] if "dry_run" in each[-1])
    assert parameters == kept["parameters"]
    stack.ok("deploy", "--data", films, *ONE_EPOCH, "--schedule", "predict=off")
    assert deployed(api) == first
    localhost = stack.settings.local_api_url.replace("127.0.0.1", "localhost")
    stack.ok("deploy", "--again", PREFECT_API_URL=localhost)
    assert deployed(api) == first
    predict = api.get("/deployments/name/predict/predict")
    assert predict["job_variables"] == asked["job_variables"]
    assert predict["global_concurrency_limit"]["limit"] == asked["concurrency_limit"]
    assert predict["concurrency_options"]["grace_period_seconds"] == 3600
    assert first["queues"] == [(1, "predictions"), (2, "default")]
    schedules = {name: schedules for name, _, _, schedules, _ in first["deployments"]}
    assert schedules["train"] == [("0 3 * * 0", True)]
    assert schedules["crossval"] == [("0 4 1 * *", False)]
    assert schedules["predict"] == [("*/15 * * * *", False)]
    assert set(schedules) == {
        *("train", "crossval", "watch-dataset", "predict", "evaluate", "housekeeping", "doctor")
    }
    assert len(first["automations"]) == len(set(first["automations"])) == 4


def test_films_that_arrive_together_are_one_run_that_sees_them_all(
    stack: Shell, api: Api, films: Path
) -> None:
    """Also before the first champion: the films wait, and the run does not fail."""
    keys = [f"inbox/early-{number}.jpg" for number in range(3)]
    with ObjectStore(stack.settings.store) as store:
        for key, path in zip(keys, (films / "COVID-19").glob("*.jpg"), strict=False):
            store.upload_file(path, key)
            api.emit("cxr.films.arrived", "cxr.inbox.inbox")
        wait_until(lambda: api.runs("predict"))
        api.wait(api.runs("predict")[0]["id"])
        assert len(api.runs("predict")) == 1
        found = {each["key"]: each for each in api.filter("artifacts/latest")}
        assert found["predictions"]["data"].startswith("3 films wait: model chest has no champion")
        for key in keys:
            store.delete(key)


def test_the_form_of_a_deployment_describes_its_settings(api: Api) -> None:
    (train,) = (each for each in api.filter("deployments") if each["name"] == "train")
    settings = train["parameter_openapi_schema"]["definitions"]["TrainingConfig"]["properties"]
    assert "epochs" in settings
    assert settings["precision"]["description"].startswith("``auto``")
    (predict,) = (each for each in api.filter("deployments") if each["name"] == "predict")
    for deployment, wrong, told in (
        (train, {"config": {"training": {"epochs": "many"}}}, "many"),
        (predict, {"prefix": "/"}, "prefix"),
    ):
        answer = api.ask(
            "POST", f"/deployments/{deployment['id']}/create_flow_run", {"parameters": wrong}
        )
        assert answer.status_code == 409
        assert told in answer.text


def test_a_web_page_of_elsewhere_may_not_start_runs(stack: Shell, api: Api) -> None:
    """A run may name its command: whoever starts one runs what they like on this machine."""
    ours = f"http://127.0.0.1:{stack.settings.prefect_port}"
    for origin, allowed in (("https://elsewhere.example", None), (ours, ours)):
        asked = {
            "Origin": origin,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "content-type",
        }
        answer = api.client.options("/deployments/filter", headers=asked)
        assert answer.headers.get("access-control-allow-origin") == allowed


def test_what_cannot_be_deployed_is_one_line(stack: Shell, api: Api, films: Path) -> None:
    before = deployed(api)
    told = stack.refused("deploy", "--schedule", "train=0 1 * * *")
    assert f"this server's deployments are of --data {films}; say so again" in told
    deploy = ("deploy", "--data", films)
    told = stack.refused(*deploy, "--schedule", "doctor=0 0 * * *")
    assert "--schedule doctor: use one of train, crossval" in told
    assert "write NAME=CRON" in stack.refused(*deploy, "--schedule", "train")
    assert "start its worker first" in stack.refused(*deploy, "--pool", "elsewhere")
    assert "has no such block" in stack.refused(*deploy, "--notify", "slack-webhook/none")
    assert deployed(api) == before


def test_a_change_of_the_films_starts_one_training_and_a_second_waits_for_it(
    stack: Shell, api: Api, films: Path
) -> None:
    shutil.copy(next((films / "Normal").glob("*.jpg")), films / "Normal" / "00009999_000.jpg")
    api.wait(api.start("watch-dataset"))
    wait_until(lambda: api.runs("train"))
    api.emit("cxr.dataset.updated", "cxr.dataset.films")  # once more, as the bucket stumbled
    by_hand = api.start("train")
    api.wait(api.start("watch-dataset"))  # announced already: no third one
    api.wait(by_hand)
    runs = api.runs("train")
    assert [run["state_type"] for run in runs] == ["COMPLETED", "COMPLETED"]
    assert len({run["name"] for run in runs}) == 2
    assert runs[0]["end_time"] <= runs[1]["start_time"]
    published = json.loads(stack.ok("runs", "--json"))
    assert {f"train-{run['run_id']}" for run in published} == {run["name"] for run in runs}
    assert stack.ok("report", "latest", "--to", "fetched").strip().endswith("report.html")
    artifacts = {each["key"] for each in api.filter("artifacts/latest")}
    assert {"promotion", "training-progress", "summary", "report"} <= artifacts


def test_the_operator_promotes_and_rolls_back(stack: Shell, api: Api) -> None:
    assert api
    run_ids = [run["run_id"] for run in json.loads(stack.ok("runs", "--json"))]
    for run_id in run_ids[::-1]:
        told = stack.ok("promote", run_id, "--reason", "looked at by hand")
        assert f"champion of chest: {run_id}" in told
    assert f"champion of chest: {run_ids[1]}" in stack.ok(
        "rollback", "chest", "--reason", "more false alarms"
    )
    models = json.loads(stack.ok("models", "--json"))
    assert models["chest"]["champion"]["run_id"] == run_ids[1]
    assert models["chest"]["champion"]["why"] == "more false alarms"
    assert "since" in stack.ok("models")
    assert "say why" in stack.refused("promote", "latest", "--reason", " ")


def test_films_that_arrive_are_scored_once_each(stack: Shell, api: Api, films: Path) -> None:
    """After the promotion: the champion answers."""
    found = sorted((films / "COVID-19").glob("*.jpg"))
    with ObjectStore(stack.settings.store) as store:
        for key, path in (("a.jpg", found[0]), ("b.jpg", found[1]), ("copy.jpg", found[0])):
            store.upload_file(path, f"inbox/{key}")
        store.write_bytes("inbox/broken.jpg", b"no film")
        api.wait(api.start("predict"))
        store.upload_file(found[2], "inbox/ward/c.jpg")
        api.wait(api.start("predict"))
        api.wait(api.start("predict"))
        batches = store.list_folders("predictions/inbox/")
        tables = [
            store.read_bytes(f"predictions/inbox/{batch}/predictions.csv") for batch in batches
        ]
        page = store.read_bytes(f"predictions/inbox/{batches[0]}/report.html").decode()
        assert len(store.list_objects("inbox/")) == 5
    assert len(batches) == 2
    scored = [pd.read_csv(BytesIO(table)) for table in tables]
    assert sorted(pd.concat(scored)["path"]) == [
        *("inbox/a.jpg", "inbox/b.jpg", "inbox/broken.jpg", "inbox/ward/c.jpg")
    ]
    assert "2 scored, 1 unreadable, 1 copies" in page


def test_a_champion_is_measured_on_films_of_elsewhere(
    stack: Shell, api: Api, tmp_path: Path
) -> None:
    write_phantoms(tmp_path / "elsewhere", PhantomConfig(num_films=15, seed=1))
    api.wait(api.start("evaluate", source=str(tmp_path / "elsewhere"), run_id="measured"))
    newest = json.loads(stack.ok("runs", "--json"))[0]
    assert (newest["run_id"], newest["preset"]) == ("measured", "evaluate")
    assert newest["accuracy"]["n"] == 15


def test_the_worker_is_examined_and_swept(api: Api) -> None:
    """What is of today stays, whatever is asked for."""
    runs = [api.start("doctor"), api.start("housekeeping", dry_run=False)]
    for run in runs:
        api.wait(run)
    found = {each["key"]: each for each in api.filter("artifacts/latest")}
    assert "versions" in found["doctor"]["data"]
    assert found["housekeeping"]["description"] == "0 removed"


def test_status_tells_workers_runs_and_limits(stack: Shell, api: Api) -> None:
    assert api
    found = json.loads(stack.ok("status", "--json"))
    assert [worker["state"] for worker in found["workers"]] == ["ONLINE"]
    assert {run["state"] for run in found["runs"]} == {"Completed"}
    assert {limit["taken"] for limit in found["limits"]} == {0}
    assert "ONLINE" in stack.ok("status")


@pytest.fixture(scope="module")
def notices(stack: Shell, api: Api, films: Path) -> Iterator[list[str]]:
    """Subjects that a webhook is told; the data is looked at every minute from now on."""
    assert api
    told: list[str] = []
    webhook = FastAPI()

    @webhook.post("/")
    def notice(subject: Annotated[str, Body(embed=True)]) -> None:
        told.append(subject)

    with serving(webhook) as client:
        block = CustomWebhookNotificationBlock(
            name="alerts", url=str(client.base_url), json_data={"subject": "{{subject}}"}
        )
        with temporary_settings({PREFECT_API_URL: stack.settings.local_api_url}):
            block.save("alerts")
        schedules = ("--schedule", "predict=off", "--schedule", "watch-dataset=* * * * *")
        deploy = ("deploy", "--data", films, *ONE_EPOCH, *schedules)
        stack.ok(*deploy, "--notify", "custom-webhook/alerts")
        yield told


def test_the_operator_is_told_once_of_a_failure_a_crash_and_a_red_gate(
    api: Api, notices: list[str]
) -> None:
    """A worker reports a crash twice."""
    crashed, failed = f"prefect.flow-run.{uuid4()}", f"prefect.flow-run.{uuid4()}"
    api.emit("prefect.flow-run.Crashed", f"prefect.flow-run.{uuid4()}", "of-somebody-else")
    api.emit("prefect.flow-run.Crashed", crashed, "cxr")
    api.emit("prefect.flow-run.Crashed", crashed, "cxr")
    api.emit("prefect.flow-run.Failed", failed, "cxr")
    api.emit(RED_GATE, "cxr.run.of-a-test")
    wait_until(lambda: len(notices) >= 3)
    assert sorted(notices) == [
        f"CXResnet: {event}"
        for event in (RED_GATE, "prefect.flow-run.Crashed", "prefect.flow-run.Failed")
    ]


@pytest.mark.usefixtures("notices")
def test_a_schedule_that_falls_due_starts_a_run(api: Api) -> None:
    def has_run() -> bool:
        runs = api.filter("flow_runs", flows={"name": {"any_": ["watch-dataset"]}})
        return any(run["auto_scheduled"] and run["state_type"] == "COMPLETED" for run in runs)

    wait_until(has_run)
