"""What may be set for films of another data set, and what a trained network is bound to."""

from dataclasses import replace

import pytest

from cxr_model.config import RunConfig
from cxr_model.errors import ConfigError
from flows.configuration import change_config

CONFIG = RunConfig()


def test_without_settings_other_films_are_read_as_the_networks_own() -> None:
    assert change_config(CONFIG, ()) == CONFIG


def test_other_films_may_have_other_names_and_patients() -> None:
    changed = change_config(CONFIG, ['labels.covid="corona*"', "data.patient_pattern=^(P[0-9]+)"])
    assert changed.labels.patterns["covid"] == ["corona*"]
    assert changed.labels.patterns["normal"] == CONFIG.labels.patterns["normal"]
    assert changed.data == replace(CONFIG.data, patient_pattern="^(P[0-9]+)")
    assert changed.training == CONFIG.training


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("training.epochs=3", r"training.epochs=3: a trained network keeps its settings; only"),
        ("data.size_px=64", r"data.size_px=64: the network was trained on 192"),
        ("data.color=rgb", r"data.color=rgb: the network was trained on grey"),
        ("data.sise=1", r"data.sise: there is no such setting"),
        ("labels", r"--set 'labels': write KEY=VALUE"),
    ],
)
def test_what_the_network_is_bound_to_is_refused(setting: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        change_config(CONFIG, [setting])
