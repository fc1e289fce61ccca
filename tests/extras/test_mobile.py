"""Files for phones and small boards: the same gate, the same detections, and nothing of a foreign file is run."""

import json
import struct
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lively_model import calmed, lively_model

from detector.config import ExportConfig
from detector.errors import ConfigError, ExportMismatchError, WeightsError
from detector.exporting.export import export
from detector.exporting.verify import differences, shipped_photos
from detector.formats.flatbuffer import FlatbufferError, Table
from detector.formats.table import FORMATS
from detector.images.read import read_image
from detector.inference.detector import Detector
from detector.structures import Categories, Detections
from detector.weights.files import WeightsInfo, save_weights

pytestmark = pytest.mark.usefixtures("no_shape_checks_in_module")

NAMES = ("a", "b", "c", "d", "ç")
NEEDS = {"executorch": ("executorch",), "litert": ("ai_edge_litert", "litert_torch"), "coreml": ("coremltools",)}
RUN_HERE = ("executorch", "litert")


def need(kind: str) -> None:
    for package in NEEDS[kind]:
        pytest.importorskip(package, reason=f"make test-mobile installs {package}", exc_type=ImportError)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "lively.safetensors"
    thresholds = (0.3, None, None, None, None)
    info = WeightsInfo("yolo11n", Categories((3, 7, 20, 21, 90), NAMES), 64, {}, {}, "CC0", thresholds=thresholds)
    save_weights(path, calmed(lively_model(5)), info)
    return path


class Files(dict[str, Path]):
    """A file of each format, exported when first asked for, as each takes a minute or so."""

    def __init__(self, weights: Path, folder: Path) -> None:
        self.weights = weights
        self.folder = folder

    def __missing__(self, kind: str) -> Path:
        need(kind)
        path = self.folder / f"lively{FORMATS[kind].suffix}"
        comparison = export(ExportConfig(weights=str(self.weights), out=str(path), format=kind))
        report = json.loads(path.with_name(f"{path.name}.json").read_text())
        assert comparison is not None
        assert report["passes"]
        assert report["box_difference"] == comparison.box_difference <= 0.5
        assert comparison.file_detections == comparison.model_detections > 20
        self[kind] = path
        return path


@pytest.fixture(scope="module")
def files(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(weights, tmp_path_factory.mktemp("files"))


def require_same(expected: Detections, got: Detections, conf: float) -> None:
    """Each detection clearly above `conf` has its partner, the box within 0.5 px and the score within 1e-3."""
    boxes, scores, alone = differences(expected, got, conf + 1e-3)
    assert alone == 0
    assert len(boxes) > 0
    assert boxes.abs().max() <= 0.5
    assert scores.abs().max() <= 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("kind", RUN_HERE)
def test_a_file_finds_what_the_model_finds(kind: str, files: Files, weights: Path) -> None:
    model, file = Detector.load(weights, device="cpu"), Detector.load(files[kind])
    assert file.categories == model.categories
    assert file.runtime.input_size == (64, 64)
    assert [path.name for path in files[kind].parent.glob(f"{files[kind].name}*")] == [
        files[kind].name,
        f"{files[kind].name}.json",
    ]
    images = [read_image(path) for path in shipped_photos()]
    for expected, got in zip(model(images), file(images), strict=True):
        require_same(expected, got, 0.3)
    with pytest.raises(ConfigError, match="batch: invalid value 4"):
        file.batch = 4
    with pytest.raises(ConfigError, match="device"):
        Detector.load(files[kind], device="cuda")


@pytest.mark.slow
@pytest.mark.parametrize("kind", RUN_HERE)
def test_threads_may_share_a_detector(kind: str, files: Files) -> None:
    detector, images = Detector.load(files[kind], threads=2), [read_image(path) for path in shipped_photos()]
    alone = detector(images)
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(detector, images * 5))
    for one, other in zip(alone * 5, together, strict=True):
        require_same(one, other, 0.3)


@pytest.mark.slow
@pytest.mark.parametrize("kind", RUN_HERE)
def test_a_damaged_file_is_one_line(kind: str, files: Files, tmp_path: Path) -> None:
    content = files[kind].read_bytes()
    path = tmp_path / files[kind].name
    for size in (0, 3, 8, 20, 1000, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(WeightsError, match=path.name):
            Detector.load(path)
    path.write_bytes(b"\x80hello\n" * 1000)
    with pytest.raises(WeightsError, match=path.name):
        Detector.load(path)


@pytest.mark.slow
def test_an_operator_or_backend_that_export_does_not_write_is_refused(files: Files, tmp_path: Path) -> None:
    content = files["executorch"].read_bytes()
    path = tmp_path / "a.pte"
    for known, other in (
        (b"XnnpackBackend", b"OpenvinoBackendX"[:14]),
        (b"XnnpackBackend", b"XnnpackBackenD"),
        (b"aten::_softmax", b"aten::_softmix"),
        (b"upsample_nearest2d", b"upsample_nearest3d"),
    ):
        assert known in content
        path.write_bytes(content.replace(known, other))
        with pytest.raises(WeightsError, match=r"nothing of the file was run"):
            Detector.load(path)


@pytest.mark.slow
def test_an_operator_of_another_name_or_number_is_refused(files: Files, tmp_path: Path) -> None:
    content = files["litert"].read_bytes()
    path = tmp_path / "a.tflite"
    (first, *_) = Table.root(content, b"TFL3").tables(1)
    small, whole = first.place_of(0), first.place_of(3)
    assert small is not None
    assert whole is not None
    for number in (32, 118, 129, 142):  # custom, if, call once, a variable
        changed = bytearray(content)
        struct.pack_into("<b", changed, small, min(number, 127))
        struct.pack_into("<i", changed, whole, number)
        path.write_bytes(changed)
        with pytest.raises(WeightsError, match=rf"operator number {number}: .* nothing of the file was run"):
            Detector.load(path)


@pytest.mark.slow
def test_metadata_are_an_archive_behind_the_network(files: Files, tmp_path: Path) -> None:
    with zipfile.ZipFile(files["litert"]) as archive:
        assert archive.namelist() == ["detector.json"]
        assert json.loads(json.loads(archive.read("detector.json"))["class_names"]) == list(NAMES)
        length = archive.infolist()[0].header_offset
    path = tmp_path / "a.tflite"
    path.write_bytes(files["litert"].read_bytes()[:length])  # as other programs write it
    with pytest.raises(WeightsError, match="not written by detector export"):
        Detector.load(path)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("detector.json", "{}" * 10_000)
    with pytest.raises(WeightsError, match="not written by detector export"):
        Detector.load(path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", RUN_HERE)
def test_a_file_of_another_network_is_refused_and_not_left(
    kind: str, files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gate: the file is one of `lively`, the weights are others."""
    need(kind)
    out = tmp_path / f"a{FORMATS[kind].suffix}"

    def write(path: Path, *_: Any) -> None:
        path.write_bytes(files[kind].read_bytes())

    monkeypatch.setattr(f"detector.formats.{kind}.export.write_{kind}", write)
    spoiled = tmp_path / "other.safetensors"
    model = calmed(lively_model(5))
    with torch.no_grad():
        model.head.box_branches[0][-1].bias[0] += 2
    save_weights(spoiled, model, WeightsInfo("yolo11n", Categories((3, 7, 20, 21, 90), NAMES), 64, {}, {}, "CC0"))
    with pytest.raises(ExportMismatchError, match="was not written"):
        export(ExportConfig(weights=str(spoiled), out=str(out), format=kind))
    assert [path.name for path in tmp_path.iterdir()] == ["other.safetensors"]


@pytest.mark.slow
def test_a_core_ml_package_is_written_and_said_not_to_be_compared(
    weights: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    need("coreml")
    import coremltools

    out = tmp_path / "a.mlpackage"
    capfd.readouterr()
    assert export(ExportConfig(weights=str(weights), out=str(out), format="coreml")) is None
    printed, errors = capfd.readouterr()
    assert "NOT compared with the model" in printed
    assert json.loads((tmp_path / "a.mlpackage.json").read_text())["passes"] is None
    assert errors == ""
    spec = coremltools.models.MLModel(str(out), skip_model_load=True).get_spec()
    assert [entry.name for entry in spec.description.input] == ["image"]
    assert [entry.name for entry in spec.description.output] == ["boxes", "scores"]
    metadata = dict(spec.description.metadata.userDefined)
    assert WeightsInfo.from_metadata(metadata).categories.names == NAMES
    assert not [file for file in out.rglob("*") if not file.stat().st_mode & 0o044]
    with pytest.raises(ConfigError, match="is a folder"):
        export(ExportConfig(weights=str(weights), out=str(out), format="coreml"))
    with pytest.raises(WeightsError, match=r"a\.mlpackage"):
        Detector.load(out)
    with pytest.raises(ConfigError, match="can be run here"):
        ExportConfig(weights=str(weights), out=str(out), format="coreml", data="shared")


@pytest.mark.parametrize("kind", NEEDS)
def test_a_missing_package_is_one_line_with_the_remedy(
    kind: str, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith(f"detector.formats.{kind}.")]:
        monkeypatch.delitem(sys.modules, name)
    for package in NEEDS[kind]:
        for name in [name for name in sys.modules if name.startswith(f"{package}.")]:
            monkeypatch.setitem(sys.modules, name, None)
        monkeypatch.setitem(sys.modules, package, None)
    suffix = FORMATS[kind].suffix
    remedy = r"needs the package [\w.]+: pip install 'attention-detector\[mobile\]'"
    with pytest.raises(ConfigError, match=remedy):
        export(ExportConfig(weights=str(weights), out=str(tmp_path / f"a{suffix}"), format=kind))
    assert list(tmp_path.iterdir()) == []
    if kind in RUN_HERE:
        (tmp_path / f"b{suffix}").write_bytes(b"file")
        with pytest.raises(ConfigError, match=remedy):
            Detector.load(tmp_path / f"b{suffix}")


def test_flatbuffers_are_read_field_by_field_and_never_beyond_their_end() -> None:
    # root: a table with a number of 4 bytes in field 0, a string in field 2, none in field 1
    vtable = struct.pack("<HHHHH", 10, 12, 4, 0, 8)
    at = 8 + len(vtable) + 2
    table = struct.pack("<iiI", at - 8, 42, 4) + struct.pack("<I", 5) + b"hello\0\0\0"
    content = struct.pack("<I", at) + b"TEST" + vtable + b"\0\0" + table
    root = Table.root(content, b"TEST")
    assert root.number(0, "i") == 42
    assert root.number(1, "i", default=7) == 7
    assert root.number(9, "i") == 0
    assert root.text(2) == "hello"
    with pytest.raises(FlatbufferError, match="identifier"):
        Table.root(content, b"ELSE")
    for place in range(0, len(content) - 3, 2):
        for value in (-(2**31), -1, 2**31 - 1, len(content)):
            changed = bytearray(content)
            struct.pack_into("<i", changed, place, value)
            try:
                root = Table.root(bytes(changed), b"TEST")
                root.number(0, "i")
                root.text(2)
                list(root.tables(2))
            except FlatbufferError:
                continue
    for size in range(len(content)):
        try:
            assert Table.root(content[:size], b"TEST").text(2) in ("hello", "")
        except FlatbufferError:
            continue
    assert np.frombuffer(content, np.uint8).size == len(content)
