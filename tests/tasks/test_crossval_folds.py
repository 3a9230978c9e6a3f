"""A fold that was trained before is not trained again, on whichever machine."""

from dataclasses import asdict, replace
from pathlib import Path

from prefect.logging import disable_run_logger

from cxr_model.cache import build_cache
from cxr_model.config import RunConfig
from cxr_model.data_config import PhantomConfig
from cxr_model.folds import CrossvalConfig, plan_folds
from cxr_model.index import build_index, write_index
from cxr_model.phantoms.phantom import write_phantoms
from cxr_model.run_folder import RunFolder, write_json
from tasks.crossval import train_fold
from tasks.storage_location import StoreLocation
from tests.tiny_model import quick_config

FILES = ("metrics.json", "predictions.csv", "history.csv", "model/model.safetensors")


def test_a_fold_of_the_same_films_is_fetched(location: StoreLocation, tmp_path: Path) -> None:
    config = quick_config()
    write_phantoms(tmp_path / "films", PhantomConfig(num_films=15))
    index = build_index(tmp_path / "films", config.data, config.labels)
    cache = build_cache(tmp_path / "films", index, tmp_path / "cache", size_px=64, color="grey")

    def fold_on(machine: str, config: RunConfig, plan: CrossvalConfig) -> dict[str, bytes]:
        run, (fold, *_) = RunFolder(tmp_path / machine), plan_folds(plan)
        write_index(index, run.index)
        write_json(run.crossval_config, asdict(plan))
        with disable_run_logger():
            train_fold.fn(location, run.root, fold, config, plan, cache.folder, 1)
        return {name: (run.fold(fold.name).root / name).read_bytes() for name in FILES}

    plan = CrossvalConfig(num_folds=2)
    first = fold_on("first", config, plan)
    more = replace(plan, repeats=2, protocols=("naive",))
    assert fold_on("second", config, more) == first  # its training seconds, too
    other_seed = replace(config, training=replace(config.training, seed=1))
    for other in (
        fold_on("third", other_seed, plan),
        fold_on("fourth", config, replace(plan, seed=1)),
    ):
        assert other["model/model.safetensors"] != first["model/model.safetensors"]
