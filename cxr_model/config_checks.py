"""What every settings class shares: how pydantic reads it, and how a value is refused."""

from typing import Any

from cxr_model.errors import ConfigError

# Read by pydantic where Prefect validates parameters; a plain dict, so that this module
# needs no pydantic. A mistyped key is then refused by its name, and the docstrings below
# the fields stand in the form of the Prefect UI.
STRICT: dict[str, Any] = {"extra": "forbid", "use_attribute_docstrings": True}


def require(condition: bool, name: str, value: object, remedy: str) -> None:
    """Raise ``ConfigError`` that names setting and value, unless ``condition``."""
    if not condition:
        raise ConfigError(f"{name}={value!r}: {remedy}")


def require_seed(name: str, seed: int) -> None:
    """Raise ``ConfigError`` unless every generator takes ``seed``."""
    require(0 <= seed < 2**31, name, seed, "use 0 to 2147483647")
