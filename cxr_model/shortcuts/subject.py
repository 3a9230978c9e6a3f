"""A run's films and network, loaded once for all probes."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import pandas as pd
from torch import Tensor

from cxr_model.bootstrap import Bootstrap
from cxr_model.cache import FilmCache
from cxr_model.config import RunConfig
from cxr_model.device import resolve_device
from cxr_model.films import FilmSet, predict_logits
from cxr_model.index import read_index
from cxr_model.model_files import ModelCard, load_model
from cxr_model.network import Network
from cxr_model.run_folder import RunFolder
from cxr_model.shortcuts.scores import Array
from cxr_model.shortcuts.views import View, views_of
from cxr_model.splits import read_splits
from cxr_model.stages import load_split


@dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    tables: dict[str, pd.DataFrame]
    """For each split, rows of splits and index in one."""
    films: dict[str, FilmSet]
    """For each split, the films in its table's order."""
    network: Network
    card: ModelCard
    bootstrap: Bootstrap

    @classmethod
    def load(cls, run: RunFolder, config: RunConfig, cache: FilmCache) -> "Subject":
        device = resolve_device(config.training.device)
        network, card = load_model(run, device)
        index = read_index(run.index).drop(columns=["sha256", "label"])
        table = read_splits(run.splits).merge(index, on="path", validate="one_to_one")
        splits = table["split"].unique()
        films = {name: load_split(table, name, card.classes, cache, device) for name in splits}
        tables = {name: table[table["split"] == name].reset_index(drop=True) for name in splits}
        bootstrap = Bootstrap(
            truth_N=films["holdout"].targets_N.cpu().numpy(),
            groups_N=tables["holdout"]["group"].to_numpy(dtype=str),
            num_classes=len(card.classes),
            draws=config.evaluate.bootstrap_draws,
            seed=config.evaluate.seed,
        )
        return cls(tables=tables, films=films, network=network, card=card, bootstrap=bootstrap)

    @cached_property
    def views(self) -> tuple[View, ...]:
        return views_of(self.films["train"])

    @property
    def grey(self) -> int:
        """Mean of the training films: what hides a part, as the network takes it for nothing."""
        return round(255 * self.card.mean)

    def call(self, batches: Iterable[Tensor]) -> Array:
        """Class number (N,) that the network as it is gives uint8 films (B, C, H, W)."""
        logits_NC = predict_logits(self.network, batches, self.card.normalisation)
        called_N: Array = logits_NC.argmax(dim=1).cpu().numpy()
        return called_N
