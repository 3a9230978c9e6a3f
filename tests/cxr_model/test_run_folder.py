"""Files of a run appear whole or not at all."""

import hashlib
import json
import math
from pathlib import Path

import pandas as pd
import pytest

from cxr_model.run_folder import atomic_path, sha256_file, write_json, write_table


def test_after_an_error_the_old_file_stands_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "film.png"
    with atomic_path(path) as temporary:
        temporary.write_bytes(b"whole")
    with pytest.raises(UnicodeEncodeError), atomic_path(path) as temporary:
        temporary.write_text("\ud800")  # fails once the file is open
    assert path.read_bytes() == b"whole"
    assert list(path.parent.iterdir()) == [path]


def test_a_table_comes_back_as_it_went(tmp_path: Path) -> None:
    table = pd.DataFrame({"path": ["a, b", "ü"], "value": [0.1 + 0.2, 1e-17]})
    write_table(tmp_path / "table.csv", table)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "table.csv"), table)


def test_values_come_back_as_they_went(tmp_path: Path) -> None:
    write_json(tmp_path / "values.json", {"ü": [1, 0.1 + 0.2, None]})
    text = (tmp_path / "values.json").read_text()
    assert json.loads(text) == {"ü": [1, 0.1 + 0.2, None]}
    assert text.endswith("}\n")


def test_numbers_that_json_lacks_are_refused_and_leave_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "values.json", {"loss": math.nan})
    assert list(tmp_path.iterdir()) == []


def test_sha256_is_that_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "film").write_bytes(b"x" * 3_000_000)
    assert sha256_file(tmp_path / "film") == hashlib.sha256(b"x" * 3_000_000).hexdigest()
