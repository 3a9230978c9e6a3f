"""What botocore and S3 servers say when they fail, as one line with a remedy."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
)
from botocore.exceptions import ConnectionError as EndpointError
from botocore.parsers import ResponseParserError

from cxr_model.errors import StorageError
from tasks.storage_location import StoreLocation

_NO_CREDENTIALS = (
    CredentialRetrievalError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
)
_EXISTS = {"ConditionalRequestConflict", "PreconditionFailed"}
_BUSY = {"RequestTimeout", "SlowDown", "Throttling", "ThrottlingException"}
_BUSY_STATUS = {429, 500, 502, 503, 504}

_ANOTHER_REGION = "the bucket is in another region; set AWS_DEFAULT_REGION to it"
_NO_RIGHTS = (
    "give the keys of {credentials} the right to read, write, list and delete in this bucket"
)
_REMEDIES = {
    "301": _ANOTHER_REGION,
    "403": _NO_RIGHTS,
    "AccessDenied": _NO_RIGHTS,
    "AuthorizationHeaderMalformed": _ANOTHER_REGION,
    "BucketAlreadyExists": "the name is somebody else's; set CXR_S3_BUCKET to another",
    "EntityTooLarge": "the object is larger than the server takes",
    "ExpiredToken": "renew the credentials (AWS_SESSION_TOKEN)",
    "IllegalLocationConstraintException": _ANOTHER_REGION,
    "InvalidAccessKeyId": "the server does not know the key; check {credentials}",
    "InvalidBucketName": "set CXR_S3_BUCKET to 3 to 63 lower-case letters, digits and hyphens",
    "InvalidToken": "check AWS_SESSION_TOKEN",
    "NoSuchBucket": "create the bucket, or set CXR_S3_BUCKET (of films: data.source) to another",
    "PermanentRedirect": _ANOTHER_REGION,
    "RequestTimeTooSkewed": "set this machine's clock",
    "SignatureDoesNotMatch": "the secret does not fit the key; check {credentials}",
}


class TransientStorageError(StorageError):
    """Object storage that is away, busy or cut the line: the same call may succeed later."""


class MissingObjectError(StorageError):
    """A key that holds no object."""


class ExistingObjectError(StorageError):
    """A key that holds an object already, where none was to be overwritten."""


class UnknownConditionError(StorageError):
    """A server that refuses a conditional write because it does not know the condition."""


class ChangedObjectError(StorageError):
    """An object that holds other bytes than those written or expected."""


@contextmanager
def disk_told_in_one_line(path: Path) -> Iterator[None]:
    """Turn errors of the local disk in the block, which writes ``path``, into ``StorageError``."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{path}: cannot be written ({error.strerror or error}); check the free disk space "
            "and the permissions"
        ) from error


@contextmanager
def told_in_one_line(location: StoreLocation, key: str) -> Iterator[None]:
    """Turn whatever botocore raises in the block, which asks for ``key``, into a
    ``StorageError``."""
    subject = location.uri(key)
    server = location.endpoint_url or "AWS"
    credentials = str(location.credentials_file or "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    try:
        yield
    except ClientError as error:
        raise _from_answer(error, f"{subject} at {server}", credentials) from error
    except _NO_CREDENTIALS as error:
        raise StorageError(f"{subject}: {_line(error)}; set {credentials}") from error
    except (EndpointError, HTTPClientError, IncompleteReadError) as error:
        raise TransientStorageError(
            f"{subject}: no answer from {server} ({_line(error)}); start the server, or "
            "correct CXR_S3_ENDPOINT_URL"
        ) from error
    except (BotoCoreError, ResponseParserError) as error:
        raise StorageError(
            f"{subject} at {server}: {_line(error)}; check CXR_S3_BUCKET and that "
            "CXR_S3_ENDPOINT_URL is an S3 server"
        ) from error


def _from_answer(error: ClientError, subject: str, credentials: str) -> StorageError:
    code = str(error.response.get("Error", {}).get("Code", "no error code"))
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    # The answer to HEAD has no body, hence no code but its status.
    if code == "NoSuchKey" or (code == "404" and error.operation_name == "HeadObject"):
        return MissingObjectError(f"{subject}: no such object; check the name")
    if code in _EXISTS:
        return ExistingObjectError(f"{subject}: exists; read it again")
    if code == "NotImplemented":
        return UnknownConditionError(f"{subject}: NotImplemented; use a newer or another S3 server")
    if code in _BUSY or status in _BUSY_STATUS:
        return TransientStorageError(
            f"{subject}: the server answers {code}; try again later, or check CXR_S3_ENDPOINT_URL"
        )
    remedy = _REMEDIES.get(code, "check that CXR_S3_ENDPOINT_URL is an S3 server")
    return StorageError(f"{subject}: {code}; {remedy.format(credentials=credentials)}")


def _line(error: Exception) -> str:
    text = " ".join(str(error).split()).rstrip(".")
    return text if len(text) <= 200 else f"{text[:200]}…"
