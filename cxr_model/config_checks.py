"""What every settings class shares: how pydantic reads it, and how a value is refused."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, get_type_hints

from cxr_model.errors import ConfigError

# Read by pydantic where Prefect validates parameters; a plain dict, so that this module
# needs no pydantic. A mistyped key is then refused by its name, and the docstrings below
# the fields stand in the form of the Prefect UI.
STRICT: dict[str, Any] = {"extra": "forbid", "use_attribute_docstrings": True}


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """Limits of a number, in a field's ``Annotated``; the form of the Prefect UI has them too."""

    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None

    def hold(self, value: float) -> bool:
        return (
            (self.least is None or value >= self.least)
            and (self.most is None or value <= self.most)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )

    @property
    def remedy(self) -> str:
        if self.above is not None:
            is_open = self.below is None
            return f"use more than {self.above}" + ("" if is_open else f", below {self.below}")
        if self.most is None and self.below is None:
            return f"use at least {self.least}"
        upper = self.most if self.below is None else f"below {self.below}"
        return f"use {self.least} to {upper}"

    def __get_pydantic_json_schema__(
        self, core_schema: Any, handler: Callable[[Any], dict[str, Any]]
    ) -> dict[str, Any]:
        limits = {
            "minimum": self.least,
            "maximum": self.most,
            "exclusiveMinimum": self.above,
            "exclusiveMaximum": self.below,
        }
        return handler(core_schema) | {
            name: limit for name, limit in limits.items() if limit is not None
        }


_MODEL_NAME = r"[a-z0-9][a-z0-9._-]{0,39}"


class ModelNameOrEmpty:
    """In a field's ``Annotated``: what `check_model_name` allows, for the Prefect UI."""

    def __get_pydantic_json_schema__(
        self, core_schema: Any, handler: Callable[[Any], dict[str, Any]]
    ) -> dict[str, Any]:
        return handler(core_schema) | {"pattern": f"^({_MODEL_NAME})?$"}


Seed = Annotated[int, Bounds(least=0, most=2**31 - 1)]
"""Every generator takes it."""


def check_bounds(config: object, section: str) -> None:
    """Raise ``ConfigError`` for the first field of ``config`` whose ``Bounds`` do not hold."""
    for name, hint in get_type_hints(type(config), include_extras=True).items():
        for bounds in getattr(hint, "__metadata__", ()):
            if isinstance(bounds, Bounds):
                value = getattr(config, name)
                require(bounds.hold(value), f"{section}.{name}", value, bounds.remedy)


def check_model_name(name: str, setting: str = "model") -> None:
    """Raise ``ConfigError`` unless ``name`` can be a folder, a key and a part of an address."""
    require(
        bool(re.fullmatch(_MODEL_NAME, name)),
        setting,
        name,
        "use up to 40 lower-case letters, digits, '.', '_' and '-', beginning with a letter or "
        "digit",
    )


def require(condition: bool, name: str, value: object, remedy: str) -> None:
    """Raise ``ConfigError`` that names setting and value, unless ``condition``."""
    if not condition:
        raise ConfigError(f"{name}={value!r}: {remedy}")
