"""The report of a study as one HTML file that needs nothing else, with its figures as files."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib import resources

import jinja2

from ssprompt_platform.report.compare import Comparison
from ssprompt_platform.report.figures_base import Album
from ssprompt_platform.report.gather import StudyData
from ssprompt_platform.report.page_answer import (
    answer_section,
    banners,
    labels_section,
    next_section,
)
from ssprompt_platform.report.page_blocks import Notice, Section
from ssprompt_platform.report.page_compare import (
    comparison_banners,
    comparison_facts,
    comparison_remarks,
    comparison_sections,
)
from ssprompt_platform.report.page_record import record_sections
from ssprompt_platform.report.page_results import result_sections
from ssprompt_platform.report.page_search import search_sections
from ssprompt_platform.storage import Place, write_text


def write_page(data: StudyData, output: Place | None = None) -> Place:
    """Write ``index.html`` and ``figures/*.png`` and ``*.svg``.

    Args:
        data: A study, finished or not.
        output: Folder of the report; None: that of the study.

    Returns:
        Path of the page.
    """
    output = output or data.folder.report
    album = Album(output / "figures", data.id, data.remarks)
    sections = [
        answer_section(data, album),
        labels_section(data, album),
        next_section(data),
        *result_sections(data, album),
        *search_sections(data, album),
        *record_sections(data),
    ]
    path = output / "index.html"
    write_text(
        path,
        render(
            title=data.config["study"]["name"] or data.id,
            kind="Few-shot study",
            facts=_facts(data),
            notices=banners(data),
            sections=[section for section in sections if section.blocks],
        ),
    )
    return path


def write_comparison(comparison: Comparison, path: Place) -> Place:
    """Write a page on two studies, and its figures into ``figures`` beside it.

    Args:
        comparison: The two studies and what tells them apart.
        path: The page.

    Returns:
        ``path``.
    """
    first, second = comparison.first.id, comparison.second.id
    album = Album(path.parent / "figures", f"{first} and {second}", comparison_remarks(comparison))
    write_text(
        path,
        render(
            title=f"{first} and {second}",
            kind="Comparison of two few-shot studies",
            facts=comparison_facts(comparison),
            notices=comparison_banners(comparison),
            sections=comparison_sections(comparison, album, path.stem),
        ),
    )
    return path


def render(
    *,
    title: str,
    kind: str,
    facts: Mapping[str, str],
    notices: Sequence[Notice],
    sections: Sequence[Section],
) -> str:
    """The page as text: nothing is loaded, and only this page's own style and script may run."""
    folder = resources.files("ssprompt_platform.report") / "templates"
    style, script = (
        (folder / name).read_text(encoding="utf-8") for name in ("style.css", "script.js")
    )
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ssprompt_platform.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.jinja").render(
        title=title,
        kind=kind,
        facts=facts,
        notices=notices,
        sections=sections,
        style=style,
        script=script,
        style_hash=_content_hash(style),
        script_hash=_content_hash(script),
        footer="Made by ssprompt from the study's folder. Figures and tables lie beside this page.",
    )


def _content_hash(text: str) -> str:
    """What a Content-Security-Policy names inline text by."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _facts(data: StudyData) -> dict[str, str]:
    study, facts = data.config["study"], data.facts
    begun = datetime.fromisoformat(data.record["begun"])
    return {
        "study": data.id,
        "begun": f"{begun:%Y-%m-%d %H:%M}",
        "state": "finished" if data.finished else "not finished",
        "data": f"{facts['data']}: {len(facts['classes'])} classes, "
        f"{facts['test_images']:,} test images",
        "model": facts["model"],
        "text encoder": facts["text_encoder"],
        "K": ", ".join(map(str, sorted(study["shots"]))),
        "support draws": str(study["draws"]),
        "search": study["mode"].replace("_", " "),
        "selected on": study["selection"].replace("_", " "),
        "seed": str(study["seed"]),
    }
