"""Images of a dataset that are elsewhere: the same as here, wherever they are; what fails is one line without secrets."""

import io
import json
import shutil
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from command_line import start
from image_server import PASSWORD, USER, ImageServer, serving

import detector.images.remote as remote
import detector.utils.http as http
from detector.cli import main
from detector.config import PathsConfig
from detector.data.coco import CocoDataset
from detector.data.compare import doubts
from detector.data.load import load_split
from detector.data.remote_images import join, shard_urls
from detector.demo.scenes import make_dataset
from detector.errors import ConfigError, DataError
from detector.images.read import UnreadableImageError

IMAGES = 8
TIMES = ("seconds", "images_per_second")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    make_dataset(root, seed=1, train=IMAGES, val=4, test=3)
    return root


@pytest.fixture(scope="module")
def server(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ImageServer]:
    root = Path(shutil.copytree(data, tmp_path_factory.mktemp("served") / "data"))
    for split in ("train", "val"):
        write_shards(sorted((data / split).iterdir()), root, split)
    with serving(root) as served:
        yield served


@pytest.fixture(autouse=True)
def well(server: ImageServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server with no faults left over from another test, and no waits."""
    server.faults.clear()
    server.asked.clear()
    server.ranges, server.locked, server.sent = True, False, 0
    monkeypatch.setattr(remote, "WAITS", (0.0, 0.0))


def write_shards(files: list[Path], folder: Path, name: str, prefix: str = "", count: int = 2) -> None:
    """Tar files name-000.tar and so on, in the layout of WebDataset: an image, then what belongs to it."""
    for number in range(count):
        with tarfile.open(folder / f"{name}-{number:03}.tar", "w") as tar:
            for file in files[number::count]:
                tar.add(file, f"{prefix}{file.name}")
                add(tar, f"{prefix}{file.stem}.json", b"{}")


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def annotations_of(data: Path, split: str) -> str:
    (file,) = (data / "annotations").glob(f"instances_{split}*.json")
    return str(file)


def load(data: Path, images: str, cache: Path, split: str = "train", **more: Any) -> CocoDataset:
    paths = {f"{split}_json": annotations_of(data, split), f"{split}_images": images}
    return load_split(None, split, paths=PathsConfig(**paths, cache=str(cache), **more))  # type: ignore[arg-type]


def in_memory(data: Path) -> str:
    """A store that can be listed, as S3's."""
    store = fsspec.filesystem("memory")
    for file in (data / "train").iterdir():
        store.pipe(f"/bucket/{data.parent.name}/train/{file.name}", file.read_bytes())
    return f"memory://bucket/{data.parent.name}/train"


def place(kind: str, data: Path, server: ImageServer, tmp_path: Path) -> str:
    """The training images in another place."""
    files = sorted((data / "train").iterdir())
    match kind:
        case "web":
            return server.url("train")
        case "store":
            return in_memory(data)
        case "file":
            return (data / "train").as_uri()
        case "web shards":
            return server.url("train-{000..001}.tar?part=1")
        case "local shards":
            write_shards(files, tmp_path, "shard", prefix="./some/folder/")
            return str(tmp_path / "shard-*.tar")
    write_shards(files, tmp_path, "shard")
    store = fsspec.filesystem("memory")
    for file in tmp_path.glob("*.tar"):
        store.pipe(f"/shards/{tmp_path.name}/{file.name}", file.read_bytes())
    return f"memory://shards/{tmp_path.name}/shard-*.tar"


def small(server: ImageServer, data: Path, cache: Path) -> CocoDataset:
    return load(data, server.url("train"), cache)


def copies(cache: Path) -> int:
    return len(list(cache.glob("*/*")))


@pytest.mark.parametrize("kind", ["web", "store", "file", "web shards", "local shards", "store shards"])
def test_images_are_the_same_wherever_they_are(kind: str, data: Path, server: ImageServer, tmp_path: Path) -> None:
    here = load_split(str(data), "train")
    there = load(data, place(kind, data, server, tmp_path), tmp_path / "cache")
    assert (there.fingerprint() == here.fingerprint()) == (kind != "web")  # a web server doesn't list lengths
    assert server.sent < 100_000  # neither the images nor the shards were asked for
    for _ in range(2):
        for index in range(IMAGES):
            one, other = here.read(index), there.read(index)
            assert (one.image == other.image).all()
            assert (one.boxes == other.boxes).all()
    local = kind in ("file", "local shards")
    assert copies(tmp_path / "cache") == (0 if local else IMAGES + 2 * kind.endswith("shards"))
    assert all(count <= 1 for name, count in server.asked.items() if name.endswith("jpg"))
    assert any(
        "validation images that are training images" in line and "8 of 8" in line for line in doubts(there, there)
    )
    assert not any("validation images" in line for line in doubts(here, there))  # that would read all of them


def test_a_second_start_reads_no_headers_of_shards(data: Path, server: ImageServer, tmp_path: Path) -> None:
    url = server.url("train-{000..001}.tar")
    load(data, url, tmp_path / "cache")
    first = sum(server.asked.values())
    load(data, url, tmp_path / "cache")
    assert sum(server.asked.values()) == first + 2  # whether they are still the same
    next(path for path in (tmp_path / "cache").glob("*/*")).write_bytes(b"damaged")
    assert len(load(data, url, tmp_path / "cache")) == IMAGES


def test_what_fails_is_tried_again_and_what_is_refused_is_not(data: Path, server: ImageServer, tmp_path: Path) -> None:
    images = small(server, data, tmp_path / "cache")
    name = f"train/{images.file_name(0)}"
    server.faults[name] = [503, "cut"]
    expected = load_split(str(data), "train").read(0)
    assert (images.read(0).image == expected.image).all()
    assert server.asked[name] == 3
    missing = f"train/{images.file_name(1)}"
    server.faults[missing] = [404] * 9
    with pytest.raises(UnreadableImageError, match=r"can't be reached \(the server says 404"):
        images.read(1)
    assert server.asked[missing] == 1
    broken = f"train/{images.file_name(2)}"
    server.faults[broken] = ["cut"] * 9
    with pytest.raises(UnreadableImageError, match="bytes are missing"):
        images.read(2)
    assert server.asked[broken] == 3
    assert copies(tmp_path / "cache") == 1


def test_a_transfer_has_a_deadline_and_a_size_limit(
    data: Path, server: ImageServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = small(server, data, tmp_path / "cache")
    server.faults[f"train/{images.file_name(0)}"] = ["wait"] * 9
    monkeypatch.setattr(http, "DEADLINE", 0.2)
    with pytest.raises(UnreadableImageError, match=r"not complete after|bytes are missing"):
        images.read(0)
    monkeypatch.undo()
    monkeypatch.setattr(http, "LARGEST", 100)
    with pytest.raises(UnreadableImageError, match="more than 0 MiB"):
        images.read(1)


def test_what_is_no_image_is_not_kept(data: Path, server: ImageServer, tmp_path: Path) -> None:
    images = small(server, data, tmp_path / "cache")
    file = server.root / "train" / images.file_name(0)
    good = file.read_bytes()
    file.write_bytes(b"please log in")
    with pytest.raises(UnreadableImageError, match="13 bytes are no image"):
        images.read(0)
    file.write_bytes(good)
    assert images.read(0).image.size > 0


def test_passwords_and_tokens_are_sent_and_never_shown(data: Path, server: ImageServer, tmp_path: Path) -> None:
    server.locked = True
    folder = f"{server.url('train', USER)}?token={PASSWORD}"
    images = load(data, folder, tmp_path / "cache")
    assert images.read(0).image.size > 0
    server.faults[f"train/{images.file_name(1)}"] = [404]
    with pytest.raises(UnreadableImageError) as error:
        images.read(1)
    assert PASSWORD not in str(error.value)
    assert "***" in str(error.value)
    # copies are those of another password, too
    again = load(data, f"{server.url('train', USER)}?token=new", tmp_path / "cache")
    asked = sum(server.asked.values())
    again.read(0)
    assert sum(server.asked.values()) == asked
    with pytest.raises(DataError, match="give the URL again"):
        load(data, str(images.images_folder), tmp_path / "cache")


def test_names_in_urls() -> None:
    assert join("https://host/a/?sas=1&x=2", "b c/d#?.jpg") == "https://host/a/b%20c/d%23%3F.jpg?sas=1&x=2"
    assert join("s3://bucket/a/", "b c.jpg") == "s3://bucket/a/b c.jpg"


def test_numbers_and_globs_of_shards(tmp_path: Path) -> None:
    assert shard_urls("https://h/{08..10}/{1..2}.tar") == tuple(
        f"https://h/{folder}/{number}.tar" for folder in ("08", "09", "10") for number in (1, 2)
    )
    for url, reason in {
        "https://h/{3..1}.tar": "stands for no numbers",
        "https://h/{0..999999999999}.tar": "stands for no numbers, or for more",
        str(tmp_path / "*.tar"): "there are no such tar files",
    }.items():
        with pytest.raises(DataError, match=reason):
            shard_urls(url)


def edited(data: Path, tmp_path: Path, change: Any) -> Path:
    """A copy of the annotations with a change to the first image."""
    (tmp_path / "annotations").mkdir()
    content = json.loads(Path(annotations_of(data, "train")).read_text())
    content["images"][0] |= change
    (tmp_path / "annotations" / "instances_train.json").write_text(json.dumps(content))
    return tmp_path


@pytest.mark.parametrize(
    ("change", "kind", "reason"),
    [
        ({"file_name": "none.jpg"}, "store", r"1 of 8 images named in .* are not in memory:.*, the first: 'none\.jpg'"),
        ({"file_name": "none.jpg"}, "local shards", r"1 of 8 images named in .* are not in .*shard-\*\.tar"),
        ({"file_name": "https://other/a.jpg"}, "web", "leads out of the image folder"),
        ({"file_name": "/etc/a.jpg"}, "store", "leads out of the image folder"),
        ({"file_name": "../a.jpg"}, "web", "leads out of the image folder"),
        ({"file_name": "a.jpg::memory://b"}, "store", "leads out of the image folder"),
        ({"width": None}, "web", r"images\[0\] has no width and height"),
    ],
)
def test_annotations_that_do_not_fit(
    change: dict[str, Any], kind: str, reason: str, data: Path, server: ImageServer, tmp_path: Path
) -> None:
    url = place(kind, data, server, tmp_path)
    with pytest.raises(DataError, match=reason):
        load(edited(data, tmp_path, change), url, tmp_path / "cache")


def test_shards_that_can_not_be_used(data: Path, server: ImageServer, tmp_path: Path) -> None:
    files = sorted((data / "train").iterdir())

    def refused(url: str) -> str:
        with pytest.raises(DataError) as error:
            load(data, url, tmp_path / "cache")
        return str(error.value)

    (tmp_path / "text.tar").write_bytes(b"no tar file" * 100)
    assert "this is no tar file" in refused(str(tmp_path / "text.tar"))
    with tarfile.open(tmp_path / "packed.tar", "w:gz") as tar:
        tar.add(files[0])
    assert "gunzip" in refused(str(tmp_path / "packed.tar"))
    write_shards(files, tmp_path, "cut", count=1)
    whole = (tmp_path / "cut-000.tar").read_bytes()
    (tmp_path / "cut-000.tar").write_bytes(whole[: len(whole) // 2])
    assert "cut-000.tar" in refused(str(tmp_path / "cut-000.tar"))
    bomb = tarfile.TarInfo("x")
    bomb.type, bomb.size = tarfile.XHDTYPE, 1 << 33
    (tmp_path / "bomb.tar").write_bytes(bomb.tobuf() + b"\0" * (3 << 20))
    assert "this is no tar file, or a broken one" in refused(str(tmp_path / "bomb.tar"))
    assert "does not exist" in refused(str(tmp_path / "none.tar"))
    write_shards(files, tmp_path, "twice", prefix="a/")
    with tarfile.open(tmp_path / "twice-000.tar", "a") as tar:
        tar.add(files[1], f"b/{files[1].name}")
    assert f"{files[1].name}': this may be 'b/" in refused(str(tmp_path / "twice-{000..001}.tar"))
    server.ranges = False
    assert "the server sends no parts of files" in refused(server.url("train-000.tar"))


def test_a_dataset_folder_elsewhere_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for command in (["train", "--data"], ["evaluate", "--weights=yolo11n-bccd", "--data"], ["doctor"]):
        out = [] if command == ["doctor"] else [f"--out={tmp_path / 'out'}"]
        assert main([*command, f"https://{USER}@host/data", *out]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "https://***@host/data: annotations must be on this machine" in line
        assert "--paths.train_json" in line


def test_the_cache_is_an_option_with_a_range(data: Path, server: ImageServer, tmp_path: Path) -> None:
    images = load(data, server.url("train"), tmp_path / "cache", cache_gb=0.0)
    assert images.read(0).image.size > 0
    assert copies(tmp_path / "cache") == 0
    with pytest.raises(ConfigError, match=r"paths\.cache_gb"):
        PathsConfig(cache_gb=-1)


# ---- commands


def arguments(data: Path, server: ImageServer, cache: Path, images: str = "{}", user: str = USER) -> list[str]:
    """Only the annotations are here."""
    given = [f"--paths.cache={cache}"]
    for split in ("train", "val"):
        given += [f"--paths.{split}_json={annotations_of(data, split)}"]
        given += [f"--paths.{split}_images={server.url(images.format(split), user)}"]
    return given


OPTIONS = [
    *("--image_size=64", "--batch_size=4", "--train.nominal_batch_size=4", "--epochs=2", "--weights=scratch"),
    *("--workers=2", "--train.cache_gb=0", "--loggers=[]"),
]


def losses(out: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMES} for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize("images", ["{}", "{}-{{000..001}}.tar"])
def test_a_training_has_the_same_losses_wherever_the_images_are(
    images: str, data: Path, server: ImageServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.locked = images == "{}"
    given = arguments(data, server, tmp_path / "cache", images, USER if server.locked else "")
    assert main(["train", f"--data={data}", f"--out={tmp_path / 'here'}", *OPTIONS]) == 0
    there = ["train", f"--out={tmp_path / 'there'}", *OPTIONS, *given]
    # room for three images
    size = sum(file.stat().st_size for file in (data / "train").iterdir()) / IMAGES
    assert main([*there, f"--paths.cache_gb={3.5 * size / 2**30}"]) == 0
    assert losses(tmp_path / "there") == losses(tmp_path / "here")
    assert sum(path.stat().st_size for path in (tmp_path / "cache").glob("*/*")) <= 3.5 * size
    shown = capsys.readouterr()
    assert PASSWORD not in shown.out + shown.err
    again = ["report", str(tmp_path / "there")]
    (tmp_path / "there" / "report.html").unlink()  # it was there
    assert main([*again, *given]) == 0
    assert (tmp_path / "there" / "report.html").exists()
    if server.locked:  # the password is nowhere
        assert main(again) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "give the URL again with --paths.train_images" in line
    for file in filter(Path.is_file, (tmp_path / "there").rglob("*")):
        assert PASSWORD.encode() not in file.read_bytes(), file


@pytest.mark.slow
def test_a_training_goes_on_as_if_it_had_not_stopped(
    data: Path, server: ImageServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = arguments(data, server, tmp_path / "cache")
    assert main(["train", f"--out={tmp_path / 'whole'}", *OPTIONS, *given]) == 0
    process = start(["train", f"--out={tmp_path / 'run'}", *OPTIONS, *given, "--train.checkpoint_minutes=0"])
    while not (tmp_path / "run" / "metrics.jsonl").exists() and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    process.wait()
    # the password is nowhere
    assert main(["train", f"--resume={tmp_path / 'run'}"]) == 2
    assert "give the URL again" in capsys.readouterr().err
    assert main(["train", f"--resume={tmp_path / 'run'}", *given]) == 0
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")


@pytest.mark.slow
def test_evaluate_and_doctor(
    data: Path, server: ImageServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = arguments(data, server, tmp_path / "cache")
    results = []
    assert main(["train", f"--data={data}", f"--out={tmp_path / 'run'}", *OPTIONS, "--epochs=1"]) == 0
    common = ["evaluate", f"--weights={tmp_path / 'run' / 'best.safetensors'}", "--image_size=64", "--split=train"]
    for name, where in {"here": [f"--data={data}"], "there": given}.items():
        assert main([*common, f"--out={tmp_path / name}", *where]) == 0
        results.append((tmp_path / name / "detections.json").read_bytes())
    assert results[0] == results[1]
    codes = []
    for name, where in {"a": [str(data)], "b": given}.items():
        codes.append(main(["doctor", *where, f"--out={tmp_path / name}"]))
    found = [json.loads((tmp_path / name / "doctor.json").read_text())["findings"] for name in "ab"]
    assert codes[0] == codes[1]
    in_both = [
        [
            (each["code"], counts)
            for each in entries
            if (counts := {s: n for s, n in each["splits"].items() if s != "test"})
        ]
        for entries in found
    ]
    assert in_both[0] == in_both[1] != []
    capsys.readouterr()
    main(["doctor", *given, "--annotations_only"])
    shown = capsys.readouterr().out
    assert "not looked for, as that would open them: the images of train at http://***@127.0.0.1" in shown
    name = Path(next((data / "train").iterdir())).name
    server.faults[f"train/{name}"] = [404] * 9
    shutil.rmtree(tmp_path / "cache")
    assert main(["doctor", *given]) == 3
    assert "image-unreadable" in capsys.readouterr().out
    server.faults.clear()
    main(["doctor", *given, f"--fix={tmp_path / 'fixed'}"])
    mended, original = (load_split(str(root), "val") for root in (tmp_path / "fixed", data))
    assert (mended.read(0).image == original.read(0).image).all()
    assert np.array_equal(mended.boxes(0), original.boxes(0))
