import re
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import pytest
from pydantic import TypeAdapter

from cxr_model.config import RunConfig
from cxr_model.config_checks import STRICT, Bounds, check_bounds
from cxr_model.errors import ConfigError


@pytest.mark.parametrize(
    ("bounds", "inside", "outside", "remedy"),
    [
        (Bounds(least=1), (1, 9), (0,), "use at least 1"),
        (Bounds(above=0), (0.1,), (0, -1), "use more than 0"),
        (Bounds(least=0, most=1), (0, 1), (-0.1, 1.1), "use 0 to 1"),
        (Bounds(least=0, below=1), (0, 0.9), (1,), "use 0 to below 1"),
        (Bounds(above=0, below=10), (5,), (0, 10), "use more than 0, below 10"),
    ],
)
def test_a_value_beyond_its_bounds_is_refused_with_the_bounds_in_words(
    bounds: Bounds, inside: tuple[float, ...], outside: tuple[float, ...], remedy: str
) -> None:
    @dataclass(frozen=True)
    class Config:
        __pydantic_config__: ClassVar[dict[str, Any]] = STRICT
        value: Annotated[float, bounds] = 0.0

    for value in inside:
        check_bounds(Config(value), "section")
    for value in outside:
        with pytest.raises(ConfigError) as refusal:
            check_bounds(Config(value), "section")
        assert str(refusal.value) == f"section.value={value!r}: {remedy}"


def test_the_form_of_the_settings_has_their_bounds() -> None:
    sections = TypeAdapter(RunConfig).json_schema()["$defs"]
    training = sections["TrainingConfig"]["properties"]
    assert training["epochs"]["minimum"] == 1
    assert training["learning_rate"]["exclusiveMinimum"] == 0
    assert training["learning_rate"]["exclusiveMaximum"] == 10
    assert training["seed"]["maximum"] == 2**31 - 1
    assert sections["DataConfig"]["properties"]["size_px"]["maximum"] == 1024
    name = re.compile(sections["GateConfig"]["properties"]["model"]["pattern"])
    assert name.search("chest-2")
    assert name.search("")
    assert not name.search("Chest X")
    assert not name.search("../up")
