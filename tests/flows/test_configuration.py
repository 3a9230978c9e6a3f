from dataclasses import asdict
from pathlib import Path

import pytest

from cxr_model.errors import ConfigError
from cxr_model.presets import PRESETS
from flows.configuration import config_from_values, load_config


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_survives_the_way_through_plain_values(preset: str) -> None:
    config = load_config(preset)
    assert config.preset == preset
    assert config_from_values(asdict(config)) == config


def test_the_command_line_overrides_the_file_and_the_file_the_preset(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text("[training]\nepochs = 7\nbatch_size = 4\n[data]\nsource = 'a'\n")
    config = load_config(
        "standard", config_file=file, settings=["training.batch_size=6"], source="b"
    )
    assert (config.training.epochs, config.training.batch_size, config.data.source) == (7, 6, "b")


@pytest.mark.parametrize(
    ("settings", "patterns"),
    [
        (
            ["labels.covid=corona*"],
            {"normal": ["normal*"], "pneumonia": ["pneumonia*"], "covid": ["corona*"]},
        ),
        (["labels.covid=none"], {"normal": ["normal*"], "pneumonia": ["pneumonia*"]}),
        (
            ['labels.normal=["ok*", "healthy"]', "labels.covid="],
            {"normal": ["ok*", "healthy"], "pneumonia": ["pneumonia*"]},
        ),
        (['labels.patterns={"cat": "cat*", "dog": ["dog*"]}'], {"cat": ["cat*"], "dog": ["dog*"]}),
    ],
)
def test_label_patterns_are_changed_dropped_and_replaced(
    settings: list[str], patterns: dict[str, list[str]]
) -> None:
    labels = load_config("standard", settings=settings).labels
    assert labels.mode == "patterns"
    assert labels.patterns == patterns


def test_labels_have_short_forms() -> None:
    assert load_config("standard", settings=["labels=folders"]).labels.mode == "folders"
    labels = load_config("standard", settings=["labels=films.csv"]).labels
    assert (labels.mode, labels.csv) == ("csv", "films.csv")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            "training.epoch=5",
            "training.epoch: there is no such setting; did you mean training.epochs",
        ),
        ("nonsense.key=1", "nonsense: there is no such setting"),
        ("gates.fail_on=shortcut", """wants a list, as in --set 'gates.fail_on=["shortcut"]'"""),
        ("training.epochs=0", "training.epochs=0: use at least 1"),
        ("training.epochs=many", "training.epochs='many': input should be a valid integer"),
        ("network.name=vgg", "network.name='vgg': input should be 'cxresnet'"),
        ("network.widths=[16]", "two widths of at least 8 for the stem and one for each entry"),
        ("split.holdout_fraction=0.9", "must leave films to train on"),
        ("labels.covid", "write KEY=VALUE"),
        ("labels=3", "labels=3: use folders, patterns or FILE.csv, or set labels.CLASS=PATTERN"),
        ("labels.patterns=5", "labels.patterns=5: give classes, or labels.CLASS=PATTERN"),
        ("data=../films", "data='../films': is a group of settings; set one of them"),
        ("training=3", "training=3: is a group of settings"),
        ("labels.patterns={}", "a classifier needs two classes or more"),
        ("explain.occlusion_window_px=500", "use at most data.size_px (192)"),
        (
            "labels.modee=folders",
            "labels.modee: there is no such setting; did you mean labels.mode",
        ),
        ("labels.csv=films.csv", "labels.csv='films.csv': set labels.mode=csv too"),
        ("labels=foldrs", "labels='foldrs': use folders, patterns or FILE.csv"),
        ("preset=mine", "preset: is not set here; use --preset"),
        ("evaluate.seed=-1", "evaluate.seed=-1: use 0 to 2147483647"),
        ("explain.methods=[]", "explain.methods=(): name at least one method"),
        ("network.depths=[]", "use at least one stage"),
        ("data.patient_pattern=(", "data.patient_pattern='(': missing )"),
        (r"data.patient_pattern=\d+", "put the part that is the same in parentheses"),
        ("phantom.marker_class=cat", "phantom.marker_class='cat': use one of normal"),
        ("data.max_extracted_gb=0", "data.max_extracted_gb=0.0: use more than 0"),
        ("data.size_px=8", "data.size_px=8: use 32 to 1024"),
        ("phantom.num_unreadable=-1", "phantom.num_unreadable=-1: use at least 0"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(setting: str, message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load_config("standard", settings=[setting])
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_an_unknown_preset_names_those_that_exist() -> None:
    with pytest.raises(ConfigError, match="use one of smoke, standard, best, seed"):
        load_config("huge")


def test_a_settings_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config("standard", config_file=tmp_path / "none.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("training = [")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_config("standard", config_file=broken)
