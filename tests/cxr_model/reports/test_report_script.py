"""The report's script in headless Chromium, on a page whose names try to break out of it."""

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cxr_model.intervals import proportion_interval
from cxr_model.presets import smoke
from cxr_model.reliability.measure import measure_reliability
from cxr_model.reports.report import build_report
from cxr_model.reports.thresholds import outcome_at
from cxr_model.run_folder import RunFolder
from tests.cxr_model.reports.made_up_run import add_gates, make_run, write_evidence, write_gallery

HOSTILE = "</script><script>alert(1)</script><!--\u2028"
CLASSES = ["normal", "pneumonia", HOSTILE]
TEMPERATURE = 1.7  # of the made-up evidence


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    run = make_run(tmp_path_factory.mktemp("run"), CLASSES, path_prefix=HOSTILE, num_films=450)
    write_gallery(run)
    write_evidence(run, CLASSES)
    add_gates(run, is_good=True)
    build_report(run)
    return run


@pytest.fixture(scope="module")
def holdout(run: RunFolder) -> pd.DataFrame:
    """The holdout's predictions with calibrated probabilities as columns 0, 1, 2."""
    table = pd.read_csv(run.predictions).query("split == 'holdout'").reset_index(drop=True)
    powers = table[[f"probability_{name}" for name in CLASSES]].to_numpy() ** (1 / TEMPERATURE)
    calibrated = pd.DataFrame(powers / powers.sum(axis=1, keepdims=True))
    return pd.concat([table[["path", "label", "predicted"]], calibrated], axis=1)


@pytest.fixture
def tab(run: RunFolder, browser: Any) -> Iterator[Any]:
    """The page; at the end nothing was complained of, and nothing was asked of anyone."""
    complaints: list[str] = []
    requests: list[str] = []
    tab = browser.new_page(viewport={"width": 1200, "height": 900})
    tab.on("console", lambda message: complaints.append(message.text))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("dialog", lambda dialog: complaints.append(dialog.message))
    tab.on("request", lambda request: requests.append(request.url))
    tab.goto(run.report.as_uri())
    yield tab
    tab.close()
    assert complaints == []
    assert [url for url in requests if not url.startswith(("file:", "data:"))] == []


def text(tab: Any, name: str) -> str:
    return str(tab.locator(f"#explore-{name}").inner_text())


def shown_paths(tab: Any) -> list[str]:
    return tab.locator("#gallery-cards .path").all_inner_texts()  # type: ignore[no-any-return]


def formatted(estimate: dict[str, Any]) -> str:
    return f"{estimate['value']:.3f} ({estimate['ci_low']:.2f}–{estimate['ci_high']:.2f})"


@pytest.mark.parametrize(("number", "threshold"), [(0, 0.25), (1, 0.5), (2, 0.731)])
def test_the_slider_shows_what_python_computes(
    tab: Any, holdout: pd.DataFrame, number: int, threshold: float
) -> None:
    tab.locator("#explore-class").select_option(str(number))
    tab.locator("#explore-range").fill(str(threshold))
    tab.locator("#explore-prevalence").fill("12.5")
    positive = (holdout["label"] == CLASSES[number]).to_numpy()
    called = holdout[number].to_numpy() >= threshold
    tp, fn = int((positive & called).sum()), int((positive & ~called).sum())
    fp, tn = int((~positive & called).sum()), int((~positive & ~called).sum())
    assert [text(tab, name) for name in ("tp", "fn", "fp", "tn")] == [
        str(count) for count in (tp, fn, fp, tn)
    ]
    assert text(tab, "sensitivity") == formatted(proportion_interval(tp, tp + fn))
    assert text(tab, "specificity") == formatted(proportion_interval(tn, tn + fp))
    found, left = tp / (tp + fn), tn / (tn + fp)
    expected = outcome_at(positive, holdout[number].to_numpy(), threshold, 0.125)
    assert expected["ppv"]["value"] == pytest.approx(
        found * 0.125 / (found * 0.125 + (1 - left) * 0.875)
    )
    for name in ("ppv", "npv"):
        assert text(tab, name) == formatted(expected[name])
        assert expected[name]["ci_low"] < expected[name]["value"] <= expected[name]["ci_high"]
    assert expected["npv"]["value"] == pytest.approx(
        left * 0.875 / (left * 0.875 + (1 - found) * 0.125)
    )
    assert tab.locator("#explore-threshold").input_value() == str(threshold)
    tab.wait_for_function(
        "wanted => document.querySelector('#explore-status').textContent.includes(wanted)",
        arg=f"at {threshold:.3f}: sensitivity {found:.3f}",
    )


def test_a_number_out_of_range_changes_nothing_and_does_not_stay(tab: Any) -> None:
    for field, kept in (("#explore-prevalence", "7"), ("#explore-threshold", "0.25")):
        tab.locator(field).fill(kept)
        before = text(tab, "ppv")
        for wrong in ("250", "-1", ""):
            tab.locator(field).fill(wrong)
            tab.locator(field).blur()
            assert tab.locator(field).input_value() == kept
            assert text(tab, "ppv") == before


def test_operating_points_are_marked_and_set_the_threshold(tab: Any) -> None:
    point = tab.get_by_role("button", name="maximum Youden: 0.432")
    assert point.get_attribute("aria-pressed") == "false"
    point.click()
    assert point.get_attribute("aria-pressed") == "true"
    assert tab.locator("#explore-threshold").input_value() == "0.4321"
    marks = "[...document.querySelectorAll('#explore-plot .point')].map(m => +m.getAttribute('x1'))"
    np.testing.assert_allclose(tab.evaluate(marks), [400 * 0.4321, 400 * 0.1234])


def saturate(run: RunFolder, classes: list[str]) -> None:
    """Classes so well apart that the temperature is at its bound and thresholds near 1e-11."""
    table = pd.read_csv(run.predictions)
    generator = np.random.default_rng(0)
    best = np.array([classes.index(label) for label in table["label"]])
    logits = generator.normal(size=(len(table), len(classes)))
    logits[np.arange(len(table)), best] += 9
    powers = np.exp(logits)
    table[[f"probability_{name}" for name in classes]] = powers / powers.sum(axis=1, keepdims=True)
    table.assign(predicted=np.array(classes)[logits.argmax(axis=1)]).to_csv(
        run.predictions, index=False
    )


def test_each_operating_point_gives_its_tables_counts_with_saturated_scores(
    tmp_path: Path, browser: Any
) -> None:
    classes = ["covid", "normal", "pneumonia"]
    run = make_run(tmp_path, classes, num_films=450)
    write_gallery(run)
    saturate(run, classes)
    points = measure_reliability(run, smoke())["operating_points"]
    assert min(point["threshold"] for point in points) < 1e-9
    build_report(run)
    tab = browser.new_page()
    tab.goto(run.report.as_uri())
    for number, point in enumerate(points):
        c, place = divmod(number, len(points) // len(classes))
        tab.locator("#explore-class").select_option(str(c))
        tab.locator("#explore-points button").nth(place).click()
        tp = round(point["sensitivity"]["value"] * 30)
        tn = round(point["specificity"]["value"] * 60)
        counts = [text(tab, name) for name in ("tp", "fn", "fp", "tn")]
        assert counts == [str(count) for count in (tp, 30 - tp, 60 - tn, tn)], point
        tab.locator("#explore-fn").click()
        assert len(shown_paths(tab)) == 30 - tp
    tab.close()


def test_a_heat_map_lies_on_the_whole_of_its_film(tab: Any) -> None:
    """Padding or a border around one of the two would press it together under the other."""
    boxes = tab.locator("#gallery-cards .pane img").evaluate_all(
        """pictures => pictures.map(picture => {
            const style = getComputedStyle(picture), box = picture.getBoundingClientRect();
            const around = ["paddingTop", "paddingLeft", "borderTopWidth", "borderLeftWidth"];
            return [...around.map(name => style[name]), Math.round(box.width - box.height)];
        })"""
    )
    assert len(boxes) > 2
    assert all(box == ["0px", "0px", "0px", "0px", 0] for box in boxes)


def test_what_is_no_threshold_or_prevalence_changes_nothing(tab: Any) -> None:
    before = text(tab, "ppv")
    for wrong in ("0", "100", ""):
        tab.locator("#explore-prevalence").fill(wrong)
        assert text(tab, "ppv") == before
    tab.locator("#explore-threshold").fill("")
    assert text(tab, "ppv") == before


def test_a_confusion_cell_leads_by_keyboard_to_its_films(tab: Any, holdout: pd.DataFrame) -> None:
    wanted = holdout.query("label == 'normal' and predicted == 'pneumonia'")
    cell = tab.locator("[data-true='0'][data-predicted='1'] button")
    assert cell.inner_text() == str(len(wanted))
    assert len(wanted) > 0
    cell.focus()
    tab.keyboard.press("Enter")
    assert sorted(shown_paths(tab)) == sorted(wanted["path"])
    assert tab.evaluate("document.activeElement.id") == "gallery"
    tab.wait_for_function(
        "() => Math.abs(document.querySelector('#gallery').getBoundingClientRect().top) < 60"
    )
    assert tab.locator("#gallery-status").inner_text() == f"{len(wanted)} of {len(holdout)} films"
    tab.get_by_role("button", name="Show all films").press("Enter")
    assert tab.evaluate("document.activeElement.id") == "gallery-text"
    assert tab.locator("#gallery-true").input_value() == ""


def test_a_cell_at_a_threshold_leads_to_its_films(tab: Any, holdout: pd.DataFrame) -> None:
    tab.locator("#explore-class").select_option("1")
    tab.locator("#explore-range").fill("0.6")
    tab.locator("#explore-fn").click()
    missed = holdout[(holdout["label"] == "pneumonia") & (holdout[1] < 0.6)]
    assert sorted(shown_paths(tab)) == sorted(missed["path"])
    status = tab.locator("#gallery-status").inner_text()
    assert status.endswith("films: pneumonia, not called pneumonia at 0.600")


def test_the_gallery_is_filtered_and_sorted(tab: Any, holdout: pd.DataFrame) -> None:
    tab.locator("#gallery-outcome").select_option("wrong")
    tab.locator("#gallery-order").select_option("low")
    wrong = holdout[holdout["label"] != holdout["predicted"]]
    order = wrong.assign(sure=wrong[[0, 1, 2]].max(axis=1)).sort_values("sure")
    assert shown_paths(tab) == order["path"].tolist()[:48]
    tab.locator("#gallery-true").select_option("1")
    tab.locator("#gallery-order").select_option("2")
    both = order[order["label"] == "pneumonia"].sort_values(2, ascending=False)
    assert shown_paths(tab) == both["path"].tolist()
    tab.locator("#gallery-text").fill(both["path"].iloc[0][-13:].upper())
    assert shown_paths(tab) == both["path"].tolist()[:1]
    tab.locator("#gallery-text").fill("no such film")
    assert shown_paths(tab) == []
    assert tab.locator("#gallery-status").inner_text() == f"0 of {len(holdout)} films"
    tab.get_by_role("button", name="Show all films").click()
    tab.locator("#gallery-outcome").select_option("abstained")
    unsure = holdout[holdout[[0, 1, 2]].max(axis=1) < 0.45]
    assert sorted(shown_paths(tab)) == sorted(unsure["path"])


def test_more_films_come_by_key_and_the_focus_moves_to_the_first_of_them(
    tab: Any, holdout: pd.DataFrame
) -> None:
    assert len(shown_paths(tab)) == 48
    tab.locator("#gallery-more").press("Enter")
    assert len(shown_paths(tab)) == len(holdout) == 90
    cards = "[...document.querySelectorAll('#gallery-cards > li')]"
    assert tab.evaluate(f"{cards}.indexOf(document.activeElement)") == 48
    assert not tab.locator("#gallery-more").is_visible()


def test_the_heat_maps_fade_with_the_slider_and_bear_their_verdict(tab: Any) -> None:
    heat = tab.locator("#gallery-cards .heat").first
    assert heat.evaluate("image => getComputedStyle(image).opacity") == "0.6"
    tab.locator("#gallery-opacity").press("Home")
    assert heat.evaluate("image => getComputedStyle(image).opacity") == "0"
    tab.locator("#gallery-opacity").press("End")
    assert heat.evaluate("image => getComputedStyle(image).opacity") == "1"
    verdict = tab.locator("#gallery-cards .card").first.get_by_text("Grad-CAM").inner_text()
    assert verdict.split() == ["Grad-CAM", "passed"]
    lazy = tab.locator("#gallery-cards img[loading=lazy][decoding=async]").count()
    assert lazy == tab.locator("#gallery-cards img").count() == 96
    heat.scroll_into_view_if_needed()  # it is not decoded before
    tab.wait_for_function("() => document.querySelector('.heat').naturalWidth === 6")


def test_every_control_is_labelled_and_reached_by_the_tab_key(tab: Any) -> None:
    unnamed = """[...document.querySelectorAll('input, select, button')]
      .filter(each => !(each.labels?.length || each.textContent || each.ariaLabel)).length"""
    assert tab.evaluate(unnamed) == 0
    tab.locator("#explore-class").focus()
    reached = []
    for _ in range(7):
        reached.append(
            tab.evaluate("document.activeElement.id || document.activeElement.textContent")
        )
        tab.keyboard.press("Tab")
    assert reached == [
        "explore-class", "explore-range", "explore-threshold", "explore-prevalence-range",
        "explore-prevalence", "maximum Youden: 0.432", "sensitivity 0.95: 0.123",
    ]  # fmt: skip
    before = text(tab, "tp")
    tab.locator("#explore-range").press("Home")
    assert text(tab, "tp") != before
    assert text(tab, "fn") == "0"


def test_names_stay_text_in_the_block_of_data_and_in_the_cards(run: RunFolder, tab: Any) -> None:
    page = run.report.read_text(encoding="utf-8")
    assert page.count("<script") == page.count("</script>") == 2
    block = re.findall(r'<script type="application/json" id="report-data">(.*?)</script>', page)
    data = json.loads(block[0])
    assert data["classes"] == CLASSES
    assert not set("<>&\u2028") & set(block[0])
    assert tab.evaluate("document.querySelectorAll('script').length") == 2
    assert tab.locator("#gallery-cards script").count() == 0


def test_the_policy_lets_no_other_script_run(run: RunFolder, browser: Any, tmp_path: Path) -> None:
    page = run.report.read_text(encoding="utf-8")
    changed = page.replace('"use strict";', '"use strict"; document.title = "changed";')
    (tmp_path / "changed.html").write_text(changed, encoding="utf-8")
    tab = browser.new_page()
    tab.goto((tmp_path / "changed.html").as_uri())
    assert tab.title() != "changed"
    refused = "fetch('https://example.org').then(() => 'sent', () => 'refused')"
    assert tab.evaluate(refused) == "refused"
    tab.close()


@pytest.mark.parametrize("width", [400, 1200])
def test_without_a_script_every_table_is_there(run: RunFolder, browser: Any, width: int) -> None:
    context = browser.new_context(
        java_script_enabled=False, viewport={"width": width, "height": 900}
    )
    tab = context.new_page()
    tab.goto(run.report.as_uri())
    assert tab.locator("#explorer").is_hidden()
    assert tab.locator("#gallery-true").is_hidden()
    assert tab.locator("#explore noscript p").is_visible()
    assert tab.locator("#explore noscript tbody tr").count() == len(CLASSES)
    assert tab.locator("#gallery noscript p").is_visible()
    for name in ("holdout", "calibration", "operating", "shortcuts", "hygiene"):
        assert tab.locator(f"#{name} table").first.is_visible()
    assert tab.locator("button:visible").count() == 0
    context.close()


def test_paper_shows_figures_and_what_the_controls_were_set_to(tab: Any, tmp_path: Path) -> None:
    tab.locator("#explore-class").select_option("1")
    tab.locator("#explore-threshold").fill("0.731")
    tab.locator("#explore-prevalence").fill("12.5")
    assert not tab.locator("#explore-chosen").is_visible()
    status = tab.locator("#gallery-status")
    assert status.inner_text() == "90 of 90 films, 48 shown"
    tab.emulate_media(media="print")
    assert text(tab, "chosen") == "pneumonia at a threshold of 0.731, prevalence 12.5 %"
    assert status.inner_text() == "90 of 90 films, 24 shown"
    assert not tab.locator(".controls").first.is_visible()
    assert tab.locator("#explore-sensitivity").is_visible()
    assert tab.locator("#gallery-cards > li:visible").count() == 24
    assert tab.pdf(path=tmp_path / "report.pdf")[:4] == b"%PDF"


def test_thumbnails_are_jpegs_of_few_bytes(run: RunFolder) -> None:
    page = run.report.read_text(encoding="utf-8")
    block = re.findall(r'id="report-data">(.*?)</script>', page)[0]
    for film in json.loads(block)["films"][:5]:
        assert base64.b64decode(film["film"].partition(",")[2])[:3] == b"\xff\xd8\xff"
        assert len(film["heat"]) < 1000
