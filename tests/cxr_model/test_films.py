"""Films as tensors: nothing is lost on the way to the network, or hangs on the batch."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import cxr_model.films
from cxr_model.cache import Color, FilmCache, build_cache
from cxr_model.data_config import DataConfig, LabelConfig
from cxr_model.errors import OutOfMemory
from cxr_model.films import FilmSet, Normalisation, film_set, films_to_tensor, predict_logits
from cxr_model.index import build_index

PLAIN = Normalisation(mean=0.5, std=0.25)


def random_films(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def small_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.LazyLinear(3)
    )


def test_grey_films_get_a_channel() -> None:
    films_NHW = random_films(5, 8, 6)
    tensor = films_to_tensor(films_NHW)
    assert tensor.dtype == torch.uint8
    assert tensor.shape == (5, 1, 8, 6)
    np.testing.assert_array_equal(tensor[:, 0].numpy(), films_NHW)


def test_colours_become_channels() -> None:
    films_NHWC = random_films(5, 8, 6, 3)
    tensor = films_to_tensor(films_NHWC)
    assert tensor.shape == (5, 3, 8, 6)
    np.testing.assert_array_equal(tensor[:, 2].numpy(), films_NHWC[..., 2])


def set_of(pixels_NCHW: Tensor) -> FilmSet:
    places_N = torch.arange(len(pixels_NCHW))
    return FilmSet(pixels_NCHW=pixels_NCHW, rows_N=places_N, targets_N=places_N)


@pytest.mark.parametrize("color", ["grey", "rgb"])
def test_a_set_gathers_each_film_of_the_cache_with_its_class(
    films: Path, tmp_path: Path, color: Color
) -> None:
    index = build_index(films, DataConfig(), LabelConfig())
    report = build_cache(films, index, tmp_path, size_px=32, color=color)
    cache = FilmCache.open(report.folder)
    chosen = index["sha256"].tolist()[11:3:-2]
    some = film_set(cache, chosen, np.arange(4), torch.device("cpu"))
    gathered_BCHW = some.gather(torch.tensor([2, 0]))
    expected = films_to_tensor(cache.films[cache.rows([chosen[2], chosen[0]])])
    assert torch.equal(gathered_BCHW, expected)
    assert some.targets_N.tolist() == [0, 1, 2, 3]
    assert torch.equal(some.take(torch.tensor([2, 0])).gather(torch.arange(2)), expected)
    many = some.take(torch.arange(4).repeat(20))
    batches = list(many.batches())
    assert [len(batch) for batch in batches] == [64, 16]
    assert torch.equal(torch.cat(batches), many.gather(torch.arange(80)))


@pytest.mark.parametrize("num", [0, 1, 9])
@pytest.mark.parametrize("is_rgb", [False, True])
def test_a_set_is_taken_to_its_device_in_parts(
    num: int, is_rgb: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cxr_model.films, "films_at_once", lambda *_: 4)
    pixels_NCHW = films_to_tensor(random_films(12, 8, 6, *([3] if is_rgb else [])))
    rows_N = torch.from_numpy(np.random.default_rng(1).permutation(12)[:num])
    taken_NCHW = cxr_model.films._taken_to(torch.device("cpu"), pixels_NCHW, rows_N)
    assert torch.equal(taken_NCHW, pixels_NCHW[rows_N])


@pytest.mark.parametrize("shape", [(7, 1, 9, 9), (7, 3, 9, 9)])
def test_normalised_training_films_have_zero_mean_and_unit_variance(shape: tuple[int, ...]) -> None:
    pixels_NCHW = torch.from_numpy(random_films(*shape) // 2)
    x_NCHW = pixels_NCHW.double() / 255
    normalisation = Normalisation.of(set_of(pixels_NCHW))
    assert normalisation.mean == pytest.approx(x_NCHW.mean().item())
    assert normalisation.std == pytest.approx(x_NCHW.std(correction=0).item())
    normal_NCHW = normalisation(x_NCHW)
    assert normal_NCHW.mean().item() == pytest.approx(0, abs=1e-9)
    assert normal_NCHW.std(correction=0).item() == pytest.approx(1)
    assert normal_NCHW.is_contiguous(memory_format=torch.channels_last)


def test_blank_films_are_normalised_to_finite_numbers() -> None:
    blank_NCHW = torch.full((2, 1, 4, 4), 128, dtype=torch.uint8)
    normalisation = Normalisation.of(set_of(blank_NCHW))
    assert normalisation(blank_NCHW / 255).abs().max() < 1e-3


def test_logits_do_not_hang_on_the_batch_size() -> None:
    network = small_network()
    pixels_NCHW = films_to_tensor(random_films(7, 12, 12))
    whole = predict_logits(network, [pixels_NCHW], PLAIN)
    assert whole.shape == (7, 3)
    for batch_size in (1, 3, 7):
        answer = predict_logits(network, torch.split(pixels_NCHW, batch_size), PLAIN)
        torch.testing.assert_close(answer, whole)


@pytest.mark.parametrize(
    ("size_px", "expected"), [(32, 64), (256, 64), (512, 16), (1024, 4), (4096, 1)]
)
def test_batches_of_large_films_are_smaller_in_proportion_to_their_area(
    size_px: int, expected: int
) -> None:
    places_N = torch.zeros(70, dtype=torch.int64)
    pixels_NCHW = torch.zeros(1, 1, size_px, size_px, dtype=torch.uint8)
    films = FilmSet(pixels_NCHW=pixels_NCHW, rows_N=places_N, targets_N=places_N)
    assert len(next(films.batches())) == expected


def _fits(network: nn.Module, num_films: int) -> list[int]:
    """Have the network run out of memory on more films than these; the sizes it was given."""
    seen: list[int] = []

    def refuse(_: nn.Module, arguments: tuple[Tensor]) -> None:
        seen.append(len(arguments[0]))
        if seen[-1] > num_films:
            raise torch.OutOfMemoryError("no room\nfor anything")

    network.register_forward_pre_hook(refuse)
    return seen


@pytest.mark.parametrize(
    ("num_films", "expected"),
    [(8, [8, 5]), (3, [8, 4, 2, 2, 2, 2, 2, 2, 1]), (1, [8, 4, 2] + 13 * [1])],
)
def test_batches_that_do_not_fit_are_halved_and_answered_in_order(
    num_films: int, expected: list[int]
) -> None:
    network = small_network()
    pixels_NCHW = films_to_tensor(random_films(13, 12, 12))
    whole = predict_logits(network, [pixels_NCHW], PLAIN)
    seen = _fits(network, num_films)
    answer = predict_logits(network, pixels_NCHW.split(8), PLAIN)
    torch.testing.assert_close(answer, whole)
    assert seen == expected


def test_a_film_too_large_for_the_device_is_told_in_one_line() -> None:
    network = small_network()
    _fits(network, 0)
    told = r"^cpu: out of memory with a single film \(no room\); use a smaller network or [^\n]*$"
    with pytest.raises(OutOfMemory, match=told):
        predict_logits(network, [films_to_tensor(random_films(3, 12, 12))], PLAIN)


def test_no_film_has_no_logits() -> None:
    network = small_network()
    pixels_NCHW = films_to_tensor(random_films(4, 12, 12))
    predict_logits(network, [pixels_NCHW], PLAIN)
    assert predict_logits(network, set_of(pixels_NCHW[:0]).batches(), PLAIN).shape == (0, 3)


@pytest.mark.parametrize("training", [True, False])
def test_prediction_evaluates_and_gives_the_network_back_as_it_was(training: bool) -> None:
    network = small_network()
    pixels_NCHW = films_to_tensor(random_films(4, 12, 12))
    predict_logits(network, [pixels_NCHW], PLAIN)  # gives the lazy layer its shape
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network.train(training)
    first, second = (predict_logits(network, [pixels_NCHW], PLAIN) for _ in range(2))
    assert torch.equal(first, second)
    assert network.training is training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not first.requires_grad


def test_the_network_sees_normalised_films_and_answers_in_single_precision() -> None:
    class Seen(nn.Module):
        def forward(self, x_NCHW: Tensor) -> Tensor:
            return x_NCHW.flatten(1).bfloat16()

    pixels_NCHW = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1)
    logits = predict_logits(Seen(), [pixels_NCHW], PLAIN, precision=torch.bfloat16)
    assert logits.dtype == torch.float32
    assert logits.flatten().tolist() == [-2, 2]
