"""The report of a run: images in RUN/report/ and RUN/report.html, which holds them all."""

import json
from pathlib import Path

import numpy as np

from detector.config import PathsConfig, TrainConfig
from detector.evaluation.coco_metrics import METRICS
from detector.evaluation.curves import confusion_matrix, over_confidence, precision_recall
from detector.evaluation.evaluate import Evaluation, evaluate_model
from detector.evaluation.explain import explain
from detector.evaluation.matching import ImageBoxes, ImageMatch, image_boxes, match_classes, match_image
from detector.images.draw import label_color
from detector.images.grids import LEGEND_CLASSES, plot_batch
from detector.images.input_size import InputSize
from detector.images.read import UnreadableImageError
from detector.inference.detector import Detector
from detector.inference.tiles import with_tiles
from detector.reporting import label_charts, score_charts, training_charts
from detector.reporting.examples import choose, draw_match
from detector.reporting.explanation import explanation
from detector.reporting.run_record import RunRecord, read_run
from detector.training.dataset import augmented_batch
from detector.training.resume import flat
from detector.utils import page
from detector.utils.drawing import Drawing
from detector.utils.fileio import write_text

CONFIDENCE = 0.25
"""Lowest score in the confusion matrix and the images."""
IOU = 0.5
"""Least overlap of a detection with the object it finds."""
MAX_EXAMPLES = 6
MAX_CONFUSIONS = 10
NOT_SHOWN = ("data", "out", "resume", "paths")
"""Settings that say where, not how."""
TITLES = {
    "best": ("Best", "Highest F1 in which a right detection counts by its IoU."),
    "worst": ("Worst", "Lowest F1 in which a right detection counts by its IoU."),
    "confused": (
        "Most confused",
        "Largest sum of the scores of wrong detections: of another class, second ones on an object, where nothing is labeled.",
    ),
}


def report(run: Path, data: str | None = None, device: str = "auto", paths: PathsConfig = PathsConfig()) -> Path:  # noqa: B008
    """Draw the run in folder `run`; returns the path of its report.html.

    Scores the best weights on the validation split again. data, paths: see `read_run`. Raises DetectorError kinds for what the
    user can fix.
    """
    record = read_run(run, data, paths)
    side = record.config.image_size
    detector = Detector(record.model, record.info.categories, side, conf=0.001, iou=0.7, device=device)
    used = with_tiles(detector, record.config.train)
    scored = evaluate_model(used, record.val_dataset, record.config.workers, record.config.max_unreadable)
    images = image_boxes(record.val_dataset, scored.detections)
    drawing = Drawing(run / "report")
    matches = [match_image(each, CONFIDENCE, IOU) for each in images]
    sections = [
        ("Result", summary(record, scored) + settings(record.config)),
        ("Labels", labels(record, drawing)),
        ("What the network was shown", batches(record, drawing)),
        ("Training", training(record, drawing)),
        ("Precision and recall", scores(record, images, drawing)),
        ("Errors and calibration", explanation(explain(record.val_dataset, scored.detections), drawing)),
        ("Confusion", confusions(record, matches, drawing)),
        ("Validation images", examples(record, matches, drawing)),
    ]
    path = run / "report.html"
    write_text(path, page.page(f"{record.info.model} on {data_name(record)}", sections))
    return path


def data_name(record: RunRecord) -> str:
    return Path(record.config.data or record.train_dataset.annotations_path).name


def summary(record: RunRecord, scored: Evaluation) -> str:
    """The metrics that matter, then what the run was."""
    metrics, info, rows = scored.metrics, record.info, record.rows
    input_size = InputSize.of(info.image_size)
    seconds = sum(row["seconds"] for row in rows)
    speed = float(np.mean([row["images_per_second"] for row in rows]))
    parameters = sum(parameter.numel() for parameter in record.model.parameters())
    facts = [
        ("model", f"{info.model}, {parameters:,} parameters, {len(info.categories)} classes"),
        ("license of the weights", info.license),
        ("weights", str(record.folder / "best.safetensors")),
        ("training images", f"{len(record.train_dataset):,} ({record.train_dataset.annotations_path})"),
        ("validation images", f"{len(scored.detections):,} ({record.val_dataset.annotations_path})"),
        ("network input", f"{input_size.width} × {input_size.height} px"),
        ("epochs", f"{len(rows)} of {record.config.epochs}; the best is epoch {record.best_epoch}"),
        ("time", f"{duration(seconds)}, {speed:.1f} images/s in training"),
        ("device", str(record.environment.get("device", "not known"))),
    ]
    if scored.unreadable:
        facts.append(("skipped", f"{len(scored.unreadable)} validation images that can't be read"))
    html = page.metrics([(name, page.number(metrics[name])) for name in ("AP", "AP50", "AP75", "AR100")])
    if not any(len(each) for each in scored.detections.values()):
        html += page.paragraph("No detection has a score of 0.001 or more, so every metric is 0: train longer.")
    html += page.table(("run", ""), facts)
    html += "<h3>Average precision per class</h3>"
    html += page.table(
        ("class", "AP", "AP50"),
        [(name, page.number(each["AP"]), page.number(each["AP50"])) for name, each in metrics["per_category"].items()],
        numbers=2,
    )
    all_metrics = page.table(("metric", "value"), [(name, page.number(metrics[name])) for name in METRICS], numbers=1)
    return html + page.folded("All 12 COCO metrics (pycocotools, best weights, validation split)", all_metrics)


def duration(seconds: float) -> str:
    """A time in words, such as 2 h 05 min."""
    minutes = round(seconds / 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes} min" if seconds >= 90 else f"{seconds:.0f} s"


def settings(config: TrainConfig) -> str:
    """The settings that differ from the defaults."""
    given, defaults = flat(config), flat(TrainConfig())
    rows = [
        (name, json.dumps(value, ensure_ascii=False), json.dumps(defaults[name], ensure_ascii=False))
        for name, value in given.items()
        if name.split(".")[0] not in NOT_SHOWN and value != defaults[name]
    ]
    html = "<h3>Settings that differ from the defaults</h3>"
    return html + (page.table(("setting", "this run", "default"), rows) if rows else page.paragraph("None."))


def labels(record: RunRecord, drawing: Drawing) -> str:
    input_size, names = InputSize.of(record.config.image_size), record.info.categories.names
    splits = {
        "training": label_charts.label_statistics(record.train_dataset, input_size, record.config.train.tiles),
        "validation": label_charts.label_statistics(record.val_dataset, input_size, record.config.train.tiles),
    }
    train = splits["training"]
    return page.grid(
        [
            drawing.chart("objects-per-class", label_charts.class_chart(splits, names), "Objects of each class."),
            drawing.chart(
                "objects-per-image", label_charts.crowding_chart(splits), "How full the images of each split are."
            ),
            drawing.chart(
                "box-sizes",
                label_charts.size_chart(train, input_size),
                "Width and height of the training boxes as the network would see them without augmentation."
                " On the dotted line boxes are square.",
            ),
            drawing.chart("box-centers", label_charts.place_chart(train), "Where the training objects lie."),
        ]
    )


def batches(record: RunRecord, drawing: Drawing) -> str:
    """Augmented images of the first epoch, and of the last if that has weak augmentation."""
    config, last = record.config, record.rows[-1]["epoch"] - 1
    epochs = [0, last] if last >= config.full_aug_epochs > 0 else [0]
    html = page.paragraph("Training images after augmentation, with the boxes that the loss sees.")
    for epoch in epochs:
        batch = augmented_batch(config, record.train_dataset, epoch)
        if len(batch.images) > 0:
            what = "weak augmentation" if epoch >= config.full_aug_epochs else "full augmentation"
            caption = f"From the first batch of epoch {epoch + 1}, {what}."
            plot = plot_batch(batch, record.info.categories)
            html += drawing.photograph(f"batch-epoch-{epoch + 1}", plot, caption)
    return html


def training(record: RunRecord, drawing: Drawing) -> str:
    return page.grid(
        [
            drawing.chart("precision", training_charts.precision_chart(record), "EMA weights after each epoch."),
            drawing.chart("losses", training_charts.loss_chart(record), "Each term times its weight (loss.*)."),
            drawing.chart(
                "learning-rate", training_charts.rate_chart(record), "Learning rate of the last step of each epoch."
            ),
        ]
    )


def scores(record: RunRecord, images: list[ImageBoxes], drawing: Drawing) -> str:
    """Curves over recall and over the confidence."""
    names = record.info.categories.names
    matches = match_classes(images, len(names), IOU)
    if not matches.objects.any():
        return page.paragraph("The validation split has no object, so there is nothing to find.")
    if not len(matches.scores):
        return page.paragraph("Nothing was found, so there is no curve.")
    over = over_confidence(matches)
    confidence, f1 = over.best()
    text = (
        f"Best weights on the validation split; a detection is right if it overlaps an object of its class by an IoU of"
        f" {IOU} or more, each object once. The mean F1 of the classes is best, {f1:.3f}, if detections count from a"
        f" confidence of {confidence:.3f} on: a first choice for --conf in infer; detector evaluate --thresholds best gives each"
        " class its own."
    )
    if (matches.objects > 0).sum() > score_charts.MAX_LINES:
        text += f" The {score_charts.MAX_LINES} classes with the most objects are in color, the others gray."
    charts = [
        drawing.chart(
            "precision-recall",
            score_charts.recall_chart(precision_recall(matches), matches.objects, names),
            "The area below a line is the class's AP50, by COCO's rule of 101 points.",
        )
    ]
    captions = {
        "F1": (over.f1, "Harmonic mean of precision and recall."),
        "Precision": (over.precision, "A line ends where no detection has that score; the mean is of the others."),
        "Recall": (over.recall, "Fraction of the objects that are found."),
    }
    for what, (values, caption) in captions.items():
        figure = score_charts.confidence_chart(what, values, over, matches.objects, names)
        charts.append(drawing.chart(f"{what.lower()}-confidence", figure, caption))
    return page.paragraph(text) + page.grid(charts)


def confusions(record: RunRecord, matches: list[ImageMatch], drawing: Drawing) -> str:
    names = record.info.categories.names
    matrix = confusion_matrix(matches, len(names))
    html = page.paragraph(
        f"Detections with a score of {CONFIDENCE} or more. In turn, the best first, each takes the free object that it"
        f" overlaps most, by an IoU of {IOU} or more, whatever the classes. A row is what became of the objects of a"
        " class; its last cell counts those that were missed. The last row counts detections where nothing is labeled,"
        " and second ones on an object. Numbers are counts, colors fractions of the row."
    )
    html += drawing.chart("confusion", score_charts.confusion_chart(matrix, names), "Truth against what was found.")
    pairs = score_charts.worst_confusions(matrix, MAX_CONFUSIONS)
    if not pairs:
        return html + page.paragraph("No object was found as one of another class.")
    rows = [(names[true], names[found], str(count)) for true, found, count in pairs]
    return html + "<h3>Confused most often</h3>" + page.table(("truth", "found as", "times"), rows, numbers=1)


def examples(record: RunRecord, matches: list[ImageMatch], drawing: Drawing) -> str:
    """The best, worst and most confused images."""
    categories, images = record.info.categories, record.val_dataset
    html = page.paragraph(
        f"Left the truth, with a chip on what was missed; right what was found with a score of {CONFIDENCE} or more, with"
        f" its score and, if it is wrong, how."
    )
    if len(categories) <= LEGEND_CLASSES:
        html += page.color_keys((label_color(label), name) for label, name in enumerate(categories.names))
    for kind, chosen in choose(matches, MAX_EXAMPLES).items():
        title, meaning = TITLES[kind]
        html += f"<h3>{title}</h3>" + page.paragraph(meaning if chosen else "There is none.")
        drawn = []
        for place, each in enumerate(chosen, start=1):
            index = each.image.index
            try:
                image = images.read(index).image
            except UnreadableImageError:  # since a minute ago
                continue
            plot = draw_match(image, each, categories)
            drawn.append(drawing.photograph(f"{kind}-{place}", plot, caption_of(each, images.file_name(index))))
        html += page.grid(drawn)
    return html


def caption_of(each: ImageMatch, name: str) -> str:
    found, objects = int(each.right.sum()), int((~each.image.crowd).sum())
    faults = {
        "of another class": each.wrong_class,
        "second on an object": each.duplicate,
        "where nothing is labeled": each.background,
    }
    wrong = ", ".join(f"{mask.sum()} {text}" for text, mask in faults.items() if mask.any())
    return f"{name}: F1 by IoU {each.quality():.2f}; {found} of {objects} objects found" + (
        f"; {wrong}" if wrong else ""
    )
