"""The part of the page for one image: its settings, its detections, and what they rest on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from detector.config import UiConfig
from detector.ui.controls import settings_controls, settings_of
from detector.ui.network import SharedNetwork
from detector.ui.photo import Photo, Settings, read_upload, rows_of
from detector.ui.showing import BUTTONS, reporting_errors, shown

CLICK = "Click a detection, in the image or the table, to see what it rests on."
NOTHING_CLICKED = CLICK, gr.update(visible=False)
COLUMNS = ["", "class", "score", "x1", "y1", "x2", "y2"]


@dataclass(frozen=True)
class Pane:
    """Where the page shows what one network found."""

    drawn: Any
    summary: Any
    table: Any
    hint: Any
    maps: Any

    @property
    def results(self) -> list[Any]:
        return [self.drawn, self.summary, self.table, self.hint, self.maps]


def image_tab(networks: Sequence[SharedNetwork], config: UiConfig) -> None:
    """An image, its settings, what each network finds in it."""
    detectors = [each.detector for each in networks]
    photos = gr.State()  # one for each network
    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            upload = gr.Image(
                label="Image", sources=["upload", "clipboard", "webcam"], height=260, elem_id="upload", buttons=[]
            )
            upload.preprocess = lambda payload: None if payload is None else payload.path
            controls = settings_controls(detectors)
        found = []
        for place, network in enumerate(networks):
            number = str(place + 1) if len(networks) > 1 else ""
            with gr.Column(scale=3, min_width=280):
                found.append(result_components(network, number))
    panes = [Pane(*each, maps_component()) for each in found]
    results = [component for each in panes for component in each.results]

    def detect(photos: Sequence[Photo] | None, *values: Any) -> list[Any]:
        if photos is None:
            return [None, "", [], *NOTHING_CLICKED] * len(networks)
        settings = settings_of(detectors, values)
        return [value for photo, own in zip(photos, settings, strict=True) for value in results_of(photo, own)]

    def begin(path: str | None, *values: Any) -> list[Any]:
        pixels = None if path is None else read_upload(path, config)
        photos = None if pixels is None else [Photo(network, pixels) for network in networks]
        return [photos, *detect(photos, *values)]

    def explain_in(place: int, pane: Pane) -> None:
        """Have clicks into the results of one network explain its detections."""

        def in_image(photos: Sequence[Photo] | None, event: gr.SelectData, *values: Any) -> Any:
            if photos is None:
                return NOTHING_CLICKED
            photo, settings = photos[place], settings_of(detectors, values)[place]
            return explanation(photo, settings, photo.at(photo.detect(settings), *event.index))

        def in_table(photos: Sequence[Photo] | None, event: gr.SelectData, *values: Any) -> Any:
            if photos is None:
                return NOTHING_CLICKED
            return explanation(photos[place], settings_of(detectors, values)[place], int(event.row_value[0]) - 1)

        for component, chosen in ((pane.drawn, in_image), (pane.table, in_table)):
            component.select(
                reporting_errors(chosen), [photos, *controls], [pane.hint, pane.maps], api_visibility="private"
            )

    for place, pane in enumerate(panes):
        explain_in(place, pane)
    upload.change(
        reporting_errors(begin),
        [upload, *controls],
        [photos, *results],
        api_visibility="private",
        trigger_mode="always_last",
    )
    gr.on(
        [each.change for each in controls],
        reporting_errors(detect),
        [photos, *controls],
        results,
        api_visibility="private",
        trigger_mode="always_last",
        show_progress="hidden",
        concurrency_limit=4,
    )


def result_components(network: SharedNetwork, number: str) -> tuple[Any, Any, Any, Any]:
    """Image, summary, table and hint; number: of the network, empty where there is but one."""
    if number:
        gr.Markdown(f"**{shown(network.name)}**")
    drawn = gr.Image(show_label=False, format="jpeg", interactive=False, elem_id=f"drawn{number}", buttons=BUTTONS)
    summary = gr.Markdown("Drop an image, paste one, or take one with the camera.", elem_id=f"summary{number}")
    table = gr.Dataframe(
        headers=COLUMNS,
        interactive=False,
        elem_id=f"table{number}",
        elem_classes="table",
        max_height=320,
        show_label=False,
        buttons=["copy"],
    )
    return drawn, summary, table, gr.Markdown(CLICK)


def maps_component() -> Any:
    return gr.Image(
        show_label=False, format="jpeg", interactive=False, visible=False, elem_classes="maps", buttons=BUTTONS
    )


def results_of(photo: Photo, settings: Settings) -> tuple[Any, ...]:
    """The values of a pane's results."""
    found = photo.detect(settings)
    height, width = photo.pixels.shape[:2]
    return (
        photo.drawn(found),
        f"**{len(found)} detections** in {width} × {height} px",
        rows_of(found),
        *NOTHING_CLICKED,
    )


def explanation(photo: Photo, settings: Settings, place: int | None) -> Any:
    """The values of hint and maps for a detection by its place."""
    if place is None:
        return NOTHING_CLICKED
    found = photo.detect(settings)[place]
    text = f"What **{shown(found.name)} {found.score:.2f}** rests on:"
    return text, gr.update(value=photo.explain(settings, found.box), visible=True)
