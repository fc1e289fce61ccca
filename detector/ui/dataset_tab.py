"""The part of the page for a split of a dataset: its images, the worst first, with truth and prediction."""

from typing import Any

import gradio as gr

from detector.errors import printable
from detector.images.draw import draw_boxes, label_color
from detector.images.grids import LEGEND_CLASSES, fitted
from detector.reporting.examples import corners, draw_found, draw_truth
from detector.ui.review import Findings, Review
from detector.ui.showing import BUTTONS, reporting_errors, shown
from detector.utils.page import color_keys

SUSPICIOUS_FILE = "suspicious_labels.json"
"""Where the list is, beside the page."""
COLUMNS = ["", "image", "F1", "missed", "wrong class", "twice", "no label", "suspicious"]
SIDE = 1000
"""Pixels of the longer side of an image as the page shows it."""
LOOK_SECONDS = 0.5
"""From one look at the progress to the next."""


def dataset_tab(review: Review) -> None:
    """The images of a split in a table, one of them with truth beside prediction, and the list to save."""
    names = review.dataset.categories.names
    place = gr.State(0)
    status = gr.Markdown(progress(review), elem_id="status")
    with gr.Column(visible=False) as results:
        with gr.Row():
            previous = gr.Button("← Previous", elem_id="previous", min_width=120)
            following = gr.Button("Next →", elem_id="next", min_width=120)
            save = gr.Button("Save suspicious labels (COCO JSON)", link=SUSPICIOUS_FILE, elem_id="save", min_width=260)
        caption = gr.Markdown(elem_id="caption")
        with gr.Row():
            truth, found, doubted = (
                gr.Image(
                    label=label,
                    format="jpeg",
                    interactive=False,
                    elem_id=label.split()[-1].lower(),
                    min_width=280,
                    buttons=BUTTONS,
                )
                for label in ("Ground truth", "Prediction", "Suspicious labels")
            )
        if len(names) <= LEGEND_CLASSES:
            gr.HTML(color_keys((label_color(label), printable(name)) for label, name in enumerate(names)))
        table = gr.Dataframe(
            headers=COLUMNS,
            interactive=False,
            elem_id="images",
            elem_classes="table",
            max_height=420,
            show_label=False,
            buttons=["copy"],
        )
    timer = gr.Timer(LOOK_SECONDS)
    image = [place, caption, truth, found, doubted]

    def show(chosen: int) -> tuple[Any, ...]:
        findings = review.findings
        assert findings is not None
        chosen = min(max(chosen, 0), len(findings.matches) - 1)
        return chosen, *image_values(review, findings, chosen)

    def look() -> tuple[Any, ...]:
        findings = review.findings
        if findings is None:
            waiting = [gr.skip()] * (3 + len(image))
            return progress(review), gr.Timer(active=review.problem is None), *waiting
        any_doubt = bool(findings.suspicious)
        return (
            progress(review),
            gr.Timer(active=False),
            gr.update(visible=bool(findings.matches)),
            rows(review, findings),
            gr.update(interactive=any_doubt, link=SUSPICIOUS_FILE if any_doubt else None),
            *(show(0) if findings.matches else [gr.skip()] * len(image)),
        )

    def in_table(event: gr.SelectData) -> tuple[Any, ...]:
        return show(int(event.row_value[0]) - 1)

    timer.tick(
        reporting_errors(look),
        None,
        [status, timer, results, table, save, *image],
        api_visibility="private",
        show_progress="hidden",
    )
    for button, step in ((previous, -1), (following, 1)):
        button.click(
            reporting_errors(lambda chosen, step=step: show(chosen + step)),
            place,
            image,
            api_visibility="private",
            show_progress="hidden",
        )
    table.select(reporting_errors(in_table), None, image, api_visibility="private", show_progress="hidden")


def progress(review: Review) -> str:
    """What the page says of the split as a whole."""
    count, findings = len(review.dataset), review.findings
    if review.problem is not None:
        return f"The dataset can't be looked at: {shown(review.problem)}"
    if findings is None:
        return f"Detecting in the images: {review.done:,} of {count:,}"
    unread = count - len(findings.matches)
    skipped = f" {unread:,} can't be read." if unread else ""
    return (
        f"**{count:,} images**, the worst first, with the detections of a score of {review.conf:g} or more."
        f" **{len(findings.suspicious):,} suspicious labels**.{skipped}"
    )


def rows(review: Review, findings: Findings) -> list[list[str | float]]:
    """The rows of the table: `COLUMNS`."""
    table: list[list[str | float]] = []
    for number, match in enumerate(findings.matches, start=1):
        index = match.image.index
        faults = (match.missed, match.wrong_class, match.duplicate, match.background)
        counts = [*(int(each.sum()) for each in faults), len(findings.by_image.get(index, ()))]
        name = printable(review.dataset.file_name(index))
        table.append([number, name, round(match.quality(), 3), *counts])
    return table


def image_values(review: Review, findings: Findings, chosen: int) -> tuple[Any, ...]:
    """Caption, truth, prediction and suspicious labels of an image by its place in the table.

    Raises UnreadableImageError.
    """
    match, categories = findings.matches[chosen], review.dataset.categories
    index = match.image.index
    pixels = review.dataset.read(index).image
    doubts = findings.by_image.get(index, [])
    caption = (
        f"**{chosen + 1:,} of {len(findings.matches):,}: {shown(review.dataset.file_name(index))}**, F1 by IoU"
        f" {match.quality():.2f}"
    )
    large, factor = fitted(pixels, SIDE)
    boxes = [corners(doubt.xywh[None] * factor)[0] for doubt in doubts]
    drawn = draw_boxes(large, boxes, [doubt.label for doubt in doubts], [doubt.text for doubt in doubts])
    return (
        caption,
        draw_truth(pixels, match, categories, SIDE),
        draw_found(pixels, match, categories, SIDE),
        gr.update(value=drawn, visible=bool(doubts)),
    )
