"""Tiny films: noise on a gradient, a different one for each seed."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

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
