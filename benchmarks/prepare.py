"""Films indexed and decoded for a benchmark, outside Prefect."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from cxr_model.cache import build_cache
from cxr_model.config import RunConfig
from cxr_model.errors import DataError
from cxr_model.index import build_index
from cxr_model.phantom import write_phantoms


@dataclass(frozen=True, kw_only=True)
class Prepared:
    root: Path
    index: pd.DataFrame
    cache_folder: Path


def prepare(config: RunConfig, work: Path) -> Prepared:
    """Index and cache the films of a folder, or phantoms, below ``work``."""
    kind, _, rest = config.data.source.partition(":")
    if kind == "phantom":
        root = work / "phantoms"
        num_films = int(rest) if rest.isdecimal() else config.phantom.num_films
        write_phantoms(root, replace(config.phantom, num_films=num_films))
        shutil.rmtree(root / "masks")  # torchvision's ImageFolder would take it for a class
    else:
        root = Path(config.data.source)
        if not root.is_dir():
            raise DataError(f"--data {config.data.source}: benchmarks take a folder or phantom[:N]")
    index = build_index(root, config.data, config.labels)
    report = build_cache(
        root, index, work / "cache", size_px=config.data.size_px, color=config.data.color
    )
    if (index["error"] == "").sum() < config.training.batch_size:
        raise DataError(f"{root}: fewer films than training.batch_size; use a smaller one")
    return Prepared(root=root, index=index, cache_folder=report.folder)
