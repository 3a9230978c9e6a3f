"""Answers of a service about single films, with a real network."""

import asyncio
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cxr_model.batcher import BatchLimits
from cxr_model.errors import DataError
from cxr_model.explanations.overlays import heat_maps
from cxr_model.predict import Predictor
from cxr_model.run_folder import RunFolder
from cxr_model.serving import (
    Answer,
    FilmService,
    decode_sent,
    explain_batch,
    load_to_serve,
    predict_batch,
)
from tests.tiny_model import CLASSES, SIZE_PX, film_bytes, write_tiny_model


def tiny_model(folder: Path, seed: int = 0, size_px: int = SIZE_PX) -> Predictor:
    run = RunFolder(folder / f"run-{seed}")
    write_tiny_model(run, f"run-{seed}", seed=seed, size_px=size_px)
    return load_to_serve(run, torch.device("cpu"))


def ask(model: Predictor, films: list[bytes], *, explain: bool = False) -> list[Answer]:
    async def within() -> list[Answer]:
        async with FilmService(BatchLimits(max_size=4)) as service:
            return await asyncio.gather(
                *(service.answer(model, film, "film.png", explain=explain) for film in films)
            )

    return asyncio.run(within())


def test_in_a_batch_each_film_gets_the_answer_it_gets_alone(tmp_path: Path) -> None:
    model = tiny_model(tmp_path)
    films = [film_bytes(number) for number in range(6)]
    together = ask(model, films)
    for film, answer in zip(films, together, strict=True):
        alone = model.probabilities(decode_sent(model, film, "film.png")[None])[0]
        found = answer.judgement
        assert list(found.probabilities) == CLASSES
        np.testing.assert_allclose(list(found.probabilities.values()), alone, atol=1e-6)
        assert sum(found.calibrated_probabilities.values()) == pytest.approx(1)
        assert found.decision == found.predicted == CLASSES[int(alone.argmax())]
        assert answer.explanation is None
    scores = np.array([list(answer.judgement.probabilities.values()) for answer in together])
    assert np.abs(scores[:, None] - scores[None]).max(axis=2)[np.triu_indices(6, 1)].min() > 1e-4


def test_in_a_batch_of_two_models_each_film_is_seen_by_its_own(tmp_path: Path) -> None:
    old, new = tiny_model(tmp_path, 0), tiny_model(tmp_path, 1, size_px=48)
    asked = [
        (model, decode_sent(model, film_bytes(number), "film.png"))
        for number, model in enumerate((old, old, new, old))
    ]
    for (model, pixels), found in zip(asked, predict_batch(asked), strict=True):
        alone = model.probabilities(pixels[None])[0]
        np.testing.assert_allclose(list(found.probabilities.values()), alone, atol=1e-6)
    maps = explain_batch([(model, pixels, 1) for model, pixels in asked])
    for (model, pixels), heat_map in zip(asked, maps, strict=True):
        assert heat_map.shape == (model.card.size_px, model.card.size_px)
        np.testing.assert_allclose(heat_map, heat_maps(model, pixels[None], [1])[0], atol=1e-5)


def test_an_explanation_shows_the_film_and_its_heat_map(tmp_path: Path) -> None:
    model = tiny_model(tmp_path)
    (answer,) = ask(model, [film_bytes(3)], explain=True)
    assert answer.explanation is not None
    assert answer.explanation.target == answer.judgement.predicted
    film, overlay = (
        np.asarray(Image.open(BytesIO(data)), dtype=float)
        for data in (answer.explanation.film, answer.explanation.overlay)
    )
    assert film.shape == overlay.shape
    coloured = np.ptp(overlay, axis=2).mean()
    assert coloured > np.ptp(film, axis=2).mean() + 1
    assert answer.predictor is model


def test_bytes_that_are_no_film_are_refused_by_name_and_in_one_line(tmp_path: Path) -> None:
    model = tiny_model(tmp_path)
    told = r"^'notes\.txt': cannot be decoded \(no known image format\); send an image or DICOM"
    with pytest.raises(DataError, match=told):
        decode_sent(model, b"no image.", "../secret/notes.txt")
    with pytest.raises(DataError) as caught:
        decode_sent(model, b"", "two\nlines" + "x" * 500)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250


def test_one_unreadable_film_does_not_stop_the_others(tmp_path: Path) -> None:
    model = tiny_model(tmp_path)

    async def within() -> list[Answer | BaseException]:
        async with FilmService(BatchLimits(max_size=4)) as service:
            films = [film_bytes(0), b"no film", film_bytes(1)]
            return await asyncio.gather(
                *(service.answer(model, film, "a.png") for film in films), return_exceptions=True
            )

    first, broken, last = asyncio.run(within())
    assert isinstance(first, Answer)
    assert isinstance(broken, DataError)
    assert isinstance(last, Answer)
