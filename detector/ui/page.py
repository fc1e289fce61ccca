"""The page as a whole: its tabs, its looks, and which files it takes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from detector.config import UiConfig
from detector.errors import printable
from detector.images.input_size import InputSize
from detector.ui.dataset_tab import dataset_tab
from detector.ui.image_tab import image_tab
from detector.ui.network import SharedNetwork
from detector.ui.review import Review
from detector.ui.showing import shown
from detector.ui.video_tab import video_tab

CSS = """
.table {contain: inline-size}  /* a wide table scrolls, not the page */
.key {display: inline-block; margin-right: 1rem}
.key i {border-radius: .15rem; display: inline-block; height: .9em; margin-right: .4em; vertical-align: -.1em; width: .9em}
"""
WAITING = 32
"""Requests that wait for their turn, at most; further ones are refused."""
FONTS = ["system-ui", "sans-serif"], ["ui-monospace", "monospace"]
"""Of the user's own machine."""


def theme() -> Any:
    sans, mono = FONTS
    return gr.themes.Default(font=sans, font_mono=mono)


def build_page(networks: Sequence[SharedNetwork], config: UiConfig, review: Review | None) -> Any:
    """The page of some networks, and of the dataset that the first is held against, as Gradio's `Blocks`."""
    with gr.Blocks(
        title=f"detector: {printable(networks[0].name)}",
        analytics_enabled=False,
        delete_cache=(600, 3600),  # seconds
    ) as page:
        for network in networks:
            gr.Markdown(heading(network))
        with gr.Tab("Image"):
            image_tab(networks, config)
        with gr.Tab("Video"):
            video_tab(networks[0], config)
        if review is not None:
            with gr.Tab("Dataset"):
                dataset_tab(review)
    for block in page.blocks.values():
        only_uploads(block)
    page.queue(max_size=WAITING)
    return page


def heading(network: SharedNetwork) -> str:
    detector = network.detector
    size = InputSize.of(detector.image_size)
    return (
        f"## {shown(network.name)}\n{len(detector.categories)} classes, network input"
        f" {size.width} × {size.height} px, on {detector.device}"
    )


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
