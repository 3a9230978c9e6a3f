"""A datasheet (Gebru et al. 2021, arXiv:1803.09010), filled in as far as the films tell.

The questions that only people can answer stand there as unknown, for them to answer.
"""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from cxr_model.config import RunConfig
from cxr_model.index import data_digest, read_index
from cxr_model.intervals import format_estimate
from cxr_model.run_folder import RunFolder, atomic_path, read_json

UNKNOWN = "Unknown: the films do not tell."


def write_datasheet(
    run: RunFolder, config: RunConfig, source: str, provenance: Mapping[str, Any]
) -> None:
    """Write ``datasheet.md`` from the run's index and ``evidence/hygiene.json``.

    ``source`` and ``provenance`` are what ingestion tells of where the films came from.
    """
    record = read_json(run.hygiene)
    index = read_index(run.index)
    digest = data_digest(index)
    sections = {
        "Motivation": _motivation(provenance),
        "Composition": _composition(record, config, index["label"].nunique()),
        "What is wrong with it": _faults(record),
        "Collection": _collection(source, provenance, digest),
        "Preprocessing and labelling": _preprocessing(config),
        "Uses": _uses(record),
        "Distribution and maintenance": [
            ("Under which licence, and who keeps it up?", UNKNOWN),
            ("When was this sheet written?", f"{datetime.now(UTC):%Y-%m-%d}."),
        ],
    }
    with atomic_path(run.datasheet) as temporary:
        temporary.write_text("\n".join(_lines(source, sections)) + "\n", encoding="utf-8")


def _lines(source: str, sections: Mapping[str, list[tuple[str, str]]]) -> Iterator[str]:
    yield f"# Datasheet: {_plain(source)}"
    yield ""
    yield "After Gebru et al. 2021. Written by CXResnet from the files alone."
    for title, answers in sections.items():
        yield f"\n## {title}"
        for question, answer in answers:
            yield f"\n**{question}** {_plain(answer)}"


def _plain(text: str) -> str:
    """On one line, with what Markdown would take for its own marked as text."""
    return "".join(f"\\{char}" if char in "`*_<[|" else char for char in " ".join(text.split()))


def _motivation(provenance: Mapping[str, Any]) -> list[tuple[str, str]]:
    if provenance["kind"] == "phantom":
        return [
            ("Why was it made?", "Drawn by CXResnet, to try a pipeline out; no patient is in it.")
        ]
    return [("Why was it made, by whom, and who paid?", UNKNOWN)]


def _composition(
    record: dict[str, Any], config: RunConfig, num_classes: int
) -> list[tuple[str, str]]:
    classes = record["fingerprint"]
    patients, groups = record["patients"], record["groups"]
    named = (
        f"{patients['count']:,} patients are named, by data.patient_pattern on the file names; "
        f"{patients['in_several_classes']:,} of them stand in several classes{_torn(patients)}, "
        f"{patients['films_sharing']:,} films share their patient with another, and "
        f"{patients['films_without']:,} films name none."
    )
    shapes = "; ".join(
        f"{label}: {_counts(films['formats'])}, modes {_counts(films['modes'])}, median "
        f"{films['width']['median']:.0f} x {films['height']['median']:.0f} px"
        for label, films in classes.items()
    )
    counts = _counts({label: films["films"] for label, films in classes.items()})
    return [
        ("What is in it?", f"{record['num_films']:,} image files in {num_classes} classes."),
        ("How many of each class?", f"{counts} (readable films)."),
        ("In which form?", f"{shapes}."),
        ("Are films related to each other?", named),
        (
            "How are related films kept together?",
            f"In {groups['count']:,} groups by patient, series and copies; the largest has "
            f"{groups['largest']:,} films.",
        ),
        (
            "Are there recommended splits?",
            f"None are known; here {config.split.validation_fraction:.0%} of the films validate "
            f"and {config.split.holdout_fraction:.0%} test, by group.",
        ),
        ("Age, sex, projection, scanner and hospital of each film?", UNKNOWN),
        ("Does it identify people?", f"Beyond numbers in file names: {UNKNOWN.lower()}"),
    ]


def _torn(patients: dict[str, Any]) -> str:
    torn = [each["patient"] for each in patients["shared"] if len(each["labels"]) > 1]
    return f" ({', '.join(torn)})" if torn else ""


def _counts(numbers: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in numbers.items())


def _faults(record: dict[str, Any]) -> list[tuple[str, str]]:
    exact, near, counts = record["exact_duplicates"], record["near_duplicates"], record["counts"]
    altered = f"{near['films']:,}" if near["searched"] else "an unknown number (not looked for)"
    spare = sum(len(paths) - 1 for paths in exact["groups"])
    files = (
        f"{exact['by_bytes']:,} have a copy byte for byte, {exact['by_pixels']:,} pixel for pixel "
        f"({spare:,} could be spared), {altered} after cropping, another exposure or encoding; "
        f"{counts['label conflict']:,} copies stand in several classes."
    )
    pictures = (
        f"{counts['unreadable']:,} cannot be decoded, {counts['blank']:,} are blank, "
        f"{counts['inverted']:,} inverted, {counts['not a radiograph']:,} perhaps no upright "
        f"radiographs, {counts['odd size']:,} of odd size."
    )
    return [
        ("Which films are redundant?", files),
        ("Which films are damaged or out of place?", pictures),
        ("Do files give the class away?", _given_away(record)),
        ("How were the labels made, and how many are wrong?", UNKNOWN),
    ]


def _given_away(record: dict[str, Any]) -> str:
    if not record["told_apart_by"]:
        return "Too few groups in a class to tell."
    best = record["told_apart_by"][0]
    return (
        f"Best by {best['property'].replace('_', ' ')}: balanced accuracy "
        f"{format_estimate(best['balanced_accuracy'])} on films of other groups, "
        f"where guessing gives {best['chance']:.2f}."
    )


def _collection(source: str, provenance: Mapping[str, Any], digest: str) -> list[tuple[str, str]]:
    known = "; ".join(f"{key} {value}" for key, value in provenance.items())
    return [
        ("Where do these files come from?", f"{source} ({known})."),
        ("Which films exactly?", f"SHA-256 over digests and labels: {digest}."),
        ("How, when and where were the films taken? Who agreed to it?", UNKNOWN),
    ]


def _preprocessing(config: RunConfig) -> list[tuple[str, str]]:
    return [
        (
            "What is done to the films here?",
            f"Decoded, turned by EXIF, squashed to {config.data.size_px} px squares, "
            f"{config.data.color}. The files stay as they are.",
        ),
        (
            "What was done to them before?",
            "Unknown, but for what the formats, sizes and qualities above give away.",
        ),
        ("Where do the labels come from?", f"Here: {config.labels.mode}; before: unknown."),
    ]


def _uses(record: dict[str, Any]) -> list[tuple[str, str]]:
    caution = "Not for diagnosis."
    told = record["told_apart_by"]
    if told and told[0]["balanced_accuracy"]["value"] > told[0]["chance"] + 0.1:
        caution += (
            " Classes come in files of different kinds: a network may learn the source instead "
            "of the disease."
        )
    return [
        ("What may it be used for?", "Research and education."),
        ("What should it not be used for?", caution),
    ]
