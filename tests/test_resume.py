"""A run that is stopped, killed or moved goes on where it was, to the same bits; what would change it is refused."""

import hashlib
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from command_line import start

import detector.training.loop as loop
from detector.cli import main
from detector.demo.scenes import make_dataset
from detector.reporting.run_record import read_run
from detector.training.checkpoint import COUNTERS, read_checkpoint, restore_rng_states, rng_states

pytestmark = pytest.mark.slow

STEPS, EPOCHS = 3, 2
OPTIONS = [
    *("--image_size=64", "--batch_size=4", "--train.nominal_batch_size=4", f"--epochs={EPOCHS}"),
    *("--train.warmup_epochs=0.5", "--workers=2"),
]
TIMES = ("seconds", "images_per_second")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    make_dataset(root, seed=1, train=4 * STEPS, val=4, test=3)
    return root


def new_run(data: Path, out: Path, *options: str) -> list[str]:
    return ["train", f"--data={data}", f"--out={out}", *OPTIONS, *options]


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing happens to; its weights are in the folder `run`, as the weights files of others name it."""
    out = tmp_path_factory.mktemp("whole") / "run"
    assert main(new_run(data, out)) == 0
    return out


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    """A copy of the whole run, to resume."""
    return Path(shutil.copytree(whole, tmp_path / "run"))


def digests(out: Path) -> dict[str, str]:
    """SHA-256 of the weights files; what they say about their training names the folder, so the runs must share it."""
    return {n: hashlib.sha256((out / n).read_bytes()).hexdigest() for n in ("best.safetensors", "last.safetensors")}


def rows(out: Path) -> list[dict[str, object]]:
    """metrics.jsonl without the times."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMES} for line in lines]


def put_aside(out: Path, name: str) -> Path:
    """Make room for another run in the folder `out`."""
    return out.rename(out.with_name(name))


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line of a refused command."""
    capsys.readouterr()
    assert main(list(arguments)) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    return lines[0]


# ---- stopped and killed


@pytest.mark.parametrize(("number", "after"), [(signal.SIGINT, 1), (signal.SIGTERM, STEPS), (signal.SIGHUP, STEPS + 2)])
def test_a_request_to_stop_saves_the_step_under_way(
    number: signal.Signals,
    after: int,
    data: Path,
    whole: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In the first step, the last of an epoch and in the middle of the second."""
    aside = put_aside(whole, "aside")
    try:
        original = loop.take_step

        def asked_to_stop(run: object, state: object, batches: object) -> object:
            if state.step == after - 1:  # while the step is under way
                os.kill(os.getpid(), number)
            return original(run, state, batches)

        with monkeypatch.context() as patch:
            patch.setattr(loop, "take_step", asked_to_stop)
            line = refusal(capsys, *new_run(data, whole))
        epoch, batches = divmod(after - 1, STEPS)
        assert line == (
            f"error: interrupted after {epoch} of {EPOCHS} epochs and {batches + 1} of {STEPS} batches;"
            f" continue with: detector train --resume {whole}"
        )
        content = torch.load(whole / "last.pt", weights_only=True)
        assert (content["epoch"], content["step"], content["epoch_stats"]["batches"]) == (epoch, after, batches + 1)

        assert main(["train", f"--resume={whole}"]) == 0
        assert digests(whole) == digests(aside)
        assert rows(whole) == rows(aside)
    finally:
        shutil.rmtree(whole, ignore_errors=True)
        aside.rename(whole)


def test_a_second_ctrl_c_does_not_wait(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"

    def endless(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("the second Ctrl-C came to nothing")

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(loop, "take_step", endless)
    assert f"continue with: detector train --resume {out}" in refusal(capsys, *new_run(data, out))
    assert signal.getsignal(signal.SIGINT) is before
    assert torch.load(out / "last.pt", weights_only=True)["step"] == 0


def wait_for_checkpoints(process: "subprocess.Popen[str]", out: Path, count: int) -> None:
    """Until the process has written last.pt `count` times (or has ended); each is a new file."""
    seen: set[tuple[int, int]] = set()
    before = None
    if (out / "last.pt").exists():
        status = (out / "last.pt").stat()
        before = (status.st_ino, status.st_mtime_ns)
    deadline = time.monotonic() + 120
    while process.poll() is None and len(seen) < count and time.monotonic() < deadline:
        if (out / "last.pt").exists():
            status = (out / "last.pt").stat()
            seen |= {(status.st_ino, status.st_mtime_ns)} - {before}
        time.sleep(0.002)


def test_a_run_killed_at_a_random_moment_ends_with_the_same_bits(data: Path, tmp_path: Path) -> None:
    """SIGKILL, then SIGTERM to the workers too, as a scheduler does it, then to the end; last.pt is written in each step."""
    out = tmp_path / "run"
    arguments = new_run(data, out, "--train.checkpoint_minutes=0")
    assert main(arguments) == 0
    aside = put_aside(out, "aside")
    chance = random.SystemRandom()
    moments = [(chance.randint(1, 3), chance.uniform(0, 0.2)) for _ in range(2)]

    killed = start(arguments)
    wait_for_checkpoints(killed, out, moments[0][0])
    time.sleep(moments[0][1])
    killed.kill()
    killed.communicate(timeout=60)

    stopped = start(["train", f"--resume={out}"])
    wait_for_checkpoints(stopped, out, moments[1][0])
    time.sleep(moments[1][1])
    with suppress(ProcessLookupError):  # it may be done before the signal comes
        os.killpg(stopped.pid, signal.SIGTERM)
    _, errors = stopped.communicate(timeout=60)
    assert not list(out.glob(".unfinished.*"))
    assert stopped.returncode == (2 if errors else 0), (moments, errors)
    if errors:
        assert errors.startswith("error: interrupted after "), (moments, errors)
        assert len(errors.splitlines()) == 1, (moments, errors)
    assert main(["train", f"--resume={out}"]) == 0
    assert digests(out) == digests(aside), moments
    assert rows(out) == rows(aside), moments


def test_a_second_training_in_the_same_folder_is_refused(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A new one and a resumed one; the first goes on, and ends with metrics of its own."""
    out = tmp_path / "run"
    original, lines = loop.take_step, []

    def step(run: object, state: object, batches: object) -> object:
        if not lines:
            lines.extend(refusal(capsys, *again) for again in (new_run(data, out), ["train", f"--resume={out}"]))
        return original(run, state, batches)

    monkeypatch.setattr(loop, "take_step", step)
    assert main(new_run(data, out)) == 0
    where = f"error: {out}: another training writes there (process {os.getpid()} on {platform.node()})"
    assert [line.split(";")[0] for line in lines] == [where] * 2
    assert [row["epoch"] for row in rows(out)] == [1, 2]
    assert not (out / ".lock").exists()


# ---- what may change, and what may not


def test_a_changed_setting_is_refused_and_shown(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refusal(capsys, "train", f"--resume={copy}", "--lr=0.5", "--augment.mosaic=0")
    assert "augment.mosaic was 1.0, is 0.0; lr was 0.002, is 0.5" in line
    assert "leave them as they were, or start a new run from its weights: --weights" in line


@pytest.mark.parametrize(
    "option",
    ["--lr=0.002", "--workers=0", "--train.checkpoint_minutes=3", "--batch_size=4"],
)
def test_the_same_settings_and_those_that_change_nothing_are_accepted(copy: Path, option: str) -> None:
    before = digests(copy)
    assert main(["train", f"--resume={copy}", option]) == 0
    assert digests(copy) == before


def test_a_configuration_edited_by_hand_is_refused(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = yaml.safe_load((copy / "config.yaml").read_text())
    config["epochs"] = 7
    (copy / "config.yaml").write_text(yaml.safe_dump(config))
    assert f"epochs was {EPOCHS}, is 7" in refusal(capsys, "train", f"--resume={copy}")


def test_a_run_from_before_a_setting_existed_can_be_resumed(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It had the default; with another value than that it is refused as any changed setting is."""
    config = yaml.safe_load((copy / "config.yaml").read_text())
    del config["train"]["patience"], config["seed"]
    (copy / "config.yaml").write_text(yaml.safe_dump(config))
    content = torch.load(copy / "last.pt", weights_only=True)
    del content["provenance"]["settings"]["train.patience"], content["provenance"]["settings"]["seed"]
    content["provenance"]["settings"]["train.loggers"] = ["tensorboard"]  # loggers, now
    torch.save(content, copy / "last.pt")
    assert "seed was 0, is 3" in refusal(capsys, "train", f"--resume={copy}", "--seed=3")
    assert main(["train", f"--resume={copy}"]) == 0


def test_a_setting_by_model_size_stays_the_same_on_resume(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As configs/coco.yaml has them."""
    by_size = {"n": 0.5, "s": 0.9}
    config = yaml.safe_load((copy / "config.yaml").read_text())
    config["augment"]["scale"] = by_size
    (copy / "config.yaml").write_text(yaml.safe_dump(config))
    content = torch.load(copy / "last.pt", weights_only=True)
    content["provenance"]["settings"]["augment.scale"] = by_size
    torch.save(content, copy / "last.pt")
    assert "augment.scale was {'n': 0.5, 's': 0.9}, is 0.3" in refusal(
        capsys, "train", f"--resume={copy}", "--augment.scale=0.3"
    )
    assert main(["train", f"--resume={copy}"]) == 0


def test_moved_data_are_accepted_and_their_loss_is_told(
    data: Path, copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = yaml.safe_load((copy / "config.yaml").read_text())
    config["data"] = str(tmp_path / "gone")
    (copy / "config.yaml").write_text(yaml.safe_dump(config))
    assert f"{tmp_path / 'gone'}: this dataset folder does not exist; correct --data" in refusal(
        capsys, "train", f"--resume={copy}"
    )
    shutil.copytree(data, tmp_path / "moved")
    assert main(["train", f"--resume={copy}", f"--data={tmp_path / 'moved'}"]) == 0


def move_a_box(path: Path) -> None:
    content = json.loads(path.read_bytes())
    content["annotations"][0]["bbox"][2] += 0.01
    path.write_text(json.dumps(content))


def one_more_byte(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\n")


@pytest.mark.parametrize(
    ("split", "change"),
    [
        ("train", lambda root: move_a_box(root / "annotations" / "instances_train.json")),
        ("train", lambda root: one_more_byte(min((root / "train").glob("*.jpg")))),
        ("val", lambda root: one_more_byte(min((root / "val").glob("*.jpg")))),
    ],
)
def test_changed_data_are_refused(
    split: str,
    change: Callable[[Path], None],
    data: Path,
    copy: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(data, tmp_path / "other")
    change(tmp_path / "other")
    line = refusal(capsys, "train", f"--resume={copy}", f"--data={tmp_path / 'other'}")
    assert f"the {split} split of {tmp_path / 'other'} is not what the run in {copy} was started with" in line
    assert "put the old data back" in line


def test_another_machine_is_told(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        assert main(["train", f"--resume={copy}"]) == 0
    finally:
        torch.set_num_threads(threads)
    assert f"not bit for bit as the uninterrupted run would go on: threads {threads} before" in capsys.readouterr().out
    assert main(["train", f"--resume={copy}"]) == 0
    assert "bit for bit" not in capsys.readouterr().out


def test_a_folder_with_a_run_takes_no_new_one(data: Path, copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"--resume {copy} continues it" in refusal(capsys, *new_run(data, copy))


# ---- the checkpoint


def test_a_damaged_checkpoint_is_one_line(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = copy / "last.pt"
    good = path.read_bytes()
    for damaged in (b"", good[: len(good) // 2], good[:-1000], b"garbage" * 1000):
        path.write_bytes(damaged)
        line = refusal(capsys, "train", f"--resume={copy}")
        assert line.startswith(f"error: {path}: not a readable checkpoint")
        assert "start a new run in another folder" in line
    torch.save({"epoch": 3}, path)
    assert "not a checkpoint of this version" in refusal(capsys, "train", f"--resume={copy}")
    content = torch.load(copy / "last.pt", weights_only=True)
    content |= {"provenance": torch.load(_written(copy, good), weights_only=True)["provenance"]}
    torch.save(content, path)
    assert "not a checkpoint of this run's model" in refusal(capsys, "train", f"--resume={copy}")
    path.unlink()
    assert "no checkpoint to resume from" in refusal(capsys, "train", f"--resume={copy}")


def _written(folder: Path, content: bytes) -> Path:
    (folder / "good.pt").write_bytes(content)
    return folder / "good.pt"


def test_a_checkpoint_holds_the_whole_state_and_no_code(whole: Path) -> None:
    content = read_checkpoint(whole / "last.pt", torch.device("cpu"))  # weights_only
    assert {
        *COUNTERS,
        "provenance",
        "model",
        "ema",
        "ema_steps",
        "optimizer",
        "scaler",
        "epoch_stats",
        "rng",
    } <= content.keys()
    assert (content["epoch"], content["step"], content["ema_steps"]) == (EPOCHS, EPOCHS * STEPS, EPOCHS * STEPS)
    assert any(not torch.equal(content["model"][name], tensor) for name, tensor in content["ema"].items())
    assert all(state["step"] == EPOCHS * STEPS for state in content["optimizer"]["state"].values())


def test_random_numbers_go_on_where_they_were(tmp_path: Path) -> None:
    def draws() -> tuple[object, ...]:
        return random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), torch.rand(3).tolist()

    random.gauss(0, 1)  # both keep the second of a pair of normal numbers
    np.random.randn()
    torch.save(rng_states(), tmp_path / "states.pt")
    expected = draws()
    draws()
    restore_rng_states(torch.load(tmp_path / "states.pt", weights_only=True))
    assert draws() == expected


def test_unfinished_files_are_removed(copy: Path) -> None:
    (copy / ".unfinished.abc").write_bytes(b"what a process killed while it writes leaves")
    (copy / ".unfinished.export").mkdir()
    (copy / ".unfinished.export" / "model.onnx").touch()
    assert main(["train", f"--resume={copy}"]) == 0
    assert not list(copy.glob(".unfinished.*"))


@pytest.mark.parametrize(
    "damage",
    [b'{"epoch": 3, "AP', b"\xff\x00\x89PNG", b"[1, 2]\n", b"[" * 100_000],
    ids=["half a line", "no text", "a list", "nested without end"],
)
def test_a_damaged_file_that_is_not_needed_is_named_and_left_out(
    copy: Path, damage: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    before = rows(copy)
    with (copy / "metrics.jsonl").open("ab") as file:
        file.write(damage)
    for name in ("skipped_steps.jsonl", "environment.json"):
        (copy / name).write_bytes(damage)
    record = read_run(copy, None)
    assert [row["epoch"] for row in record.rows] == [1, 2]
    assert record.environment == {}
    capsys.readouterr()
    assert main(["train", f"--resume={copy}"]) == 0
    printed = capsys.readouterr().out
    assert f"{copy / 'metrics.jsonl'}: 1 of 3 lines are damaged; going on without them" in printed
    assert f"{copy / 'skipped_steps.jsonl'}: 1 of 1 lines are damaged; going on without them" in printed
    assert f"{copy / 'environment.json'}: damaged; going on without it" in printed  # in the report
    assert "the report failed" not in printed
    assert rows(copy) == before
    assert (copy / "skipped_steps.jsonl").read_bytes() == b""


def test_the_weights_file_does_not_tell_from_where_the_command_was_given(
    data: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative path in the first command, an absolute one in config.yaml: the same bytes."""
    aside = put_aside(whole, "aside")
    monkeypatch.chdir(data)
    try:
        assert main(new_run(Path(), whole)) == 0
        assert digests(whole) == digests(aside)
    finally:
        shutil.rmtree(whole, ignore_errors=True)
        aside.rename(whole)
