"""The settings on the page, and what they mean for each of the networks that it shows."""

from collections.abc import Sequence
from typing import Any

import gradio as gr

from detector.errors import printable
from detector.images.input_size import InputSize
from detector.inference.detector import Detector
from detector.ui.network import LOWEST_CONF
from detector.ui.photo import Settings

SCALES = (0.5, 0.75, 1.0, 1.5, 2.0)
"""Image sizes on offer, as multiples of that of the weights."""
TILES = (320, 480, 640, 960, 1280)
"""Sides of tiles on offer, in pixels."""


def settings_controls(detectors: Sequence[Detector], prefix: str = "") -> list[Any]:
    """What `settings_of` reads, beginning as the first detector is set; prefix: of the ids of the elements."""
    first = detectors[0]
    conf = gr.Slider(
        LOWEST_CONF, 1, max(first.conf, LOWEST_CONF), step=0.01, label="Confidence", elem_id=f"{prefix}conf"
    )
    some_by_class = any(each.class_conf is not None for each in detectors)
    own = gr.Checkbox(
        some_by_class,
        label="Confidence of each class as in the weights",
        visible=some_by_class,
        elem_id=f"{prefix}own",
    )
    iou = gr.Slider(0, 1, first.iou, step=0.01, label="IoU of NMS", elem_id=f"{prefix}iou")
    names = [(printable(name), place) for place, name in enumerate(class_names(detectors))]
    chosen = [] if first.class_filter is None else first.class_filter.tolist()
    classes = gr.Dropdown(
        names, value=chosen, multiselect=True, label="Classes (all if none)", elem_id=f"{prefix}classes"
    )
    with gr.Accordion("Image size and tiles", open=False):
        sizes = image_sizes(detectors)
        size = gr.Dropdown(
            [(size_text(each), place) for place, each in enumerate(sizes)],
            value=sizes.index(tuple(InputSize.of(each.image_size) for each in detectors)),
            label="Network input",
            interactive=len(sizes) > 1,
            elem_id=f"{prefix}size",
        )
        tiles = gr.Dropdown(
            [("none", 0), *((f"{side} px", side) for side in TILES)], value=0, label="Tiles", elem_id=f"{prefix}tiles"
        )
    return [conf, own, iou, classes, size, tiles]


def settings_of(detectors: Sequence[Detector], values: Sequence[Any]) -> list[Settings]:
    """The settings of each detector from the values of `settings_controls`."""
    conf, own, iou, chosen, size, tiles = values
    names = class_names(detectors)
    wanted = {names[place] for place in chosen}
    settings = []
    for detector, image_size in zip(detectors, image_sizes(detectors)[size], strict=True):
        labels = tuple(label for label, name in enumerate(detector.categories.names) if name in wanted)
        by_class = own and detector.class_conf is not None
        settings.append(
            Settings(None if by_class else conf, iou, labels if wanted else None, image_size, tiles or None)
        )
    return settings


def class_names(detectors: Sequence[Detector]) -> list[str]:
    """The names of the classes of all detectors; those of the first by label."""
    first = detectors[0].categories.names
    others = [name for each in detectors[1:] for name in each.categories.names if name not in first]
    return [*first, *dict.fromkeys(others)]


def image_sizes(detectors: Sequence[Detector]) -> list[tuple[InputSize, ...]]:
    """The image sizes on offer, one for each detector, the smallest first; a file that knows one size only has that."""
    return sorted({tuple(scaled(each, scale) for each in detectors) for scale in SCALES})


def scaled(detector: Detector, scale: float) -> InputSize:
    own = InputSize.of(detector.image_size)
    fixed = detector.runtime.input_size is not None or detector.runtime.letterboxes_inputs
    return own if fixed else own.scaled(scale)


def size_text(sizes: Sequence[InputSize]) -> str:
    return " and ".join(dict.fromkeys(f"{each.width} × {each.height} px" for each in sizes))
