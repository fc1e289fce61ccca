"""The findings as a table in the terminal, as JSON, and as one page with images."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from rich.table import Table
from rich.text import Text

from detector.doctor.findings import SEVERITIES, Example, Finding, View, summary
from detector.errors import printable
from detector.images.draw import contact_sheet, draw_boxes
from detector.images.grids import fitted
from detector.images.read import UnreadableImageError, read_image
from detector.utils import page
from detector.utils.drawing import Drawing
from detector.utils.fileio import write_json, write_text
from detector.utils.terminal import Terminal

CELL = 560  # pixels, the longer side of an image as drawn
SHOWN, LISTED = 6, 20
"""Largest numbers of a finding's examples on the page as images, and in words; doctor.json has more."""
COLORS = {"error": "bold red", "warning": "yellow", "note": "cyan"}


def print_findings(findings: Sequence[Finding]) -> None:
    """A table with a row for each finding, and how many there are."""
    if not findings:
        print("nothing found")
        return
    table = Table("severity", "finding", "count", "what, and what to do", show_lines=True)
    table.columns[2].justify = "right"
    for each in findings:
        text = Text(f"{printable(each.what)} ({each.where()})\n")
        text.append(f"→ {printable(each.remedy)}", style="dim")
        if each.mended:
            text.append(" (--fix does it)", style="dim")
        table.add_row(Text(each.severity, style=COLORS[each.severity]), each.code, f"{each.count:,}", text)
    console = Terminal()
    console.print(table)
    print(summary(findings))


def write_report(findings: Sequence[Finding], facts: dict[str, Any], out: Path) -> list[Path]:
    """Write doctor.json and doctor.html, with its images in doctor/. facts: what was looked at, by name."""
    entries = [each.to_json() for each in findings]
    write_json(out / "doctor.json", {**facts, "findings": entries})
    drawing = Drawing(out / "doctor")
    sections = [("Summary", _summary(findings, facts))]
    sections += [(f"{each.severity}: {each.code}", _section(each, drawing)) for each in findings]
    name = Path(str(facts["data"])).resolve().name
    write_text(out / "doctor.html", page.page(f"Findings in {name}", sections))
    return [out / "doctor.json", out / "doctor.html"]


def _summary(findings: Sequence[Finding], facts: dict[str, Any]) -> str:
    counts = [(f"{severity}s", str(sum(each.severity == severity for each in findings))) for severity in SEVERITIES]
    html = page.metrics(counts)
    html += page.table(
        ("", ""), [(name.replace("_", " "), _fact(value)) for name, value in facts.items() if value is not None]
    )
    rows = [(each.severity, each.code, each.what, each.where(), f"{each.count:,}") for each in findings]
    if not rows:
        return html + page.paragraph("Nothing was found.")
    return html + page.table(("severity", "finding", "what", "where", "count"), rows, numbers=1)


def _fact(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_fact(each)}" for key, each in value.items())
    if isinstance(value, list):
        return " × ".join(map(_fact, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _section(finding: Finding, drawing: Drawing) -> str:
    """What, where, what to do, then images, then the other examples in words."""
    html = page.paragraph(f"{finding.what[0].upper()}{finding.what[1:]}: {finding.count:,} ({finding.where()}).")
    html += page.paragraph(f"What to do: {finding.remedy}." + (" --fix does it." if finding.mended else ""))
    drawn: list[str] = []
    rest: list[tuple[str]] = []
    for each in finding.examples:
        image = _draw(each) if len(drawn) < SHOWN else None
        if image is None:
            rest.append((each.text,))
        else:
            drawn.append(drawing.photograph(f"{finding.code}-{len(drawn) + 1}", image, each.text))
    html += page.grid(drawn) if drawn else ""
    return html + (page.table(("more examples" if drawn else "examples",), rest[:LISTED]) if rest else "")


def _draw(example: Example) -> UInt8[np.ndarray, "height width 3"] | None:
    """The images of an example beside each other; None if it has none that can be read."""
    images = [_view(view) for view in example.views]
    readable = [image for image in images if image is not None]
    if len(readable) < max(len(images), 1):
        return None
    if len(readable) == 1:
        return readable[0]
    return contact_sheet(readable, len(readable), (CELL // 2, CELL // 2))


def _view(view: View) -> UInt8[np.ndarray, "height width 3"] | None:
    try:
        image, factor = fitted(read_image(view.image, view.size), CELL)
    except UnreadableImageError:
        return None
    boxes = (np.array(view.boxes, np.float64).reshape(-1, 4) * factor).tolist()
    return draw_boxes(image, [_ordered(box) for box in boxes], [0] * len(boxes), list(view.texts))


def _ordered(box: list[float]) -> list[float]:
    """Left, top, right, bottom, whatever the box's numbers are."""
    x1, y1, x2, y2 = box
    return [min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)]
