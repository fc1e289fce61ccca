"""The logger of Weights & Biases in its offline mode, by the files that it leaves."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from played_run import COLOR, play, settings
from wandb_file import records

from detector.training.loggers import known_run, make_loggers, scalars

wandb = pytest.importorskip("wandb", reason="make test-extras installs wandb")

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_DIR", "WANDB_NAME", "WANDB_RUN_ID", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")


def attempts(out: Path) -> list[Path]:
    """The file of each attempt at the run, in order, complete: its process has ended."""
    wandb.teardown()
    return sorted((out / "wandb").glob("offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime_ns)


def history(path: Path) -> list[dict[str, Any]]:
    return [
        {"/".join(item.nested_key): json.loads(item.value_json) for item in record.item}
        for record in records(path, "history")
    ]


def test_a_run_is_there_with_all_that_it_has(tmp_path: Path) -> None:
    out = tmp_path / "my run"
    rows = play(*make_loggers("wandb"), out, epochs=[1, 2])
    (path,) = attempts(out)

    run = records(path, "run")[0]
    assert (run.run_id, run.display_name) == (known_run(out, "wandb"), "my run")
    config = {each.key: json.loads(each.value_json) for each in run.config.update if each.key != "_wandb"}
    assert config == json.loads(json.dumps(settings(out)))

    first, *epochs = history(path)
    assert first["_step"] == 0
    for row, logged in zip(rows, epochs, strict=True):
        assert logged["_step"] == row["epoch"]
        assert {
            name: value for name, value in logged.items() if name.split("/")[0] in ("loss", "run", "validation")
        } == scalars(row)

    shown = [(first, "training batch"), (epochs[1], "validation images")]
    for logged, name in shown:
        image = Image.open(path.parent / "files" / logged[f"{name}/path"])
        assert (image.size, image.getpixel((3, 4))) == ((30, 20), COLOR)
    assert "validation images/path" not in epochs[0]

    (weights,) = records(path, "artifact")
    (file,) = weights.manifest.contents
    assert (weights.type, file.path, file.local_path) == ("model", "best.safetensors", str(out / "best.safetensors"))
    assert file.size == (out / "best.safetensors").stat().st_size
    assert [each.exit_code for each in records(path, "exit")] == [0]


@pytest.mark.parametrize("status", ["interrupted", "failed"])
def test_a_resumed_run_goes_on_in_the_same_run(tmp_path: Path, status: Any) -> None:
    out = tmp_path / "run"
    play(*make_loggers("wandb"), out, epochs=[1], status=status)
    play(*make_loggers("wandb"), out, epochs=[2, 3], workers=5)
    first, second = attempts(out)
    assert {records(path, "run")[0].run_id for path in (first, second)} == {known_run(out, "wandb")}
    assert [each["_step"] for path in (first, second) for each in history(path)] == [0, 1, 2, 3]
    assert [records(path, "exit")[0].exit_code for path in (first, second)] == [1, 0]
    assert records(first, "artifact") == []


def test_a_disabled_one_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb.teardown()  # it reads the environment once
    monkeypatch.setenv("WANDB_MODE", "disabled")
    play(*make_loggers("wandb"), tmp_path / "run", epochs=[1])
    assert not attempts(tmp_path / "run")
