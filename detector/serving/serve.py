"""The command: from the weights to a server that ends when it is asked to, with what is in work done."""

import os
import socket
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import uvicorn

from detector.config import ServeConfig
from detector.errors import ConfigError
from detector.inference.detector import Detector
from detector.serving.app import create_app
from detector.serving.batcher import DynamicBatcher
from detector.serving.metrics import ServerMetrics
from detector.serving.service import Service
from detector.utils.server import LOOPBACK, listen, serving, url_of, wait_for_stop
from detector.utils.threads import available_cores

TOKEN = "DETECTOR_TOKEN"
"""Environment variable with the bearer token, where no file is given."""


def serve(config: ServeConfig) -> None:
    """Answer requests until a stop signal comes. Raises DetectorError kinds for what is wrong before the first."""
    token = read_token(config.token_file)
    detector = Detector.load(config.weights, config)
    if config.max_batch_size is not None:
        detector.batch = config.max_batch_size
    with closing(listen(config.host, config.port)) as listener, running(config, detector, listener, token) as server:
        print(f"listening on {url_of(listener)} (Ctrl-C ends it)", flush=True)
        if token is None and not config.host.startswith(LOOPBACK):
            print("anyone who reaches this address may use it; --token_file asks for a token", file=sys.stderr)
        wait_for_stop(server)
    print("stopped")


@contextmanager
def running(
    config: ServeConfig, detector: Detector, listener: socket.socket, token: str | None
) -> Iterator[threading.Thread]:
    """The thread of a server, which at the end of the block takes no further connection and ends what is in work."""
    metrics = ServerMetrics()
    with (
        ThreadPoolExecutor(available_cores(), "reads images") as decoders,
        DynamicBatcher(detector, config.max_wait_ms / 1000, metrics.on_batch) as batcher,
    ):
        app = create_app(Service(config, batcher, decoders, metrics), token)
        options = uvicorn.Config(
            app,
            loop="asyncio",  # the same whatever else is installed
            http="h11",
            ws="none",
            lifespan="off",
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=round(config.timeout) + 1,
        )
        with serving(options, listener) as thread:
            yield thread


def read_token(path: str | None) -> str | None:
    """The token in a file, or in the environment. Raises ConfigError for one that no header can hold, without showing it."""
    try:
        token = os.environ.get(TOKEN) if path is None else Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--token_file {path}: can't be read; name a text file with the token alone") from error
    if token is not None and not (token.isascii() and token.isprintable() and token and " " not in token):
        place = TOKEN if path is None else f"--token_file {path}"
        raise ConfigError(
            f"{place}: a token is one word of ASCII letters, digits and signs; make one with openssl rand -hex 32"
        )
    return token
