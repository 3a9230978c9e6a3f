import dataclasses

import torch

from cxr_model.augment import augment_batch, draw_changes
from cxr_model.config import AugmentConfig

NONE = AugmentConfig(rotation_deg=0, scale=0, shift=0, gamma=0, noise=0, smoothing=0, flip=False)


def _films(num: int = 4, size: int = 32) -> torch.Tensor:
    return torch.rand(num, 1, size, size, generator=torch.Generator().manual_seed(0))


def _augment(x_NCHW: torch.Tensor, config: AugmentConfig, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return augment_batch(x_NCHW, draw_changes(tuple(x_NCHW.shape), config, generator))


def test_no_augmentation_leaves_films_as_they_are() -> None:
    assert torch.equal(_augment(_films(), NONE), _films())


def test_the_generator_fixes_the_outcome() -> None:
    config = AugmentConfig()
    assert torch.equal(_augment(_films(), config), _augment(_films(), config))
    assert not torch.equal(_augment(_films(), config), _augment(_films(), config, seed=1))


def test_each_film_gets_its_own_draw() -> None:
    x_NCHW = _films(1).expand(4, -1, -1, -1)
    y_NCHW = _augment(x_NCHW, AugmentConfig())
    assert all(not torch.equal(y_NCHW[0], y_NCHW[i]) for i in (1, 2, 3))


def test_shift_moves_by_at_most_the_stated_share() -> None:
    x_NCHW = torch.zeros(64, 1, 100, 100)
    x_NCHW[:, :, 50, 50] = 1
    y_NCHW = _augment(x_NCHW, dataclasses.replace(NONE, shift=0.1))
    peaks = y_NCHW.flatten(1).argmax(dim=1)
    moved = torch.stack([peaks // 100 - 50, peaks % 100 - 50]).abs()
    assert 5 < moved.max() <= 10


def test_scale_keeps_sizes_within_the_stated_range() -> None:
    x_NCHW = torch.zeros(64, 1, 100, 100)
    x_NCHW[:, :, 30:70, 30:70] = 1
    sides = _augment(x_NCHW, dataclasses.replace(NONE, scale=0.25)).sum(dim=(1, 2, 3)).sqrt() / 40
    assert sides.min() >= 1 / 1.25 - 0.02
    assert sides.max() <= 1.25 + 0.02
    assert sides.max() - sides.min() > 0.3


def test_flip_mirrors_about_half_of_the_films() -> None:
    x_NCHW = _films(64)
    y_NCHW = _augment(x_NCHW, dataclasses.replace(NONE, flip=True))
    mirrored = [
        torch.allclose(y, x.flip(2), atol=1e-5) for x, y in zip(x_NCHW, y_NCHW, strict=True)
    ]
    kept = [torch.allclose(y, x, atol=1e-5) for x, y in zip(x_NCHW, y_NCHW, strict=True)]
    assert all(m != k for m, k in zip(mirrored, kept, strict=True))
    assert 20 <= sum(mirrored) <= 44


def test_gamma_keeps_black_and_white_and_order() -> None:
    ramp = torch.linspace(0, 1, 32).expand(8, 1, 32, 32)
    y_NCHW = _augment(ramp, dataclasses.replace(NONE, gamma=0.5))
    assert (y_NCHW.diff(dim=-1) >= 0).all()
    assert y_NCHW[..., 0].max() < 0.02
    torch.testing.assert_close(y_NCHW[..., -1], torch.ones(8, 1, 32))


def test_noise_has_at_most_the_stated_deviation_and_every_second_film_none() -> None:
    x_NCHW = torch.full((64, 1, 64, 64), 0.5)
    std_N = _augment(x_NCHW, dataclasses.replace(NONE, noise=0.1)).std(dim=(1, 2, 3))
    assert 0.09 < std_N.max() < 0.102
    assert 20 <= (std_N == 0).sum() <= 44


def test_smoothing_takes_grain_and_leaves_brightness() -> None:
    x_NCHW = _films(64, size=64)
    y_NCHW = _augment(x_NCHW, dataclasses.replace(NONE, smoothing=1))
    kept_N = y_NCHW.std(dim=(1, 2, 3)) / x_NCHW.std(dim=(1, 2, 3))
    # White noise keeps the root of the summed squared weights: 70 / 256 of it.
    assert 0.25 < kept_N.min() < 0.4
    assert 20 <= (kept_N == 1).sum() <= 44
    torch.testing.assert_close(
        y_NCHW.mean(dim=(1, 2, 3)), x_NCHW.mean(dim=(1, 2, 3)), atol=2e-3, rtol=0
    )


def test_a_share_of_a_batch_is_changed_as_in_the_whole() -> None:
    x_NCHW, generator = _films(8), torch.Generator().manual_seed(0)
    config = AugmentConfig(noise=0.1, smoothing=1)
    changes = draw_changes((8, 1, 32, 32), config, generator)
    whole, half = augment_batch(x_NCHW, changes), slice(4, 8)
    torch.testing.assert_close(augment_batch(x_NCHW[half], changes[half]), whole[half])
