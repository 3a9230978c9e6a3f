"""Folders of made-up runs: random but coherent content in every file a report is built from."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cxr_model.explanations.attribution import METHOD_TITLES
from cxr_model.hygiene.audit import FINDINGS
from cxr_model.intervals import proportion_interval
from cxr_model.metrics import evaluate_predictions
from cxr_model.run_folder import RunFolder, write_json

HOSTILE = "<script>alert('x')</script>"


def make_run(
    root: Path, classes: list[str], path_prefix: str = "", num_films: int = 150
) -> RunFolder:
    """All files that a report is built from, with random but coherent content."""
    run = RunFolder(root)
    for folder in (run.splits.parent, run.model_card.parent, run.attributions):
        folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    truth = np.arange(num_films) % len(classes)
    logits = generator.normal(size=(num_films, len(classes)))
    logits[np.arange(num_films), truth] += 2.0
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    names = np.array(classes)
    films = pd.DataFrame(
        {
            "path": [f"{names[c]}/{path_prefix}film-{i:04d}.png" for i, c in enumerate(truth)],
            "sha256": [f"{i:064x}" for i in range(num_films)],
            "label": names[truth],
            "group": [f"film-{i}" for i in range(num_films)],
            "split": np.array(["train", "train", "train", "validation", "holdout"])[
                np.arange(num_films) // len(classes) % 5
            ],
            "predicted": names[scores.argmax(axis=1)],
        }
    )
    films[["path", "sha256", "label", "group", "split"]].to_csv(run.splits, index=False)
    predictions = films[["path", "sha256", "split", "label", "predicted"]].assign(
        **{f"probability_{name}": scores[:, c] for c, name in enumerate(classes)}
    )
    predictions[films["split"] != "train"].to_csv(run.predictions, index=False)
    write_history(run, epochs=12)
    write_attributions(run, predictions[films["split"] == "holdout"], classes, generator)
    layers = network_layers(len(classes))
    model = {
        "format_version": 1, "run_id": "r1", "network": {"name": "cxresnet"}, "classes": classes,
        "size_px": 64, "color": "grey", "mean": 0.5, "std": 0.25,
        "num_parameters": 393_000, "layers": layers,
    }  # fmt: skip
    run.model_card.write_text(json.dumps(model))
    settings = {
        "preset": "smoke", "training": {"epochs": 12, "widths": [16, 32]}, "labels": {},
        "augment": {"rotation_deg": 7.0, "gamma": 0.2, "noise": 0.0},
    }  # fmt: skip
    run.config.write_text(json.dumps(settings))
    run.metrics.write_text(json.dumps(make_metrics(films, scores, classes)))
    return run


def write_history(run: RunFolder, epochs: int) -> None:
    epoch = np.arange(1, epochs + 1)
    pd.DataFrame(
        {
            "epoch": epoch,
            "learning_rate": 0.003 * np.sin(np.pi * epoch / (epochs + 1)),
            "train_loss": 1.1 / epoch**0.5,
            "validation_loss": 1.2 / epoch**0.4,
            "validation_accuracy": 1 - 0.6 / epoch,
            "validation_balanced_accuracy": 1 - 0.65 / epoch,
            "seconds": 2.0,
            "films_per_second": 45.0,
        }
    ).to_csv(run.history, index=False)


def write_attributions(
    run: RunFolder, holdout: pd.DataFrame, classes: list[str], generator: np.random.Generator
) -> None:
    """Maps of each class's first two holdout films and of four mistakes."""
    wrong = holdout[holdout["label"] != holdout["predicted"]].head(4)
    sample = holdout.drop(index=wrong.index).groupby("label", sort=False).head(2)
    chosen = pd.concat([sample.assign(chosen="sample"), wrong.assign(chosen="mistake")])
    rows = []
    for number, film in enumerate(chosen.to_dict("records")):
        y, x = np.mgrid[-1:1:64j, -1:1:64j]
        blob = np.exp(-((x - 0.3) ** 2 + (y + 0.2) ** 2) / 0.1)
        arrays: dict[str, Any] = {"film": np.uint8(120 + 60 * blob), "mask": blob > 0.5}
        for role in dict.fromkeys((film["predicted"], film["label"])):
            for method in METHOD_TITLES:
                name = f"{method}_{classes.index(role)}"
                noise = generator.normal(size=blob.shape)
                arrays[name] = (blob if method == "grad-cam" else blob + 0.3 * noise).astype("f2")
                rows.append(
                    {
                        "file": f"film-{number:02d}.npz",
                        "array": name,
                        **{k: film[k] for k in ("path", "sha256", "label", "predicted", "chosen")},
                        "probability": film[f"probability_{film['predicted']}"],
                        "method": method,
                        "target": role,
                        "role": "predicted" if role == film["predicted"] else "true",
                    }
                )
        np.savez_compressed(run.attributions / f"film-{number:02d}.npz", **arrays)
    pd.DataFrame(rows).to_csv(run.attributions / "index.csv", index=False)
    means = {f"film_{name}": arrays["film"] for name in classes}
    means |= {f"grad-cam_{name}": blob.astype("f2") for name in classes}
    means |= {f"count_{name}": np.array(7 if "cam" in name else 8) for name in means}
    np.savez_compressed(run.attributions / "mean.npz", allow_pickle=False, **means)


def network_layers(num_classes: int) -> list[dict[str, Any]]:
    stages = [(32, 16), (64, 8), (128, 4), (256, 4)]
    return [
        {
            "name": "stem", "kind": "Conv2d → BatchNorm2d → ReLU → Conv2d",
            "output_shape": [32, 16, 16], "num_parameters": 4784,
        },
        *(
            {
                "name": f"stage {i + 1}", "kind": "ResidualBlock → ResidualBlock",
                "output_shape": [width, side, side], "num_parameters": 37_000 * (i + 1),
            }
            for i, (width, side) in enumerate(stages)
        ),
        {"name": "pool", "kind": "AdaptiveAvgPool2d", "output_shape": [256, 1, 1],
         "num_parameters": 0},
        {"name": "head", "kind": "Linear", "output_shape": [num_classes],
         "num_parameters": 257 * num_classes},
    ]  # fmt: skip


def make_metrics(films: pd.DataFrame, scores: Any, classes: list[str]) -> dict[str, Any]:
    held_out = (films["split"] == "holdout").to_numpy()
    counts = pd.crosstab(films["label"], films["split"])
    holdout = evaluate_predictions(
        films["label"].to_numpy(dtype=str)[held_out], scores[held_out],
        films["group"].to_numpy(dtype=str)[held_out], classes, draws=100, seed=0,
    )  # fmt: skip
    return {
        "schema_version": 1,
        "run_id": "smoke-20260102-030405",
        "created": "2026-01-02T03:04:05+00:00",
        "preset": "smoke",
        "data": {
            "source": "phantom:150",
            "digest": "5e" * 32,
            "provenance": {"kind": "phantom", "settings": {"seed": 0}},
            "num_films": len(films) + 1,
            "unreadable": [{"path": "normal/broken.png", "error": "decoded 0 bytes"}],
            "classes": classes,
            "counts": {name: counts.loc[name].to_dict() for name in classes},
            "num_groups": len(films),
            "patients": {"count": 0, "in_several_classes": 0, "films_without": 150},
            "exact_duplicates": 2,
        },
        "network": {"name": "cxresnet", "num_parameters": 393_000},
        "training": {
            "epochs": 12, "best_epoch": 11, "best_validation_balanced_accuracy": 0.94,
            "device": "cpu", "precision": "bfloat16",
        },
        "holdout": holdout,
        "explanations": {"grad_cam_pointing_game": proportion_interval(15, 18)},
        "timing": {
            "stages": {"ingest": 3.21, "train": 187.0}, "fetched": ["ingest"],
            "training_images_per_second": 45.2,
        },
        "environment": {
            "versions": {"python": "3.11.7", "torch": "2.15.0"}, "device": "cpu",
            "platform": "Linux", "git_revision": "0123456789abcdef",
        },
    }  # fmt: skip


def write_gallery(run: RunFolder, side_px: int = 128, most: int = 1000) -> None:
    """``attributions/holdout.npz`` with a film and a Grad-CAM of noise for each holdout film."""
    table = pd.read_csv(run.predictions).query("split == 'holdout'").head(most)
    generator = np.random.default_rng(0)
    films = generator.integers(0, 256, (len(table), side_px, side_px), dtype=np.uint8)
    heat_maps = generator.random((len(table), 6, 6)).astype(np.float16)
    paths = table["path"].to_numpy(dtype=str)
    np.savez_compressed(
        run.attributions / "holdout.npz", path=paths, film=films, **{"grad-cam": heat_maps}
    )


def share(value: float, n: int = 30) -> dict[str, Any]:
    return {"value": value, "ci_low": value - 0.05, "ci_high": value + 0.05, "n": n}


def write_evidence(run: RunFolder, classes: list[str], *, is_good: bool = True) -> None:
    """Every file below ``evidence/``, of a run that speaks for itself or against itself."""
    write_json(run.hygiene, hygiene_record(classes))
    write_json(run.shortcuts, shortcut_record(classes, alarm=not is_good))
    write_json(run.reliability, reliability_record(classes, passed=is_good))
    write_json(
        run.outliers,
        {"method": "distance of features", "threshold": 3.2, "rule": "95 % of validation kept",
         "holdout_flagged": share(0.06), "auroc": {"noise": share(0.94)},
         "flagged": {"noise": share(0.9)},
         "scores": {"edges": [1.0, 2.0, 4.0], "holdout": [3, 1], "noise": [0, 4]}},
    )  # fmt: skip
    condition = {"name": "gamma", "level": 0.7, "unit": "exponent", "clean_level": 1.0}
    both = {"accuracy": share(0.8), "balanced_accuracy": share(0.75)}
    write_json(run.robustness, {"clean": both, "conditions": [condition | both]})
    write_json(run.explanations, explanation_record(passed=is_good))


def hygiene_record(classes: list[str]) -> dict[str, Any]:
    spread = {"p5": 90.0, "median": 100.0, "p95": 120.0}
    class_print = {
        "films": 50, "width": spread, "height": spread, "aspect": spread, "formats": {"PNG": 50},
        "modes": {"L": 50}, "jpeg_quality": None, "border_grey": spread, "mean_grey": spread,
        "histogram": 32 * [1 / 32],
    }  # fmt: skip
    return {
        "num_films": 150, "unreadable": [{"path": "broken.png", "error": "empty"}],
        "exact_duplicates": {"by_bytes": 2, "by_pixels": 3, "groups": [["a.png", "b.png"]]},
        "near_duplicates": {
            "searched": True, "films": 2, "method": "perceptual hash", "threshold": 0.05,
            "planted": {"films": 9, "recall": 0.9, "precision": 1.0},
            "groups": [{"paths": ["c.png", "d.png"], "distance": 0.01}],
        },
        "label_conflicts": [{"paths": ["a.png", "b.png"], "labels": classes[:2], "kind": "bytes"}],
        "blank": ["blank.png"], "inverted": [], "odd_sizes": [],
        "not_radiographs": [{"path": "cat.png", "why": "colours"}],
        "patients": {"count": 7, "in_several_classes": 1, "films_without": 3, "films_sharing": 4},
        "groups": {"count": 140, "largest": 4},
        "fingerprint": dict.fromkeys(classes, class_print),
        "counts": dict.fromkeys(FINDINGS, 0) | {
            "unreadable": 1, "blank": 1, "not a radiograph": 1234, "label conflict": 567,
        },
        "told_apart_by": [
            {
                "property": "mode",
                "balanced_accuracy": share(0.71),
                "chance": 0.5,
                "against_the_rest": {label: share(0.71) for label in classes},
            }
        ],
    }  # fmt: skip


def shortcut_record(classes: list[str], *, alarm: bool) -> dict[str, Any]:
    probe = {
        "name": "metadata", "title": "Size, mode and format", "evidence": "no lung",
        "how": "a tree", "balanced_accuracy": share(0.5), "model_above": share(0.3),
    }  # fmt: skip
    return {
        "chance": 1 / len(classes), "model": share(0.8), "probes": [probe],
        "told_apart": [
            {"probe": "metadata", "class": label, "balanced_accuracy": share(0.61),
             "model": share(0.83)}
            for label in classes
        ],
        "corner_exchange": {
            "followed": share(0.11), "control": share(0.07), "excess": share(0.04),
        },
        "rules": ["Somebody rings."],
        "subgroups": [{"source": "a", "class": classes[0], "n": 9, "sensitivity": share(0.7)}],
        "headline": share(0.3), "strongest": "metadata", "alarm": alarm,
        "alarms": ["the border alone tells the classes apart"] if alarm else [],
        "doubt": "", "left_out": ["retrained, border alone: loss is inf in epoch 2"],
        "verdict": "What was looked for was found." if alarm else "Nothing was found.",
    }  # fmt: skip


def reliability_record(classes: list[str], *, passed: bool) -> dict[str, Any]:
    bins = [{"confidence": 0.5, "accuracy": 0.45, "ci_low": 0.3, "ci_high": 0.6, "n": 15}]
    names = ("ece", "brier", "nll", "slope", "intercept")
    measured = {name: share(0.1) for name in names} | {"bins": bins}
    measured["classwise_ece"] = {label: share(0.05) for label in classes}
    values = {"0.01": share(0.2), "0.05": share(0.4), "0.2": share(0.6)}
    points = [
        {"class": label, "rule": rule, "threshold": threshold, "sensitivity": share(0.9),
         "validation": {"sensitivity": 0.9, "specificity": 0.8}, "specificity": share(0.8),
         "ppv": values, "npv": values}
        for label in classes
        for rule, threshold in (("youden", 0.4321), ("sensitivity-0.95", 0.1234))
    ]  # fmt: skip
    return {
        "classes": classes,
        "calibration": {
            "temperature": 1.7, "before": measured, "after": measured, "passed": passed,
            "verdict": "The error is small." if passed else "The error is large.",
        },
        "operating_points": points,
        "risk_coverage": {
            "coverage": [0.5, 1.0], "risk": [0.1, 0.2], "aurc": share(0.1), "threshold": 0.45,
            "rule": "risk at most 0.1", "coverage_at_threshold": share(0.8),
            "accuracy_at_threshold": share(0.9),
        },
    }  # fmt: skip


def explanation_record(*, passed: bool) -> dict[str, Any]:
    check = {
        "name": "deletion", "title": "Deletion", "value": share(0.3), "threshold": 0.4,
        "better": "lower", "passed": passed, "decides": True, "reference": {"random": 0.5},
        "gain": {"random": {"value": 0.2, "ci_low": -0.01 + 0.1 * passed, "ci_high": 0.4, "n": 6}},
    }  # fmt: skip
    aside = check | {"name": "infidelity", "title": "Infidelity", "decides": False}
    curves = {"share": [0.0, 0.5, 1.0], "insertion": [0.3, 0.6, 0.9], "deletion": [0.9, 0.6, 0.3]}
    layers = [{"layer": "head", "spearman": share(0.2), "ssim": share(0.3)}]
    method = {
        "title": "Grad-CAM", "passed": passed, "checks": [check, aside], "randomisation": layers,
        "curves": curves,
        "verdict": "It follows the weights." if passed else "It ignores the weights.",
    }  # fmt: skip
    return {
        "methods": {"grad-cam": method},
        "baselines": {"random": curves, "centre": curves},
        "lung_field": {"method": "threshold", "dice": {"mean": 0.9, "p5": 0.8}},
        "num_films": 6, "num_groups": 6, "num_films_few": 3,
        "radius": 0.02, "samples": 8, "squares": 16, "seconds": 3.0,
    }  # fmt: skip


def add_gates(run: RunFolder, *, is_good: bool) -> None:
    names = ("leakage", "shortcut", "calibration", "explanation")
    metrics = json.loads(run.metrics.read_text())
    metrics["gates"] = [
        {"name": name, "passed": is_good, "found": f"{name} looked at", "fails": name == "leakage"}
        for name in names
    ]
    write_json(run.metrics, metrics)
