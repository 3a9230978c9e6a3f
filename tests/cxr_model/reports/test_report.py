"""The page of a small made-up run: complete, escaped, self-contained, readable on a phone."""

import json
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from cxr_model.errors import DataError
from cxr_model.intervals import format_estimate
from cxr_model.reports.documents import write_documents
from cxr_model.reports.explained_films import GALLERY_FILMS
from cxr_model.reports.page import format_duration
from cxr_model.reports.report import LISTED_FILES, build_report
from cxr_model.run_folder import RunFolder, read_json, write_json
from tests.cxr_model.reports.made_up_run import (
    HOSTILE,
    add_gates,
    make_run,
    write_evidence,
    write_gallery,
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A built report whose names of a class and of all films try to break out of the page."""
    run = make_run(
        tmp_path_factory.mktemp("run"), ["normal", "pneumonia", HOSTILE], path_prefix=HOSTILE
    )
    build_report(run)
    return run


@pytest.fixture(scope="module")
def page(run: RunFolder) -> str:
    return run.report.read_text(encoding="utf-8")


def test_the_page_has_every_section_and_the_warning_comes_first(page: str) -> None:
    targets = re.findall(r'<li><a href="#([a-z]+)">', page)
    assert targets == [
        "results", "holdout", "explore", "gallery", "curves", "explanations", "data", "splits",
        "architecture", "training", "limits", "standards", "environment",
    ]  # fmt: skip
    assert [name for name in targets if f'<section id="{name}"' in page] == targets
    body = page[page.index("<body>") :]
    warning = body.index("Not a medical device. For research and education only.")
    assert warning < body.index("<h1>")


def test_the_figures_of_metrics_json_stand_on_the_page(run: RunFolder, page: str) -> None:
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))
    holdout = json.loads(run.metrics.read_text())["holdout"]
    estimates = [holdout[name] for name in ("accuracy", "balanced_accuracy", "macro_f1", "mcc")]
    assert "3.2 s, from the results cache" in text
    for per_class in holdout["per_class"].values():
        estimates += per_class.values()
    for estimate in estimates:
        assert format_estimate(estimate) in text
    for fact in (
        "0.833 (0.61–0.94)", "decoded 0 bytes", "5e5e5e5e", "settings.seed", "3 min 07 s",
        "training.widths", "16, 32", "2.15.0", "0123456789abcdef", "393,000 weights",
        "0 groups and 0 digests stand in more than one split", "These films are drawn.",
        "Some patients are unknown.", "the interval is widened to Wilson's",
    ):  # fmt: skip
        assert fact in text, fact


def test_names_of_classes_and_films_are_escaped(page: str) -> None:
    assert page.count("<script") == page.count("</script>") == 2  # its own
    assert HOSTILE not in page
    assert "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;" in page


def test_the_page_can_load_nothing_from_anywhere(page: str) -> None:
    references = re.findall(r"""(?:src|href|action|poster)=["']([^"']{0,40})""", page)
    assert len(references) > 30
    assert all(reference.startswith(("data:image/", "#")) for reference in references)
    assert "url(" not in page
    assert "@import" not in page
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    assert re.fullmatch(
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        r"script-src 'sha256-[\w+/=]{44}'; base-uri 'none'; form-action 'none'",
        policy[1],
    )


def test_every_table_that_scrolls_is_a_region_that_keys_reach(page: str) -> None:
    regions = re.findall('<div class="scroll[^>]*>', page)
    assert len(regions) > 8
    for region in regions:
        assert re.search(' role="region" aria-label="[^"]+" tabindex="0"', region), region
    for template in files("cxr_model.reports").iterdir():
        if template.name.endswith(".html.j2") and template.name != "_macros.html.j2":
            assert 'class="scroll' not in template.read_text(encoding="utf-8"), template.name


def test_figures_are_kept_beside_the_page(run: RunFolder) -> None:
    names = {path.name for path in run.figures.iterdir()}
    films = set(pd.read_csv(run.attributions / "index.csv")["file"])
    assert names == {
        *(f"{name}.svg" for name in (
            "class-counts", "architecture", "loss", "balanced-accuracy", "learning-rate",
            "confusion-matrix", "roc", "precision-recall",
        )),
        *(f"explanation-{i + 1:02d}.jpg" for i in range(len(films))),
    }  # fmt: skip


def test_building_again_gives_the_same_bytes_and_leaves_no_stale_picture(
    run: RunFolder, page: str
) -> None:
    stale = run.figures / "explanation-99.jpg"
    stale.write_bytes(b"from an earlier gallery")
    assert build_report(run) == run.report
    assert run.report.read_text(encoding="utf-8") == page
    assert not stale.exists()


def test_many_classes_without_masks_and_mistakes_make_a_small_page(tmp_path: Path) -> None:
    classes = [f"class {i}" for i in range(8)]
    run = make_run(tmp_path, classes, num_films=160)
    metrics = json.loads(run.metrics.read_text())
    metrics["explanations"] = {}
    metrics["data"] |= {
        "source": "/films",
        "patients": {"count": 70, "in_several_classes": 1, "films_without": 12},
        "unreadable": [{"path": f"{i}.png", "error": "empty"} for i in range(LISTED_FILES + 5)],
    }
    run.metrics.write_text(json.dumps(metrics))
    index = pd.read_csv(run.attributions / "index.csv")
    sample = index[index["chosen"] == "sample"]
    sample.to_csv(run.attributions / "index.csv", index=False)
    page = build_report(run).read_text(encoding="utf-8")
    assert page.count('class="film"') == GALLERY_FILMS < sample["file"].nunique()
    assert f"{GALLERY_FILMS} of {sample['file'].nunique()} explained films are shown" in page
    assert "The other 5 are listed in" in page
    assert "70 patients apart; 1 of them stands in more than one class" in page
    for absent in ("Pointing game", "These films are drawn"):
        assert absent not in page
    assert run.report.stat().st_size < 5e6


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    message = f"{run.metrics}: not found, the report needs it; run 'cxr train' to its end first"
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        build_report(run)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (59.94, "59.9 s"), (59.96, "1 min 00 s"), (187, "3 min 07 s"),
     (3599.6, "1 h 00 min"), (3900, "1 h 05 min")],
)  # fmt: skip
def test_durations_read_well(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize("width", [360, 1280])
def test_a_browser_shows_the_page_whole_and_offline(
    run: RunFolder, browser: Any, width: int
) -> None:
    requests: list[str] = []
    complaints: list[str] = []
    tab = browser.new_page(viewport={"width": width, "height": 800})
    tab.on("request", lambda request: requests.append(request.url))
    tab.on("console", lambda message: complaints.append(message.text))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("dialog", lambda dialog: complaints.append(dialog.message))
    tab.goto(run.report.as_uri())
    for details in tab.locator("summary").all():
        details.click()
    assert tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    broken = "[...document.images].filter(image => !image.complete || !image.naturalWidth).length"
    assert tab.evaluate("document.images.length") > 30
    assert tab.evaluate(broken) == 0
    assert tab.evaluate("document.querySelectorAll('script').length") == 2
    assert [url for url in requests if not url.startswith(("file:", "data:"))] == []
    assert complaints == []
    tab.close()


def test_each_part_of_the_evidence_has_a_section_and_the_gates_stand_by_the_accuracy(
    tmp_path: Path,
) -> None:
    classes = ["normal", "covid"]
    run = make_run(tmp_path, classes)
    write_evidence(run, classes)
    add_gates(run, is_good=True)
    page = build_report(run).read_text(encoding="utf-8")
    for name in (
        "hygiene", "shortcuts", "calibration", "operating", "abstention", "outliers", "robustness",
    ):  # fmt: skip
        assert f'<section id="{name}"' in page
        assert f'<li><a href="#{name}">' in page
    results = page[page.index('<section id="results"') :]
    results = results[: results.index("</section>")]
    assert results.count("✓ passed") == 4
    assert "Accuracy above what no-lung evidence gives" in results
    assert 'role="alert"' not in page
    titles = re.findall(r'<th scope="col">([^<]*)</th>', page[page.index("Fingerprint of each") :])
    assert titles[:10] == [
        "Class", "Films", "Width", "Height", "Width / height", "Mean grey", "Border",
        "JPEG quality", "Formats", "Modes",
    ]  # fmt: skip
    assert page.count("<td>no JPEGs</td>") == len(classes)
    assert 'alt="Formats, modes and JPEG quality of each class&#39;s files; the tables' in page
    assert '<th scope="row">Perhaps no radiograph</th><td class="number">1,234</td>' in page
    assert '<th scope="row">Copies in different classes</th><td class="number">567</td>' in page
    assert page.count("the same bytes or the same picture") == 2
    assert "Left out: Retrained, border alone: loss is inf in epoch 2." in page
    assert "Not externally validated when this report was written." in page
    shortcuts = page[page.index('<section id="shortcuts"') :]
    shortcuts = shortcuts[: shortcuts.index("</section>")]
    assert shortcuts.count('<span class="value">0.610</span>') == len(classes)  # told apart
    assert shortcuts.count('<span class="value">0.830</span>') == len(classes)  # by the model
    for corners in ("0.110", "0.070", "0.040"):
        assert corners in shortcuts
    assert "Somebody rings." in shortcuts


def test_robustness_tells_its_films_and_the_damage_that_was_trained_for(tmp_path: Path) -> None:
    classes = ["normal", "covid"]
    run = make_run(tmp_path, classes)
    write_evidence(run, classes)
    record = read_json(run.robustness)
    (gamma,) = record["conditions"]
    write_json(run.robustness, record | {"conditions": [gamma, gamma | {"name": "noise"}]})
    page = build_report(run).read_text(encoding="utf-8")
    assert "<p>30 holdout films once more under damage" in page
    assert "in the same way, if perhaps less, by gamma, rotation: of what" in page
    assert '<th scope="row">gamma<span class="kind">trained for</span></th>' in page
    assert '<th scope="row">noise</th>' in page
    record["clean"]["accuracy"]["n"] = 20
    write_json(run.robustness, record)
    config = read_json(run.config)
    write_json(run.config, config | {"augment": dict.fromkeys(config["augment"], 0.0)})
    page = build_report(run).read_text(encoding="utf-8")
    assert "<p>20 of 30, drawn by chance, holdout films once more" in page
    assert "Training itself changes films" not in page


def test_a_search_that_was_not_made_is_no_search_that_found_nothing(tmp_path: Path) -> None:
    classes = ["normal", "covid"]
    run = make_run(tmp_path, classes)
    write_evidence(run, classes)
    record = read_json(run.hygiene)
    record["near_duplicates"] |= {"searched": False, "films": 0, "groups": []}
    write_json(run.hygiene, record)
    page = build_report(run).read_text(encoding="utf-8")
    row = '<th scope="row">Films with a near copy</th><td class="number">not looked for</td>'
    assert row in page
    assert "Near duplicates were not looked for" in page
    card, _ = write_documents(run)
    told = card.read_text(encoding="utf-8")
    assert "near duplicates not looked for, 567 copies" in told
    assert "(patient, series, copies) is in two splits; near copies were not looked for." in told
    assert "the same picture" not in page
    assert page.count("the same bytes or the same pixels") == 2


def test_what_speaks_against_the_run_stands_in_words_above_everything(tmp_path: Path) -> None:
    classes = ["normal", "covid"]
    run = make_run(tmp_path, classes)
    write_evidence(run, classes, is_good=False)
    add_gates(run, is_good=False)
    page = build_report(run).read_text(encoding="utf-8")
    alarm = page[page.index('role="alert"') : page.index('<nav aria-label="Contents"')]
    for name in ("Leakage", "Shortcut", "Calibration", "Explanation"):
        assert f"{name}: failed." in alarm
    assert page.count("✗ failed") == 4
    assert "It ignores the weights." in page


def test_no_heat_map_stands_without_the_verdict_of_its_method(tmp_path: Path) -> None:
    classes = ["normal", "covid"]
    run = make_run(tmp_path, classes)
    untested = build_report(run).read_text(encoding="utf-8")
    maps = untested.count("<br>for <strong>")
    assert maps > 10
    assert (
        len(re.findall(r"</strong>\s*<span class=\"tag open\">not tested</span>", untested)) == maps
    )
    write_evidence(run, classes, is_good=False)
    tested = build_report(run).read_text(encoding="utf-8")
    verdicts = re.findall(
        r"</strong>\s*<span class=\"tag (\w+)\">(failed|not tested)</span>", tested
    )
    assert len(verdicts) == maps
    assert ("wrong", "failed") in verdicts


def test_a_check_shows_the_gain_it_is_decided_by_and_says_where_it_decides_nothing(
    tmp_path: Path,
) -> None:
    run = make_run(tmp_path, ["normal", "covid"])
    write_evidence(run, ["normal", "covid"], is_good=False)
    page = build_report(run).read_text(encoding="utf-8")
    rows = re.findall(r'<th scope="row">(.*?)</th>(.*?)</tr>', page, flags=re.S)
    told = {title: "decides nothing" in row for title, row in rows}
    assert told["Infidelity"]
    assert not told["Deletion"]
    (deletion,) = (row for title, row in rows if title == "Deletion")
    assert 'random 0.500</span><span class="n">gain 0.200 (-0.01 to 0.40)</span>' in deletion


def test_mean_maps_tell_how_many_films_they_are_of_on_the_page(tmp_path: Path) -> None:
    page = build_report(make_run(tmp_path, ["normal", "covid"])).read_text(encoding="utf-8")
    assert page.count("<br>n = 8</figcaption>") == 2
    assert page.count("<br>n = 7</figcaption>") == 2


def test_a_page_names_the_command_that_validates_its_run_elsewhere(tmp_path: Path) -> None:
    run = make_run(tmp_path, ["normal", "covid"])
    page = build_report(run).read_text(encoding="utf-8")
    assert "<code>cxr evaluate --run smoke-20260102-030405 --data ...</code>" in page
    assert "No external validation when this report was written." in page


def test_films_are_left_out_before_the_page_grows_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path, ["normal", "covid"], num_films=1000)
    write_gallery(run)
    whole = len(build_report(run).read_bytes())
    assert whole < 15_000_000
    most = whole - 500_000
    monkeypatch.setattr("cxr_model.reports.report.MOST_BYTES", most)
    page = build_report(run).read_bytes()
    assert most - 20_000 < len(page) <= most
    data = json.loads(re.findall(rb'id="report-data">(.*?)</script>', page)[0])
    assert 0 < len(data["films"]) < 200
    assert f"{len(data['films'])} of 200 holdout films" in page.decode()
