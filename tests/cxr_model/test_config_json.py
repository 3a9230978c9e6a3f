import json
from dataclasses import asdict
from pathlib import Path

import pytest

from cxr_model.config_json import read_config
from cxr_model.errors import ConfigError
from cxr_model.presets import PRESETS
from cxr_model.run_folder import write_json


@pytest.mark.parametrize("preset", PRESETS)
def test_settings_come_back_as_they_were_written(preset: str, tmp_path: Path) -> None:
    config = PRESETS[preset]()
    write_json(tmp_path / "config.json", asdict(config))
    assert read_config(tmp_path / "config.json") == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "no settings of this version"),
        (json.dumps({"training": {"epoch": 3}}), "epoch: there is no such setting"),
        (json.dumps({"training": {"epochs": 0}}), "training.epochs=0: use at least 1"),
        (json.dumps({"training": 3}), "no settings of this version"),
    ],
)
def test_other_files_are_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_config(tmp_path / "config.json")
