"""The command: from the weights to a page that is there until a stop signal comes."""

import asyncio
import json
import logging
import os
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path

import uvicorn
from fastapi import FastAPI, Response
from gradio import mount_gradio_app

from detector.config import DEFAULT_CONF, UiConfig
from detector.data.load import load_split
from detector.errors import printable
from detector.inference.detector import Detector
from detector.ui.dataset_tab import SUSPICIOUS_FILE
from detector.ui.network import SharedNetwork
from detector.ui.page import CSS, build_page, theme
from detector.ui.review import Review, as_coco
from detector.utils.server import LOOPBACK, listen, serving, url_of, wait_for_stop

FOLDER = "GRADIO_TEMP_DIR"
"""Environment variable that tells Gradio where uploaded and shown files go."""


def ui(config: UiConfig) -> None:
    """Show the page until a stop signal comes. Raises DetectorError kinds for what is wrong before."""
    networks = load_networks(config)
    review = None if config.data is None else review_of(config, networks[0])
    with closing(listen(config.host, config.port)) as listener, running(config, networks, listener, review) as server:
        print(f"open {url_of(listener)} in a browser (Ctrl-C ends it)", flush=True)
        if not config.host.startswith(LOOPBACK):
            print("anyone who reaches this address may use it", file=sys.stderr)
        wait_for_stop(server)
    print("stopped")


def load_networks(config: UiConfig) -> list[SharedNetwork]:
    """That of the weights, and that to compare with, if there is one; `classes` is for the first."""
    networks = [SharedNetwork(Detector.load(config.weights, config), Path(config.weights).name)]
    if config.compare is not None:
        networks.append(SharedNetwork(Detector.load(config.compare, config, classes=None), Path(config.compare).name))
        if networks[0].name == networks[1].name:
            networks[0].name, networks[1].name = config.weights, config.compare
    return networks


def review_of(config: UiConfig, network: SharedNetwork) -> Review:
    """The split that the options name, as the page shows it. Raises DataError if it is none, or of other classes."""
    dataset = load_split(config.data, config.split, network.detector.categories)
    for line in dataset.problems:
        print(printable(line))
    return Review(network, dataset, DEFAULT_CONF if config.conf is None else config.conf)


@contextmanager
def running(
    config: UiConfig, networks: Sequence[SharedNetwork], listener: socket.socket, review: Review | None = None
) -> Iterator[threading.Thread]:
    """The thread of the server of the page, for the time of the block; what was uploaded is gone afterwards."""
    before = os.environ.get(FOLDER)
    with tempfile.TemporaryDirectory(prefix="detector-ui-", ignore_cleanup_errors=True) as folder:
        os.environ[FOLDER] = folder
        try:
            app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
            if review is not None:
                app.get(f"/{SUSPICIOUS_FILE}")(lambda: suspicious_labels(review))
            mount_gradio_app(
                app,
                build_page(networks, config, review),
                "/",
                footer_links=[],
                run_history=False,
                app_kwargs={"docs_url": None, "redoc_url": None, "openapi_url": None},
                max_file_size=int(config.max_mb * 1e6),
                ssr_mode=False,
                enable_monitoring=False,
                pwa=False,
                mcp_server=False,
                show_error=False,
                theme=theme(),
                css=CSS,
            )
            logging.getLogger("uvicorn.error").addFilter(is_news)
            options = uvicorn.Config(
                app,
                log_level="warning",
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=2,
            )
            with review.running() if review else nullcontext(), serving(options, listener) as thread:
                yield thread
        finally:
            if before is None:
                os.environ.pop(FOLDER, None)
            else:
                os.environ[FOLDER] = before


def suspicious_labels(review: Review) -> Response:
    """The list as a file to save."""
    if review.findings is None:
        return Response("the images are still looked at", 503, media_type="text/plain")
    content = json.dumps(as_coco(review.dataset, review.findings))
    headers = {"Content-Disposition": f'attachment; filename="{SUSPICIOUS_FILE}"'}
    return Response(content, media_type="application/json", headers=headers)


def is_news(record: logging.LogRecord) -> bool:
    """Whether a line of the log is worth a look: open pages are always cut off at the end."""
    cut_off = record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError)
    return not cut_off and "timeout graceful shutdown exceeded" not in record.getMessage()
