"""The page of a small made-up run: complete, escaped, self-contained, readable on a phone."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cxr_model.errors import DataError
from cxr_model.metrics import evaluate_predictions, format_estimate, proportion_interval
from cxr_model.reports.explained_films import GALLERY_FILMS
from cxr_model.reports.page import format_duration
from cxr_model.reports.report import LISTED_FILES, build_report
from cxr_model.run_folder import RunFolder

HOSTILE = "<script>alert('x')</script>"


def make_run(
    root: Path, classes: list[str], path_prefix: str = "", num_films: int = 150
) -> RunFolder:
    """All files that a report is built from, with random but coherent content."""
    run = RunFolder(root)
    for folder in (run.splits.parent, run.model_card.parent, run.attributions):
        folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    truth = np.arange(num_films) % len(classes)
    logits = generator.normal(size=(num_films, len(classes)))
    logits[np.arange(num_films), truth] += 2.0
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    names = np.array(classes)
    films = pd.DataFrame(
        {
            "path": [f"{names[c]}/{path_prefix}film-{i:04d}.png" for i, c in enumerate(truth)],
            "sha256": [f"{i:064x}" for i in range(num_films)],
            "label": names[truth],
            "group": [f"film-{i}" for i in range(num_films)],
            "split": np.array(["train", "train", "train", "validation", "holdout"])[
                np.arange(num_films) // len(classes) % 5
            ],
            "predicted": names[scores.argmax(axis=1)],
        }
    )
    films[["path", "sha256", "label", "group", "split"]].to_csv(run.splits, index=False)
    predictions = films[["path", "sha256", "split", "label", "predicted"]].assign(
        **{f"probability_{name}": scores[:, c] for c, name in enumerate(classes)}
    )
    predictions[films["split"] != "train"].to_csv(run.predictions, index=False)
    write_history(run, epochs=12)
    write_attributions(run, predictions[films["split"] == "holdout"], classes, generator)
    layers = network_layers(len(classes))
    model = {
        "run_id": "r1", "network": {"name": "cxresnet"}, "classes": classes, "size_px": 64,
        "color": "grey", "mean": 0.5, "std": 0.25, "num_parameters": 393_000, "layers": layers,
    }  # fmt: skip
    run.model_card.write_text(json.dumps(model))
    settings = {"preset": "smoke", "training": {"epochs": 12, "widths": [16, 32]}, "labels": {}}
    run.config.write_text(json.dumps(settings))
    run.metrics.write_text(json.dumps(make_metrics(films, scores, classes)))
    return run


def write_history(run: RunFolder, epochs: int) -> None:
    epoch = np.arange(1, epochs + 1)
    pd.DataFrame(
        {
            "epoch": epoch,
            "learning_rate": 0.003 * np.sin(np.pi * epoch / (epochs + 1)),
            "train_loss": 1.1 / epoch**0.5,
            "validation_loss": 1.2 / epoch**0.4,
            "validation_accuracy": 1 - 0.6 / epoch,
            "validation_balanced_accuracy": 1 - 0.65 / epoch,
            "seconds": 2.0,
            "films_per_second": 45.0,
        }
    ).to_csv(run.history, index=False)


def write_attributions(
    run: RunFolder, holdout: pd.DataFrame, classes: list[str], generator: np.random.Generator
) -> None:
    """Maps of each class's first two holdout films and of four mistakes."""
    wrong = holdout[holdout["label"] != holdout["predicted"]].head(4)
    sample = holdout.drop(index=wrong.index).groupby("label", sort=False).head(2)
    chosen = pd.concat([sample.assign(chosen="sample"), wrong.assign(chosen="mistake")])
    rows = []
    for number, film in enumerate(chosen.to_dict("records")):
        y, x = np.mgrid[-1:1:64j, -1:1:64j]
        blob = np.exp(-((x - 0.3) ** 2 + (y + 0.2) ** 2) / 0.1)
        arrays: dict[str, Any] = {"film": np.uint8(120 + 60 * blob), "mask": blob > 0.5}
        for role in dict.fromkeys((film["predicted"], film["label"])):
            for method in ("occlusion", "integrated-gradients", "grad-cam"):
                name = f"{method}_{classes.index(role)}"
                noise = generator.normal(size=blob.shape)
                arrays[name] = (blob if method == "grad-cam" else blob + 0.3 * noise).astype("f2")
                rows.append(
                    {
                        "file": f"film-{number:02d}.npz",
                        "array": name,
                        **{k: film[k] for k in ("path", "sha256", "label", "predicted", "chosen")},
                        "probability": film[f"probability_{film['predicted']}"],
                        "method": method,
                        "target": role,
                        "role": "predicted" if role == film["predicted"] else "true",
                    }
                )
        np.savez_compressed(run.attributions / f"film-{number:02d}.npz", **arrays)
    pd.DataFrame(rows).to_csv(run.attributions / "index.csv", index=False)


def network_layers(num_classes: int) -> list[dict[str, Any]]:
    stages = [(32, 16), (64, 8), (128, 4), (256, 4)]
    return [
        {
            "name": "stem", "kind": "Conv2d → BatchNorm2d → ReLU → Conv2d",
            "output_shape": [32, 16, 16], "num_parameters": 4784,
        },
        *(
            {
                "name": f"stage {i + 1}", "kind": "ResidualBlock → ResidualBlock",
                "output_shape": [width, side, side], "num_parameters": 37_000 * (i + 1),
            }
            for i, (width, side) in enumerate(stages)
        ),
        {"name": "pool", "kind": "AdaptiveAvgPool2d", "output_shape": [256, 1, 1],
         "num_parameters": 0},
        {"name": "head", "kind": "Linear", "output_shape": [num_classes],
         "num_parameters": 257 * num_classes},
    ]  # fmt: skip


def make_metrics(films: pd.DataFrame, scores: Any, classes: list[str]) -> dict[str, Any]:
    held_out = (films["split"] == "holdout").to_numpy()
    counts = pd.crosstab(films["label"], films["split"])
    holdout = evaluate_predictions(
        films["label"].to_numpy(dtype=str)[held_out], scores[held_out],
        films["group"].to_numpy(dtype=str)[held_out], classes, draws=100, seed=0,
    )  # fmt: skip
    return {
        "schema_version": 1,
        "run_id": "smoke-20260102-030405",
        "created": "2026-01-02T03:04:05+00:00",
        "preset": "smoke",
        "data": {
            "source": "phantom:150",
            "digest": "5e" * 32,
            "provenance": {"kind": "phantom", "settings": {"seed": 0}},
            "num_films": len(films) + 1,
            "unreadable": [{"path": "normal/broken.png", "error": "decoded 0 bytes"}],
            "classes": classes,
            "counts": {name: counts.loc[name].to_dict() for name in classes},
            "num_groups": len(films),
            "patients": {"count": 0, "in_several_classes": 0, "films_without": 150},
            "exact_duplicates": 2,
        },
        "network": {"name": "cxresnet", "num_parameters": 393_000},
        "training": {
            "epochs": 12, "best_epoch": 11, "best_validation_balanced_accuracy": 0.94,
            "device": "cpu", "precision": "bfloat16",
        },
        "holdout": holdout,
        "explanations": {"grad_cam_pointing_game": proportion_interval(15, 18)},
        "timing": {
            "stages": {"ingest": 3.21, "train": 187.0}, "training_images_per_second": 45.2
        },
        "environment": {
            "versions": {"python": "3.11.7", "torch": "2.15.0"}, "device": "cpu",
            "platform": "Linux", "git_revision": "0123456789abcdef",
        },
    }  # fmt: skip


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
    for per_class in holdout["per_class"].values():
        estimates += per_class.values()
    for estimate in estimates:
        assert format_estimate(estimate) in text
    for fact in (
        "0.833 (0.61–0.94)", "decoded 0 bytes", "5e5e5e5e", "settings.seed", "3 min 07 s",
        "training.widths", "16, 32", "2.15.0", "0123456789abcdef", "393,000 weights",
        "0 groups and 0 digests stand in more than one split", "These films are drawn.",
        "Some patients are unknown.",
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
