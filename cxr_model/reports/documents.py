"""Documents beside the report, from the same record: the model card and the checklists."""

from pathlib import Path
from typing import Any

from jinja2 import Environment

from cxr_model.reports.evidence import read_evidence, report_sections
from cxr_model.reports.page import template_environment
from cxr_model.reports.standards import decide_checklists
from cxr_model.run_folder import RunFolder, atomic_path, read_json

MODEL_CARD, CHECKLISTS = "model-card.md", "checklists.md"


def write_documents(run: RunFolder) -> list[Path]:
    """Write ``model-card.md`` (Mitchell et al. 2019) and ``checklists.md``; return their paths.

    Call it before `build_report`, whose checklists point to the model card.
    """
    evidence = read_evidence(run)
    sections = report_sections(evidence)
    context = {
        "metrics": read_json(run.metrics),
        "model": read_json(run.model_card),
        "evidence": evidence,
        "sections": sections,
    }
    card = _write(run.root / MODEL_CARD, "model_card.md.j2", context)
    context["checklists"] = decide_checklists(run, sections)
    return [card, _write(run.root / CHECKLISTS, "checklists.md.j2", context)]


def _write(path: Path, template: str, context: dict[str, Any]) -> Path:
    text = _markdown_environment().get_template(template).render(context)
    plain = text.replace("&#39;", "'").replace("&#34;", '"').rstrip("\n") + "\n"
    with atomic_path(path) as temporary:
        temporary.write_text(plain, encoding="utf-8")
    return path


def _markdown_environment() -> Environment:
    environment = template_environment()  # what it escapes, but for quotes, Markdown shows
    environment.filters["cell"] = lambda text: " ".join(str(text).replace("|", "∣").split())
    return environment
