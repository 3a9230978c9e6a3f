"""What a run found out about itself: the files below ``evidence/``, and the page's sections."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from cxr_model.explanations.attribution import METHOD_TITLES
from cxr_model.run_folder import RunFolder, read_json
from cxr_model.run_verdicts import NOT_TESTED


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Each part's record, None where the part was switched off or is older than the run."""

    hygiene: dict[str, Any] | None = None
    shortcuts: dict[str, Any] | None = None
    reliability: dict[str, Any] | None = None
    outliers: dict[str, Any] | None = None
    robustness: dict[str, Any] | None = None
    explanations: dict[str, Any] | None = None

    @property
    def temperature(self) -> float | None:
        """What the probabilities are calibrated by."""
        return self.reliability["calibration"]["temperature"] if self.reliability else None

    @property
    def near_copies_searched(self) -> bool:
        """Where they were not, nothing kept them in one split."""
        return bool(self.hygiene and self.hygiene["near_duplicates"]["searched"])

    @property
    def prevalences(self) -> list[str]:
        """At which the operating points' PPV and NPV are given, in rising order."""
        points = self.reliability["operating_points"] if self.reliability else []
        return sorted(points[0]["ppv"], key=float) if points else []

    @property
    def strongest_probe(self) -> str:
        """Title of the probe without lungs that the headline is measured against."""
        if self.shortcuts is None:
            return ""
        titles: dict[str, str] = {each["name"]: each["title"] for each in self.shortcuts["probes"]}
        return titles[self.shortcuts["strongest"]]

    def method_verdicts(self) -> dict[str, dict[str, Any]]:
        """``passed`` (None: not tested) and ``verdict`` of each method in `METHOD_TITLES`."""
        untested = {"passed": None, "verdict": NOT_TESTED}
        tested = self.explanations["methods"] if self.explanations else {}
        return {method: tested.get(method, untested) for method in METHOD_TITLES}


def state_in_words(passed: bool | None) -> str:
    return {True: "passed", False: "failed", None: "not tested"}[passed]


def read_evidence(run: RunFolder) -> Evidence:
    """What is there of the files below ``evidence/``."""
    names = [field.name for field in fields(Evidence)]
    files: dict[str, Path] = {name: getattr(run, name) for name in names}
    return Evidence(**{name: read_json(file) for name, file in files.items() if file.is_file()})


def report_sections(evidence: Evidence) -> dict[str, str]:
    """Id and title of each section that the page has, in its order."""
    titles: list[tuple[str, str, object]] = [
        ("results", "Results at a glance", True),
        ("shortcuts", "Shortcuts", evidence.shortcuts),
        ("holdout", "Holdout in detail", True),
        ("explore", "Thresholds", True),
        ("gallery", "Gallery", True),
        ("curves", "ROC and PR curves", True),
        ("calibration", "Calibration", evidence.reliability),
        ("operating", "Operating points", evidence.reliability),
        ("abstention", "Abstention", evidence.reliability),
        ("outliers", "Outliers", evidence.outliers),
        ("robustness", "Robustness", evidence.robustness),
        ("explanations", "Explanations", True),
        ("data", "Data", True),
        ("hygiene", "Data hygiene", evidence.hygiene),
        ("splits", "Splits", True),
        ("architecture", "Architecture", True),
        ("training", "Training", True),
        ("limits", "Limits", True),
        ("standards", "Checklists", True),
        ("environment", "Environment", True),
    ]
    return {id_: title for id_, title, is_there in titles if is_there}


def hygiene_rows(hygiene: dict[str, Any]) -> list[tuple[str, int | None, str]]:
    """Title, number (None: not looked for) and an example of each kind of finding."""
    exact, near = hygiene["exact_duplicates"], hygiene["near_duplicates"]
    counts = hygiene["counts"]
    copies = next((", ".join(group[:2]) for group in exact["groups"]), "")
    alike = next((", ".join(group["paths"][:2]) for group in near["groups"]), "")
    conflict = next(
        (
            f"{', '.join(found['paths'][:2])} ({found['kind']})"
            for found in hygiene["label_conflicts"]
        ),
        "",
    )
    rows: list[tuple[str, int | None, str]] = [
        ("Copies, byte for byte", exact["by_bytes"], copies),
        ("Copies, pixel for pixel", exact["by_pixels"], ""),
        ("Films with a near copy", near["films"] if near["searched"] else None, alike),
        ("Copies in different classes", counts["label conflict"], conflict),
    ]
    for title, name, finding in (
        ("Unreadable", "unreadable", "unreadable"),
        ("Blank", "blank", "blank"),
        ("Perhaps inverted", "inverted", "inverted"),
        ("Perhaps no radiograph", "not_radiographs", "not a radiograph"),
        ("Of an odd size", "odd_sizes", "odd size"),
    ):
        first = hygiene[name][0] if hygiene[name] else ""
        example = first["path"] if isinstance(first, dict) else first
        rows.append((title, counts[finding], example))
    patients = hygiene["patients"]
    return [
        *rows,
        ("Patients in several classes", patients["in_several_classes"], ""),
        ("Films that share a patient", patients["films_sharing"], ""),
        ("Films that name no patient", patients["films_without"], ""),
    ]
