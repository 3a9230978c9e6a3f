"""The check that stands between the films and the training."""

from pathlib import Path

import pandas as pd
import pytest

from cxr_model.config import RunConfig
from cxr_model.data_config import DataConfig, LabelConfig, PhantomConfig
from cxr_model.errors import DataError
from cxr_model.index import build_index, write_index
from cxr_model.phantoms.phantom import write_phantoms
from cxr_model.run_folder import RunFolder
from cxr_model.splits import assign_splits
from tasks import prepare


def test_a_run_whose_splits_part_near_copies_ends_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault put in: the copies are dealt out as if each were a film of its own."""
    config = RunConfig()
    write_phantoms(tmp_path / "films", PhantomConfig(num_films=45, num_near_duplicates=15))
    index = build_index(tmp_path / "films", DataConfig(), LabelConfig())
    run = RunFolder(tmp_path / "run")
    write_index(index, run.index)

    def forget_groups(films: pd.DataFrame, _: object) -> pd.DataFrame:
        splits = assign_splits(films, config.split)
        splits["split"] = ["train", "validation", "holdout"] * (len(splits) // 3)
        return splits

    monkeypatch.setattr(prepare, "assign_splits", forget_groups)
    with pytest.raises(DataError, match=r"group .* stands in"):
        prepare.split_films.fn(run.root, config)
    assert not run.splits.exists()
