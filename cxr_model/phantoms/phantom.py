"""The phantom data set: synthetic frontal radiographs in three classes, with lesion masks.

It stands in for a real image set wherever none is at hand, and on request it carries known
faults (duplicates, broken files, wrong labels, a marker that gives the class away), so that
tests can prove that the audits find them. The drawing itself is `drawing`.
"""

import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import count
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from cxr_model.data_config import PhantomConfig
from cxr_model.errors import DataError
from cxr_model.phantoms.drawing import draw_film

CLASS_FOLDERS = {"normal": "Normal", "pneumonia": "Pneumonia", "covid": "COVID-19"}
"""Class name, as in ``LabelConfig``, to the folder that its films stand in."""

DRAWING_VERSION = 1
"""Raised by hand when the same config draws other films: older folders are then refused."""

MANIFEST = "phantom.json"
_CLASSES = tuple(CLASS_FOLDERS)
_FILM, _CLASS, _PLANT = range(3)  # streams of random numbers: first part of a spawn key


@dataclass(frozen=True, kw_only=True)
class PhantomTruth:
    """What was planted; every path is posix and relative to the data set's root."""

    exact_duplicates: tuple[tuple[str, str], ...] = ()
    """Film and its copy under another name and patient, in the same folder."""
    near_duplicates: tuple[tuple[str, str], ...] = ()
    """Film and its cropped, re-exposed, re-encoded copy under another patient."""
    unreadable: tuple[str, ...] = ()
    wrong_labels: tuple[tuple[str, str], ...] = ()
    """Film that stands in another class's folder, and its true class."""
    marker_class: str = ""


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """Where each film goes, settled before any is drawn, so that they can be drawn in any order."""

    labels: list[str]
    paths: list[str]
    truth: PhantomTruth


def write_phantoms(
    root: Path,
    config: PhantomConfig,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> PhantomTruth:
    """Draw ``config.num_films`` grey JPEGs into ``root/<Class>/`` and their lesions' masks
    into ``root/masks/<Class>/`` (same stem, 1-bit PNG, the film's size).

    Film ``i`` depends on the seed and ``i`` alone. Duplicates and unreadable files come on
    top of ``num_films``, with patient numbers of their own. Films planted under a wrong label
    take their mask along. A folder that already holds the same config's films is left as it
    is; ``progress`` gets (films done, films in all).

    Raises ``DataError`` for a ``root`` that holds anything else.
    """
    plan = _plan(config)
    manifest = {"drawing_version": DRAWING_VERSION, "config": asdict(config)}
    if _is_complete(root, manifest):
        return plan.truth
    temporary = root.with_name(f".{root.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)  # in a container a killed drawing had this PID
    try:
        _write_films(temporary, config, plan, progress)
        _write_plants(temporary, config, plan.truth)
        manifest["truth"] = asdict(plan.truth)
        (temporary / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
        os.sync()  # the manifest says that the films are there
        temporary.replace(root)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return plan.truth


def _is_complete(root: Path, manifest: dict[str, object]) -> bool:
    """Whether ``root`` holds these very films; False where it is still missing or empty."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    try:
        found = json.loads((root / MANIFEST).read_text())
    except (OSError, ValueError):
        found = {}
    if any(found.get(key) != value for key, value in manifest.items()):
        raise DataError(f"{root}: holds other files than these phantoms; name an empty folder")
    return True


def _random(config: PhantomConfig, *key: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(config.seed, spawn_key=key))


def _plan(config: PhantomConfig) -> _Plan:
    """Class and path of every film, and all that is planted among them."""
    patients = [film // config.films_per_patient for film in range(config.num_films)]
    labels = _assign_labels(config, patients)
    rng = _random(config, _PLANT)
    folders = list(labels)
    wrong = sorted(rng.choice(config.num_films, config.num_wrong_labels, replace=False).tolist())
    for film in wrong:
        folders[film] = str(rng.choice([name for name in _CLASSES if name != labels[film]]))
    paths = [
        _film_path(folders[film], patient, film % config.films_per_patient)
        for film, patient in enumerate(patients)
    ]
    truth = _plan_extra_files(config, rng, paths, count(patients[-1] + 1))
    wrong_labels = tuple((paths[film], labels[film]) for film in wrong)
    return _Plan(labels=labels, paths=paths, truth=replace(truth, wrong_labels=wrong_labels))


def _assign_labels(config: PhantomConfig, patients: list[int]) -> list[str]:
    """Each three patients in a row are one of each class, shuffled: balanced, yet a patient's
    number tells nothing of the class."""
    shuffles = [
        _random(config, _CLASS, three).permutation(_CLASSES).tolist()
        for three in range(patients[-1] // 3 + 1)
    ]
    return [shuffles[patient // 3][patient % 3] for patient in patients]


def _plan_extra_files(
    config: PhantomConfig, rng: np.random.Generator, paths: list[str], patients: Iterator[int]
) -> PhantomTruth:
    """Names of the copies and of the unreadable files, each with a number from ``patients``."""
    exact = rng.choice(paths, config.num_exact_duplicates, replace=False).tolist()
    # Films that are copied exactly get a near duplicate only once no other film is left.
    others = sorted(set(paths) - set(exact))
    near = [*rng.permutation(others).tolist(), *exact][: config.num_near_duplicates]
    broken = rng.choice(_CLASSES, config.num_unreadable).tolist()
    return PhantomTruth(
        exact_duplicates=tuple((path, _copy_path(path, next(patients))) for path in exact),
        near_duplicates=tuple((path, _copy_path(path, next(patients))) for path in near),
        unreadable=tuple(_film_path(label, next(patients), 0) for label in broken),
        marker_class=config.marker_class,
    )


def _film_path(label: str, patient: int, number: int) -> str:
    """The NIH pattern: patient in eight digits, film in three."""
    return f"{CLASS_FOLDERS[label]}/{patient + 1:08d}_{number:03d}.jpg"


def _copy_path(path: str, patient: int) -> str:
    return str(PurePosixPath(path).with_name(f"{patient + 1:08d}_000.jpg"))


def _mask_path(root: Path, path: str) -> Path:
    return (root / "masks" / path).with_suffix(".png")


def _write_films(
    root: Path,
    config: PhantomConfig,
    plan: _Plan,
    progress: Callable[[int, int], None] | None,
) -> None:
    for folder in CLASS_FOLDERS.values():
        (root / folder).mkdir(parents=True)
        (root / "masks" / folder).mkdir(parents=True)

    def write(film: int) -> None:
        rng = _random(config, _FILM, film)
        label = plan.labels[film]
        drawn = draw_film(rng, label, marker=label == config.marker_class)
        quality = int(rng.integers(88, 93))
        Image.fromarray(drawn.image).save(root / plan.paths[film], quality=quality)
        if drawn.mask.any():
            Image.fromarray(drawn.mask).save(_mask_path(root, plan.paths[film]))

    # Threads, not processes: Pillow and NumPy let go of the interpreter lock while they
    # work, and a fork inside a Prefect flow fails.
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        for done, _ in enumerate(pool.map(write, range(config.num_films)), start=1):
            if progress is not None:
                progress(done, config.num_films)
    finally:
        pool.shutdown(cancel_futures=True)  # an interrupt need not wait for the films to come


def _write_plants(root: Path, config: PhantomConfig, truth: PhantomTruth) -> None:
    for path, copy in truth.exact_duplicates:
        shutil.copyfile(root / path, root / copy)
        if _mask_path(root, path).exists():
            shutil.copyfile(_mask_path(root, path), _mask_path(root, copy))
    for number, (path, copy) in enumerate(truth.near_duplicates):
        _write_near_duplicate(root, path, copy, _random(config, _PLANT, number))
    for number, path in enumerate(truth.unreadable):
        if number % 2:
            (root / path).write_text("This is a note that someone renamed to .jpg.\n")
        else:
            film = draw_film(_random(config, _PLANT, number, 1), "normal", marker=False)
            buffer = io.BytesIO()
            Image.fromarray(film.image).save(buffer, "JPEG")
            (root / path).write_bytes(buffer.getvalue()[: buffer.tell() // 3])


def _write_near_duplicate(root: Path, path: str, copy: str, rng: np.random.Generator) -> None:
    """The same film as another archive would hold it: 1 to 3 % cropped, new gamma and quality."""
    with Image.open(root / path) as image:
        crops = rng.uniform(0.005, 0.015, 4)
        left, right = crops[:2] * image.width
        top, bottom = crops[2:] * image.height
        box = (round(left), round(top), image.width - round(right), image.height - round(bottom))
        gamma = float(rng.choice([0.85, 0.92, 1.08, 1.18]))
        grey = [round(255 * (value / 255) ** gamma) for value in range(256)]
        image.crop(box).point(grey).save(root / copy, quality=int(rng.integers(80, 88)))
    if _mask_path(root, path).exists():
        with Image.open(_mask_path(root, path)) as mask:
            mask.crop(box).save(_mask_path(root, copy))
