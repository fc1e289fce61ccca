"""The package as users get it: built as a source archive and as a wheel, and run from outside of the repository."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

from detector.exporting.verify import shipped_photos

REPOSITORY = Path(__file__).parents[1]
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "configs", "detector", "weights")

pytestmark = [pytest.mark.slow, pytest.mark.skipif(find_spec("pip") is None, reason="needs pip")]


def call(*arguments: object, cwd: Path, path: Path | None = None) -> str:
    """What Python writes to stdout, run in `cwd`, with `path` before all other packages."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build_wheel(source: Path, target: Path) -> Path:
    options = ("--quiet", "--disable-pip-version-check", "--no-deps", "--no-index", "--no-build-isolation")
    call("-m", "pip", "wheel", *options, "--wheel-dir", target, source, cwd=target.parent)
    (wheel,) = target.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what is needed to build, as building leaves files behind; the link to the weights stays one."""
    copy = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        if (REPOSITORY / name).is_dir():
            shutil.copytree(
                REPOSITORY / name, copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__", ".*")
            )
        else:
            shutil.copy(REPOSITORY / name, copy / name)
    return copy


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(source, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel alone; the packages that it requires are those of this environment."""
    target = tmp_path_factory.mktemp("installed")
    options = ("--quiet", "--disable-pip-version-check", "--no-deps", "--no-index", "--target", target)
    call("-m", "pip", "install", *options, wheel, cwd=target)
    return target


def test_a_wheel_holds_the_package_its_weights_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
    package = {name for name in names if ".dist-info/" not in name}
    modules = {str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / "detector").rglob("*.py")}
    weights = {f"detector/weights/shipped_files/{path.name}" for path in (REPOSITORY / "weights").iterdir()}
    recipes = {f"detector/recipes/{path.name}" for path in (REPOSITORY / "configs").glob("*.yaml")}
    photos = {str(path.relative_to(REPOSITORY)) for path in shipped_photos()}
    assert len(weights) >= 3
    assert len(photos) == 3
    assert len(recipes) >= 2
    assert package == {*modules, *weights, *photos, *recipes, "detector/py.typed"}
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_a_source_archive_makes_the_same_wheel(source: Path, wheel: Path, tmp_path: Path) -> None:
    if find_spec("build") is not None:
        call("-m", "build", "--sdist", "--no-isolation", "--outdir", tmp_path, source, cwd=tmp_path)
    else:
        script = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
        call("-c", script, tmp_path, cwd=source)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as content:
        content.extractall(tmp_path / "unpacked", filter="data")  # which refuses links that lead outside
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    again = build_wheel(unpacked, tmp_path / "wheel")
    with zipfile.ZipFile(wheel) as first, zipfile.ZipFile(again) as second:
        sums = [{info.filename: info.CRC for info in one.infolist()} for one in (first, second)]
    for one in sums:
        one.pop(next(name for name in one if name.endswith("/RECORD")))
    assert sums[0] == sums[1]


def test_the_installed_package_infers_with_its_own_weights(installed: Path, tmp_path: Path) -> None:
    shutil.copy(shipped_photos()[0], tmp_path / "image.jpg")
    script = (
        "import detector, json; from detector.weights.shipped import find_weights; from importlib.metadata import files\n"
        "package = [str(file.locate()) for file in files('attention-detector') if file.name == 'METADATA']\n"
        "print(json.dumps([detector.__file__, str(find_weights('yolo11n-bccd')), *package]))"
    )
    found = json.loads(call("-c", script, cwd=tmp_path, path=installed))
    assert len(found) == 3
    for place in found:
        assert Path(place).is_relative_to(installed)
    said = call("-m", "detector", "train", "--config", "coco", "--print_config", cwd=tmp_path, path=installed)
    assert "nominal_batch_size: 64" in said
    arguments = ("infer", "image.jpg", "--weights", "yolo11n-bccd", "--out", "out", "--device", "cpu")
    said = call("-m", "detector", *arguments, cwd=tmp_path, path=installed)
    assert said.startswith("1 images: ")
    entries = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert {entry["category_name"] for entry in entries} <= {"RBC", "WBC", "Platelets"}
    assert (tmp_path / "out" / "image.jpg").is_file()
    assert (installed / "bin" / "detector").is_file() or (installed / "Scripts" / "detector.exe").is_file()
