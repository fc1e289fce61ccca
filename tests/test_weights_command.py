"""`detector weights`: what it lists, and how published weights come here: whole, checked and only when asked for."""

import hashlib
import io
import json
import os
import signal
import socket
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from threading import Event

import pytest
import torch
from command_line import run, start
from file_server import FileServer, serving
from lively_model import lively_model
from mit_layout import group_boxes, to_mit
from test_leftovers import wait_for
from torch import Tensor

from detector.cli import main
from detector.errors import DataError, DetectorError, WeightsError, WriteError
from detector.inference.detector import Detector
from detector.models.base import DetectionModel
from detector.models.catalog import PUBLISHED, create_model
from detector.utils import fileio
from detector.utils.fileio import folder_lock
from detector.weights import shipped
from detector.weights.downloaded import cache_folder, weights_path
from detector.weights.files import load_weights
from detector.weights.published.coco_categories import COCO
from detector.weights.published.get import get_weights
from detector.weights.published.names import to_published
from detector.weights.published.table import RELEASE, TABLE

SHARED = Path(__file__).parents[2] / "shared"
NAME = "yolov9t-coco"


@pytest.fixture(scope="module")
def model() -> DetectionModel:
    return group_boxes(lively_model(80, "yolov9t", class_width=128))


def saved(state: Mapping[str, Tensor]) -> bytes:
    content = io.BytesIO()
    torch.save(state, content)
    return content.getvalue()


def checkpoint_of(model: DetectionModel) -> bytes:
    """A file such as the publisher's."""
    return saved(to_mit(group_boxes(model).state_dict()))


@pytest.fixture(scope="module")
def checkpoint(model: DetectionModel) -> bytes:
    return checkpoint_of(model)


@pytest.fixture
def server(checkpoint: bytes) -> Iterator[FileServer]:
    with serving(checkpoint) as running:
        yield running


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, that doesn't exist yet."""
    monkeypatch.setenv("DETECTOR_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def files(home: Path) -> set[str]:
    return {str(path.relative_to(home / "weights" / NAME)) for path in home.rglob("*") if path.is_file()}


GOT = {f"{NAME}.safetensors", f"{NAME}.json"}
PARTIAL = {f"{NAME}.partial", f"{NAME}.partial.json"}


INTERRUPTED = "error: interrupted; what has come is kept, and the same command goes on from there\n"


def one_line(caught: pytest.ExceptionInfo[DetectorError]) -> str:
    assert "\n" not in str(caught.value)
    return str(caught.value)


def require_resumable(server: FileServer, home: Path) -> None:
    """What is there are no weights, but the next command goes on from it and ends with weights."""
    with pytest.raises(WeightsError, match="not on this machine yet"):
        load_weights(NAME)
    server.stop_after = server.held = None
    server.asked.clear()
    get_weights(NAME, server.url)
    assert [asked["Range"] for asked in server.asked] == ["bytes=1000000-"]
    assert files(home) == GOT
    load_weights(NAME)


def test_a_published_name_works_after_one_command(
    server: FileServer, model: DetectionModel, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["weights", "get", NAME, "--source", server.url]) == 0
    said = capsys.readouterr().out
    digest = hashlib.sha256(server.content).hexdigest()
    assert f"{NAME}: yolov9t, 80 classes, by MultimediaTechLab, license: MIT\nfrom {server.url}\n" in said
    assert f"SHA-256: {digest}\n" in said
    assert "no published SHA-256 is known to compare with" in said
    assert files(home) == GOT
    record = json.loads((home / "weights" / NAME / f"{NAME}.json").read_text())
    weights = (home / "weights" / NAME / f"{NAME}.safetensors").read_bytes()
    assert record == {
        "source": server.url,
        "sha256": digest,
        "license": "MIT",
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
    }
    loaded, info = load_weights(NAME)
    state = loaded.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    assert (info.model, info.categories, info.image_size, info.license) == ("yolov9t", COCO, 640, "MIT")
    assert info.training["imported_from"] == server.url
    assert Detector.load(NAME, device="cpu").categories == COCO


def no_connections(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Have none made; what is tried is in the list."""
    tried: list[object] = []

    def refuse(*arguments: object, **_: object) -> None:
        tried.append(arguments)
        raise OSError("no connections here")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return tried


def test_nothing_is_downloaded_unless_asked_for(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = no_connections(monkeypatch)
    for load in (load_weights, Detector.load):
        with pytest.raises(
            WeightsError, match=f"{NAME} is not on this machine yet; .*: detector weights get {NAME} "
        ) as e:
            load(NAME)
        one_line(e)
    assert main(["weights"]) == 0
    assert main(["export", "--weights", NAME, "--out", str(home.parent / "a.onnx")]) == 2
    assert (tried, home.exists()) == ([], False)
    with pytest.raises(DataError, match="no connections here"):
        get_weights(NAME)
    assert len(tried) == 1  # the stand-in sees what a download does


def test_the_list_says_what_there_is_and_what_is_here(
    server: FileServer, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["weights"]) == 0
    before = capsys.readouterr().out
    for name in (*shipped.shipped_names(), *TABLE):
        assert before.count(f"{name} ") == 1
    assert f"downloads are kept in {home / 'weights'}; the variable DETECTOR_HOME" in before
    get_weights(NAME, server.url)
    capsys.readouterr()
    assert main(["weights", "list"]) == 0
    after = capsys.readouterr().out

    def line(text: str, name: str) -> list[str]:
        return next(line.split() for line in text.splitlines() if line.startswith(name))

    megabytes = f"{weights_path(NAME).stat().st_size / 1e6:.0f}"
    assert line(before, NAME) == [NAME, "yolov9t", "80", "0.383", "MIT", "MultimediaTechLab", "15", "no"]
    assert line(after, NAME) == [NAME, "yolov9t", "80", "0.383", "MIT", "MultimediaTechLab", megabytes, "yes"]
    assert line(after, "yolo11n-bccd") == ["yolo11n-bccd", "yolo11n", "3", "0.620", "Apache-2.0", "shipped", "5", "yes"]


def test_the_table_is_consistent() -> None:
    for name, known in TABLE.items():
        assert name == f"{known.model}-coco"
        assert known.model in PUBLISHED
        assert known.url.startswith(f"{RELEASE}/v9-{known.model[-1]}.")
        assert 0 < known.megabytes < 512
        assert known.sha256 is None or len(known.sha256) == 64
    assert not TABLE.keys() & set(shipped.shipped_names())


@pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared/data/coco-tiny and ../shared/golden/mit")
def test_the_table_agrees_with_the_data() -> None:
    content = json.loads((SHARED / "data" / "coco-tiny" / "annotations" / "instances_val2017.json").read_bytes())
    assert [(each["id"], each["name"]) for each in content["categories"]] == list(
        zip(COCO.ids, COCO.names, strict=True)
    )
    listed = json.loads((SHARED / "golden" / "mit" / "models.json").read_bytes())
    for known in TABLE.values():
        state = listed[f"v9-{known.model[-1]}"]["state"]
        assert known.megabytes == round(sum(4 * torch.Size(shape).numel() for _, shape in state) / 1e6)


def test_what_is_here_is_not_asked_for_again(server: FileServer, capsys: pytest.CaptureFixture[str]) -> None:
    get_weights(NAME, server.url)
    server.asked.clear()
    capsys.readouterr()
    get_weights(NAME, server.url)
    assert server.asked == []
    said = capsys.readouterr().out
    assert f"{NAME} is here already: {weights_path(NAME)}\n" in said
    assert hashlib.sha256(server.content).hexdigest() in said


def test_the_cache_folder_is_the_systems_if_none_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for value in (None, ""):
        monkeypatch.setenv("DETECTOR_HOME", "") if value == "" else monkeypatch.delenv("DETECTOR_HOME")
        assert "attention-detector" in cache_folder().parts
    monkeypatch.setenv("DETECTOR_HOME", "~/mine")
    assert cache_folder() == Path.home() / "mine" / "weights"


@pytest.mark.parametrize("right", [True, False])
def test_a_known_checksum_must_be_that_of_the_file(
    server: FileServer, home: Path, right: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = hashlib.sha256(server.content if right else b"another file").hexdigest()
    monkeypatch.setitem(TABLE, NAME, replace(TABLE[NAME], sha256=digest))
    if right:
        get_weights(NAME, server.url)
        assert files(home) == GOT
        return
    with pytest.raises(
        WeightsError, match=rf"SHA-256 is \w+, not the published {digest}; name another source with --source"
    ) as e:
        get_weights(NAME, server.url)
    assert one_line(e).startswith(server.url)
    assert not files(home)


def test_damaged_weights_are_refused_and_repaired_from_the_same_file_only(server: FileServer, home: Path) -> None:
    get_weights(NAME, server.url)
    path, good = weights_path(NAME), server.content
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(
        WeightsError, match=f"{NAME}.safetensors: damaged.*; repair it with: detector weights get {NAME}$"
    ):
        load_weights(NAME)
    server.content, server.etag = good + b"\0", '"two"'
    with pytest.raises(
        WeightsError, match=rf"not {hashlib.sha256(good).hexdigest()}, which {NAME} had before; remove "
    ):
        get_weights(NAME, server.url)
    assert files(home) == GOT
    server.content, server.etag = good, '"one"'
    get_weights(NAME, server.url)
    assert path.read_bytes() == whole
    path.with_suffix(".json").write_text("[")
    with pytest.raises(WeightsError, match="damaged"):
        load_weights(NAME)


def test_a_broken_transfer_is_one_line_and_goes_on_later(server: FileServer, home: Path) -> None:
    server.stop_after = 1_000_000
    with pytest.raises(DataError, match=r"bytes are missing\); check the network and repeat the command") as e:
        get_weights(NAME, server.url)
    one_line(e)
    assert files(home) == PARTIAL
    require_resumable(server, home)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"<html>Please log in</html>", "neither a zip archive"),
        (b"", "neither a zip archive"),
        (
            lambda: checkpoint_of(lively_model(3, "yolov9t")),
            "yolov9t with 3 classes, not yolov9t with 80; name",
        ),
        (lambda: checkpoint_of(lively_model(80, "yolov9s")), "holds yolov9s with 80 classes, not yolov9t"),
        (
            lambda: saved(to_published(create_model("yolov9t").state_dict(), "yolov9t")),
            "not named as by MultimediaTechLab; if its license suits you, convert it with detector import_weights",
        ),
    ],
    ids=["page", "nothing", "classes", "network", "publisher"],
)
def test_another_file_is_refused_in_one_line(server: FileServer, home: Path, content: object, words: str) -> None:
    server.content = content() if callable(content) else content
    with pytest.raises(WeightsError, match=words) as e:
        get_weights(NAME, server.url)
    assert one_line(e).startswith(f"{server.url}: ")
    assert not files(home)


def test_a_file_that_is_here_already_is_a_source(checkpoint: bytes, home: Path, tmp_path: Path) -> None:
    source = tmp_path / "v9-t.pt"
    with pytest.raises(WeightsError, match=f"--source: there is no file {source}; name a file, or a URL"):
        get_weights(NAME, str(source))
    source.write_bytes(checkpoint)
    weights_path(NAME).parent.mkdir(parents=True)
    for name in PARTIAL:  # what is of no use any more goes
        (weights_path(NAME).parent / name).touch()
    get_weights(NAME, str(source))
    assert files(home) == GOT
    assert source.read_bytes() == checkpoint
    assert load_weights(NAME)[1].categories == COCO


def test_secrets_of_a_mirror_are_neither_shown_nor_kept(
    server: FileServer, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = server.url.replace("http://", "http://me:hush@") + "?token=hush"
    assert main(["weights", "get", NAME, "--source", url]) == 0
    said = capsys.readouterr()
    assert "from http://***@127" in said.out
    assert "hush" not in said.out + said.err
    assert not any(b"hush" in path.read_bytes() for path in home.rglob("*") if path.is_file())


@pytest.mark.parametrize("where", ["download", "import"])
def test_a_full_disk_is_one_line_and_leaves_nothing(server: FileServer, home: Path, tmp_path: Path, where: str) -> None:
    (tmp_path / "v9-t.pt").write_bytes(server.content)
    source = server.url if where == "download" else str(tmp_path / "v9-t.pt")
    done = run(["weights", "get", NAME, "--source", source], 1_000_000, {"DETECTOR_HOME": str(home)})
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "can't be written" in line
    assert line.endswith("free some space or choose another folder with DETECTOR_HOME")
    assert not files(home)


def test_a_home_that_cant_be_written_is_one_line(
    server: FileServer, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as context:  # a stand-in, as root may write everywhere
        context.setattr(fileio.os, "access", lambda path, mode: mode == os.F_OK and Path(path).exists())
        with pytest.raises(WriteError, match=r"DETECTOR_HOME: .* may not be written to\); choose another folder$") as e:
            get_weights(NAME, server.url)
    one_line(e)
    monkeypatch.setenv("DETECTOR_HOME", str(tmp_path / "file"))
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match=r"DETECTOR_HOME: .*file is a file\); choose another folder"):
        get_weights(NAME, server.url)
    assert (server.asked, home.exists()) == ([], False)


def test_two_at_once_do_no_harm(server: FileServer, home: Path) -> None:
    with folder_lock(weights_path(NAME).parent, "download"), pytest.raises(WriteError) as e:
        get_weights(NAME, server.url)
    assert f"another download writes there (process {os.getpid()} on" in one_line(e)
    assert one_line(e).endswith("or choose another DETECTOR_HOME")
    assert server.asked == []
    get_weights(NAME, server.url)
    assert files(home) == GOT


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_get_that_is_stopped_goes_on_later(server: FileServer, home: Path, number: signal.Signals) -> None:
    server.stop_after, server.held = 1_000_000, Event()
    process = start(["weights", "get", NAME, "--source", server.url])
    partial = weights_path(NAME).with_suffix(".partial")
    wait_for(lambda: partial.exists() and partial.stat().st_size == 1_000_000, process)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    server.held.set()
    killed = number == signal.SIGKILL
    assert (process.returncode, errors) == ((-number, "") if killed else (2, INTERRUPTED))
    assert files(home) - {".lock"} == PARTIAL
    require_resumable(server, home)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["get"], "name: missing after get; detector weights lists the names"),
        (["get", "yolov9x-coco"], f"no published weights 'yolov9x-coco'; choose one of {', '.join(TABLE)}"),
        (["get", "yolo11n-bccd"], "no published weights 'yolo11n-bccd'"),
        (["list", NAME], "name: belongs to detector weights get"),
        (["--source", "x"], "source: belongs to detector weights get"),
        (["fetch", NAME], "action: invalid value 'fetch': expected one of list, get"),
    ],
)
def test_what_is_no_such_command_is_one_line(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["weights", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


def test_a_configuration_file_may_name_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The default of an optional positional argument must not take the place of the file's value."""
    (tmp_path / "get.yaml").write_text("action: get\nname: mine\n")
    assert main(["weights", "--config", str(tmp_path / "get.yaml")]) == 2
    assert "no published weights 'mine'" in capsys.readouterr().err
