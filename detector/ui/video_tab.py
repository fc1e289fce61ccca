"""The part of the page for a video: the detections in its first frames, drawn into a new one."""

import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from time import monotonic
from typing import Any, no_type_check

import gradio as gr

from detector.config import UiConfig
from detector.errors import DataError, missing_package
from detector.inference.infer import annotator
from detector.inference.sources import VIDEOS, Source
from detector.inference.streaming import stream
from detector.ui.controls import settings_controls, settings_of
from detector.ui.network import SharedNetwork, TurnTakingRuntime
from detector.ui.photo import Settings, detector_of, require_small, tiles_of
from detector.ui.showing import errors_shown, shown

REPORT_SECONDS = 1.0
"""From one report of the progress to the next; a page that is closed ends the work then."""


def video_tab(network: SharedNetwork, config: UiConfig) -> None:
    """A video, its settings, and what the network finds in it."""
    try:
        import av  # noqa: F401, with OpenCV alone the result would play in no browser
    except ImportError as error:
        gr.Markdown(shown(str(missing_package("videos", error, "video"))))
        return
    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            # no gr.Video, which plays few of these formats
            upload = gr.File(label="Video", file_types=[f".{each}" for each in VIDEOS], elem_id="video-upload")
            upload.preprocess = lambda payload: None if payload is None else payload.path
            controls = settings_controls([network.detector], "video-")
            start = gr.Button("Detect", variant="primary", elem_id="video-start")
        with gr.Column(scale=3, min_width=280):
            drawn = gr.Video(show_label=False, interactive=False, elem_id="video-drawn", buttons=["download"])
            drawn.postprocess = lambda path: None if path is None else gr.FileData(path=path, orig_name="detected.mp4")
            summary = gr.Markdown(
                f"Drop a video and press Detect. The network looks at {config.max_frames:,} frames at most.",
                elem_id="video-summary",
            )

    @no_type_check  # Gradio must see that it is a generator function, which those that check types hide
    def detect(path: str | None, *values: Any) -> Iterator[tuple[Any, str]]:
        if path is None:
            yield None, "There is no video yet."
            return
        (settings,) = settings_of([network.detector], values)
        target = Path(tempfile.mkdtemp(dir=drawn.GRADIO_CACHE)) / "detected.mp4"
        with errors_shown():
            for report in annotate(network, settings, path, target, config):
                yield None, report
        yield str(target), report

    start.click(
        detect,
        [upload, *controls],
        [drawn, summary],
        api_visibility="private",
        show_progress="hidden",
        concurrency_limit=1,
    )


def annotate(network: SharedNetwork, settings: Settings, path: str, target: Path, config: UiConfig) -> Iterator[str]:
    """Write the video with its detections into `target`; yields what is done so far, and at the end what was found.

    Of a video with more than `max_frames` the first ones are looked at; with tiles, fewer. Raises DataError for one that is
    too large or can't be read.
    """
    from detector.inference.video_pyav import frame_size

    name = Path(path).name
    source, classes, frames, said = Source(path, "video"), Counter[str](), 0, monotonic()
    problems: list[str] = []
    try:
        require_small(path, config)
        width, height = frame_size(source)
        if width * height > config.max_megapixels * 1e6:
            raise DataError(
                f"frames of {width} x {height} pixels are more than the limit of {config.max_megapixels * 1e6:,.0f}; send a"
                " smaller video (--max_megapixels)"
            )
        limit = max(config.max_frames // tiles_of(settings, width, height), 1)
        detector = detector_of(network, settings, TurnTakingRuntime(network))
        results = stream(detector, source, lambda _, error: problems.append(str(error).replace(path, name)))
        with closing(results), annotator(target, source, settings.tiles) as write:
            for result in islice(results, limit):
                write(result)
                frames += 1
                classes.update(result.detections.names)
                if monotonic() - said > REPORT_SECONDS:
                    said = monotonic()
                    yield f"{frames:,} frames"
            more = frames == limit and next(results, None) is not None
            if frames == 0:
                raise DataError(problems[0])
    except DataError as error:
        raise DataError(str(error).replace(path, name)) from error
    found = ", ".join(f"{count:,} {shown(each)}" for each, count in classes.most_common()) or "nothing"
    cut = ", all that this page looks at (--max_frames)" if more else ""
    yield "\n\n".join([f"**{frames:,} frames**{cut}: {found}", *map(shown, problems)])
