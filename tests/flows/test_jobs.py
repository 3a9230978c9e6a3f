import pytest

from cxr_model.errors import CxrError, GateError, StackError
from flows.jobs import outcome_told


def test_the_outcome_is_told_once_when_all_went_well() -> None:
    told: list[str] = []
    with outcome_told(lambda: told.append("report")):
        assert told == []
    assert told == ["report"]


@pytest.mark.parametrize(("kind", "is_told"), [(GateError, True), (StackError, False)])
def test_of_a_run_that_failed_it_is_told_where_it_is_published(
    kind: type[CxrError], is_told: bool
) -> None:
    told: list[str] = []
    with pytest.raises(kind, match="red"), outcome_told(lambda: told.append("report")):
        raise kind("red")
    assert bool(told) is is_told
