import re
from dataclasses import replace

import pytest

from cxr_model.presets import smoke
from flows.run_id import new_run_id
from tasks.kaggle_source import KaggleSource
from tasks.manifest import check_run_id


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("phantom:30", "phantom"),
        ("kaggle", "kaggle"),
        (f"{KaggleSource()}/3", "kaggle"),
        ("kaggle:owner/slug/3", "slug"),
        ("/data/CXR 3/", "cxr-3"),
        ("/data/films.zip", "films"),
        ("s3://bucket/some/prefix", "prefix"),
        ("/data/Röntgen", "r-ntgen"),
    ],
)
def test_a_made_up_name_tells_data_and_preset(source: str, name: str) -> None:
    config = smoke()
    run_id = new_run_id(replace(config, data=replace(config.data, source=source)))
    assert re.fullmatch(rf"{name}-smoke-\d{{8}}-\d{{6}}", run_id)
    check_run_id(run_id)
