"""What is behind the metrics, as a section of the report."""

from collections.abc import Mapping
from typing import Any

from detector.evaluation.plots import error_chart, reliability_chart
from detector.evaluation.tide import KINDS
from detector.utils import page
from detector.utils.drawing import Drawing


def explanation(explained: Mapping[str, Any], drawing: Drawing) -> str:
    """The section of what `explain` returns."""
    resamples = explained["bootstrap"]["resamples"]
    html = page.paragraph(
        "The first chart shows what AP50 would gain if all errors of one kind were mended (TIDE). Localization: the right class,"
        " but an IoU from 0.1 to 0.5. Classification: an object of another class. Both: too little of another class. Duplicate:"
        " an object that a better detection has. Background: an IoU below 0.1 with all objects. Missed: an object that was not"
        " found, nor by an error of the first two kinds. The gains don't add up. The second chart shows how many detections of"
        " a score are right; on the line, scores are probabilities."
    )
    charts = [
        drawing.chart("errors", error_chart(explained["errors"]), "The cost of each kind of error, and its number."),
        drawing.chart(
            "reliability", reliability_chart(explained["calibration"]), "Detections by score; numbers count them."
        ),
    ]
    html += page.grid(charts)
    html += page.paragraph(
        f"The intervals hold 95 % of {resamples} bootstrap resamples of the images: a difference within them may be"
        " chance. At its best confidence a class has its largest F1."
    )
    html += page.table(
        ("objects", "AP", "95 % interval"),
        [(name, page.number(each["AP"]), page.interval(each)) for name, each in explained["sizes"].items()],
        numbers=2,
    )
    of_class = explained["per_category"].items()
    rows = [
        (
            name,
            page.number(each["AP"]),
            page.interval(each),
            *(page.number(each[key]) for key in ("confidence", "F1", "ECE")),
        )
        for name, each in of_class
    ]
    html += page.table(("class", "AP", "95 % interval", "best confidence", "F1 there", "ECE"), rows, numbers=5)
    counts = [(name, *(f"{each['errors'][kind]:,}" for kind in KINDS)) for name, each in of_class]
    return html + page.folded("Errors of each class", page.table(("class", *KINDS), counts, numbers=len(KINDS)))
