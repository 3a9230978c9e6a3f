"""The films whose maps were drawn by every method: their tiles, and their panels in a file."""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from cxr_model.explanations.attribution import METHOD_TITLES
from cxr_model.explanations.figure import explanation_panel, film_tile, heat_map_tile, jpeg_bytes
from cxr_model.reports.evidence import read_evidence, state_in_words
from cxr_model.reports.page import data_uri, write_bytes
from cxr_model.run_folder import RunFolder

GALLERY_FILMS = 12
"""Films shown of the sample, and again of the mistakes."""


def explained_films(run: RunFolder) -> tuple[list[dict[str, Any]], int]:
    """The gallery in the order of ``attributions/index.csv``, and how many films have maps.

    Writes each film's panel to ``figures/explanation-NN.jpg``, so that the pictures can be
    shown elsewhere too.
    """
    index, verdicts = _read_index(run), verdicts_in_words(run)
    for stale in run.figures.glob("explanation-*.jpg"):
        stale.unlink()
    by_film = [rows for _, rows in index.groupby("file", sort=False)]
    shown = {"sample": 0, "mistake": 0}
    films: list[dict[str, Any]] = []
    for rows in by_film:
        chosen = rows["chosen"].iloc[0]
        shown[chosen] += 1
        if shown[chosen] <= GALLERY_FILMS:
            films.append(_explained_film(run, rows, len(films) + 1, verdicts))
    return films, len(by_film)


def verdicts_in_words(run: RunFolder) -> str:
    """``Occlusion passed, Grad-CAM not tested``: of each method the run has maps of."""
    found, shown = read_evidence(run).method_verdicts(), set(_read_index(run)["method"])
    return ", ".join(
        f"{title} {state_in_words(found[method]['passed'])}"
        for method, title in METHOD_TITLES.items()
        if method in shown
    )


def _read_index(run: RunFolder) -> pd.DataFrame:
    return pd.read_csv(run.attributions / "index.csv", dtype=str, keep_default_na=False)


def mean_maps(run: RunFolder, classes: list[str]) -> list[dict[str, Any]]:
    """Of each class the mean film called so and the mean map of each method, with their counts.

    Each picture is ``{"uri", "n"}``. Classes that no holdout film was called have none.
    """
    shown: list[dict[str, Any]] = []
    with np.load(run.attributions / "mean.npz") as arrays:
        for name in classes:
            if f"film_{name}" not in arrays:
                continue
            film = arrays[f"film_{name}"]
            maps = {
                method: _counted(
                    heat_map_tile(film, arrays[f"{method}_{name}"], method, None),
                    arrays[f"count_{method}_{name}"],
                )
                for method in METHOD_TITLES
                if f"{method}_{name}" in arrays
            }
            picture = _counted(film_tile(film, None), arrays[f"count_film_{name}"])
            shown.append({"name": name, "picture": picture, "maps": maps})
    return shown


def _counted(tile: Image.Image, count: NDArray[Any]) -> dict[str, Any]:
    return {"uri": _uri(tile), "n": int(count)}


def _explained_film(
    run: RunFolder, rows: pd.DataFrame, number: int, verdicts: str
) -> dict[str, Any]:
    first = rows.iloc[0]
    explained = []
    with np.load(run.attributions / first["file"]) as arrays:
        film = arrays["film"]
        mask = arrays["mask"] if "mask" in arrays and arrays["mask"].any() else None
        original = film_tile(film, mask)
        for target, maps in rows.groupby("target", sort=False):
            tiles = {
                row["method"]: heat_map_tile(film, arrays[row["array"]], row["method"], mask)
                for _, row in maps.iterrows()
            }
            explained.append((target, tiles))
    title = f"true {first['label']}, predicted {first['predicted']}; {verdicts}"
    panel = [
        [("film", original)]
        + [(f"{METHOD_TITLES[method]}: {target}", tile) for method, tile in tiles.items()]
        for target, tiles in explained
    ]
    write_bytes(
        run.figures / f"explanation-{number:02d}.jpg", jpeg_bytes(explanation_panel(title, panel))
    )
    return {
        **{name: first[name] for name in ("path", "label", "predicted", "chosen")},
        "probability": float(first["probability"]),
        "outlined": mask is not None,
        "picture": _uri(original),
        "targets": [{"name": target, "maps": _uris(tiles)} for target, tiles in explained],
    }


def _uris(tiles: dict[str, Image.Image]) -> dict[str, str]:
    return {method: _uri(tile) for method, tile in tiles.items()}


def _uri(tile: Image.Image) -> str:
    return data_uri("image/jpeg", jpeg_bytes(tile))
