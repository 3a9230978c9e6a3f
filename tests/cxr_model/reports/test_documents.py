"""Model card and checklists: every item has evidence that exists, or says that it is not met."""

import re
from pathlib import Path

import pytest

from cxr_model.reports.documents import write_documents
from cxr_model.reports.evidence import read_evidence, report_sections
from cxr_model.reports.standards import STATES, decide_checklists
from cxr_model.run_folder import RunFolder
from tests.cxr_model.reports.made_up_run import add_gates, make_run, write_evidence

CLASSES = ["normal", "a | b <script>"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    run = make_run(tmp_path_factory.mktemp("run"), CLASSES)
    write_evidence(run, CLASSES)
    add_gates(run, is_good=False)
    return run


def test_the_official_items_are_all_there(run: RunFolder) -> None:
    numbers = {
        each.title: [item.number for item in each.items] for each in decide_checklists(run, [])
    }
    assert numbers["CLAIM 2024"] == [str(n) for n in range(1, 45)]
    tripod = numbers["TRIPOD+AI"]
    assert len(tripod) == len(set(tripod)) == 52
    assert [int(n) for n in dict.fromkeys(re.findall(r"\d+", " ".join(tripod)))] == list(
        range(1, 28)
    )
    assert numbers["PROBAST"] == [
        f"{domain}.{n + 1}"
        for domain, size in ((1, 2), (2, 3), (3, 6), (4, 9))
        for n in range(size)
    ]


@pytest.mark.parametrize("with_evidence", [True, False])
def test_every_item_points_to_what_is_there_or_is_not_met(
    tmp_path: Path, with_evidence: bool
) -> None:
    run = make_run(tmp_path, CLASSES)
    if with_evidence:
        write_evidence(run, CLASSES)
    sections = report_sections(read_evidence(run))
    items = [item for each in decide_checklists(run, sections) for item in each.items]
    for item in items:
        assert item.state in STATES
        assert (item.state == "not met") == (not item.evidence)
        assert (item.state == "met") == (not item.lacks)
        for place in item.evidence:
            file, _, key = place.partition("#")
            assert (run.root / file).is_file() if file else key in sections
    states = {item.asks: item.state for item in items}
    assert states["Testing on external data"] == "not met"
    assert states["Robustness or sensitivity analysis"] == ("met" if with_evidence else "not met")
    for asks in ("De-identification", "Ethical approval", "What was done for fairness"):
        assert states[asks] == "not met"


def test_what_asks_for_a_judgement_is_not_met_because_a_section_is_there(run: RunFolder) -> None:
    sections = report_sections(read_evidence(run))
    met = {
        each.title: {item.number for item in each.items if item.state == "met"}
        for each in decide_checklists(run, sections)
    }
    assert met["PROBAST"] <= {"4.5", "4.9"}  # facts about the network, not how good they are
    assert not met["CLAIM 2024"] & {"27", "35", "37", "39", "40"}
    assert not met["TRIPOD+AI"] & {"9c", "12c", "12d", "13", "16", "23a", "23b", "26", "27b"}


def test_the_documents_name_figures_verdicts_and_limits(run: RunFolder) -> None:
    card, checklists = write_documents(run)
    assert (card.name, checklists.name) == ("model-card.md", "checklists.md")
    words = card.read_text(encoding="utf-8")
    for section in (
        "Model details", "Intended use", "Factors", "Metrics", "Evaluation data", "Training data",
        "Quantitative analyses", "Ethical considerations", "Caveats and recommendations",
    ):  # fmt: skip
        assert f"\n## {section}\n" in words
    assert "**Not externally validated when this card was written**" in words
    assert "| leakage | **failed** | leakage looked at |" in words
    assert "temperature of 1.700" in words
    assert "*not met*" in checklists.read_text(encoding="utf-8")


def test_no_name_breaks_a_table_or_becomes_markup(run: RunFolder) -> None:
    for path in write_documents(run):
        words = path.read_text(encoding="utf-8")
        assert "<script>" not in words
        for table in re.findall(r"(?:^\|.*\n)+", words, flags=re.M):
            assert len({line.count("|") for line in table.splitlines()}) == 1, table
    assert "a ∣ b &lt;script&gt;" in (run.root / "model-card.md").read_text(encoding="utf-8")


def test_writing_again_gives_the_same_bytes(run: RunFolder) -> None:
    first = [path.read_bytes() for path in write_documents(run)]
    assert [path.read_bytes() for path in write_documents(run)] == first
