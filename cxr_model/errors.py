"""The one family of errors that a user can mend."""


class CxrError(Exception):
    """A mistake in input, settings or surroundings, told in one line with its remedy.

    The command line prints the message without a traceback and exits with 2; anything
    that is not a ``CxrError`` is a defect of this project and keeps its traceback.
    """


class ConfigError(CxrError, ValueError):
    """A setting that does not exist or has an impossible value.

    Also a ``ValueError``, so that Prefect's parameter validation takes it for one.
    """


class CheckpointMismatch(ConfigError):
    """A checkpoint of another training than the one that finds it."""


class OtherFilms(CheckpointMismatch):
    """A checkpoint of the same training on other films."""


class DataError(CxrError):
    """Films, folders or labels that a run cannot be built on."""


class SourceError(CxrError):
    """A data source (Kaggle, archive, bucket) that cannot be read."""


class StorageError(CxrError):
    """Storage that refuses, is away, or returns other bytes than were written."""


class StackError(CxrError):
    """The local stack (Prefect server, worker, object store) cannot be started or reached."""


class DivergenceError(CxrError):
    """A training loss that is no longer a finite number."""


class OutOfMemory(CxrError):
    """The device cannot hold what has to pass through the network at once."""


class DeviceError(CxrError):
    """Devices or processes of a training that fail together."""


class ExportError(CxrError):
    """A network that answers otherwise once it is written in another program's form."""


class OverloadError(CxrError):
    """More requests at a time than a service takes."""


class GateError(CxrError):
    """A run whose own evidence speaks against it, by a gate that the settings make binding."""


def kinds_of_error(kind: type[CxrError] = CxrError) -> dict[str, type[CxrError]]:
    """By name: of what another process has told only the name is known."""
    found = {kind.__name__: kind}
    for each in kind.__subclasses__():
        found |= kinds_of_error(each)
    return found
