"""The command ``bench``."""

from typing import Annotated

import typer

from cxr_model.errors import ConfigError
from flows.commands.shared import Json, Preset, Setting, out, refuse_beside
from flows.settings import Settings

BENCHMARKS = {
    "train": "training films per second",
    "epochs": "a whole training with validation",
    "accuracy": "time to what the seed's way ends with",
    "cache": "decoding films per second",
    "growth": "seconds and memory for multiples of the films",
    "explain": "explanations per second",
    "predict": "scoring films per second, and memory for multiples of the films",
    "serve": "latency and films per second of 'cxr serve'",
    "scale": "tables, runs and batches by the hundred thousand, simulated",
    "hygiene": "finding copies among 100,000 films' hashes",
    "start": "a run of 'cxr train': time to the first step, share of the orchestration",
}
_OF_FILMS = ("what", "as_json", "data", "preset", "settings_")
_OPTIONS = {
    "train": (*_OF_FILMS, "rounds", "steps"),
    "epochs": (*_OF_FILMS, "times"),
    "accuracy": _OF_FILMS,
    "cache": (*_OF_FILMS, "rounds"),
    "growth": (*_OF_FILMS, "times"),
    "explain": (*_OF_FILMS, "rounds"),
    "predict": (*_OF_FILMS, "rounds", "times"),
    "serve": (*_OF_FILMS, "rounds"),
    "scale": ("what", "as_json"),
    "hygiene": ("what", "as_json"),
    "start": (*_OF_FILMS, "run_id"),
}
HELP = "; ".join(f"{name}: {what}" for name, what in BENCHMARKS.items()) + "."


def bench(
    context: typer.Context,
    what: Annotated[str, typer.Argument(metavar="WHAT", help=HELP)],
    data: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE",
            help="A folder of films, or phantom[:N]; for start any source of 'cxr train'.",
        ),
    ] = None,
    preset: Preset = "standard",
    settings_: Setting = None,
    rounds: Annotated[
        int, typer.Option(help="Times each contestant is measured, where several are.", min=1)
    ] = 5,
    steps: Annotated[int, typer.Option(help="Batches a time, for train.", min=1)] = 4,
    times: Annotated[
        list[int] | None,
        typer.Option(
            help="Multiples of the films, for growth, predict (several) and epochs (one).", min=1
        ),
    ] = None,
    run_id: Annotated[str, typer.Option(help="Name of the run, for start.")] = "",
    as_json: Json = False,
) -> None:
    """Measure speed beside the references, in turn in one run: medians and ratios."""
    if what not in BENCHMARKS:  # before seconds of imports
        raise ConfigError(f"bench {what!r}: use one of {', '.join(BENCHMARKS)}")
    refuse_beside(context, f"bench {what} has no use for it", _OPTIONS[what])
    from flows.bench import print_benchmark, run_benchmark
    from flows.configuration import load_config

    if what == "scale":
        from flows.scale_bench import measure_scale

        print_benchmark({"benchmark": what, **measure_scale()}, out, as_json=as_json)
        return
    if what == "hygiene":
        from benchmarks.hygiene_speed import measure_hygiene

        print_benchmark({"benchmark": what, **measure_hygiene()}, out, as_json=as_json)
        return
    run_config = load_config(preset, settings=settings_ or (), source=data)
    if what == "start":
        from benchmarks.orchestration import measure_orchestration
        from flows.run_id import new_run_id
        from flows.stack import stack_in_use

        arguments = ["--data", run_config.data.source, "--preset", preset]
        arguments += [part for text in settings_ or () for part in ("--set", text)]
        settings = Settings.from_environment()
        run_id = run_id or new_run_id(run_config)
        found = {"benchmark": what} | measure_orchestration(
            arguments, settings.runs_dir, run_id, stack=stack_in_use(settings)
        )
    else:
        found = run_benchmark(what, run_config, rounds=rounds, steps=steps, times=times or ())
    print_benchmark(found, out, as_json=as_json)
