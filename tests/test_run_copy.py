"""The copy of a run behind a URL: a fresh machine goes on from it, to the same bits; a store that fails ends no training."""

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem

import detector.training.loop as loop
from detector.cli import main
from detector.demo.scenes import make_dataset
from detector.errors import ConfigError, WeightsError, WriteError
from detector.training.run_copy import FILES, RunCopy
from detector.utils.stores import Store

OPTIONS = [
    *("--image_size=64", "--batch_size=4", "--train.nominal_batch_size=4", "--epochs=2", "--workers=0"),
    *("--train.checkpoint_minutes=0", "--loggers=[]"),
]
URL = "memory://bucket/run"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    make_dataset(root, seed=1, train=8, val=4, test=3)
    return root


@pytest.fixture(autouse=True)
def store() -> Iterator[Any]:
    """An empty store."""
    system = fsspec.filesystem("memory")
    yield system
    system.store.clear()
    system.pseudo_dirs[:] = [""]


def new_run(data: Path, out: Path) -> list[str]:
    return ["train", f"--data={data}", f"--out={out}", *OPTIONS, f"--train.checkpoint_url={URL}"]


def digests(out: Path) -> dict[str, str]:
    names = ("best.safetensors", "last.safetensors", "config.yaml")
    return {name: hashlib.sha256((out / name).read_bytes()).hexdigest() for name in names}


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line of a refused command."""
    capsys.readouterr()
    assert main(list(arguments)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def checkpoint(folder: Path, step: int, lr: float = 0.1) -> Path:
    """A folder with what passes for the last.pt of a run of that learning rate, and its metrics."""
    folder.mkdir(exist_ok=True)
    provenance = {"settings": {"lr": lr, "data": "d"}, "data": {}, "machine": {}}
    torch.save({"provenance": provenance, "class_width": None, "step": step}, folder / "last.pt")
    (folder / "metrics.jsonl").write_text(f"step {step}")
    return folder


@pytest.mark.slow
def test_a_run_goes_on_on_a_fresh_machine_to_the_same_bits(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], store: Any
) -> None:
    """Interrupted in its second epoch, what its folder held is gone, and the same command is given again, as schedulers do."""
    out = tmp_path / "run"
    assert main(new_run(data, out)) == 0
    assert {Path(path).name for path in store.find("/bucket/run")} == {path.name for path in out.iterdir()} & set(FILES)
    for name in set(FILES) - {"skipped_steps.jsonl"}:
        assert store.cat(f"/bucket/run/{name}") == (out / name).read_bytes(), name
    expected = digests(out)
    line = refusal(capsys, *new_run(data, tmp_path / "other"))
    assert line.startswith(f"error: --train.checkpoint_url: {URL} already holds a run; with this URL, --resume ")

    shutil.rmtree(out)
    store.rm("/bucket/run", recursive=True)
    begin_or_go_on = [each.replace("--out=", "--resume=") for each in new_run(data, out)]
    original = loop.take_step

    def interrupted(run: Any, state: Any, batches: Any) -> Any:
        if state.step == 3:
            raise KeyboardInterrupt
        return original(run, state, batches)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "take_step", interrupted)
        assert "interrupted after 1 of 2 epochs and 1 of 2 batches" in refusal(capsys, *begin_or_go_on)
    shutil.rmtree(out)
    assert main(begin_or_go_on) == 0
    assert f"the run is brought to {out} from {URL}" in capsys.readouterr().out
    assert digests(out) == expected
    assert store.cat("/bucket/run/last.pt") == (out / "last.pt").read_bytes()


@pytest.mark.slow
def test_a_store_that_fails_is_named_and_ends_no_training(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], store: Any
) -> None:
    """But one that can't be written at the start is refused there."""

    def full(*_: Any) -> None:
        raise OSError(28, "quota exceeded")

    with monkeypatch.context() as patch:
        patch.setattr(MemoryFileSystem, "put_file", full)
        line = refusal(capsys, *new_run(data, tmp_path / "run"))
    assert line == f"error: {URL}/config.yaml: can't be written: [Errno 28] quota exceeded"
    original, calls = MemoryFileSystem.put_file, []

    def sometimes_full(self: Any, local: str, path: str, **_: Any) -> None:
        if Path(local).name == "last.pt" and not calls:
            calls.append(path)
            full()
        original(self, local, path)

    monkeypatch.setattr(MemoryFileSystem, "put_file", sometimes_full)
    capsys.readouterr()
    assert main(new_run(data, tmp_path / "run")) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "quota" in line]
    assert lines == [
        f"{URL}/last.pt: can't be written: [Errno 28] quota exceeded; the run goes on, and copies"
        f" {tmp_path / 'run' / 'last.pt'} again with its next checkpoint"
    ]
    assert store.cat("/bucket/run/last.pt") == (tmp_path / "run" / "last.pt").read_bytes()


def test_the_old_copy_stays_until_the_new_one_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: Any
) -> None:
    copy = RunCopy(URL)
    copy.update(checkpoint(tmp_path / "run", step=1))
    before = store.cat("/bucket/run/last.pt")

    def half(self: Any, local: str, path: str, **_: Any) -> None:
        self.pipe_file(path, Path(local).read_bytes()[:100])
        raise ConnectionError("connection lost")

    for name, fails in (("put_file", half), ("mv", lambda *_, **__: 1 / 0)):
        with monkeypatch.context() as patch:
            patch.setattr(MemoryFileSystem, name, fails)
            with pytest.raises(WriteError, match=f"{URL}/metrics.jsonl: can't be written: "):
                copy.update(checkpoint(tmp_path / "run", step=2))
        assert store.cat("/bucket/run/last.pt") == before
        assert sorted(store.ls("/bucket/run", detail=False)) == ["/bucket/run/last.pt", "/bucket/run/metrics.jsonl"]
    copy.update(tmp_path / "run")
    assert store.cat("/bucket/run/last.pt") == (tmp_path / "run" / "last.pt").read_bytes()


@pytest.mark.parametrize("scheme", ["memory://bucket/run", "file://{}/store/run", "dir://run::file://{}/store"])
def test_whichever_is_further_is_gone_on_from(scheme: str, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    copy = RunCopy(scheme.format(tmp_path))
    assert not copy.has_checkpoint
    copy.bring(tmp_path / "none")
    assert not (tmp_path / "none").exists()
    copy.update(checkpoint(tmp_path / "first", step=5))
    assert copy.has_checkpoint
    for name, step, expected in (("older", 4, 5), ("newer", 6, 6)):
        out = checkpoint(tmp_path / name, step)
        copy.bring(out)
        assert torch.load(out / "last.pt", weights_only=True)["step"] == expected
        assert (out / "metrics.jsonl").read_text() == f"step {expected}"
    for name, content in (("empty", None), ("damaged", b"x")):
        out = tmp_path / name
        out.mkdir()
        if content:
            (out / "last.pt").write_bytes(content)
        copy.bring(out)
        assert torch.load(out / "last.pt", weights_only=True)["step"] == 5


def test_the_copy_of_another_run_is_refused(tmp_path: Path) -> None:
    copy = RunCopy(URL)
    copy.update(checkpoint(tmp_path / "first", step=5))
    out = checkpoint(tmp_path / "other", step=2, lr=0.2)
    with pytest.raises(ConfigError, match=r"not those of the run in memory://bucket/run: lr was 0\.1, is 0\.2"):
        copy.bring(out)
    assert (out / "metrics.jsonl").read_text() == "step 2"


def test_a_damaged_copy_is_one_line(tmp_path: Path, store: Any) -> None:
    store.pipe("/bucket/run/last.pt", b"x")
    (tmp_path / "run").mkdir()
    with pytest.raises(WeightsError, match=rf"^{URL}/last\.pt: not a readable checkpoint"):
        RunCopy(URL).bring(tmp_path / "run")
    assert list((tmp_path / "run").iterdir()) == []


def test_a_url_that_fsspec_does_not_know_is_one_line(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [*new_run(data, tmp_path / "run")[:-1], "--train.checkpoint_url=nothing://me:hush@bucket"]
    assert refusal(capsys, *options) == "error: nothing://***@bucket: can't be read: Protocol not known: nothing"


def test_only_one_puts_a_file_that_was_absent(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("one")
    (tmp_path / "b").write_text("two")
    target = Store(URL)
    assert target.put_if_absent(tmp_path / "a", "settings.json")
    assert not target.put_if_absent(tmp_path / "b", "settings.json")
    assert target.read("settings.json") == b"one"
    assert target.names("none") == set()
