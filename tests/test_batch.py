"""Batches: what is in the folder at the end is the same, whatever happened on the way."""

import http.server
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Hashable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from batch_runs import (
    CATEGORIES,
    PoisonTask,
    config_of,
    content,
    make_images,
    make_weights,
    parts_of,
    require_quarantined,
    task_like,
)
from command_line import REPOSITORY
from fsspec.implementations.memory import MemoryFileSystem
from lively_model import lively_model

from detector.batch.folder import folder_of
from detector.batch.ledger import Ledger
from detector.batch.local import run_local
from detector.batch.plan import PARTS, Job, Part, claim, list_images
from detector.batch.progress import BatchProgress
from detector.batch.run import batch, join_batch
from detector.batch.table import error_row, table_of
from detector.batch.work import Task
from detector.cli import main
from detector.config import BatchConfig, InferConfig, JoinBatchConfig
from detector.errors import ConfigError, DataError, DetectorError, WriteError
from detector.images.remote import read_remote
from detector.inference.detector import Detector
from detector.inference.infer import infer
from detector.weights.files import WeightsInfo, save_weights


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_weights(tmp_path_factory.mktemp("weights") / "w.safetensors")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_images(tmp_path_factory.mktemp("scenes"))


@pytest.fixture(scope="module")
def undisturbed(images: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a batch that nothing has happened to."""
    out = tmp_path_factory.mktemp("batch") / "out"
    batch(config_of(images, weights, out))
    return out


@pytest.mark.slow
def test_a_batch_finds_what_infer_finds_byte_for_byte(
    images: Path, weights: Path, undisturbed: Path, tmp_path: Path
) -> None:
    found = tmp_path / "infer"
    assert infer(InferConfig(sources=[str(images)], weights=str(weights), out=str(found), save="json", threads=1)) == 1
    join_batch(JoinBatchConfig(str(undisturbed)))
    joined = undisturbed / "detections.json"
    assert joined.read_bytes() == (found / "detections.json").read_bytes()
    assert len(json.loads(joined.read_text())) > 10
    joined.unlink()
    rows = sorted(pq.read_table(undisturbed / PARTS).to_pylist(), key=lambda row: row["image_id"])
    assert [row["image"] for row in rows] == [str(path) for path in sorted(images.glob("*.jpg"))]
    (failed,) = [row for row in rows if row["error"] is not None]
    assert "damaged.jpg: this is not an image of a known format" in failed["error"]
    assert failed["boxes"] is None
    detector = Detector.load(weights, device="cpu", threads=1)
    for row in [row for row in rows if row["error"] is None][:3]:
        detections = detector(row["image"])
        assert row["boxes"] == detections.boxes.tolist()
        assert row["scores"] == detections.scores.tolist()
        assert [CATEGORIES.names[label] for label in row["labels"]] == row["names"] == detections.names
        assert [CATEGORIES.ids[label] for label in row["labels"]] == row["category_ids"]


@pytest.mark.slow
def test_shares_make_the_whole_and_a_rerun_does_nothing(
    images: Path, weights: Path, undisturbed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    batch(config_of(images, weights, tmp_path, part="2/2"))
    with pytest.raises(DataError, match="holds rows of 5 of 11 images"):
        join_batch(JoinBatchConfig(str(tmp_path)))
    batch(config_of(images, weights, tmp_path, part="1/2"))
    assert content(tmp_path) == content(undisturbed)
    capsys.readouterr()
    batch(config_of(images, weights, tmp_path))
    assert capsys.readouterr().out == "11 images; of 4 parts to do here 4 are done\n"


@pytest.mark.slow
def test_results_of_something_else_are_refused(images: Path, weights: Path, tmp_path: Path, undisturbed: Path) -> None:
    before = content(undisturbed)
    other = tmp_path / "other.safetensors"
    save_weights(other, lively_model(3), WeightsInfo("yolo11n", CATEGORIES, 96, {"epochs": 2}, {}, "CC0-1.0"))
    with pytest.raises(WriteError, match="holds results of another weights_sha256"):
        batch(config_of(images, other, undisturbed))
    with pytest.raises(WriteError, match=r"holds results of another conf \(that of the weights, now 0.5\)"):
        batch(config_of(images, weights, undisturbed, conf=0.5))
    with pytest.raises(WriteError, match=r"holds results of another images \(11, now 1\)"):
        batch(config_of(images / "damaged.jpg", weights, undisturbed))
    assert content(undisturbed) == before


@pytest.mark.slow
def test_an_image_that_ends_the_process_is_found_and_quarantined(
    images: Path, weights: Path, undisturbed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = task_like(undisturbed, config_of(images, weights, tmp_path / "out"), PoisonTask)
    poison = list_images(task.config.sources)[4]
    with BatchProgress(11) as progress:
        assert run_local(task, parts_of(task), progress)
    assert (progress.images, progress.errors) == (11, 2)
    line = f"{poison}: quarantined: 2 worker processes ended on this image (exit code 11)"
    assert line in capsys.readouterr().err
    require_quarantined(tmp_path / "out", undisturbed, poison, line)


class Killing(BatchProgress):
    """Kills each worker that says what it has done, three times: too few for an image to be held guilty."""

    left = 3

    def under_way(self, worker: Hashable, images: int) -> None:
        if images and self.left:
            self.left -= 1
            worker.process.kill()  # type: ignore[attr-defined]
        super().under_way(worker, images)


@pytest.mark.slow
def test_killed_workers_leave_no_trace(images: Path, weights: Path, undisturbed: Path, tmp_path: Path) -> None:
    task = task_like(undisturbed, config_of(images, weights, tmp_path / "out", workers=2))
    with Killing(11) as progress:
        assert run_local(task, parts_of(task), progress)
    assert progress.left == 0
    assert content(tmp_path / "out") == content(undisturbed)


class Stopping(BatchProgress):
    """Sends the driver a stop signal when the first image is done."""

    def under_way(self, worker: Hashable, images: int) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        super().under_way(worker, images)


@pytest.mark.slow
def test_a_stop_signal_lets_the_image_finish(images: Path, weights: Path, undisturbed: Path, tmp_path: Path) -> None:
    task = task_like(undisturbed, config_of(images, weights, tmp_path / "out"))
    with Stopping(11) as progress:
        assert not run_local(task, parts_of(task), progress)
    assert len(list((tmp_path / "out" / PARTS).iterdir())) <= 1
    with BatchProgress(11) as progress:
        assert run_local(task, parts_of(task), progress)
    assert content(tmp_path / "out") == content(undisturbed)


class BrokenTask(Task):
    def load(self) -> Detector:
        os._exit(7)


@pytest.mark.slow
def test_workers_that_cannot_begin_are_an_error_and_no_images_fault(
    images: Path, weights: Path, undisturbed: Path, tmp_path: Path
) -> None:
    task = task_like(undisturbed, config_of(images, weights, tmp_path / "out"), BrokenTask)
    with pytest.raises(DetectorError, match=r"3 worker processes ended before they could begin \(exit code 7\)"):
        run_local(task, parts_of(task), BatchProgress(11))
    assert list((tmp_path / "out" / PARTS).iterdir()) == []


def start(
    images: Path, weights: Path, out: Path, largest_file: int = resource.RLIM_INFINITY
) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "detector", "batch", str(images), "--weights", str(weights), "--out", str(out)]
    return subprocess.Popen(
        [*command, "--part_size=3", "--workers=1", "--device=cpu"],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file)),
    )


def wait_for_worker(process: "subprocess.Popen[str]") -> None:
    until = time.monotonic() + 300
    while time.monotonic() < until and process.poll() is None:
        for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                return
        time.sleep(0.01)
    raise AssertionError("no worker has started")


def require_no_orphans(process: "subprocess.Popen[str]") -> None:
    until = time.monotonic() + 300
    while time.monotonic() < until:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    raise AssertionError("a process is left")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=lambda number: number.name)
def test_a_driver_that_is_ended_leaves_no_process_and_can_go_on(
    number: signal.Signals, images: Path, weights: Path, undisturbed: Path, tmp_path: Path
) -> None:
    """One share first, so that something is there and something is left."""
    batch(config_of(images, weights, tmp_path / "out", part="1/2"))
    missing = content(undisturbed).keys() - content(tmp_path / "out").keys()
    assert len(missing) == 2
    process = start(images, weights, tmp_path / "out")
    wait_for_worker(process)
    os.kill(process.pid, number)
    _, err = process.communicate(timeout=300)
    require_no_orphans(process)
    if number == signal.SIGTERM:
        assert process.returncode == 2
        assert err.strip().splitlines()[-1] == (
            "error: stopped; 2 of 4 parts are left, and the same command goes on from there"
        )
    batch(config_of(images, weights, tmp_path / "out"))
    assert content(tmp_path / "out") == content(undisturbed)


@pytest.mark.slow
def test_two_drivers_at_once_do_no_harm(images: Path, weights: Path, undisturbed: Path, tmp_path: Path) -> None:
    drivers = [start(images, weights, tmp_path / "out") for _ in range(2)]
    assert [(driver.communicate(timeout=300)[1], driver.returncode)[1] for driver in drivers] == [0, 0]
    assert content(tmp_path / "out") == content(undisturbed)


@pytest.mark.slow
def test_a_full_disk_is_one_line(images: Path, weights: Path, undisturbed: Path, tmp_path: Path) -> None:
    sizes = [path.stat().st_size for path in (undisturbed / PARTS).iterdir()]
    process = start(images, weights, tmp_path / "out", largest_file=min(sizes) - 1)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 2
    line = err.strip().splitlines()[-1]
    assert line.startswith(f"error: {tmp_path / 'out' / PARTS}")
    assert "can't be written" in line
    assert list((tmp_path / "out" / PARTS).iterdir()) == []
    require_no_orphans(process)


def test_an_output_that_cannot_be_written_is_one_line(
    images: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    out = tmp_path / "file" / "out"
    assert main(["batch", str(images), f"--weights={weights}", f"--out={out}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: --out:")


def test_lists_of_paths(images: Path, tmp_path: Path) -> None:
    paths = [str(images / "damaged.jpg"), "not/there.jpg", "ein weißes.png"]
    (tmp_path / "list.txt").write_text("\n".join([*paths, "", paths[0]]), encoding="utf-8")
    pq.write_table(pa.table({"path": paths, "other": [1, 2, 3]}), tmp_path / "list.parquet")
    assert list_images([str(tmp_path / "list.txt")]) == paths
    assert list_images([str(tmp_path / "list.parquet"), str(images)])[:3] == paths
    assert len(list_images([str(tmp_path / "list.parquet"), str(images)])) == 13
    spark = tmp_path / "spark.parquet"
    spark.mkdir()
    for number, path in enumerate(paths):
        pq.write_table(pa.table({"path": [path]}), spark / f"part-{number}.parquet")
    (spark / "_SUCCESS").touch()
    assert list_images([str(spark)]) == list_images([str(spark / "part-*.parquet")]) == paths
    pq.write_table(pa.table({"url": paths}), tmp_path / "other.parquet")
    (tmp_path / "empty.txt").touch()
    (tmp_path / "damaged.parquet").write_bytes(b"PAR1")
    pq.write_table(pa.table({"path": [1]}), tmp_path / "numbers.parquet")
    web = ["https://example.org/a.jpg", "HTTP://example.org/b?token=x"]
    (tmp_path / "web.txt").write_text("\n".join(web))
    assert list_images([str(tmp_path / "web.txt"), web[0], "http://example.org/c"]) == [*web, "http://example.org/c"]
    (tmp_path / "streams.txt").write_text("rtsp://me:hush@example.org/1")
    refused = {
        "empty.txt": "this list holds no path",
        "damaged.parquet": "can't be read as Parquet",
        "numbers.parquet": "has no column path of strings",
        "other.parquet": "has no column path of strings",
        "none-*.parquet": "this glob holds no image",
        "streams.txt": r"rtsp://\*\*\*@example.org/1 is a stream; detector batch takes images",
        "none.txt": "no such file or folder",
    }
    for name, reason in refused.items():
        with pytest.raises(DataError, match=reason):
            list_images([str(tmp_path / name)])
    with pytest.raises(DataError, match=r"memory://lists/a.parquet: a list of images must be a file of this machine"):
        list_images(["memory://lists/a.parquet"])
    (tmp_path / "film.mp4").touch()
    with pytest.raises(DataError, match=r"film.mp4: is a video"):
        list_images([str(tmp_path / "film.mp4")])
    for name, shown in (
        ("camera:0", "camera:0"),
        ("rtsp://me:hush@example.org/1", r"rtsp://\*\*\*@example.org/1"),
    ):
        with pytest.raises(DataError, match=f"^{shown}: .*; detector infer takes cameras and streams"):
            list_images([name])


@pytest.mark.slow
def test_images_of_object_stores_and_tar_files(images: Path, weights: Path, undisturbed: Path, tmp_path: Path) -> None:
    store = fsspec.filesystem("memory")
    shards = tmp_path / "shards"
    shards.mkdir()
    for number, path in enumerate(sorted(images.glob("*.jpg"))):
        store.pipe(f"/photos/train/{path.name}", path.read_bytes())
        with tarfile.open(shards / f"{number % 2}.tar", "a") as tar:
            tar.add(path, f"train/{path.name}")
            tar.add(path, "train/notes.txt")
    store.pipe("/photos/train/notes.txt", b"no image")
    names = [path.name for path in sorted(images.glob("*.jpg"))]
    in_store = [f"memory:///photos/train/{name}" for name in names]
    assert list_images(["memory://photos"]) == list_images(["memory://photos/**/*.jpg"]) == in_store
    assert list_images([in_store[2]]) == in_store[2:3]
    in_shards = [f"tar://train/{name}::{shards / f'{shard}.tar'}" for shard in range(2) for name in names[shard::2]]
    assert (
        list_images([str(shards / "0.tar"), str(shards / "1.tar")]) == list_images([str(shards / "*.tar")]) == in_shards
    )
    batch(replace(config_of(images, weights, tmp_path / "out"), sources=[str(shards / "*.tar")]))
    found, expected = (
        {Path(row.pop("image").partition("::")[0]).name: row for row in pq.read_table(folder / PARTS).to_pylist()}
        for folder in (tmp_path / "out", undisturbed)
    )
    assert found.keys() == expected.keys()
    for name, row in found.items():
        same = ("width", "height", "boxes", "scores", "labels")
        assert [row[column] for column in same] == [expected[name][column] for column in same]
        assert (row["error"] is None) == (expected[name]["error"] is None)
    (tmp_path / "broken.tar").write_bytes(b"no tar file" * 100)
    refused = {
        "memory://nothing/**": "holds no image",
        "nothing://bucket": "can't be read: Protocol not known: nothing",
        str(tmp_path / "broken.tar"): "can't be read",
        str(tmp_path / "none.tar"): "does not exist",
        "memory://none": "does not exist",
    }
    for name, reason in refused.items():
        with pytest.raises(DataError, match=f"{re.escape(name)}: {reason}"):
            list_images([name])
    with pytest.raises(DataError, match=r"memory://photos/none\.jpg: does not exist"):
        read_remote("memory://photos/none.jpg")


@pytest.mark.slow
def test_images_of_web_servers(images: Path, weights: Path, undisturbed: Path, tmp_path: Path) -> None:
    """The same rows, whatever secrets the addresses have; what the server has not is an error in its row."""
    handler = partial(QuietHandler, directory=str(images))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        names = [path.name for path in sorted(images.glob("*.jpg"))]

        def run(token: str) -> None:
            lines = [f"{address}/{name}?token={token}" for name in [*names, "none.jpg"]]
            (tmp_path / "list.txt").write_text("\n".join(lines))
            batch(config_of(tmp_path / "list.txt", weights, tmp_path / "out"))

        run("hush")
        before = content(tmp_path / "out")
        run("other")
        server.shutdown()
    assert content(tmp_path / "out") == before
    assert not any(b"hush" in each for each in before.values())
    found, expected = (
        sorted(pq.read_table(folder / PARTS).to_pylist(), key=lambda row: row["image_id"])
        for folder in (tmp_path / "out", undisturbed)
    )
    assert [row["image"] for row in found] == [f"{address}/{name}?token=***" for name in [*names, "none.jpg"]]
    for row, same in zip(found, expected, strict=False):
        assert (row["boxes"], row["scores"], row["width"]) == (same["boxes"], same["scores"], same["width"])
        assert (row["error"] is None) == (same["error"] is None)
    assert found[-1]["error"].startswith(f"{address}/none.jpg?token=***: can't be reached (the server says 404 ")


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None: ...


@pytest.mark.slow
def test_results_behind_a_url(
    images: Path, weights: Path, undisturbed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """dir:// is a file system of fsspec that all processes share, and is written to as any other."""
    out = f"dir://results::file://{tmp_path}"
    with pytest.raises(DataError, match="holds no results of detector batch"):
        join_batch(JoinBatchConfig(out))
    batch(replace(config_of(images, weights, tmp_path, part="1/2"), out=out))
    with pytest.raises(DataError, match="holds rows of 6 of 11 images"):
        join_batch(JoinBatchConfig(out))
    with pytest.raises(WriteError, match=r"holds results of another conf \(that of the weights, now 0.5\)"):
        batch(replace(config_of(images, weights, tmp_path, conf=0.5), out=out))
    batch(replace(config_of(images, weights, tmp_path), out=out))
    assert content(tmp_path / "results") == content(undisturbed)
    capsys.readouterr()
    batch(replace(config_of(images, weights, tmp_path), out=out))
    assert capsys.readouterr().out == "11 images; of 4 parts to do here 4 are done\n"
    join_batch(JoinBatchConfig(out))
    join_batch(JoinBatchConfig(str(undisturbed)))
    joined = undisturbed / "detections.json"
    assert (tmp_path / "results" / "detections.json").read_bytes() == joined.read_bytes()
    joined.unlink()


@pytest.mark.slow
@pytest.mark.parametrize("url", ["", "dir://results::file://"])
def test_what_an_error_kept_out_can_be_tried_again(
    images: Path, weights: Path, tmp_path: Path, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = shutil.copytree(images, tmp_path / "images")
    (tmp_path / "results").mkdir()
    config = config_of(mine, weights, tmp_path / "out")
    if url:
        config = replace(config, out=f"{url}{tmp_path}")
    (mine / "damaged.jpg").rename(tmp_path / "damaged.jpg")
    listed = [*sorted(str(path) for path in mine.iterdir()), str(mine / "damaged.jpg")]
    (tmp_path / "list.txt").write_text("\n".join(listed))
    config = replace(config, sources=[str(tmp_path / "list.txt")])
    batch(config)
    (parts,) = tmp_path.glob("*/parts")
    before = content(parts)
    shutil.copy(listed[0], listed[-1])
    batch(config)
    assert "of 4 parts to do here 4 are done" in capsys.readouterr().out
    assert content(parts) == before
    batch(replace(config, retry_errors=True))
    assert "of 4 parts to do here 3 are done" in capsys.readouterr().out
    rows = [row for file in parts.iterdir() for row in pq.read_table(file).to_pylist()]
    assert len(rows) == 11
    assert {row["error"] for row in rows} == {None}
    assert sum(content(parts)[name] == old for name, old in before.items()) == 3


@pytest.mark.slow
def test_a_batch_that_could_read_nothing_is_an_error(weights: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("not/there.jpg\nnor/this.jpg")
    config = replace(config_of(tmp_path, weights, tmp_path / "out"), sources=[str(tmp_path / "list.txt")])
    with pytest.raises(DataError, match=r"no image could be read; .* --retry_errors"):
        batch(config)


def test_a_log_gets_lines_instead_of_a_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("detector.batch.progress.LINE_SECONDS", 0.0)
    with BatchProgress(7) as progress:
        progress.under_way("a", 2)
        progress.done("a", 3, 0)
    assert [line.split(",")[0] for line in capsys.readouterr().err.splitlines() if "images/s" in line][:2] == [
        "2 of 7 images",
        "3 of 7 images",
    ]


def test_gpus_of_a_cluster_without_one_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"gpus_per_worker.*--engine ray"):
        BatchConfig(sources=["a"], weights="w", out="o", gpus_per_worker=0.5)


@pytest.mark.slow
def test_the_recipes_of_job_arrays_make_the_whole(
    images: Path, weights: Path, undisturbed: Path, tmp_path: Path
) -> None:
    """The commands of docs/scale.md, as Slurm and Kubernetes start them: the first half by one, the second by the other."""
    text = (REPOSITORY / "docs" / "scale.md").read_text(encoding="utf-8")
    (slurm,) = re.findall(r"--wrap \\\n  '(detector batch .+)'", text)
    ((first, second),) = re.findall(r"- (detector batch .+)\n +(--part .+)", text)
    for recipe, variable in (
        (slurm, {"SLURM_ARRAY_TASK_ID": "1"}),
        (f"{first} {second}", {"JOB_COMPLETION_INDEX": "1"}),
    ):
        command = recipe.replace("detector batch", f"{sys.executable} -m detector batch", 1)
        for there, here in {
            "list.parquet": images,
            "s3://bucket/images": images,
            "yolo11n-bccd": weights,
            "/shared/results": tmp_path / "out",
            "s3://bucket/results": f"dir://out::file://{tmp_path}",
            "/100": "/2 --part_size 3 --device cpu",
        }.items():
            command = command.replace(there, str(here))
        variables = {**os.environ, "PYTHONPATH": str(REPOSITORY), **variable}
        subprocess.run(["sh", "-c", command], env=variables, check=True, timeout=300)
    assert content(tmp_path / "out") == content(undisturbed)


def test_a_part_behind_a_url_is_there_whole_or_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    folder, store = folder_of("memory://results"), fsspec.filesystem("memory")
    claim(folder, {"format": 1, "images": 1})
    claim(folder, {"format": 1, "images": 1})
    with pytest.raises(WriteError, match=r"^--out: memory://results holds results of another images \(1, now 2\)"):
        claim(folder, {"format": 1, "images": 2})

    def half(self: MemoryFileSystem, local: str, path: str) -> None:
        self.pipe_file(path, Path(local).read_bytes()[:2])
        raise ConnectionError("connection lost")

    folder.write("parts/a.parquet", lambda path: path.write_bytes(b"old"))
    with monkeypatch.context() as patch:
        patch.setattr(MemoryFileSystem, "put_file", half)
        with pytest.raises(WriteError, match=r"^memory://results/parts/a.parquet: can't be written: connection lost$"):
            folder.write("parts/a.parquet", lambda path: path.write_bytes(b"new"))
    store.pipe("/results/parts/.unfinished.of a killed process", b"x")
    assert folder.names("parts") == {"a.parquet"}
    with folder.open("parts/a.parquet") as file:
        assert file.read() == b"old"
    store.rm("/results", recursive=True)


class Published(Task):
    """Keeps what would be written."""

    def publish(self, part: Part, rows: Any) -> None:
        self.settings[str(part.first_id)] = rows.column("image_id").to_pylist()


def test_the_ledger_bisects_down_to_the_image(tmp_path: Path) -> None:
    task = Published(config_of(tmp_path, tmp_path, tmp_path), {})
    part = Part(11, tuple("abcdefg"))
    ledger, ended = Ledger(task, [part]), []
    deaths = 0
    while (job := ledger.take()) is not None:
        if "f" in job.piece.paths:
            deaths += 1
            ended += [line for line in [ledger.died(job, "signal 11")] if line]
        else:
            rows = [error_row(path, job.piece.first_id + i, "") for i, path in enumerate(job.piece.paths)]
            ledger.piece_done(job, table_of(rows))
    assert ended == ["f: quarantined: 2 worker processes ended on this image (signal 11)"]
    assert deaths == 2 + 2 + 2
    assert task.settings == {"11": list(range(11, 18))}
    assert Job(part, part).whole


@pytest.mark.parametrize("part", ["0/3", "4/3", "3", "1/2/3", "a/b", "²/3", "1/0", "-1/3"])
def test_impossible_shares_are_refused(part: str) -> None:
    with pytest.raises(ConfigError, match=r"^part: invalid value"):
        BatchConfig(sources=["a"], weights="w", out="o", part=part)


def test_without_pyarrow_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.startswith("detector.batch")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert main(["join_batch", "folder"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("needs the package pyarrow: pip install 'attention-detector[batch]'")


@pytest.mark.slow
def test_a_file_that_is_no_part_is_named(tmp_path: Path, undisturbed: Path) -> None:
    (tmp_path / PARTS).mkdir()
    with pytest.raises(DataError, match="holds no results of detector batch"):
        join_batch(JoinBatchConfig(str(tmp_path)))
    (tmp_path / "settings.json").write_bytes((undisturbed / "settings.json").read_bytes())
    part = next((undisturbed / PARTS).iterdir())
    (tmp_path / PARTS / "other.parquet").write_bytes(part.read_bytes())
    with pytest.raises(DataError, match=r"other.parquet: its rows are not what"):
        join_batch(JoinBatchConfig(str(tmp_path)))
