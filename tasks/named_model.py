"""What the name of a model stands for at this moment: the champion, a run or the newest."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cxr_model.run_folder import RunFolder
from tasks.manifest import WEIGHTS
from tasks.registry import IF_THERE, fetch_version, read_champion, require_files
from tasks.run_store import fetch_run, read_manifest
from tasks.storage import ObjectStore

CHAMPION = "champion"

NETWORK_FILES = (WEIGHTS, "model/model.json")
"""The network by itself."""
PREDICTION_FILES = (*NETWORK_FILES, "metrics.json", "model/decision.json")
"""The network, what its predictions are judged by, and its run's verdicts."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a name stands for at this moment."""

    run_id: str
    digest: str
    """SHA-256 of ``model.safetensors``."""
    fetch: Callable[[], RunFolder]
    """Fetch the model's files, checked against their digests."""


def find_model(
    store: ObjectStore, name: str, folder: Path, files: tuple[str, ...] = PREDICTION_FILES
) -> Found:
    """``champion`` or ``MODEL/champion`` of the registry, a run's id or ``latest``.

    ``files``, and what else there is of `IF_THERE`, are fetched below ``folder``. Raises
    ``StorageError`` where there is no such model, and when it is fetched without one of them.
    """
    model, _, last = name.rpartition("/")
    if last == CHAMPION:
        champion = read_champion(store, model)
        return Found(
            run_id=champion.run_id,
            digest=champion.digest,
            fetch=lambda: fetch_version(
                store, champion.model, champion.run_id, folder / "models", files
            ),
        )
    manifest = read_manifest(store, name, files)
    has = {record.key for record in manifest.objects}
    weights = manifest.weights()

    def fetch() -> RunFolder:
        require_files(manifest.run_id, files, has)
        wanted = (*files, *(key for key in IF_THERE if key in has))
        return RunFolder(fetch_run(store, manifest.run_id, folder, wanted))

    return Found(run_id=manifest.run_id, digest=weights.sha256, fetch=fetch)
