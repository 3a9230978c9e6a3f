from collections.abc import Iterator

import pytest

from cxr_model.ahead import map_ahead


def test_results_come_in_order() -> None:
    squares = map_ahead(lambda number: number**2, range(100), num_threads=4, num_ahead=8)
    assert list(squares) == [number**2 for number in range(100)]


def test_items_are_taken_only_a_little_ahead() -> None:
    taken = []

    def items() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    results = map_ahead(lambda number: number, items(), num_threads=4, num_ahead=8)
    assert next(results) == 0
    assert taken == list(range(9))
    results.close()


def test_after_an_error_no_further_item_starts() -> None:
    started = []

    def fail(number: int) -> None:
        started.append(number)
        raise ValueError(f"item {number}")

    with pytest.raises(ValueError, match="item 0"):
        list(map_ahead(fail, range(1000), num_threads=4, num_ahead=8))
    assert len(started) <= 9
