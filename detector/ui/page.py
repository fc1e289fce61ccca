"""The page: what is on it, and what happens when it is used."""

import html
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

import gradio as gr

from detector.config import UiConfig
from detector.errors import DetectorError, printable
from detector.images.input_size import InputSize
from detector.inference.detector import Detector
from detector.ui.network import LOWEST_CONF, SharedNetwork
from detector.ui.photo import Photo, Settings, read_upload, rows_of

CLICK = "Click a detection, in the image or the table, to see what it rests on."
NOTHING_CLICKED = CLICK, gr.update(visible=False)
CSS = "#table {contain: inline-size}"  # a wide table scrolls, not the page
COLUMNS = ["", "class", "score", "x1", "y1", "x2", "y2"]
SCALES = (0.5, 0.75, 1.0, 1.5, 2.0)
"""Image sizes on offer, as multiples of that of the weights."""
BUTTONS = ["download", "fullscreen"]
TILES = (320, 480, 640, 960, 1280)
"""Sides of tiles on offer, in pixels."""
WAITING = 32
"""Requests that wait for their turn, at most; further ones are refused."""
FONTS = ["system-ui", "sans-serif"], ["ui-monospace", "monospace"]
"""Of the user's own machine."""


def theme() -> Any:
    sans, mono = FONTS
    return gr.themes.Default(font=sans, font_mono=mono)


def build_page(network: SharedNetwork, config: UiConfig) -> Any:
    """The page of a network as Gradio's `Blocks`."""
    with gr.Blocks(
        title=f"detector: {printable(Path(config.weights).name)}",
        analytics_enabled=False,
        delete_cache=(600, 3600),  # seconds
    ) as page:
        gr.Markdown(heading(network.detector, config))
        photo_tab(network, config)
    for block in page.blocks.values():
        only_uploads(block)
    page.queue(max_size=WAITING)
    return page


def heading(detector: Detector, config: UiConfig) -> str:
    size = InputSize.of(detector.image_size)
    return (
        f"## {shown(Path(config.weights).name)}\n{len(detector.categories)} classes, network input"
        f" {size.width} × {size.height} px, on {detector.device}"
    )


def photo_tab(network: SharedNetwork, config: UiConfig) -> None:
    """An image, its settings, its detections."""
    photo = gr.State()
    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            upload = gr.Image(
                label="Image", sources=["upload", "clipboard", "webcam"], height=260, elem_id="upload", buttons=[]
            )
            upload.preprocess = lambda payload: None if payload is None else payload.path
            controls = settings_controls(network.detector)
        with gr.Column(scale=3, min_width=280):
            drawn = gr.Image(
                show_label=False,
                format="jpeg",
                interactive=False,
                elem_id="drawn",
                buttons=["download", "fullscreen"],
            )
            summary = gr.Markdown("Drop an image, paste one, or take one with the camera.", elem_id="summary")
            table = gr.Dataframe(
                headers=COLUMNS, interactive=False, elem_id="table", max_height=320, show_label=False, buttons=["copy"]
            )
            hint = gr.Markdown(CLICK)
    maps = gr.Image(show_label=False, format="jpeg", interactive=False, visible=False, elem_id="maps", buttons=BUTTONS)
    results = [drawn, summary, table, hint, maps]

    def detect(photo: Photo | None, *values: Any) -> tuple[Any, ...]:
        if photo is None:
            return None, "", [], *NOTHING_CLICKED
        found = photo.detect(settings_of(network.detector, values))
        height, width = photo.pixels.shape[:2]
        return (
            photo.drawn(found),
            f"**{len(found)} detections** in {width} × {height} px",
            rows_of(found),
            *NOTHING_CLICKED,
        )

    def begin(path: str | None, *values: Any) -> tuple[Any, ...]:
        photo = None if path is None else Photo(network, read_upload(path, config))
        return photo, *detect(photo, *values)

    def explain(photo: Photo | None, place: int | None, values: Sequence[Any]) -> Any:
        if photo is None or place is None:
            return NOTHING_CLICKED
        settings = settings_of(network.detector, values)
        found = photo.detect(settings)[place]
        text = f"What **{shown(found.name)} {found.score:.2f}** rests on:"
        return text, gr.update(value=photo.explain(settings, found.box), visible=True)

    def in_image(photo: Photo | None, event: gr.SelectData, *values: Any) -> Any:
        if photo is None:
            return NOTHING_CLICKED
        return explain(photo, photo.at(photo.detect(settings_of(network.detector, values)), *event.index), values)

    def in_table(photo: Photo | None, event: gr.SelectData, *values: Any) -> Any:
        return explain(photo, int(event.row_value[0]) - 1, values)

    for component, chosen in ((drawn, in_image), (table, in_table)):
        component.select(reporting_errors(chosen), [photo, *controls], [hint, maps], api_visibility="private")
    upload.change(
        reporting_errors(begin),
        [upload, *controls],
        [photo, *results],
        api_visibility="private",
        trigger_mode="always_last",
    )
    gr.on(
        [each.change for each in controls],
        reporting_errors(detect),
        [photo, *controls],
        results,
        api_visibility="private",
        trigger_mode="always_last",
        show_progress="hidden",
        concurrency_limit=4,
    )


def settings_controls(detector: Detector) -> list[Any]:
    """What `settings_of` reads."""
    conf = gr.Slider(LOWEST_CONF, 1, max(detector.conf, LOWEST_CONF), step=0.01, label="Confidence", elem_id="conf")
    own = gr.Checkbox(
        detector.class_conf is not None,
        label="Confidence of each class as in the weights",
        visible=detector.class_conf is not None,
        elem_id="own",
    )
    iou = gr.Slider(0, 1, detector.iou, step=0.01, label="IoU of NMS", elem_id="iou")
    names = [(printable(name), label) for label, name in enumerate(detector.categories.names)]
    chosen = [] if detector.class_filter is None else detector.class_filter.tolist()
    classes = gr.Dropdown(names, value=chosen, multiselect=True, label="Classes (all if none)", elem_id="classes")
    with gr.Accordion("Image size and tiles", open=False):
        sizes = image_sizes(detector)
        size = gr.Dropdown(
            [(f"{each.width} × {each.height} px", place) for place, each in enumerate(sizes)],
            value=sizes.index(InputSize.of(detector.image_size)),
            label="Network input",
            interactive=len(sizes) > 1,
            elem_id="size",
        )
        tiles = gr.Dropdown(
            [("none", 0), *((f"{side} px", side) for side in TILES)], value=0, label="Tiles", elem_id="tiles"
        )
    return [conf, own, iou, classes, size, tiles]


def settings_of(detector: Detector, values: Sequence[Any]) -> Settings:
    """The settings from the values of `settings_controls`."""
    conf, own, iou, labels, size, tiles = values
    by_class = own and detector.class_conf is not None
    return Settings(None if by_class else conf, iou, tuple(labels), image_sizes(detector)[size], tiles or None)


def image_sizes(detector: Detector) -> list[InputSize]:
    """The image sizes on offer, the smallest first; a file that knows one size only has that."""
    own = InputSize.of(detector.image_size)
    if detector.runtime.input_size is not None or detector.runtime.letterboxes_inputs:
        return [own]
    return sorted({own.scaled(scale) for scale in SCALES})


def only_uploads(block: Any) -> None:
    """Have a component refuse every file that does not lie in the page's own folder, and addresses: Gradio itself checks
    nothing in a page that is mounted, takes any path, and would fetch what an address names."""

    async def take(path: Any) -> str:
        file = Path(str(path)).resolve()
        if not (file.is_relative_to(Path(block.GRADIO_CACHE).resolve()) and file.is_file()):
            raise gr.Error("only uploaded files are taken", print_exception=False)
        block.temp_files.add(str(file))
        return str(file)

    block.async_move_resource_to_block_cache = take


def reporting_errors(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, with errors of this package shown on the page; others keep their traceback in the log."""

    @wraps(function)
    def wrapped(*values: Any) -> Any:
        try:
            return function(*values)
        except DetectorError as error:
            raise gr.Error(shown(str(error)), print_exception=False) from error

    return wrapped


def shown(text: str) -> str:
    """Text from elsewhere as a page shows it: no markup."""
    return html.escape(printable(text))
