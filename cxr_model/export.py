"""A trained network in the form that other programs load: ONNX, TorchScript or safetensors.

ONNX and TorchScript hold the grey scale too. They take ``films``, uint8 (N, C, S, S) with
any N, and give ``probabilities``, float32 (N, num_classes), neither tempered nor thresholded;
classes, size and colour stand in the JSON file beside each, the run's ``model.json``. A film
is brought to S x S pixels as `cxr_model.cache.film_pixels` does: turned upright by its EXIF
orientation, grey levels of more than 8 bits scaled to 0-255, squashed to the square with
Pillow's bilinear filter (for JPEGs after ``draft``, which decodes them at 1/2, 1/4 or 1/8 of
their size, never below S).
"""

import shutil
import warnings
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cxr_model.errors import ConfigError, ExportError
from cxr_model.films import films_to_tensor
from cxr_model.model_files import ModelCard, load_model
from cxr_model.run_folder import RunFolder, atomic_path

Format = Literal["onnx", "torchscript", "safetensors"]
FORMATS: tuple[Format, ...] = get_args(Format)
NUM_NOISE = 16
"""Pictures of noise that every exported network is compared on."""
MOST_DIFFERENCE = 1e-4
"""Of a probability from PyTorch's; rounding alone stays well below 1e-5."""
SUFFIXES = {"onnx": ".onnx", "torchscript": ".pt", "safetensors": ".safetensors"}


class FilmClassifier(nn.Module):
    """uint8 films (N, C, S, S) to class probabilities (N, num_classes)."""

    def __init__(self, network: nn.Module, card: ModelCard) -> None:
        super().__init__()
        self.network = network
        self.mean, self.std = card.mean, card.std

    def forward(self, films: Tensor) -> Tensor:
        logits: Tensor = self.network((films.float() / 255 - self.mean) / self.std)
        return logits.softmax(dim=1)


def export_model(
    run: RunFolder, kind: Format, path: Path, films: NDArray[np.uint8]
) -> float | None:
    """Write the run's network to ``path``; return how far its answers are from PyTorch's.

    That is the largest difference of a probability on ``films`` (N, S, S), or (N, S, S, 3),
    and on `NUM_NOISE` pictures of noise; None for safetensors, which is the run's own file and
    answers nothing. The run's ``model.json`` is written beside it, with the suffix ``.json``.
    Raises ``ConfigError`` where a package is missing or ``path`` ends in .json, and
    ``ExportError`` where the answers differ by more than `MOST_DIFFERENCE`; nothing is written
    then.
    """
    if path.suffix == ".json":
        raise ConfigError(f"{path}: is where the classes go; name a file in {SUFFIXES[kind]}")
    difference = None
    with atomic_path(path) as temporary:
        if kind == "safetensors":
            shutil.copyfile(run.weights, temporary)
        else:
            difference = _write(run, kind, temporary, films)
            # Not a number is no small difference either.
            if not difference <= MOST_DIFFERENCE:
                raise ExportError(
                    f"--format {kind}: the exported network's probabilities differ from PyTorch's "
                    f"by up to {difference:.2g}, at most {MOST_DIFFERENCE:g} is rounding; use "
                    "another format, or another version of the packages that write it"
                )
    with atomic_path(path.with_suffix(".json")) as temporary:
        shutil.copyfile(run.model_card, temporary)
    return difference


def _write(run: RunFolder, kind: Format, path: Path, films: NDArray[np.uint8]) -> float:
    network, card = load_model(run, torch.device("cpu"))
    classifier = FilmClassifier(network, card).eval()
    size = (NUM_NOISE, *films.shape[1:])
    noise = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
    batch = films_to_tensor(np.concatenate([films, noise]))
    with torch.inference_mode():
        expected = classifier(batch)
    answers = (_write_onnx if kind == "onnx" else _write_torchscript)(classifier, batch, path)
    return float((answers - expected).abs().max())


def _write_onnx(classifier: nn.Module, batch: Tensor, path: Path) -> Tensor:
    try:
        import onnxruntime
        import onnxscript  # noqa: F401 (torch exports with it)
    except ImportError as error:
        raise ConfigError(
            f"--format onnx: {error.name} is not installed; pip install 'cxresnet[onnx]'"
        ) from error
    program = torch.onnx.export(
        classifier,
        (batch[:2],),
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("num_films")},),
        input_names=["films"],
        output_names=["probabilities"],
        verbose=False,
    )
    assert program is not None
    program.save(path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"films": batch.numpy()})[0])


def _write_torchscript(classifier: nn.Module, batch: Tensor, path: Path) -> Tensor:
    with warnings.catch_warnings(), torch.inference_mode():
        # torch would rather have torch.export; programs that load TorchScript are still about.
        warnings.simplefilter("ignore", FutureWarning)
        # Shapes decide the path through some networks; an exported one has one shape but for N.
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # type: ignore[attr-defined]
        traced = torch.jit.trace(classifier, batch[:2])  # type: ignore[no-untyped-call]
        torch.jit.save(traced, path)
        answers: Tensor = torch.jit.load(path)(batch)  # type: ignore[no-untyped-call]
    return answers
