"""What several commands take, print on and open."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from cxr_model.errors import ConfigError
from flows.settings import Settings

if TYPE_CHECKING:
    from tasks.storage import ObjectStore

err = Console(stderr=True, soft_wrap=True, markup=False, highlight=False)
out = Console(soft_wrap=True, markup=False, highlight=False)

PRESET_HELP = "smoke, standard, best or seed."
Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]
Data = Annotated[
    str | None,
    typer.Option(
        metavar="SOURCE",
        help="phantom[:N], kaggle[:owner/slug[/version]], a folder, a zip file or "
        "s3://bucket/prefix. Default: phantom.",
    ),
]
Preset = Annotated[str, typer.Option(help=PRESET_HELP)]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="A TOML file with settings.")]
Setting = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="One setting; may be repeated."),
]
RunId = Annotated[str, typer.Option(help="Name of the run; default: made up.")]
Resume = Annotated[
    str,
    typer.Option(metavar="RUN", help="Go on with an interrupted run, from its newest checkpoint."),
]
Local = Annotated[
    bool, typer.Option("--local", help="Run the flow in this process, without a worker.")
]
RunName = Annotated[str, typer.Argument(metavar="RUN", help="A run's id, or 'latest'.")]


def refuse_beside(context: typer.Context, why: str, allowed: tuple[str, ...]) -> None:
    """Raise ``ConfigError`` where an option was typed that is not ``allowed``: it is ignored."""
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        is_typed = source is not None and source.name == "COMMANDLINE"
        if is_typed and parameter.name not in allowed:
            raise ConfigError(f"{why}; leave {parameter.opts[0]} out")


@contextmanager
def open_store(settings: Settings | None = None) -> Iterator["ObjectStore"]:
    """The bucket of the settings; the embedded one is started for the block if it is down."""
    from flows.embedded_store import store_for
    from tasks.storage import ObjectStore

    settings = settings or Settings.from_environment()
    with store_for(settings) as location, ObjectStore(location) as store:
        yield store
