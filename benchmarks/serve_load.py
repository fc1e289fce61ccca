#!/usr/bin/env python3
"""The server under load, on the loopback address: images/s and latency against the plain loop, and its memory.

Each round times a loop of `Detector` on the same encoded images in a process of its own, then the server with 1, 8 and 64
clients, each of which sends its next request when the last one is answered. With --requests, the resident memory of a server
is read after that many requests instead, and on the way; one in ten asks for an annotated image, one in ten is no image.
"""

import argparse
import http.client
import io
import itertools
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import NamedTuple

from PIL import Image

from detector.exporting.verify import shipped_photos

REPOSITORY = Path(__file__).parents[1]
CLIENTS = (1, 8, 64)
LOOP = """
import sys, time
from detector import Detector
weights, size, seconds, *paths = sys.argv[1:]
detector = Detector.load(weights, image_size=int(size))
contents = [open(path, "rb").read() for path in paths]
for content in contents:
    detector(content)
done, start = 0, time.perf_counter()
while (spent := time.perf_counter() - start) < float(seconds):
    detector(contents[done % len(contents)])
    done += 1
print(done / spent)
"""


class Load(NamedTuple):
    """Answered images per second, and the latencies in ms of which half and 99 % of the requests stay below."""

    images_per_second: float
    p50: float
    p99: float


class Server(NamedTuple):
    pid: int
    port: int

    def ask(self, connection: http.client.HTTPConnection, content: bytes, accept: str = "application/json") -> int:
        connection.request("POST", "/v1/detect", content, {"Accept": accept})
        reply = connection.getresponse()
        reply.read()
        return reply.status

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)


@contextmanager
def started(weights: str, options: Sequence[str]) -> Iterator[Server]:
    command = [sys.executable, "-m", "detector", "serve", f"--weights={weights}", "--port=0", *options]
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        found = re.search(r":(\d+) \(", line)
        assert found, line
        yield Server(process.pid, int(found[1]))
    finally:
        process.terminate()
        process.wait()


def loop(weights: str, size: int, seconds: float, photos: Sequence[Path]) -> float:
    """Images per second of the plain loop."""
    arguments = [weights, str(size), str(seconds), *map(str, photos)]
    done = subprocess.run(
        [sys.executable, "-c", LOOP, *arguments], cwd=REPOSITORY, check=True, stdout=subprocess.PIPE, text=True
    )
    return float(done.stdout)


def load(server: Server, clients: int, seconds: float, contents: Sequence[bytes]) -> Load:
    def client(number: int) -> list[float]:
        connection = server.connect()
        latencies: list[float] = []
        for content in itertools.cycle([*contents[number % len(contents) :], *contents[: number % len(contents)]]):
            sent = time.perf_counter()
            if sent > end:
                return latencies
            status = server.ask(connection, content)
            assert status == 200, status
            latencies.append(time.perf_counter() - sent)
        raise AssertionError

    start = time.perf_counter()
    end = start + seconds
    with ThreadPoolExecutor(clients) as pool:
        latencies = sorted(itertools.chain(*pool.map(client, range(clients))))
    spent = time.perf_counter() - start  # to the last answer
    p50, p99 = (1000 * latencies[min(int(share * len(latencies)), len(latencies) - 1)] for share in (0.5, 0.99))
    return Load(len(latencies) / spent, p50, p99)


def speed(options: argparse.Namespace, photos: Sequence[Path]) -> None:
    contents = [path.read_bytes() for path in photos]
    server_options = [f"--image_size={options.image_size}", *options.serve]
    rounds: list[tuple[float, dict[int, Load]]] = []
    with started(options.weights, server_options) as server:
        load(server, 1, 2, contents)
        for _ in range(options.rounds):
            plain = loop(options.weights, options.image_size, options.seconds, photos)
            rounds.append((plain, {n: load(server, n, options.seconds, contents) for n in CLIENTS}))
            print(json.dumps(rounds[-1]), flush=True)
    print(f"plain loop: {statistics.median(plain for plain, _ in rounds):.1f} images/s")
    for clients in CLIENTS:
        loads = [by_clients[clients] for _, by_clients in rounds]
        ratios = [by_clients[clients].images_per_second / plain for plain, by_clients in rounds]
        middle = Load(*map(statistics.median, zip(*loads, strict=True)))
        print(
            f"{clients:>2} clients: {middle.images_per_second:.1f} images/s, {statistics.median(ratios):.2f} of the loop"
            f" ({min(ratios):.2f} to {max(ratios):.2f}), p50 {middle.p50:.0f} ms, p99 {middle.p99:.0f} ms"
        )


def memory(options: argparse.Namespace, photos: Sequence[Path]) -> None:
    content = small(photos[0])
    kinds = [(content, "application/json")] * 8 + [(content, "image/jpeg"), (content[:999], "application/json")]
    marks = {1000, options.requests // 2, options.requests}
    numbers, lock = itertools.count(1), Lock()

    def client(_: int) -> None:
        connection = server.connect()
        while True:
            with lock:
                number = next(numbers)
            if number > options.requests:
                return
            server.ask(connection, *kinds[number % len(kinds)])
            if number in marks:
                print(f"{number:>6} requests: {resident(server.pid):.1f} MiB", flush=True)

    with (
        started(options.weights, [f"--image_size={options.image_size}", *options.serve]) as server,
        ThreadPoolExecutor(8) as pool,
    ):
        start = time.perf_counter()
        list(pool.map(client, range(8)))
        print(f"{options.requests / (time.perf_counter() - start):.0f} requests/s")


def small(photo: Path) -> bytes:
    """The photograph as a JPEG file of 128 px."""
    file = io.BytesIO()
    with Image.open(photo) as image:
        image.resize((128, 128)).save(file, "JPEG")
    return file.getvalue()


def resident(pid: int) -> float:
    """Resident memory of a process in MiB."""
    (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="yolo11n-bccd")
    parser.add_argument("--image_size", type=int, default=640)
    parser.add_argument("--seconds", type=float, default=20, help="of each loop and each number of clients")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, help="read the memory after that many")
    parser.add_argument(
        "--serve", nargs="*", default=[], help="options of detector serve, without --: max_batch_size=8"
    )
    options = parser.parse_args()
    options.serve = [f"--{each}" for each in options.serve]
    (memory if options.requests else speed)(options, shipped_photos())


if __name__ == "__main__":
    main()
