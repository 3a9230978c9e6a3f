"""Films indexed and decoded for a benchmark, outside Prefect."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from cxr_model.batches import TrainingFilms
from cxr_model.cache import FilmCache, build_cache
from cxr_model.config import NetworkConfig, RunConfig
from cxr_model.device import resolve_device, resolve_precision
from cxr_model.errors import DataError
from cxr_model.films import FilmSet, film_set
from cxr_model.index import build_index
from cxr_model.labels import order_classes
from cxr_model.model_files import Decision, ModelCard, save_model
from cxr_model.network import build_network, network_arguments, num_parameters
from cxr_model.phantoms.phantom import write_phantoms
from cxr_model.run_folder import RunFolder
from cxr_model.trainer import Trainer

UNTRAINED = "untrained"


@dataclass(frozen=True, kw_only=True)
class Prepared:
    root: Path
    films: pd.DataFrame
    """The index's readable films."""
    classes: list[str]
    cache_folder: Path

    def trainer(
        self,
        config: RunConfig,
        network: NetworkConfig | None = None,
        *,
        validation: pd.Series | None = None,
    ) -> Trainer:
        """A trainer at its start, its films on the device; ``validation`` marks films left out."""
        device = resolve_device(config.training.device)
        held_out = np.zeros(len(self.films), bool) if validation is None else validation.to_numpy()
        arguments = network_arguments(
            network or config.network,
            in_channels=3 if config.data.color == "rgb" else 1,
            num_classes=len(self.classes),
        )
        return Trainer(
            build_network(arguments, torch.Generator().manual_seed(config.training.seed)),
            TrainingFilms(
                train=self._film_set(self.films[~held_out], device),
                validation=self._film_set(self.films[held_out], device) if held_out.any() else None,
                num_classes=len(self.classes),
            ),
            config.training,
            config.augment,
            resolve_precision(config.training.precision, device),
        )

    def _film_set(self, films: pd.DataFrame, device: torch.device) -> FilmSet:
        targets = np.array([self.classes.index(name) for name in films["label"]], dtype=np.int64)
        return film_set(
            FilmCache.open(self.cache_folder), films["sha256"].tolist(), targets, device
        )


def save_untrained(films: Prepared, config: RunConfig, folder: Path) -> RunFolder:
    """The settings' network with fresh weights, as a run leaves its trained one."""
    arguments = network_arguments(
        config.network,
        in_channels=3 if config.data.color == "rgb" else 1,
        num_classes=len(films.classes),
    )
    network = build_network(arguments, torch.Generator().manual_seed(0))
    card = ModelCard(
        run_id=UNTRAINED,
        network=arguments,
        classes=films.classes,
        size_px=config.data.size_px,
        color=config.data.color,
        mean=0.5,
        std=0.25,
        num_parameters=num_parameters(network),
        layers=[],
    )
    run = RunFolder(folder)
    save_model(run, network.state_dict(), card)
    Decision(temperature=1.0, abstain_below=0.0, operating_points={}).write(run.decision)
    return run


def prepare(config: RunConfig, work: Path) -> Prepared:
    """Index and cache the films of a folder, or phantoms, below ``work``."""
    resolve_device(config.training.device)  # refused before minutes of work
    kind, _, rest = config.data.source.partition(":")
    if kind == "phantom":
        root = work / "phantoms"
        num_films = int(rest) if rest.isdecimal() else config.phantom.num_films
        write_phantoms(root, replace(config.phantom, num_films=num_films))
        shutil.rmtree(root / "masks")  # torchvision's ImageFolder would take it for a class
    else:
        root = Path(config.data.source)
        if not root.is_dir():
            raise DataError(f"--data {config.data.source}: benchmarks take a folder or phantom[:N]")
    index = build_index(root, config.data, config.labels)
    report = build_cache(
        root, index, work / "cache", size_px=config.data.size_px, color=config.data.color
    )
    films = index[index["error"] == ""]
    if len(films) < config.training.batch_size:
        raise DataError(f"{root}: fewer films than training.batch_size; use a smaller one")
    return Prepared(
        root=root,
        films=films,
        classes=order_classes(films["label"], config.labels),
        cache_folder=report.folder,
    )


def copy_films(prepared: Prepared, root: Path, times: int) -> Path:
    """Every film ``times`` times below ``root``, each copy with a number behind its last byte.

    Decoders stop before it, digests tell the files apart.
    """
    for path in prepared.films["path"]:
        data = (prepared.root / path).read_bytes()
        for number in range(times):
            copy = root / Path(path).parent / f"{number}-{Path(path).name}"
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(data + number.to_bytes(4))
    return root
