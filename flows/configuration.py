"""From preset, settings file and ``--set`` to one checked `RunConfig`."""

import difflib
import json
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from cxr_model.config import RunConfig
from cxr_model.data_config import LabelConfig
from cxr_model.errors import ConfigError
from cxr_model.presets import PRESETS

if TYPE_CHECKING:
    from cxr_model.folds import CrossvalConfig

_RUN_CONFIG = TypeAdapter(RunConfig)
_LABEL_FIELDS = {field.name for field in fields(LabelConfig)}


def load_config(
    preset: str,
    *,
    config_file: Path | None = None,
    settings: Iterable[str] = (),
    source: str | None = None,
) -> RunConfig:
    """The preset, changed by the file, then by each ``KEY=VALUE``, then by ``source``.

    Raises ``ConfigError`` that names the first key that does not exist or whose value is
    impossible; nothing has been started by then.
    """
    if preset not in PRESETS:
        raise ConfigError(f"preset {preset!r} does not exist; use one of {', '.join(PRESETS)}")
    values = asdict(PRESETS[preset]())
    if config_file is not None:
        _apply(values, _read_toml(config_file))
    for setting in settings:
        _apply(values, _parse_setting(setting))
    if source is not None:
        values["data"]["source"] = source
    return config_from_values(values)


def change_config(config: RunConfig, settings: Iterable[str]) -> RunConfig:
    """How another data set is read by a network that is trained: ``KEY=VALUE`` after its settings.

    Raises ``ConfigError`` for what the network is bound to, and as `load_config` does.
    """
    values = asdict(config)
    for setting in settings:
        change = _parse_setting(setting)
        if not set(change) <= {"data", "labels", "phantom"}:
            raise ConfigError(
                f"--set {setting}: a trained network keeps its settings; only data, labels and "
                "phantom can be set for other films"
            )
        _apply(values, change)
    changed = config_from_values(values)
    for name in ("size_px", "color"):
        trained, asked = getattr(config.data, name), getattr(changed.data, name)
        if asked != trained:
            raise ConfigError(f"data.{name}={asked}: the network was trained on {trained}")
    return changed


def config_from_values(values: Mapping[str, Any]) -> RunConfig:
    """Check nested plain values; the inverse of ``dataclasses.asdict``."""
    try:
        return _RUN_CONFIG.validate_python(values)
    except ValidationError as error:
        raise _first_problem(error) from error


def crossval_config(values: Mapping[str, Any]) -> "CrossvalConfig":
    """Likewise for a cross-validation's plan."""
    from cxr_model.folds import CrossvalConfig  # pandas and SciPy, which 'cxr train' can do without

    try:
        return TypeAdapter(CrossvalConfig).validate_python(values)
    except ValidationError as error:
        raise _first_problem(error) from error


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); check --config") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML ({error}); mend the file") from error


def _parse_setting(text: str) -> dict[str, Any]:
    """``a.b=VALUE`` to ``{"a": {"b": VALUE}}``; VALUE is JSON where it parses, else text."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {text!r}: write KEY=VALUE, for example training.epochs=20")
    try:
        parsed = json.loads(value)
    except ValueError:
        parsed = value
    for part in reversed(key.split(".")):
        parsed = {part: parsed}
    return dict(parsed)


def _apply(values: dict[str, Any], changes: dict[str, Any]) -> None:
    """Change ``values`` in place; ``labels`` also in its short forms."""
    if "preset" in changes:
        raise ConfigError("preset: is not set here; use --preset")
    _merge(values, {key: value for key, value in changes.items() if key != "labels"})
    labels = changes.get("labels", {})
    if labels in ("folders", "patterns"):
        values["labels"]["mode"] = labels
    elif isinstance(labels, str) and labels.lower().endswith(".csv"):
        values["labels"] |= {"mode": "csv", "csv": labels}
    elif isinstance(labels, Mapping):
        _apply_labels(values["labels"], labels)
    else:
        raise ConfigError(
            f"labels={labels!r}: use folders, patterns or FILE.csv, or set labels.CLASS=PATTERN"
        )


def _apply_labels(current: dict[str, Any], changes: Mapping[str, Any]) -> None:
    """``patterns`` replaces all classes, ``CLASS=PATTERN`` changes, adds or drops one."""
    for name, value in changes.items():
        if name == "patterns" and isinstance(value, Mapping):
            current["patterns"] = {key: _pattern_list(each) for key, each in value.items()}
        elif name == "patterns":
            raise ConfigError(f"labels.patterns={value!r}: give classes, or labels.CLASS=PATTERN")
        elif name in _LABEL_FIELDS:
            current[name] = value
        else:
            _refuse_mistyped(name, known=current["patterns"])
            current["patterns"][name] = _pattern_list(value)
            if not current["patterns"][name]:
                current["drop"] = [*current["drop"], name]
    current["patterns"] = {key: each for key, each in current["patterns"].items() if each}


def _refuse_mistyped(name: str, known: Iterable[str]) -> None:
    """A new class may have any name but one that was meant for a setting."""
    close = difflib.get_close_matches(name, _LABEL_FIELDS, n=1, cutoff=0.8)
    if close and name not in known:
        raise ConfigError(
            f"labels.{name}: there is no such setting; did you mean labels.{close[0]}?"
        )


def _pattern_list(value: Any) -> Any:
    """``none`` (or an empty value) drops the class; one pattern is a list of one."""
    if value in (None, "", "none"):
        return []
    return value if isinstance(value, list) else [str(value)]


def _merge(into: dict[str, Any], changes: Mapping[str, Any]) -> None:
    for key, value in changes.items():
        if isinstance(into.get(key), dict):
            if not isinstance(value, Mapping):
                raise ConfigError(
                    f"{key}={value!r}: is a group of settings; set one of them, as 'cxr settings' "
                    "lists them"
                )
            _merge(into[key], value)
        else:
            into[key] = value


def _first_problem(error: ValidationError) -> ConfigError:
    problem = error.errors()[0]
    key = ".".join(str(part) for part in problem["loc"])
    cause = problem.get("ctx", {}).get("error")
    if isinstance(cause, ConfigError):
        return ConfigError(str(cause))
    if problem["type"] == "unexpected_keyword_argument":
        known = [setting.key for setting in describe_settings(RunConfig())]
        close = difflib.get_close_matches(key, known, n=1)
        hint = f"did you mean {close[0]}?" if close else "'cxr settings' lists them"
        return ConfigError(f"{key}: there is no such setting; {hint}")
    if problem["type"] == "tuple_type":
        listed = f"{key}={json.dumps([problem['input']])}"
        return ConfigError(f"{key}={problem['input']!r}: wants a list, as in --set '{listed}'")
    message = problem["msg"][0].lower() + problem["msg"][1:]
    return ConfigError(f"{key}={problem['input']!r}: {message}")


@dataclass(frozen=True)
class Setting:
    key: str
    value: Any
    description: str


def describe_settings(config: RunConfig) -> list[Setting]:
    """Every ``KEY`` of ``--set``, its value in ``config`` and what its docstring says of it."""
    sections = _RUN_CONFIG.json_schema()["$defs"]
    return [
        Setting(
            f"{section.name}.{name}",
            value,
            " ".join(
                sections[type(getattr(config, section.name)).__name__]["properties"][name]
                .get("description", "")
                .split()
            ),
        )
        for section in fields(config)
        if is_dataclass(getattr(config, section.name))
        for name, value in asdict(getattr(config, section.name)).items()
    ]
