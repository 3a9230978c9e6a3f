"""Tiny films: noise on a gradient, a different one for each seed."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cxr_model.cache import build_cache
from cxr_model.data_config import DataConfig, LabelConfig, PhantomConfig
from cxr_model.index import build_index
from cxr_model.phantoms.phantom import write_phantoms

WriteFilm = Callable[[str, int], Path]


def draw_film(seed: int, width: int = 40, height: int = 48) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 128, (height, width))
    return Image.fromarray((np.linspace(0, 127, width) + noise).astype(np.uint8))


@pytest.fixture
def write_film(tmp_path: Path) -> WriteFilm:
    """Write film ``seed`` to ``tmp_path/films/<path>``; the suffix chooses the format."""

    def write(path: str, seed: int) -> Path:
        file = tmp_path / "films" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        draw_film(seed).save(file)
        return file

    return write


@pytest.fixture
def films(tmp_path: Path, write_film: WriteFilm) -> Path:
    """Three classes of six films each: NIH names (two films a patient), JPEG and PNG."""
    for folder_number, folder in enumerate(("Normal", "Pneumonia-Viral", "COVID-19")):
        for number in range(6):
            seed = 10 * folder_number + number
            suffix = "png" if folder == "COVID-19" else "jpg"
            write_film(f"{folder}/{seed // 2:08d}_{number:03d}.{suffix}", seed)
    return tmp_path / "films"


@pytest.fixture(scope="session")
def cached_phantoms(tmp_path_factory: pytest.TempPathFactory) -> tuple[pd.DataFrame, Path]:
    """The index of 40 phantoms and the folder of their cache at 64 px."""
    root = tmp_path_factory.mktemp("films") / "phantoms"
    write_phantoms(root, PhantomConfig(num_films=40))
    index = build_index(root, DataConfig(size_px=64), LabelConfig())
    report = build_cache(root, index, tmp_path_factory.mktemp("cache"), size_px=64, color="grey")
    return index, report.folder
