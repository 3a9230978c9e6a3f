"""Drawings: same input, same bytes; any class name; what is marked is what was asked for."""

import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image

from cxr_model.explanations.figure import (
    TILE_PX,
    explanation_panel,
    film_tile,
    heat_map_tile,
    jpeg_bytes,
)
from cxr_model.metrics import evaluate_predictions
from cxr_model.reports import figures
from cxr_model.reports.architecture_figure import architecture_figure, short_kind
from cxr_model.reports.hygiene_figures import hygiene_figures
from tests.cxr_model.reports.made_up_run import hygiene_record

ODD_NAMES = ["_normal", "$x^2$ & <b>", "a name much too long to be drawn in full"]
LAYERS = [
    {"name": "stem", "kind": "Conv2d → ReLU", "output_shape": [8, 56, 56], "num_parameters": 80},
    {"name": "stage 1", "kind": "ResidualBlock → ResidualBlock", "output_shape": [16, 1, 1],
     "num_parameters": 999},
    {"name": "dropout", "kind": "Dropout", "output_shape": [16], "num_parameters": 0},
    {"name": "head", "kind": "Linear", "output_shape": [3], "num_parameters": 51},
]  # fmt: skip


def make_holdout(classes: list[str]) -> tuple[Any, Any, dict[str, Any]]:
    generator = np.random.default_rng(0)
    truth = np.arange(60) % len(classes)
    scores = generator.dirichlet(np.ones(len(classes)), size=60)
    labels = np.array(classes)[truth]
    holdout = evaluate_predictions(labels, scores, np.arange(60), classes, draws=100, seed=0)
    return labels, scores, holdout


def make_history(epochs: int) -> pd.DataFrame:
    epoch = np.arange(1, epochs + 1)
    names = ("learning_rate", "train_loss", "validation_loss", "validation_balanced_accuracy")
    return pd.DataFrame({"epoch": epoch, **dict.fromkeys(names, 1 / epoch)})


def draw_all(classes: list[str], epochs: int = 5) -> dict[str, Figure]:
    labels, scores, holdout = make_holdout(classes)
    history = make_history(epochs)
    counts = {name: {"train": 30, "validation": 10, "holdout": 1} for name in classes}
    return {
        "loss": figures.loss_curves(history),
        "balanced accuracy": figures.balanced_accuracy_curve(history, best_epoch=1),
        "learning rate": figures.learning_rate_curve(history),
        "confusion": figures.confusion_figure(holdout["confusion_matrix"], classes),
        "roc": figures.roc_curves(labels, scores, holdout["per_class"]),
        "pr": figures.precision_recall_curves(labels, scores, holdout["per_class"]),
        "counts": figures.class_counts_figure(counts),
        "architecture": architecture_figure(LAYERS, (1, 224, 224)),
    }


@pytest.mark.parametrize(
    "classes", [ODD_NAMES, [f"class {i}" for i in range(8)]], ids=["odd names", "eight"]
)
def test_every_drawing_is_well_formed_and_of_the_same_bytes_each_time(classes: list[str]) -> None:
    first = {name: figures.svg_bytes(figure) for name, figure in draw_all(classes).items()}
    again = {name: figures.svg_bytes(figure) for name, figure in draw_all(classes).items()}
    assert first == again
    for name, svg in first.items():
        root = ElementTree.fromstring(svg)
        assert root.tag.endswith("svg"), name
        assert not root.findall(".//{http://www.w3.org/2000/svg}text"), "text needs a font"
        assert len(svg) < 400_000, name


def test_class_names_are_drawn_literally_and_long_ones_cut() -> None:
    legend = draw_all(ODD_NAMES)["roc"].legends[0]
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts[0].startswith("_normal: AUROC 0.")
    assert texts[1].startswith("$x^2$ & <b>: AUROC")
    assert texts[2].startswith("a name much too l…: AUROC")
    assert not any(text.get_parse_math() for text in legend.get_texts())


def test_a_single_epoch_still_shows_a_point() -> None:
    for draw in (figures.loss_curves, figures.learning_rate_curve):
        (line, *_) = draw(make_history(1)).axes[0].get_lines()
        assert line.get_marker() == "o"


def test_the_best_epoch_is_marked() -> None:
    axes = figures.balanced_accuracy_curve(make_history(5), best_epoch=4).axes[0]
    curve, mark = axes.get_lines()
    assert len(curve.get_xdata()) == 5
    assert list(np.asarray(mark.get_xdata())) == [4]


@pytest.mark.parametrize("draw", [figures.roc_curves, figures.precision_recall_curves])
def test_a_class_without_holdout_films_has_no_curve(draw: Callable[..., Figure]) -> None:
    labels = np.array(["a", "b", "a", "b"])
    scores = np.array([[0.7, 0.2, 0.1], [0.3, 0.6, 0.1], [0.5, 0.4, 0.1], [0.4, 0.5, 0.1]])
    holdout = evaluate_predictions(labels, scores, np.arange(4), ["a", "b", "c"], draws=100, seed=0)
    figure = draw(labels, scores, holdout["per_class"])
    drawn = {
        to_hex(str(line.get_color())) for line in figure.axes[0].get_lines()
    } - {figures.MUTED}  # fmt: skip
    assert drawn == set(figures.PALETTE[:2])
    assert "c: " in figure.legends[0].get_texts()[2].get_text()
    assert "undefined" in figure.legends[0].get_texts()[2].get_text()


def test_confusion_cells_hold_counts_and_shares_of_rows_with_films() -> None:
    axes = figures.confusion_figure([[9, 1], [0, 0]], ["a", "b"]).axes[0]
    texts = [text.get_text() for text in axes.texts]
    assert texts == ["9", "90 %", "1", "10 %", "0", "–", "0", "–"]


def test_architecture_names_each_part_with_shape_and_weights() -> None:
    axes = architecture_figure(LAYERS, (1, 224, 224)).axes[0]
    texts = [text.get_text() for text in axes.texts if text.get_text()]
    assert "1 × 224 × 224" in texts
    assert "16 × 1 × 1" in texts
    assert "ResidualBlock × 2" in texts
    assert "999 weights" in texts
    assert "0 weights" not in texts
    figure_height = architecture_figure(LAYERS, (1, 224, 224)).get_figheight()
    assert figure_height > architecture_figure(LAYERS[:2], (1, 224, 224)).get_figheight()


def test_repeated_parts_are_counted() -> None:
    assert short_kind("A → A → B → A") == "A × 2 → B → A"
    assert short_kind("Linear") == "Linear"


def test_heat_is_red_for_and_blue_against_and_clear_at_zero() -> None:
    film = np.full((64, 64), 128, dtype=np.uint8)
    heat_map = np.zeros((64, 64), dtype=np.float16)
    heat_map[:, :20], heat_map[:, -20:] = 1.0, -1.0
    pixels = np.asarray(heat_map_tile(film, heat_map, "occlusion", None), dtype=int)
    red, _, blue = np.moveaxis(pixels[TILE_PX // 2], -1, 0)
    assert red[20] > blue[20] + 30
    assert blue[-20] > red[-20] + 30
    assert abs(pixels[TILE_PX // 2, TILE_PX // 2] - 128).max() <= 1


@pytest.mark.parametrize("method", ["occlusion", "integrated-gradients", "grad-cam"])
@pytest.mark.parametrize("shape", [(64, 64), (64, 64, 3)])
def test_a_map_of_zeros_leaves_the_film_as_it_is(method: str, shape: tuple[int, ...]) -> None:
    film = np.random.default_rng(0).integers(0, 256, size=shape, dtype=np.uint8)
    tile = heat_map_tile(film, np.zeros((64, 64), dtype=np.float16), method, None)
    difference = np.asarray(tile, dtype=int) - np.asarray(film_tile(film, None), dtype=int)
    assert abs(difference).max() <= 1


def test_the_lesion_is_outlined_outside_its_mask_only() -> None:
    film = np.full((64, 64), 100, dtype=np.uint8)
    mask = np.zeros((64, 64), dtype=bool)
    mask[20:40, 20:40] = True
    pixels = np.asarray(film_tile(film, mask))
    inside = np.asarray(Image.fromarray(mask).resize((TILE_PX, TILE_PX)))
    assert (pixels[inside] == 100).all()
    assert (pixels == 255).any()
    assert (pixels == 0).any()


def test_tiles_are_small_jpegs_and_panels_line_them_up() -> None:
    film = np.random.default_rng(0).integers(60, 200, size=(224, 224), dtype=np.uint8)
    tile = film_tile(film, None)
    content = jpeg_bytes(tile)
    assert content.startswith(b"\xff\xd8")
    assert len(content) < 60_000
    panel = explanation_panel("title", [[("film", tile), ("map", tile)], [("film", tile)]])
    assert panel.width > 2 * TILE_PX
    assert panel.height > 2 * TILE_PX


def test_a_panels_note_is_wrapped_inside_it_and_makes_it_as_much_longer() -> None:
    tile = Image.new("RGB", (TILE_PX, TILE_PX), "white")
    plain = np.asarray(explanation_panel("", [[("", tile), ("", tile)]]))
    noted = np.asarray(explanation_panel("", [[("", tile), ("", tile)]], "many words " * 30))
    assert (plain == 255).all()
    rows, columns = np.nonzero((noted < 255).any(axis=2))
    assert rows.min() > plain.shape[0] - TILE_PX // 8
    assert rows.max() < noted.shape[0] - 5
    assert 200 < columns.max() < noted.shape[1] - 5


def test_formats_modes_and_jpeg_quality_are_drawn_for_each_class() -> None:
    record = hygiene_record(["normal", "covid"])
    record["fingerprint"]["covid"] = record["fingerprint"]["covid"] | {
        "formats": {"JPEG": 30, "PNG": 10},
        "jpeg_quality": {"p5": 70.0, "median": 90.0, "p95": 95.0},
    }
    formats, modes, quality = hygiene_figures(record)["hygiene-files"].axes
    widths = {bars.get_label(): [bar.get_width() for bar in bars] for bars in formats.containers}
    assert widths == {"JPEG": [0, 75], "PNG": [100, 25]}
    hatches = [bars[0].get_hatch() for bars in formats.containers]
    assert len(set(hatches)) == 2  # told apart without colour
    assert [bars.get_label() for bars in modes.containers] == ["L"]
    line, point = quality.lines  # of covid alone
    assert list(line.get_xdata()) == [70, 95]
    assert list(point.get_xdata()) == [90]
    assert list(line.get_ydata()) == [1, 1]
