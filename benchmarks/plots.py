"""The pictures of ``docs/benchmarks.md``, drawn from the committed results.

    python -m benchmarks.plots

reads ``benchmarks/results/*.json`` and writes ``docs/figures/bench-*.svg``.
"""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

from benchmarks.crossval_table import RESULTS
from cxr_model.reports.figures import BLUE, GREEN, MUTED, VERMILLION, styled, svg_bytes
from cxr_model.run_folder import read_json

FIGURES = Path(__file__).parent.parent / "docs" / "figures"


@styled
def training_rates(found: dict[str, Any]) -> Figure:
    """Films a second of each contestant, slowest first."""
    rates = sorted(found["films_per_s"].items(), key=lambda item: item[1])
    figure = Figure(figsize=(5.4, 2.8), layout="constrained")
    axes = figure.subplots()
    colors = {"here": BLUE, "limit": MUTED, "way": VERMILLION}
    bars = axes.barh(
        [name for name, _ in rates],
        [rate for _, rate in rates],
        color=[colors[name.split()[-1]] for name, _ in rates],
    )
    axes.bar_label(bars, fmt="%.0f", padding=3)
    axes.set_xlabel(f"training films/s at {found['size_px']} px, {found['environment']['device']}")
    return figure


@styled
def growth_curves(found: dict[str, Any]) -> Figure:
    """Seconds, and peak of memory, by number of films, both axes logarithmic."""
    rows = found["rows"]
    films = [row["num_films"] for row in rows]
    figure = Figure(figsize=(5.4, 2.6), layout="constrained")
    times, memory = figure.subplots(1, 2)
    for name, label, color in (
        ("index_and_cache_seconds", "index, decode", GREEN),
        ("epoch_seconds", "epoch", BLUE),
    ):
        times.plot(films, [row[name] for row in rows], marker="o", label=label, color=color)
    ends = [films[0], films[-1]]
    linear = [rows[0]["seconds"] * count / films[0] for count in ends]
    times.plot(ends, linear, color=MUTED, linestyle=":", label="linear, both together")
    times.set(xlabel="films", ylabel="seconds", xscale="log", yscale="log")
    figure.legend(*times.get_legend_handles_labels(), loc="outside upper left", ncols=3)
    memory.plot(films, [row["peak_mb"] for row in rows], marker="o", color=VERMILLION)
    memory.set(xlabel="films", ylabel="peak memory, MB", xscale="log")
    memory.set_ylim(0, 1.1 * max(row["peak_mb"] for row in rows))
    times.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    times.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    times.yaxis.set_minor_locator(NullLocator())
    for axes in (times, memory):
        axes.set_xticks(films, [f"{count:,}" for count in films], rotation=45)
        axes.xaxis.set_minor_locator(NullLocator())
    return figure


def main() -> None:
    for name, draw in (("train", training_rates), ("growth", growth_curves)):
        for path in sorted(RESULTS.glob(f"bench-{name}-*.json")):
            (FIGURES / f"{path.stem}.svg").write_bytes(svg_bytes(draw(read_json(path))))


if __name__ == "__main__":
    main()
