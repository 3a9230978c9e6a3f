"""Class probabilities of film files under a trained network, streamed through flat memory."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal, cast

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from cxr_model.ahead import map_ahead
from cxr_model.cache import Pixels, decode_film, film_pixels, open_film
from cxr_model.data_config import LabelConfig
from cxr_model.errors import DataError
from cxr_model.film_files import FilmFile
from cxr_model.films import films_to_tensor, predict_logits
from cxr_model.labels import image_paths
from cxr_model.model_files import Decision, ModelCard, load_model
from cxr_model.network import Network
from cxr_model.reliability.film_features import describe_films
from cxr_model.reliability.judgement import Judgements
from cxr_model.reliability.outliers import OutlierModel
from cxr_model.run_folder import RunFolder, sha256_file
from cxr_model.run_verdicts import RunVerdicts

BATCH_SIZE = 64


@dataclass(frozen=True)
class Predictor:
    """A trained network and what a prediction says of it."""

    network: Network
    card: ModelCard
    digest: str
    """SHA-256 of ``model.safetensors``."""
    rules: Decision
    outliers: OutlierModel | None
    """None where the run fitted no score (``reliability.outliers=false``)."""
    verdicts: RunVerdicts

    @classmethod
    def load(cls, run: RunFolder, device: torch.device) -> "Predictor":
        """Raises ``DataError`` for a run that lacks what its predictions are judged by."""
        rules = Decision.read(run.decision)
        has_bound = rules.outlier_above is not None
        outliers = OutlierModel.read(run.outlier_model) if has_bound else None
        digest, verdicts = sha256_file(run.weights), RunVerdicts.read(run)
        return cls(*load_model(run, device), digest, rules, outliers, verdicts)

    def to_tensor(self, pixels: Pixels) -> Tensor:
        """Decoded films as uint8 (N, C, H, W) on the network's device."""
        return films_to_tensor(pixels).to(next(self.network.parameters()).device)

    def probabilities(self, pixels: Pixels) -> NDArray[np.float64]:
        """(N, num_classes) of decoded films, uint8 (N, H, W) or (N, H, W, 3)."""
        logits = predict_logits(self.network, [self.to_tensor(pixels)], self.card.normalisation)
        return _softmax(logits)

    def judge(self, pixels: Pixels) -> Judgements:
        """What is said of decoded films, uint8 (N, H, W) or (N, H, W, 3), N at least 1."""
        if self.outliers is None:
            return Judgements.of(self.probabilities(pixels), None, self.card.classes, self.rules)
        logits, features_ND = describe_films(
            self.network, [self.to_tensor(pixels)], self.card.normalisation
        )
        scores_N = self.outliers.scores(features_ND)
        return Judgements.of(_softmax(logits), scores_N, self.card.classes, self.rules)


def _softmax(logits: Tensor) -> NDArray[np.float64]:
    return cast(NDArray[np.float64], logits.double().softmax(dim=1).cpu().numpy())


@dataclass(frozen=True)
class ScoredBatch:
    table: pd.DataFrame
    """A row a film: ``path``, ``sha256``, the columns of `cxr_model.reliability.judgement`,
    ``model`` (digest), ``run_id`` and ``error``. A film that cannot be decoded has the reason
    in ``error``, no figures, no prediction and no marks."""
    pixels: Pixels
    """Films of the rows without error, uint8 (n, H, W) or (n, H, W, 3) as the network saw them."""


@dataclass(frozen=True, slots=True)
class _Decoded:
    name: str
    sha256: str
    pixels: Pixels | None
    error: str


def score(
    films: Iterable[FilmFile], predictor: Predictor, *, batch_size: int = BATCH_SIZE
) -> Iterator[ScoredBatch]:
    """Predict the films in their order; at most three batches of them are in memory.

    They are decoded and squashed as in training, by threads that run ahead of the network. A
    film's row does not change with the films beside it, but for rounding; with the same batch
    beside it, it is the same to the last bit. What a film's reader raises beyond DataError
    and OSError ends the run.
    """
    color = cast(Literal["grey", "rgb"], predictor.card.color)

    def decode(film: FilmFile) -> _Decoded:
        sha256 = ""
        try:
            data = film.read()
            sha256 = hashlib.sha256(data).hexdigest()
            with open_film(data) as image:
                pixels = film_pixels(image, predictor.card.size_px, color)
        except OSError as error:
            return _Decoded(film.name, sha256, None, error.strerror or type(error).__name__)
        except DataError as error:
            return _Decoded(film.name, sha256, None, " ".join(str(error).split()))
        return _Decoded(film.name, sha256, pixels, "")

    # Pillow and hashlib let go of the GIL; beyond one a core they wait for disk or bucket.
    num_threads = max(4, os.cpu_count() or 1)
    decoded = map_ahead(decode, films, num_threads=num_threads, num_ahead=2 * batch_size)
    while batch := list(islice(decoded, batch_size)):
        yield _score_batch(batch, predictor)


def _score_batch(batch: Sequence[_Decoded], predictor: Predictor) -> ScoredBatch:
    card = predictor.card
    pixels = [film.pixels for film in batch if film.pixels is not None]
    stacked = np.stack(pixels) if pixels else np.empty((0, *film_shape(card)), dtype=np.uint8)
    judged = predictor.judge(stacked) if pixels else Judgements.none(card.classes)
    is_decoded = np.array([film.pixels is not None for film in batch])
    table = pd.DataFrame(
        {
            "path": [film.name for film in batch],
            "sha256": [film.sha256 for film in batch],
            **judged.columns(is_decoded),
            "model": predictor.digest,
            "run_id": card.run_id,
            "error": [film.error for film in batch],
        }
    )
    return ScoredBatch(table, stacked)


def film_shape(card: ModelCard) -> tuple[int, ...]:
    """Of one decoded film: (H, W) or (H, W, 3)."""
    return (card.size_px, card.size_px) + ((3,) if card.color == "rgb" else ())


def decode_folder(folder: Path | None, card: ModelCard, most: int = 64) -> Pixels:
    """Up to ``most`` films from all parts of ``folder`` as the network takes them.

    None without a folder; masks are no films.
    """
    if folder is None:
        return np.empty((0, *film_shape(card)), dtype=np.uint8)
    color = cast(Literal["grey", "rgb"], card.color)
    paths = sorted(image_paths(folder, LabelConfig().ignore))
    if not paths:
        raise DataError(f"{folder}: holds no image file; name a folder of films")
    chosen = np.linspace(0, len(paths) - 1, min(most, len(paths))).astype(int)
    return np.stack([decode_film(folder / paths[i], card.size_px, color) for i in chosen])
