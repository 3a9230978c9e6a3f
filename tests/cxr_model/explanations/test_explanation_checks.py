"""The checks themselves: good evidence passes, a picture of the film's edges does not."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from captum.metrics import infidelity as captum_infidelity
from torch import Tensor, nn

from cxr_model.config import ExplainConfig, NetworkConfig
from cxr_model.explanations import checks, faithfulness
from cxr_model.explanations.attribution import grad_cam_maps
from cxr_model.explanations.checks import CheckedFilms, Method, check_methods
from cxr_model.explanations.localisation import energy_inside
from cxr_model.explanations.randomisation import cascade, similarity, spearman
from cxr_model.explanations.run_checks import run_methods
from cxr_model.explanations.verdicts import bound_check, judge, mean_estimate, paired_check
from cxr_model.network import CxResNet, build_network, network_arguments

SIDE = 48


class _SpotNet(nn.Module):
    """Class 1's logit is the mean of one place, the upper left sixteenth."""

    def forward(self, x_NCHW: Tensor) -> Tensor:
        logit_N = 4 * x_NCHW[:, :, :12, :12].mean(dim=(1, 2, 3))
        return torch.stack([-logit_N, logit_N], dim=1)


def _spot_films(num_films: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    """Films bright in the spot and elsewhere, their class, and the map of the truth."""
    generator = torch.Generator().manual_seed(0)
    x_NCHW = 0.3 * torch.randn(num_films, 1, SIDE, SIDE, generator=generator)
    x_NCHW[:, :, :12, :12] += 1
    x_NCHW[:, :, 30:42, 30:42] += 1
    truth_NHW = torch.zeros(num_films, SIDE, SIDE)
    truth_NHW[:, :12, :12] = 1
    return x_NCHW, torch.ones(num_films, dtype=torch.int64), truth_NHW


def _edges(_: nn.Module, x_NCHW: Tensor, _targets: Tensor, _seed: int) -> tuple[Tensor, None]:
    """No explanation at all: where the film's grey changes."""
    kernel = torch.tensor([[[[0.0, 1, 0], [1, -4, 1], [0, 1, 0]]]])
    smooth = F.avg_pool2d(x_NCHW.mean(dim=1, keepdim=True), 5, stride=1, padding=2)
    return F.conv2d(smooth, kernel, padding=1)[:, 0].abs(), None


def test_insertion_and_deletion_favour_the_true_evidence() -> None:
    x_NCHW, targets_N, truth_NHW = _spot_films()
    areas = {}
    for name, maps_NHW in (
        ("truth", truth_NHW),
        ("centre", faithfulness.center_prior(len(x_NCHW), SIDE)),
        ("random", faithfulness.random_maps(len(x_NCHW), SIDE, torch.Generator().manual_seed(0))),
        ("opposite", -truth_NHW),
    ):
        curves = faithfulness.removal_curves(_SpotNet(), x_NCHW, targets_N, maps_NHW)
        areas[name] = [faithfulness.curve_area(curve).mean() for curve in curves]
    inserted, deleted = ([areas[name][side] for name in areas] for side in (0, 1))
    assert inserted[0] > max(inserted[1:])
    assert deleted[0] < min(deleted[1:])
    assert inserted[3] == min(inserted)


def test_curves_begin_and_end_with_the_blurred_and_the_whole_film() -> None:
    x_NCHW, targets_N, truth_NHW = _spot_films(2)
    inserted, deleted = faithfulness.removal_curves(_SpotNet(), x_NCHW, targets_N, truth_NHW)
    whole = faithfulness.class_scores(_SpotNet(), x_NCHW, targets_N, probabilities=True)
    np.testing.assert_allclose(inserted[:, -1], whole)
    np.testing.assert_allclose(deleted[:, 0], whole)
    np.testing.assert_allclose(inserted[:, 0], deleted[:, -1])
    assert faithfulness.curve_area(np.ones((1, 11)))[0] == pytest.approx(1)


def test_infidelity_is_captums() -> None:
    x_NCHW, targets_N, _ = _spot_films(3)
    generator = torch.Generator().manual_seed(1)
    maps_NHW = torch.rand(3, SIDE, SIDE, generator=generator)
    masks_NSHW = faithfulness.square_masks(3, SIDE, 8, 12, generator)
    falls_NS = faithfulness.falls(_SpotNet(), x_NCHW, targets_N, masks_NSHW)
    ours = faithfulness.infidelity(maps_NHW, masks_NSHW, falls_NS)

    def remove(films: Tensor) -> tuple[Tensor, Tensor]:
        masks = masks_NSHW.flatten(0, 1)[:, None]
        return masks.float(), films * ~masks

    theirs = captum_infidelity(
        _SpotNet(), remove, x_NCHW, maps_NHW[:, None],
        target=targets_N, n_perturb_samples=8, normalize=True,
    )  # fmt: skip
    np.testing.assert_allclose(ours * (falls_NS**2).mean(axis=1), theirs.numpy(), rtol=1e-4)


def test_the_true_map_has_no_infidelity_and_an_empty_one_explains_nothing() -> None:
    x_NCHW, targets_N, truth_NHW = _spot_films(3)
    masks_NSHW = faithfulness.square_masks(3, SIDE, 16, 12, torch.Generator().manual_seed(1))
    falls_NS = faithfulness.falls(_SpotNet(), x_NCHW, targets_N, masks_NSHW)
    exact = truth_NHW * x_NCHW[:, 0]
    np.testing.assert_allclose(faithfulness.infidelity(exact, masks_NSHW, falls_NS), 0, atol=1e-6)
    empty = torch.zeros(3, SIDE, SIDE)
    np.testing.assert_allclose(faithfulness.infidelity(empty, masks_NSHW, falls_NS), 1)
    np.testing.assert_allclose(faithfulness.infidelity(-exact, masks_NSHW, falls_NS), 1)


def test_likeness_is_one_for_the_same_map_and_none_for_unrelated_ones() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 4, SIDE, SIDE, generator=generator)
    np.testing.assert_allclose(spearman(first, 3 * first), 1)
    np.testing.assert_allclose(similarity(first, 3 * first), 1)
    assert abs(spearman(first, second)).max() < 0.15
    assert abs(similarity(first, second)).max() < 0.2
    flat = torch.zeros_like(first)
    assert spearman(first, flat).tolist() == [0, 0, 0, 0]


def _network() -> CxResNet:
    arguments = network_arguments(
        NetworkConfig(widths=(8, 8, 16), depths=(1,)), in_channels=1, num_classes=2
    )
    network = build_network(arguments, torch.Generator().manual_seed(0))
    assert isinstance(network, CxResNet)
    return network


def test_the_cascade_goes_from_the_head_to_the_stem_and_leaves_the_network_alone() -> None:
    network = _network().eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    changed = []
    for layer, randomised in cascade(network, 1):
        state = randomised.state_dict()
        changed.append((layer, {n.split(".")[0] for n in state if not state[n].equal(before[n])}))
    assert [layer for layer, _ in changed] == ["head", "tail", "stages.0", "stem"]
    assert changed[0][1] == {"head"}
    assert changed[-1][1] == {"head", "tail", "stages", "stem"}
    assert all(value.equal(before[name]) for name, value in network.state_dict().items())


@pytest.fixture(scope="module")
def learnt() -> tuple[CxResNet, CheckedFilms]:
    """A network that learnt to find a grainy patch, and films with their patch as lesion."""
    generator = torch.Generator().manual_seed(0)

    def draw(num_films: int) -> tuple[Tensor, Tensor, Tensor]:
        x_NCHW = 0.3 * torch.randn(num_films, 1, SIDE, SIDE, generator=generator)
        masks_NHW = faithfulness.square_masks(num_films, SIDE, 1, 14, generator)[:, 0]
        targets_N = torch.arange(num_films) % 2
        grain = 1.5 * torch.randn(num_films, SIDE, SIDE, generator=generator).abs()
        x_NCHW[:, 0] += masks_NHW * targets_N[:, None, None] * grain
        return x_NCHW, targets_N, masks_NHW

    network = _network().train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    for _ in range(40):
        x_NCHW, targets_N, _ = draw(32)
        optimizer.zero_grad()
        torch.autograd.backward(F.cross_entropy(network(x_NCHW), targets_N))
        optimizer.step()
    x_NCHW, targets_N, masks_NHW = draw(32)
    x_NCHW, targets_N, masks_NHW = (part[1::2] for part in (x_NCHW, targets_N, masks_NHW))
    nowhere = np.zeros(masks_NHW.shape, dtype=np.bool_)
    films = CheckedFilms(
        x_NCHW=x_NCHW, targets_N=targets_N, groups_N=np.arange(len(x_NCHW)).astype(str),
        lungs_NHW=nowhere, lesions_NHW=masks_NHW.numpy(),
    )  # fmt: skip
    return network.eval(), films


def test_a_good_map_passes_where_a_picture_of_the_edges_fails(
    learnt: tuple[CxResNet, CheckedFilms],
) -> None:
    network, films = learnt
    config = ExplainConfig(
        methods=("grad-cam", "occlusion"), occlusion_window_px=12, occlusion_stride_px=6
    )  # fmt: skip
    methods = run_methods(config, torch.zeros(2, 1, SIDE, SIDE))
    methods["edges"] = Method(title="Edges", explain=_edges)
    kept: dict[str, Tensor] = {}
    record = check_methods(network, films, methods, seed=0, keep=kept.__setitem__)
    edges, good = record["methods"]["edges"], record["methods"]["grad-cam"]
    assert not edges["passed"]
    assert "alike when all weights are random" in edges["verdict"]
    assert all(row["spearman"]["value"] == pytest.approx(1) for row in edges["randomisation"])
    found = {check["name"]: check for check in good["checks"]}
    assert found["lesion-energy"]["passed"]
    swept = {check["name"]: check for check in record["methods"]["occlusion"]["checks"]}
    assert swept["lesion-energy"]["passed"]
    assert swept["lesion-pointing"]["passed"]
    assert found["insertion"]["passed"]
    assert "lung-energy" not in found  # no lungs were given
    assert set(kept) == {"grad-cam", "occlusion", "edges"}
    torch.testing.assert_close(
        kept["grad-cam"], grad_cam_maps(network, films.x_NCHW, films.targets_N)
    )


def test_a_method_that_draws_is_not_called_sensitive_for_its_own_draws(
    learnt: tuple[CxResNet, CheckedFilms], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Noise of no strength changes no map: what sensitivity_max finds then is none of it."""
    network, films = learnt
    monkeypatch.setattr(checks, "RADIUS", 0.0)
    names = ("integrated-gradients", "gradient-shap", "grad-cam")
    baselines_BCHW = torch.randn(4, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    methods = run_methods(ExplainConfig(methods=names), baselines_BCHW)
    record = check_methods(network, films, methods, seed=0)
    for name in names:
        found = {check["name"]: check for check in record["methods"][name]["checks"]}
        assert found["sensitivity"]["value"]["value"] == pytest.approx(0, abs=1e-6), name


def test_completeness_is_a_share_of_the_change_from_the_methods_own_start(
    learnt: tuple[CxResNet, CheckedFilms],
) -> None:
    network, films = learnt
    starts_BCHW = films.x_NCHW[:3] + 1

    def off_by_one(*arguments: Any) -> tuple[Tensor, Tensor]:
        return _edges(*arguments)[0], torch.ones(len(arguments[1]))

    methods = {
        "grey": Method(title="Grey", explain=off_by_one),
        "films": Method(title="Films", explain=off_by_one, baselines_BCHW=starts_BCHW),
    }
    record = check_methods(network, films, methods, seed=0)
    with torch.no_grad():
        scores_N = network(films.x_NCHW)[:, 1]
        changes = {
            "grey": scores_N - network(torch.zeros(1, 1, SIDE, SIDE))[0, 1],
            "films": scores_N - network(starts_BCHW)[:, 1].mean(),
        }
    for name, change_N in changes.items():
        found = {check["name"]: check for check in record["methods"][name]["checks"]}
        expected = 1 / change_N.abs().mean().item()
        assert found["convergence-delta"]["value"]["value"] == pytest.approx(expected, rel=1e-4)
    assert changes["grey"].abs().mean() != pytest.approx(changes["films"].abs().mean().item())
    run = run_methods(ExplainConfig(), starts_BCHW)
    assert run["gradient-shap"].baselines_BCHW is starts_BCHW
    assert run["integrated-gradients"].baselines_BCHW is None


def test_energy_inside_is_the_positive_share() -> None:
    maps = np.array([[[1, 3], [-9, 0]], [[-1, -1], [0, 0]]], dtype=np.float32)
    masks = np.array([[[True, False], [True, True]]] * 2)
    np.testing.assert_allclose(energy_inside(maps, masks), [0.25, 0])


def test_films_of_one_patient_are_drawn_together() -> None:
    values = np.repeat([0.1, 0.5, 0.9], 8)
    patients = np.repeat(["a", "b", "c"], 8)
    grouped = mean_estimate(values, patients, 0)
    apart = mean_estimate(values, np.arange(len(values)), 0)
    assert grouped["value"] == pytest.approx(0.5)
    assert apart["value"] == pytest.approx(0.5)
    assert grouped["n"] == 24
    width, narrow = (each["ci_high"] - each["ci_low"] for each in (grouped, apart))
    assert width > 2 * narrow
    other = {"random": values - np.repeat([0.3, 0.2, -0.1], 8)}
    checks = [
        paired_check("insertion", "t", values, other, "higher", groups_N=groups_N, seed=0)
        for groups_N in (np.arange(len(values)), patients)
    ]
    assert [check["passed"] for check in checks] == [True, False]


def test_a_verdict_names_what_failed_and_only_what_decides() -> None:
    values = np.array([0.2, 0.3, 0.4])
    estimate = mean_estimate(values, np.arange(3), 0)
    assert estimate["value"] == pytest.approx(0.3)
    assert 0.19 < estimate["ci_low"] < 0.3 < estimate["ci_high"] < 0.41
    good = bound_check("repeatability", "t", estimate, 0.3, "higher")
    bad = bound_check("sensitivity", "t", estimate, 0.1, "lower")
    aside = bound_check("infidelity", "t", estimate, 0.1, "lower", decides=False)
    assert judge("M", [good, aside]) == (
        True,
        "M passed: it names places the answer hangs on, changes with the network's weights "
        "and repeats.",
    )
    passed, verdict = judge("M", [good, bad, aside])
    assert not passed
    assert verdict == "M failed: sensitivity (noise too weak to see changes it)."


def test_a_baseline_is_beaten_only_where_the_paired_interval_clears_zero() -> None:
    values = np.array([0.5, 0.6, 0.7, 0.8])
    drawn: dict[str, Any] = {"groups_N": np.arange(4), "seed": 0}
    lower, mixed = values - 0.1, values + np.array([0.2, -0.2, 0.2, -0.3])
    clear = paired_check("insertion", "t", values, {"random": lower}, "higher", **drawn)
    assert clear["passed"]
    assert clear["threshold"] == pytest.approx(0.55)
    unclear = {"random": lower, "centre": mixed}
    undecided = paired_check("insertion", "t", values, unclear, "higher", **drawn)
    assert not undecided["passed"]
    assert judge("M", [undecided]) == (
        False,
        "M failed: insertion (what it points at is not shown to raise the probability more than "
        "a baseline).",
    )
    assert not paired_check("deletion", "t", values, {"random": lower}, "lower", **drawn)["passed"]
