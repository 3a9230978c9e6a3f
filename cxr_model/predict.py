"""Class probabilities of film files under a trained network."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, cast

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from cxr_model.cache import decode_film
from cxr_model.errors import DataError
from cxr_model.films import films_to_tensor, predict_logits
from cxr_model.labels import IMAGE_SUFFIXES
from cxr_model.model_files import ModelCard
from cxr_model.network import Network

_CHUNK = 256
_BATCH = 64


def decode_folder(folder: Path | None, card: ModelCard, most: int = 64) -> NDArray[np.uint8]:
    """Up to ``most`` films below ``folder`` as the network takes them; one grey film without."""
    color = cast(Literal["grey", "rgb"], card.color)
    found = folder.rglob("*") if folder else ()
    paths = sorted(path for path in found if path.suffix.lower() in IMAGE_SUFFIXES)
    step = max(1, len(paths) // most)  # from all parts of the folder
    if folder and not paths:
        raise DataError(f"{folder}: holds no image file; name a folder of films")
    if paths:
        films = [decode_film(path, card.size_px, color) for path in paths[::step][:most]]
        return np.stack(films)
    shape = (1, card.size_px, card.size_px) + ((3,) if color == "rgb" else ())
    return np.full(shape, 128, dtype=np.uint8)


def predict_files(paths: Sequence[Path], network: Network, card: ModelCard) -> pd.DataFrame:
    """One row a file: ``path``, ``predicted``, ``probability_<class>`` for each class.

    Films are decoded and squashed as in training. Raises ``DataError`` naming the first
    file that cannot be decoded.
    """
    device = next(network.parameters()).device
    color = cast(Literal["grey", "rgb"], card.color)
    tables = []
    for start in range(0, len(paths), _CHUNK):
        part = paths[start : start + _CHUNK]
        pixels = np.stack([decode_film(path, card.size_px, color) for path in part])
        batches = torch.split(films_to_tensor(pixels).to(device), _BATCH)
        logits = predict_logits(network, batches, card.normalisation)
        probabilities = logits.double().softmax(dim=1).cpu().numpy()
        table = pd.DataFrame({"path": [str(path) for path in part]})
        table["predicted"] = np.array(card.classes)[probabilities.argmax(axis=1)]
        for i, name in enumerate(card.classes):
            table[f"probability_{name}"] = probabilities[:, i]
        tables.append(table)
    return pd.concat(tables, ignore_index=True)
