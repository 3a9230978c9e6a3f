"""`RunConfig` from ``config.json``, where pydantic is not at hand: on a bare GPU machine."""

from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_origin, get_type_hints

from cxr_model.config import RunConfig
from cxr_model.errors import ConfigError
from cxr_model.run_folder import read_json

Kind = TypeVar("Kind")


def read_config(path: Path) -> RunConfig:
    """The settings a run was started with; ``ConfigError`` for a file of another version."""
    try:
        values = read_json(path)
    except (OSError, ValueError) as error:
        raise _of_another_version(str(path), error) from error
    return config_of(values, str(path))


def config_of(values: dict[str, Any], name: str) -> RunConfig:
    """The settings that ``config.json`` holds; ``ConfigError`` for those of another version."""
    try:
        return _build(RunConfig, values)
    except (ValueError, TypeError) as error:
        raise _of_another_version(name, error) from error


def _of_another_version(name: str, error: Exception) -> ConfigError:
    return ConfigError(
        f"{name}: no settings of this version ({error}); use the version that wrote them"
    )


def _build(kind: type[Kind], values: dict[str, Any]) -> Kind:
    hints = get_type_hints(kind)
    unknown = set(values) - {field.name for field in fields(kind)}  # type: ignore[arg-type]
    if unknown:
        raise ConfigError(f"{min(unknown)}: there is no such setting")
    return kind(**{name: _convert(hints[name], value) for name, value in values.items()})


def _convert(hint: Any, value: Any) -> Any:
    if is_dataclass(hint):
        return _build(hint, value)  # type: ignore[arg-type]
    return tuple(value) if get_origin(hint) is tuple else value
