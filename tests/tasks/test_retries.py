import pytest
from prefect import task
from prefect.client.schemas.objects import TaskRun
from prefect.states import Completed, Failed

from cxr_model.errors import SourceError, StorageError
from tasks.kaggle_errors import TransientSourceError
from tasks.retries import on_transient_io
from tasks.storage_errors import MissingObjectError, TransientStorageError


@task
def anything() -> None:
    """Stands for a task whose state is judged."""


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (TransientStorageError("server is away"), True),
        (StorageError("key is refused"), False),
        (MissingObjectError("no such object"), False),
        (TransientSourceError("Kaggle was asked three times"), False),
        (SourceError("wrong"), False),
        (ValueError("a defect"), False),
    ],
)
def test_only_what_may_pass_by_itself_is_tried_again(error: Exception, again: bool) -> None:
    assert on_transient_io(anything, TaskRun.model_construct(), Failed(data=error)) is again


def test_what_succeeded_is_not_tried_again() -> None:
    assert not on_transient_io(anything, TaskRun.model_construct(), Completed(data=1))
