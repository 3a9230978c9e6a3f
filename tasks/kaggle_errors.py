"""What can go wrong between here and Kaggle, each told in one line with its remedy."""

from collections.abc import Iterator
from contextlib import contextmanager

import requests
from urllib3.exceptions import InvalidHeader
from urllib3.util import Retry

from cxr_model.errors import SourceError

GET_TOKEN = (
    "make an API token at https://www.kaggle.com/settings/api and put it into the variable "
    "KAGGLE_API_TOKEN, or its username and key into ~/.kaggle/kaggle.json"
)
_DEFAULT_WAIT_S = 5.0


class TransientSourceError(SourceError):
    """A source that may well answer in ``wait_s`` seconds."""

    def __init__(self, message: str, wait_s: float = _DEFAULT_WAIT_S) -> None:
        super().__init__(message)
        self.wait_s = wait_s


@contextmanager
def errors_explained(subject: str, url: str) -> Iterator[None]:
    """Raise the errors of requests and of the disk as ``SourceError`` about ``subject``."""
    try:
        yield
    except requests.RequestException as error:
        raise _explain(subject, url, error) from error
    except OSError as error:
        raise SourceError(
            f"{subject}: cannot be stored ({error}); check the free disk space and the permissions"
        ) from error


def _explain(subject: str, url: str, error: requests.RequestException) -> SourceError:
    # str(error) is left out: it may hold the signed address of the download.
    if error.response is None:
        return TransientSourceError(
            f"{subject}: Kaggle cannot be reached ({type(error).__name__}); check the network "
            "and try again, a part that was downloaded is kept"
        )
    status = error.response.status_code
    if status == 429:
        return TransientSourceError(
            f"{subject}: Kaggle limits the rate of requests (429); try again later",
            _retry_after_s(error.response),
        )
    if status >= 500:
        return TransientSourceError(f"{subject}: Kaggle is out of order ({status}); try later")
    remedies = {
        401: f"Kaggle refuses the credentials (401); {GET_TOKEN}",
        403: "Kaggle denies access (403); check the spelling, sign in and accept the data set's "
        f"terms at {url}",
        404: f"Kaggle has no such data set or version (404); compare with {url}",
    }
    return SourceError(f"{subject}: {remedies.get(status, f'Kaggle answered {status}; see {url}')}")


def _retry_after_s(response: requests.Response) -> float:
    try:
        return Retry().parse_retry_after(response.headers["Retry-After"])
    except (KeyError, InvalidHeader):
        return _DEFAULT_WAIT_S
