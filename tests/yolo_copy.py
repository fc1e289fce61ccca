"""Writes a split of a COCO-format dataset as YOLO labels, so that the two can be compared."""

from pathlib import Path

from detector.data.coco import CocoDataset

FOLDERS = "images/{}", "labels/{}"


def write_yolo(dataset: CocoDataset, root: Path, split: str, folders: tuple[str, str] = FOLDERS) -> None:
    """Links to the images, and the annotations that are no crowds in all digits; images without objects get no file."""
    images, labels = (root / folder.format(split) for folder in folders)
    images.mkdir(parents=True)
    labels.mkdir(parents=True, exist_ok=True)
    for index in range(len(dataset)):
        (images / dataset.file_name(index)).symlink_to(dataset.path(index).absolute())
        width, height = dataset.size(index)
        lines = []
        annotations = dataset.annotations(index)
        for (x, y, w, h), label, crowd in zip(annotations.boxes, annotations.labels, annotations.crowd, strict=True):
            if not crowd:
                numbers = (x + w / 2) / width, (y + h / 2) / height, w / width, h / height
                lines.append(" ".join([str(label), *(repr(float(number)) for number in numbers)]))
        if lines:
            (labels / Path(dataset.file_name(index)).with_suffix(".txt")).write_text("\n".join(lines) + "\n")


def write_description(root: Path, dataset: CocoDataset, **places: str) -> None:
    """data.yaml, in the way in which each is written most: names as a list."""
    lines = [f"{split}: {place}" for split, place in places.items()]
    names = list(dataset.categories.names)
    (root / "data.yaml").write_text("\n".join([*lines, f"nc: {len(names)}", f"names: {names}"]) + "\n")
