"""`detector serve`: endpoints, limits, overload, token, stop, batching; over real sockets of the loopback address."""

import http.client
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detection_server import PATIENCE, Address, HeldRuntime, served, until
from file_server import serving
from lively_model import lively_model
from PIL import Image

from detector.cli import main
from detector.config import ServeConfig
from detector.errors import ConfigError
from detector.exporting.verify import shipped_photos
from detector.images.draw import draw_detections
from detector.images.read import read_image
from detector.inference.detector import Detector
from detector.inference.sinks import image_entries
from detector.models.postprocess import NmsResult
from detector.structures import Categories, Detections

for package in ("fastapi", "uvicorn", "python_multipart", "prometheus_client"):
    pytest.importorskip(package, reason=f"make test-extras installs {package}")

from detector.serving.answers import format_for  # noqa: E402
from detector.serving.serve import TOKEN, read_token  # noqa: E402
from detector.utils.server import listen  # noqa: E402

CATEGORIES = Categories((3, 5, 9), ("cat", "dog", "caf\udcc3\u00e9"))
PHOTOS = shipped_photos()
CONTENTS = [path.read_bytes() for path in PHOTOS]


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector(lively_model(3), CATEGORIES, 96)


@pytest.fixture(scope="module")
def address(detector: Detector) -> Iterator[Address]:
    with served(detector, max_mb=2, max_megapixels=1) as address:
        yield address


@pytest.fixture
def held() -> Iterator[Detector]:
    """A detector whose network waits until its runtime is let go, at the latest after the test."""
    runtime = HeldRuntime(lively_model(3))
    yield Detector(runtime, CATEGORIES, 96)
    runtime.go.set()


def expected(detections: Detections) -> list[dict[str, Any]]:
    return [
        {"name": name, "score": round(score, 6), "box": [round(side, 3) for side in box]}
        for name, score, box in detections
    ]


def png(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height)).save(file, "PNG")
    return file.getvalue()


def form(content: bytes, field: str = "file") -> tuple[bytes, dict[str, str]]:
    head = f'--line\r\nContent-Disposition: form-data; name="{field}"; filename="a \u00e9.jpg"\r\n\r\n'
    return head.encode() + content + b"\r\n--line--\r\n", {"Content-Type": "multipart/form-data; boundary=line"}


def test_json_holds_the_boxes_of_the_detector(address: Address, detector: Detector) -> None:
    for path in PHOTOS:
        reply = address.ask("/v1/detect", path.read_bytes(), {"Content-Type": "image/jpeg"})
        assert (reply.status, reply.headers["content-type"]) == (200, "application/json")
        height, width = read_image(path).shape[:2]
        found = detector(path)
        assert len(found) > 5
        assert reply.json == {"width": width, "height": height, "detections": expected(found)}


def test_a_form_is_read_and_the_coco_format_is_that_of_infer(address: Address, detector: Detector) -> None:
    reply = address.ask("/v1/detect?format=coco&image_id=7", *form(CONTENTS[0]))
    assert reply.json == image_entries({"file_name": "a \u00e9.jpg"}, detector(PHOTOS[0]), 7, CATEGORIES)


@pytest.mark.parametrize("kind", ["png", "jpeg"])
@pytest.mark.parametrize("by_header", [True, False])
def test_an_annotated_image_comes_back(address: Address, detector: Detector, kind: str, by_header: bool) -> None:
    headers = {"Accept": f"image/{kind}"} if by_header else {}
    reply = address.ask("/v1/detect" if by_header else f"/v1/detect?format={kind}", CONTENTS[1], headers)
    assert reply.headers["content-type"] == f"image/{kind}"
    drawn = draw_detections(read_image(PHOTOS[1]), detector(PHOTOS[1]))
    with Image.open(io.BytesIO(reply.content)) as image:
        assert image.format == kind.upper()
        assert image.size == (drawn.shape[1], drawn.shape[0])
        assert kind == "jpeg" or np.array_equal(np.asarray(image), drawn)


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("", "json"),
        ("*/*", "json"),
        ("text/html", "json"),
        ("image/png", "png"),
        ("image/*", "jpeg"),
        ("image/webp, image/*;q=0.8, */*;q=0.5", "jpeg"),
        ("application/json;q=0.5, image/png;q=0.6", "png"),
        ("image/png;q=0, */*", "json"),
        ("image/png;q=x", "json"),
        ("IMAGE/JPEG ; Q=1", "jpeg"),
    ],
)
def test_the_header_accept_chooses_the_format(accept: str, kind: str) -> None:
    assert format_for(accept) == kind


def test_the_model_is_described(address: Address) -> None:
    described = address.ask("/v1/model").json
    assert described["classes"] == list(CATEGORIES.names)
    assert (described["category_ids"], described["image_size"]) == ([3, 5, 9], [96, 96])
    assert (described["weights"], described["conf"], described["max_batch_size"]) == ("mine.safetensors", 0.25, 1)


def test_health_and_metrics(detector: Detector) -> None:
    with served(detector) as address:
        assert address.ask("/healthz").json == {"status": "ok"}
        for content in (*CONTENTS, b"junk"):
            address.ask("/v1/detect", content)
        address.ask("/wp-login.php")
        assert address.metric('detector_requests_total{path="/v1/detect",status="200"}') == len(CONTENTS)
        assert address.metric('detector_requests_total{path="/v1/detect",status="422"}') == 1
        assert address.metric('detector_requests_total{path="other",status="404"}') == 1
        assert address.metric("detector_batch_images_sum") == len(CONTENTS)
        assert address.metric("detector_in_work") == 0
        assert address.metric("process_resident_memory_bytes") > 0


def test_the_page_loads_nothing_from_elsewhere(address: Address) -> None:
    reply = address.ask("/")
    text = reply.content.decode()
    assert reply.headers["content-type"].startswith("text/html")
    for path in address.ask("/openapi.json").json["paths"]:
        assert path in text
    assert not re.search(r"<(script|link|img|iframe)|url\(|@import", text)
    assert set(re.findall(r'href="([^#"]+)', text)) == {"openapi.json"}
    assert address.ask("/docs").status == 404


@pytest.mark.parametrize(
    ("path", "body", "headers", "status", "words"),
    [
        ("/v1/detect", b"", {}, 422, "0 bytes are no image"),
        ("/v1/detect", b"junk", {}, 422, "no image of a known format"),
        ("/v1/detect", CONTENTS[0][:5000], {}, 422, "can't be read"),
        ("/v1/detect?format=gif", CONTENTS[0], {}, 422, "format: "),
        ("/v1/detect?image_id=-1", CONTENTS[0], {}, 422, "image_id: "),
        ("/v1/detect", *form(CONTENTS[0], "image"), 400, "no file with the name file"),
        ("/v1/detect", b"--x", {"Content-Type": "multipart/form-data; boundary=line"}, 400, ""),
        ("/v1/detect", b"", {"Content-Type": "multipart/form-data"}, 400, "oundary"),
        ("/v1/detect", b'{"url": "http://127.0.0.1/a.jpg"}', {"Content-Type": "application/json"}, 415, "--allow_urls"),
        ("/v1/detect", bytes(2_000_001), {}, 413, "more than 2 MB"),
        ("/v1/detect", png(1001, 1000), {}, 413, "1001 x 1000 pixels are more than the limit of 1,000,000"),
        ("/v1/detect?format=jpeg", png(70_000, 2), {}, 422, "ask for format=png"),
        ("/v1/detect", None, {}, 405, "Method Not Allowed"),
        ("/nothing", None, {}, 404, "Not Found"),
    ],
)
def test_a_bad_request_is_answered_with_one_clear_line(
    address: Address, path: str, body: bytes | None, headers: dict[str, str], status: int, words: str
) -> None:
    reply = address.ask(path, body, headers)
    assert reply.status == status
    assert list(reply.json) == ["error"]
    assert words in reply.json["error"]
    assert "\n" not in reply.json["error"]


def test_an_image_of_a_strange_shape_is_no_problem(address: Address) -> None:
    for size in ((70_000, 1), (1, 70_000), (1, 1)):
        assert address.ask("/v1/detect?format=png", png(*size)).status == 200


def test_a_body_without_a_length_is_read_up_to_the_limit(address: Address) -> None:
    parts = [bytes(100_000)] * 21
    assert address.ask("/v1/detect", iter(parts)).status == 413
    assert address.ask("/v1/detect", iter([CONTENTS[0][:1000], CONTENTS[0][1000:]])).status == 200


def test_too_many_requests_are_refused_until_there_is_room(held: Detector) -> None:
    with served(held, max_queue=2) as address, ThreadPoolExecutor(2) as clients:
        first = [clients.submit(address.ask, "/v1/detect", CONTENTS[0]) for _ in range(2)]
        until(lambda: address.metric("detector_in_work") == 2)
        for body in (CONTENTS[0], bytes(5_000_000)):  # the second is more than what sockets hold
            reply = address.ask("/v1/detect", body)
            assert (reply.status, reply.headers["retry-after"]) == (429, "1")
            assert "ask again" in reply.json["error"]
        assert address.ask("/healthz").status == 200
        held.runtime.go.set()  # type: ignore[attr-defined]
        assert [each.result().status for each in first] == [200, 200]
        assert address.ask("/v1/detect", CONTENTS[0]).status == 200


def test_an_image_that_comes_too_slowly_is_refused(detector: Detector) -> None:
    with served(detector, timeout=0.2) as address, unfinished(address.port, 100) as connection:
        reply = connection.getresponse()
        assert reply.status == 408
        assert json.load(reply) == {"error": "the image was not here after 0.2 s"}


@pytest.mark.slow
def test_detections_that_take_too_long_are_given_up(held: Detector) -> None:
    with served(held, timeout=5) as address, ThreadPoolExecutor(3) as clients:
        replies = list(clients.map(lambda _: address.ask("/v1/detect", CONTENTS[0]), range(3)))
        assert {reply.status for reply in replies} == {503}
        assert {reply.headers["retry-after"] for reply in replies} == {"1"}
        held.runtime.go.set()  # type: ignore[attr-defined]
    assert held.runtime.sizes == [1]  # type: ignore[attr-defined]  # the others took no turn


def test_the_image_of_a_client_that_has_gone_takes_no_turn(held: Detector) -> None:
    with served(held) as address, ThreadPoolExecutor(1) as clients:
        first = clients.submit(address.ask, "/v1/detect", CONTENTS[0])
        assert held.runtime.started.wait(PATIENCE)  # type: ignore[attr-defined]
        gone = http.client.HTTPConnection("127.0.0.1", address.port)
        gone.request("POST", "/v1/detect", CONTENTS[1])
        until(lambda: address.metric("detector_in_work") == 2)
        gone.close()
        until(lambda: address.metric("detector_in_work") == 1)
        held.runtime.go.set()  # type: ignore[attr-defined]
        assert first.result().status == 200
    assert held.runtime.sizes == [1]  # type: ignore[attr-defined]


class DoubleRuntime(HeldRuntime):
    """In float64, in which the images of a batch don't change each other's detections visibly."""

    def logits(self, inputs: Any) -> Any:
        return self.model.double().logits(inputs.double() / 255)


def test_a_batch_has_the_boxes_of_its_images_alone() -> None:
    runtime = DoubleRuntime(lively_model(3))
    detector = Detector(runtime, CATEGORIES, 96)
    detector.batch = 8
    runtime.go.set()
    alone = [expected(detector(path)) for path in PHOTOS]
    runtime.go.clear()
    runtime.sizes.clear()
    runtime.started.clear()
    with served(detector) as address, ThreadPoolExecutor(9) as clients:
        asked = [clients.submit(address.ask, "/v1/detect", CONTENTS[0])]
        assert runtime.started.wait(PATIENCE)
        asked += [clients.submit(address.ask, "/v1/detect", CONTENTS[i % len(PHOTOS)]) for i in range(8)]
        until(lambda: address.metric("detector_waiting_images") == 8)
        runtime.go.set()
        replies = [each.result().json["detections"] for each in asked]
    assert runtime.sizes == [1, 8]
    for number, found in enumerate(replies):
        wanted = alone[0] if number == 0 else alone[(number - 1) % len(PHOTOS)]
        assert [each["name"] for each in found] == [each["name"] for each in wanted]
        for one, other in zip(found, wanted, strict=True):
            assert one["box"] == pytest.approx(other["box"], abs=0.002)
            assert one["score"] == pytest.approx(other["score"], abs=0.000002)


def test_a_batch_waits_for_more_if_it_is_to() -> None:
    runtime = HeldRuntime(lively_model(3))
    runtime.go.set()
    detector = Detector(runtime, CATEGORIES, 96)
    detector.batch = 3
    with served(detector, max_wait_ms=10_000) as address, ThreadPoolExecutor(3) as clients:
        replies = list(clients.map(lambda content: address.ask("/v1/detect", content), CONTENTS[:3]))
    assert [reply.status for reply in replies] == [200] * 3
    assert runtime.sizes == [3]


def test_a_bug_is_no_answer_of_the_detector(
    detector: Detector, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> list[NmsResult]:
        raise AssertionError("planted")

    with served(detector) as address:
        with monkeypatch.context() as patch:
            patch.setattr(detector.runtime, "detect", broken)
            reply = address.ask("/v1/detect", CONTENTS[0])
        assert (reply.status, reply.json) == (500, {"error": "an error of the server; its log shows it"})
        assert address.ask("/v1/detect", CONTENTS[0]).status == 200
    assert "AssertionError: planted" in capfd.readouterr().err


def test_with_a_token_only_its_bearer_is_answered(detector: Detector) -> None:
    with served(detector, token="hush-42") as address:
        for path, body in (("/v1/detect", CONTENTS[0]), ("/v1/model", None), ("/metrics", None)):
            for given in ("", "Bearer hush-4", "Bearer hush-42x", "Bearer caf\u00e9", "Basic hush-42", "hush-42"):
                reply = address.ask(path, body, {"Authorization": given} if given else {})
                assert (reply.status, reply.headers["www-authenticate"]) == (401, "Bearer")
                assert "hush" not in reply.json["error"]
            assert address.ask(path, body, {"Authorization": "Bearer hush-42"}).status == 200
        assert address.ask("/healthz").status == 200
        assert "401" in address.ask("/openapi.json").json["paths"]["/v1/detect"]["post"]["responses"]


def test_the_token_comes_from_a_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TOKEN, raising=False)
    assert read_token(None) is None
    monkeypatch.setenv(TOKEN, "from-environment")
    assert read_token(None) == "from-environment"
    file = tmp_path / "token"
    file.write_text("from-file\n")
    assert read_token(str(file)) == "from-file"
    for bad in ("", "two words", "caf\u00e9", "line\nline"):
        file.write_text(bad)
        with pytest.raises(ConfigError, match=r"^--token_file .*: a token is one word") as caught:
            read_token(str(file))
        assert not bad or bad not in str(caught.value)
    with pytest.raises(ConfigError, match="can't be read"):
        read_token(str(tmp_path / "none"))


def test_urls_are_fetched_where_that_is_allowed(detector: Detector) -> None:
    def ask(url: object) -> Any:
        return address.ask("/v1/detect", json.dumps({"url": url}), {"Content-Type": "application/json"})

    with served(detector, allow_urls=True, max_mb=0.2) as address:
        with serving(CONTENTS[0]) as files:
            assert ask(files.url).json["detections"] == expected(detector(PHOTOS[0]))
            files.content = bytes(200_001)
            assert ask(files.url).status == 413
            files.status = 404
            assert ask(files.url).status == 422
            gone = files.url
        assert ask(gone).status == 422
        for bad in ("file:///etc/passwd", "", 5, None, ["http://127.0.0.1"]):
            assert ask(bad).status == 400
        assert address.ask("/v1/detect", b"[" * 100_000, {"Content-Type": "application/json"}).status == 400
        body = address.ask("/openapi.json").json["paths"]["/v1/detect"]["post"]["requestBody"]
    assert "application/json" in body["content"]


def test_an_address_that_is_taken_or_unknown_is_one_line() -> None:
    words = r"^--host 127.0.0.1 --port \d+: Address already in use; choose another one$"
    with closing(listen("127.0.0.1", 0)) as taken, pytest.raises(ConfigError, match=words):
        listen("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(ConfigError, match=r"^--host no such host --port 1: "):
        listen("no such host", 1)


class unfinished:  # noqa: N801 - used like a function
    """A request whose body lacks its end, on a connection that is closed after the block."""

    def __init__(self, port: int, missing: int) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        self.connection.putrequest("POST", "/v1/detect")
        self.connection.putheader("Content-Length", str(len(CONTENTS[0])))
        self.connection.endheaders(CONTENTS[0][:-missing])

    def __enter__(self) -> http.client.HTTPConnection:
        return self.connection

    def __exit__(self, *_: object) -> None:
        self.connection.close()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_stop_signal_ends_what_is_in_work_and_refuses_what_is_new(number: int) -> None:
    command = [sys.executable, "-m", "detector", "serve", "--weights=yolo11n-bccd", "--port=0", "--image_size=64"]
    variables = {**os.environ, TOKEN: ""} | {"OMP_NUM_THREADS": "1"}
    variables.pop(TOKEN)
    process = subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        port = int(re.fullmatch(r"listening on http://127\.0\.0\.1:(\d+) \(Ctrl-C ends it\)\n", line)[1])  # type: ignore[index]
        address = Address(port)
        with unfinished(port, 100) as connection:
            until(lambda: address.metric("detector_in_work") == 1)
            process.send_signal(number)
            until(lambda: not listens(port))
            connection.send(CONTENTS[0][-100:])
            reply = connection.getresponse()
            assert reply.status == 200
            assert "detections" in json.load(reply)
        out, err = process.communicate(timeout=PATIENCE)
        assert (process.returncode, out, err) == (0, "stopped\n", "")
    finally:
        process.kill()
        process.communicate()


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.slow
@pytest.mark.usefixtures("no_shape_checks")
def test_an_exported_file_is_served(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="the extra export brings ONNX Runtime")
    assert main(["export", "--weights=yolo11n-bccd", f"--out={tmp_path / 'a.onnx'}", "--image_size=64"]) == 0
    detector = Detector.load(tmp_path / "a.onnx", conf=0.01)
    with served(detector) as address, ThreadPoolExecutor(6) as clients:
        replies = list(clients.map(lambda content: address.ask("/v1/detect", content).json, CONTENTS * 2))
    for reply, path in zip(replies, PHOTOS * 2, strict=True):
        assert reply["detections"] == expected(detector(path))


@pytest.mark.slow
def test_no_request_of_schemathesis_makes_a_server_error(detector: Detector, tmp_path: Path) -> None:
    pytest.importorskip("schemathesis", reason="make test-extras installs schemathesis")
    with served(detector, token="hush-42") as address:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "schemathesis.cli", "run", f"http://127.0.0.1:{address.port}/openapi.json"),
                *("--header=Authorization: Bearer hush-42", "--checks=all", "--seed=1", "--max-examples=50"),
                # of bytes no schema can say that they are an image
                "--exclude-checks=positive_data_acceptance",
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=3 * PATIENCE,
        )
        assert done.returncode == 0, done.stdout
        statuses = re.findall(r'detector_requests_total\{path="/v1/detect",status="(\d+)"', metrics_of(address))
    assert "422" in statuses
    assert not [status for status in statuses if status.startswith("5")]


def metrics_of(address: Address) -> str:
    return address.ask("/metrics", headers={"Authorization": "Bearer hush-42"}).content.decode()


def test_threads_end_with_the_server(detector: Detector) -> None:
    before = threading.active_count()
    with served(detector) as address:
        address.ask("/v1/detect", CONTENTS[0])
    assert threading.active_count() == before
    assert torch.is_grad_enabled()


def test_the_defaults_listen_to_this_machine_alone() -> None:
    assert ServeConfig(weights="w").host == "127.0.0.1"
