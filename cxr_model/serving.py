"""Answers about single films as they come: decoded in threads, through the network in batches."""

import asyncio
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import PurePath
from typing import Literal, Self, cast

import numpy as np
import torch

from cxr_model.batcher import Batcher, BatchLimits
from cxr_model.cache import Pixels, film_pixels, open_film
from cxr_model.errors import DataError
from cxr_model.explanations.attribution import Map
from cxr_model.explanations.figure import film_tile, heat_map_tile, jpeg_bytes
from cxr_model.explanations.overlays import heat_maps
from cxr_model.predict import Predictor, film_shape
from cxr_model.reliability.judgement import Judgement
from cxr_model.run_folder import RunFolder
from cxr_model.run_verdicts import SHOWN_METHOD

_NAME_LENGTH = 80


def load_to_serve(run: RunFolder, device: torch.device) -> Predictor:
    """The run's network, asked once: the first answer is the slowest, or an error."""
    predictor = Predictor.load(run, device)
    predictor.judge(np.full((1, *film_shape(predictor.card)), 128, dtype=np.uint8))
    return predictor


def decode_sent(predictor: Predictor, data: bytes, name: str) -> Pixels:
    """The bytes of a film as in training; ``DataError`` with its name, in one line."""
    color = cast(Literal["grey", "rgb"], predictor.card.color)
    try:
        with open_film(data) as image:
            return film_pixels(image, predictor.card.size_px, color)
    except DataError as error:
        # Clients choose the name: no folders, no second line, no end of it.
        shown, reason = PurePath(name).name[:_NAME_LENGTH], " ".join(str(error).split())
        raise DataError(
            f"{shown!r}: cannot be decoded ({reason}); send an image or DICOM file of a radiograph"
        ) from error


@dataclass(frozen=True, kw_only=True)
class Explanation:
    target: str
    """The class that the map speaks for."""
    film: bytes
    """JPEG of the film as the network sees it."""
    overlay: bytes
    """JPEG of the same with the heat map over it."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    predictor: Predictor
    judgement: Judgement
    explanation: Explanation | None
    """Of the most probable class, whatever the decision."""


class FilmService:
    """``async with FilmService(limits) as service: await service.answer(...)``.

    The network is used by one thread only: Captum's hooks and a plain forward pass would
    meet in it. Explanations have batches of their own, so that nobody waits for another's.
    """

    def __init__(
        self, limits: BatchLimits, on_batch: Callable[[int], object] = lambda _: None
    ) -> None:
        self._network_thread = ThreadPoolExecutor(1, thread_name_prefix="network")
        self._decoders = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="decode")
        self._predict = Batcher(predict_batch, self._network_thread, limits, on_batch)
        self._explain = Batcher(explain_batch, self._network_thread, limits)

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            stack.callback(self._network_thread.shutdown)
            stack.callback(self._decoders.shutdown)
            for batcher in (self._predict, self._explain):
                await stack.enter_async_context(batcher)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def answer(
        self, predictor: Predictor, data: bytes, name: str, *, explain: bool = False
    ) -> Answer:
        """What ``predictor`` says of a film's bytes; ``DataError`` where they are no film."""
        loop = asyncio.get_running_loop()
        pixels = await loop.run_in_executor(self._decoders, decode_sent, predictor, data, name)
        judgement = await self._predict.submit((predictor, pixels))
        explanation = None
        if explain:
            target = predictor.card.classes.index(judgement.predicted)
            heat_map = await self._explain.submit((predictor, pixels, target))
            explanation = await loop.run_in_executor(
                self._decoders, _draw, pixels, heat_map, judgement.predicted
            )
        return Answer(predictor=predictor, judgement=judgement, explanation=explanation)


def predict_batch(films: Sequence[tuple[Predictor, Pixels]]) -> list[Judgement]:
    """What is said of each film; neighbours under one network share a forward pass.

    There are two networks in a batch where one has just taken the other's place.
    """
    answers: list[Judgement] = []
    for predictor, group in groupby(films, key=itemgetter(0)):
        answers += predictor.judge(np.stack([pixels for _, pixels in group])).rows()
    return answers


def explain_batch(films: Sequence[tuple[Predictor, Pixels, int]]) -> list[Map]:
    """A heat map a film for the class number beside it."""
    maps: list[Map] = []
    for predictor, group in groupby(films, key=itemgetter(0)):
        _, pixels, targets = zip(*group, strict=True)
        maps += list(heat_maps(predictor, np.stack(pixels), targets))
    return maps


def _draw(pixels: Pixels, heat_map: Map, target: str) -> Explanation:
    return Explanation(
        target=target,
        film=jpeg_bytes(film_tile(pixels, None)),
        overlay=jpeg_bytes(heat_map_tile(pixels, heat_map, SHOWN_METHOD, None)),
    )
