"""Networks trained anew on films of which a part is hidden, by the run's own settings."""

import torch

from cxr_model.batches import TrainingFilms
from cxr_model.config import RunConfig
from cxr_model.device import deterministic_algorithms, resolve_precision
from cxr_model.films import FilmSet, predict_logits
from cxr_model.model_files import ModelCard
from cxr_model.network import build_network
from cxr_model.shortcuts.scores import Array
from cxr_model.shortcuts.views import View
from cxr_model.trainer import Trainer


def hide_part(films: FilmSet, view: View, grey: int) -> FilmSet:
    """A set of its own, in the memory that holds the films' pixels, with the view's part hidden."""
    seen = films.pixels_NCHW
    pixels_NCHW = seen.new_empty((len(films), *seen.shape[1:]))
    start = 0
    for pixels_BCHW in films.batches():
        end = start + len(pixels_BCHW)
        pixels_NCHW[start:end] = view.hide(pixels_BCHW, grey)
        start = end
    rows_N = torch.arange(len(films), device=seen.device)
    return FilmSet(pixels_NCHW=pixels_NCHW, rows_N=rows_N, targets_N=films.targets_N)


def retrain(
    config: RunConfig, card: ModelCard, films: TrainingFilms, holdout: FilmSet, view: View
) -> Array:
    """Class (N,) that a network trained on hidden films gives each hidden holdout film."""
    grey = round(255 * card.mean)
    hidden = TrainingFilms(
        train=hide_part(films.train, view, grey),
        validation=films.validation and hide_part(films.validation, view, grey),
        num_classes=films.num_classes,
    )
    network = build_network(card.network, torch.Generator().manual_seed(config.training.seed))
    precision = resolve_precision(config.training.precision, films.train.device)
    with deterministic_algorithms(config.training.deterministic):
        trainer = Trainer(network, hidden, config.training, config.augment, precision)
        for _ in trainer.epochs():
            pass
    network.load_state_dict(trainer.best_state)
    judged = hide_part(holdout, view, grey)
    logits_NC = predict_logits(network, judged.batches(), trainer.normalisation)
    called_N: Array = logits_NC.argmax(dim=1).cpu().numpy()
    return called_N
