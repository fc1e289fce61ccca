"""Published checkpoints to weights files of this program."""

from pathlib import Path

from detector.config import ImportConfig, names_in
from detector.data.coco import read_categories
from detector.errors import ConfigError, WeightsError, printable
from detector.models.catalog import create_model
from detector.structures import Categories
from detector.utils.fileio import require_apart, require_writable
from detector.weights.files import WeightsInfo, save_weights
from detector.weights.published.coco_categories import COCO
from detector.weights.published.read import Published, read_published

DEFAULT_IMAGE_SIZE = 640
"""Input size of the published recipe in pixels."""


def import_weights(config: ImportConfig) -> WeightsInfo:
    """Write the network of a published checkpoint to `config.out`; nothing in the checkpoint is run.

    Raises WeightsError or ConfigError, and leaves no file, for what can't be imported.
    """
    checkpoint, out = Path(config.checkpoint), Path(config.out)
    require_writable(out.parent)
    if out.is_dir():
        raise ConfigError(f"out: {out} is a folder; name the file to write")
    require_apart([checkpoint, config.annotations], [out])
    published = read_published(checkpoint)
    coco = is_published_coco(published, config)
    license = published.license or ("MIT" if coco else "not stated")
    info = convert(published, categories_of(published, config), license, out, checkpoint.name)
    stated = "as in the file" if published.image_size else "not stated in the file, so that of the published recipe"
    print(printable(f"{info.model} from {published.part} of {checkpoint}; image size {info.image_size} ({stated})"))
    classes = ", ".join(f"{i} {n}" for i, n in zip(info.categories.ids, info.categories.names, strict=True))
    print(printable(f"classes: {classes}"))
    print(printable(f"license: {info.license}"))
    if coco:
        print("the file names no classes: taken for the published weights, trained on COCO; else give --class_names")
    print(f"written: {out}")
    return info


def convert(published: Published, categories: Categories, license: str, out: Path, source: str) -> WeightsInfo:
    """Write what was read as a weights file; `source` is noted in it."""
    model = create_model(published.model, published.num_classes, published.class_width)
    model.load_state_dict(published.state)
    info = WeightsInfo(
        model=published.model,
        categories=categories,
        image_size=published.image_size or DEFAULT_IMAGE_SIZE,
        training={"imported_from": source, "part": published.part},
        metrics={},
        license=license,
        class_width=model.head.class_width,
    )
    save_weights(out, model, info)
    return info


def is_published_coco(published: Published, config: ImportConfig) -> bool:
    """Whether these are the weights that MultimediaTechLab publishes, whose files hold nothing but tensors."""
    named = published.class_names is not None or config.class_names is not None
    return published.mit and published.num_classes == len(COCO) and not named


def categories_of(published: Published, config: ImportConfig) -> Categories:
    """The names of the option, else of the checkpoint, else COCO's or class0, class1, …; the ids of the annotation file,
    else COCO's or 0, 1, …"""
    coco = is_published_coco(published, config)
    if coco:
        names = COCO.names
    elif config.class_names is None:
        names = names_in_checkpoint(published, config.checkpoint)
    else:
        names = tuple(names_in(config.class_names))
        if len(names) != published.num_classes:
            raise ConfigError(
                f"--class_names: {len(names)} names for a network of {published.num_classes} classes;"
                " name each class once, in label order"
            )
    if config.annotations is None:
        return COCO if coco else Categories(tuple(range(len(names))), names)
    known = read_categories(Path(config.annotations))
    for name in names:
        if names.count(name) != 1 or known.names.count(name) != 1:
            raise ConfigError(
                f"--annotations: {config.annotations} has {known.names.count(name)} categories {name!r}, the network"
                f" {names.count(name)} classes of that name, and there must be one; give the names there with --class_names"
            )
    return Categories(tuple(known.ids[known.names.index(name)] for name in names), names)


def names_in_checkpoint(published: Published, checkpoint: str) -> tuple[str, ...]:
    """Class names in label order. Raises WeightsError if they are neither a list of strings nor a mapping of labels to strings."""
    labels, names = range(published.num_classes), published.class_names
    if names is None:
        return tuple(f"class{label}" for label in labels)
    if isinstance(names, dict) and names.keys() == set(labels):
        names = [names[label] for label in labels]
    texts = isinstance(names, list | tuple) and all(isinstance(name, str) and name.isprintable() for name in names)
    if not texts or len(names) != len(labels):
        raise WeightsError(
            f"{checkpoint}: its class names are no texts for labels 0 to {labels[-1]}; give them with --class_names"
        )
    return tuple(names)
