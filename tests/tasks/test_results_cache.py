"""What the same films, weights and settings gave before is fetched, whole or not at all."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from prefect.logging import disable_run_logger
from prefect.settings import PREFECT_TASKS_REFRESH_CACHE, temporary_settings

from cxr_model.config import RunConfig
from cxr_model.evidence_config import GateConfig
from cxr_model.run_folder import RunFolder, write_json
from tasks.results_cache import RESULTS, cached
from tasks.stage_clock import StageClock
from tasks.storage import ObjectStore
from tasks.storage_location import StoreLocation

CONFIG = RunConfig()


@pytest.fixture(autouse=True)
def _no_flow() -> Iterator[None]:
    with disable_run_logger():
        yield


class Stage:
    """A stage on a machine of its own, that counts how often it worked."""

    def __init__(self, location: StoreLocation, folder: Path, films: str = "films") -> None:
        self.location = location
        self.run = RunFolder(folder)
        self.worked = 0
        self.run.index.parent.mkdir(parents=True)
        self.run.index.write_text(films)

    def work(self) -> dict[str, float]:
        self.worked += 1
        write_json(self.run.robustness, {"later": [1]})
        write_json(self.run.hygiene, {"sooner": self.worked})
        (self.run.root / ".scratch").write_text("not for others")
        return {"rate": 0.1 + 0.2, "worked": self.worked}

    def __call__(self, stage: str = "hygiene", config: RunConfig = CONFIG) -> object:
        return cached(self.location, self.run, stage, config, [self.run.index], self.work)


@pytest.fixture
def first(location: StoreLocation, tmp_path: Path) -> Stage:
    stage = Stage(location, tmp_path / "first")
    (stage.run.root / "notes.txt").write_text("of an earlier stage")
    assert stage() == {"rate": 0.1 + 0.2, "worked": 1}
    return stage


def test_another_machine_fetches_what_was_found_and_every_file_written(
    first: Stage, location: StoreLocation, tmp_path: Path
) -> None:
    second, clock = Stage(location, tmp_path / "second"), StageClock()
    with clock("hygiene"):
        assert second() == {"rate": 0.1 + 0.2, "worked": 1}
    assert second.worked == 0
    assert clock.fetched == ["hygiene"]
    names = {path.relative_to(second.run.root) for path in second.run.root.rglob("*.*")}
    assert {name.as_posix() for name in names} == {
        *("data/index.csv", "evidence/hygiene.json", "evidence/robustness.json"),
    }
    assert second.run.hygiene.read_bytes() == first.run.hygiene.read_bytes()
    order = [path.stat().st_mtime_ns for path in (second.run.robustness, second.run.hygiene)]
    assert order == sorted(order)


def test_whatever_decides_the_result_has_it_done_anew(
    first: Stage, location: StoreLocation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first("shortcuts")
    first(config=replace(CONFIG, training=replace(CONFIG.training, seed=1)))
    first(config=replace(CONFIG, evaluate=replace(CONFIG.evaluate, bootstrap_draws=500)))
    assert first.worked == 4
    other_films = Stage(location, tmp_path / "other", films="other films")
    other_films()
    assert other_films.worked == 1
    for number, (name, other) in enumerate(
        [
            ("tasks.results_cache.package_versions", {"scikit-learn": "9.0"}),
            ("cxr_model.device.resolve_precision", "bfloat16"),
            ("tasks.results_cache._source_at_first", "the next version"),
        ]
    ):
        with monkeypatch.context() as patch:
            patch.setattr(name, lambda *_, other=other: other)
            first()
        assert first.worked == 5 + number


def test_nothing_is_kept_of_a_library_that_was_exchanged_meanwhile(
    store: ObjectStore, location: StoreLocation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.results_cache._source_at_first", lambda: "of an hour ago")
    stage = Stage(location, tmp_path / "run")
    stage()
    assert stage.worked == 1
    assert store.list_objects(RESULTS) == []


def test_what_is_not_whole_is_not_kept(
    store: ObjectStore, location: StoreLocation, tmp_path: Path
) -> None:
    stage = Stage(location, tmp_path / "run")
    cached(location, stage.run, "shortcuts", CONFIG, [stage.run.index], stage.work, lambda _: False)
    assert store.list_objects(RESULTS) == []


def test_where_and_how_a_run_works_does_not(first: Stage) -> None:
    training = replace(CONFIG.training, device="cpu", num_devices=2, checkpoint_minutes=1.0)
    data = replace(CONFIG.data, source="../films")
    gates = GateConfig(fail_on=())
    first(config=replace(CONFIG, preset="mine", data=data, training=training, gates=gates))
    assert first.worked == 1


def test_prefects_setting_has_it_done_anew_and_kept(
    first: Stage, location: StoreLocation, tmp_path: Path
) -> None:
    with temporary_settings({PREFECT_TASKS_REFRESH_CACHE: True}):
        first()
    assert first.worked == 2
    assert Stage(location, tmp_path / "second")() == {"rate": 0.1 + 0.2, "worked": 2}


@pytest.mark.usefixtures("first")
def test_a_damaged_result_is_replaced(
    store: ObjectStore, location: StoreLocation, tmp_path: Path
) -> None:
    (stored,) = store.list_objects(RESULTS)
    whole = store.read_bytes(stored.key)
    for damaged in (whole[:-30], whole.replace(b'"sooner": 1', b'"sooner": 7')):
        store.write_bytes(stored.key, damaged)
        second = Stage(location, tmp_path / f"of-{len(damaged)}")
        second()
        assert second.worked == 1
        assert store.read_bytes(stored.key) != damaged


@pytest.mark.parametrize("has_keys", [True, False])
def test_a_bucket_that_cannot_be_opened_holds_nothing_up(
    has_keys: bool, location: StoreLocation, tmp_path: Path
) -> None:
    keys = tmp_path / "keys"
    if has_keys:
        keys.write_text("[default]\naws_access_key_id = nobody\naws_secret_access_key = no\n")
    stage = Stage(replace(location, credentials_file=keys), tmp_path / "run")
    assert stage() == {"rate": 0.1 + 0.2, "worked": 1}


def test_work_that_fails_leaves_nothing(
    store: ObjectStore, location: StoreLocation, tmp_path: Path
) -> None:
    run = Stage(location, tmp_path / "run").run

    def fail() -> None:
        write_json(run.hygiene, {})
        raise ValueError("no films")

    with pytest.raises(ValueError, match="no films"):
        cached(location, run, "hygiene", CONFIG, [run.index], fail)
    assert store.list_objects(RESULTS) == []
