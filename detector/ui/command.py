"""The command: from the weights to a page that is there until a stop signal comes."""

import asyncio
import logging
import os
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager

import uvicorn
from fastapi import FastAPI
from gradio import mount_gradio_app

from detector.config import UiConfig
from detector.inference.detector import Detector
from detector.ui.network import SharedNetwork
from detector.ui.page import CSS, build_page, theme
from detector.utils.server import LOOPBACK, listen, serving, url_of, wait_for_stop

FOLDER = "GRADIO_TEMP_DIR"
"""Environment variable that tells Gradio where uploaded and shown files go."""


def ui(config: UiConfig) -> None:
    """Show the page until a stop signal comes. Raises DetectorError kinds for what is wrong before."""
    network = SharedNetwork(Detector.load(config.weights, config))
    with closing(listen(config.host, config.port)) as listener, running(config, network, listener) as server:
        print(f"open {url_of(listener)} in a browser (Ctrl-C ends it)", flush=True)
        if not config.host.startswith(LOOPBACK):
            print("anyone who reaches this address may use it", file=sys.stderr)
        wait_for_stop(server)
    print("stopped")


@contextmanager
def running(config: UiConfig, network: SharedNetwork, listener: socket.socket) -> Iterator[threading.Thread]:
    """The thread of the server of the page, for the time of the block; what was uploaded is gone afterwards."""
    before = os.environ.get(FOLDER)
    with tempfile.TemporaryDirectory(prefix="detector-ui-", ignore_cleanup_errors=True) as folder:
        os.environ[FOLDER] = folder
        try:
            app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
            mount_gradio_app(
                app,
                build_page(network, config),
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
            with serving(options, listener) as thread:
                yield thread
        finally:
            if before is None:
                os.environ.pop(FOLDER, None)
            else:
                os.environ[FOLDER] = before


def is_news(record: logging.LogRecord) -> bool:
    """Whether a line of the log is worth a look: open pages are always cut off at the end."""
    cut_off = record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError)
    return not cut_off and "timeout graceful shutdown exceeded" not in record.getMessage()
