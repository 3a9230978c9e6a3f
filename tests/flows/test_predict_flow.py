"""What the flow that scores films decides by itself; with a worker it is in `test_operation`."""

import logging
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest

import flows.predict
from cxr_model.errors import StorageError
from flows.predict import predict
from tasks.inbox import InboxFilm


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    """What the UI is shown by a run of three films, the deployment's model being ``chest``."""
    shown: list[Any] = []
    films = [InboxFilm(f"inbox/{name}.png", name, 9) for name in "abc"]
    deployment = SimpleNamespace(parameters={"model": "chest"})
    client = SimpleNamespace(read_deployment=lambda _: deployment)

    def no_champion(*_: object) -> None:
        raise StorageError("has no champion")

    for name, value in (
        ("turn_at", lambda _: nullcontext()),
        ("find_new_films", lambda *_: films),
        ("get_client", lambda **_: nullcontext(client)),
        ("get_run_logger", lambda: logging.getLogger("tests")),
        ("fetch_registered", no_champion),
        ("lacks_champion", lambda *_: True),
        ("show", lambda _, text, key: shown.append((key, text))),
        ("show_table", lambda key, rows: shown.append((key, list(rows)))),
    ):
        monkeypatch.setattr(flows.predict, name, value)
    monkeypatch.setenv("CXR_HOME", str(tmp_path))
    monkeypatch.setenv("PREFECT__RUNTIME__DEPLOYMENT__ID", str(uuid4()))
    return shown


def test_films_that_wait_for_a_champion_are_no_failure(
    shown: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    """A schedule would raise 96 alarms a day until the first training is good."""
    told = "3 films wait: {} has no champion yet; the first run whose gates are green becomes it"
    for model, who in (("chest", "model chest"), ("", "the registry")):
        assert predict.fn(model=model) == 0
        key, text = shown.pop()
        assert key == "predictions"
        assert text.startswith(told.format(who))
        assert text in caplog.messages
        (warning,) = (each for each in caplog.records if each.message == text)
        assert warning.levelname == "WARNING"


@pytest.mark.parametrize("asked", [{"model": "thorax"}, {"model": "chest", "version": "gone"}])
def test_a_model_that_somebody_asked_for_must_be_there(
    shown: list[Any], asked: dict[str, str]
) -> None:
    with pytest.raises(StorageError, match="has no champion"):
        predict.fn(**asked)
    assert shown == []
