"""``cxr audit``, without a running stack."""

import json

import pytest
from shell import Shell

from cxr_model.data_config import PhantomConfig
from cxr_model.phantoms.phantom import write_phantoms


@pytest.mark.slow
def test_audit_tells_writes_and_refuses(shell: Shell) -> None:
    planted = ["--set", "phantom.num_exact_duplicates=3", "--set", "phantom.num_unreadable=2"]
    record = json.loads(shell.ok("audit", "phantom:30", *planted, "--json", "--to", "audit"))
    assert record["num_films"] == 35
    assert len(record["unreadable"]) == 2
    assert record["exact_duplicates"]["by_bytes"] == 6
    assert record["patients"]["count"] == 33
    folder = shell.folder / "audit"
    names = {path.name for path in folder.iterdir()}
    assert names == {"audit.html", "datasheet.md", "hygiene.csv", "hygiene.json"}
    assert json.loads((folder / "hygiene.json").read_text()) == record
    told = shell.ok("audit", "phantom:30", *planted)
    assert "33 patients, 0 of them in several classes" in told
    off = ["--set", "hygiene.near_duplicates=false"]
    assert "not looked for" in shell.ok("audit", "phantom:30", *off)
    assert "does not exist" in shell.refused("audit", "nowhere")
    assert not (shell.settings.home / "prefect").exists()


def test_a_class_of_broken_files_is_a_finding(shell: Shell) -> None:
    write_phantoms(shell.folder / "films", PhantomConfig(num_films=30))
    for label in ("Normal", "COVID-19"):
        for file in (shell.folder / "films" / label).iterdir():
            file.write_bytes(b"torn")
        record = json.loads(shell.ok("audit", "films", "--json", "--to", "audit"))
    assert record["counts"]["unreadable"] == 20
    assert list(record["fingerprint"]) == ["pneumonia"]
    assert record["told_apart_by"] == []
    assert "30 image files in 3 classes" in (shell.folder / "audit/datasheet.md").read_text()
