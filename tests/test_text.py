"""Text of strangers, shown: class names, file names and licenses that a terminal, a page or a spreadsheet would obey."""

import csv
import io
import json
import os
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rich.progress import Progress
from test_broken_inputs import make_data

from detector import cli
from detector.cli import main
from detector.config import DemoConfig
from detector.errors import DISTRIBUTION, JOINERS, ConfigError, printable
from detector.evaluation.reports import print_metrics
from detector.images.draw import draw_boxes
from detector.inference.sinks import COLUMNS, csv_writer
from detector.utils.charts import plain
from detector.utils.terminal import Terminal

FOREIGN = "a\x1b]0;title\x07\x1b[2J\x9b31m\u0085b\u2028c\u2029d\r\n\te\u202ef\ud800\x00 [red]:dog:</h1>"
SHOWN = r"a\x1b]0;title\x07\x1b[2J\x9b31m b c d e\u202ef\ud800\x00 [red]:dog:</h1>"


def obeyed(text: str) -> list[str]:
    """Characters that are not shown but obeyed, line ends aside."""
    return [c for c in text.replace("\n", "") if not c.isprintable() and c not in JOINERS]


def test_foreign_text_is_shown_not_obeyed() -> None:
    assert printable(FOREIGN) == SHOWN
    assert str(ConfigError(FOREIGN)) == SHOWN
    assert printable("two  spaces, ganz schön, 家, 👩‍🚀") == "two  spaces, ganz schön, 家, 👩‍🚀"
    assert not obeyed(plain(FOREIGN))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("no file https:/me:hush@host/w.pt; name one", "no file https:/***@host/w.pt; name one"),
        ("s3://me:hush@bucket/a?x=1&api_key=hush, failed", "s3://***@bucket/a?x=1&api_key=***, failed"),
        ("http://h/a?token=hu:sh: not there", "http://h/a?token=***: not there"),
        ("C:/users/me@home: give a=1&token=2", "C:/users/me@home: give a=1&token=2"),
        ("http://h/my photo.jpg?sig=hush: not there", "http://h/my photo.jpg?sig=***: not there"),
        ("http://me:hu sh@h/a and ftp://me:hush@h/b", "http://***@h/a and ftp://***@h/b"),
        ("ray://h:10001 is silent; set AUTH_MODE=token, me@x", "ray://h:10001 is silent; set AUTH_MODE=token, me@x"),
        ("https://h: can't be reached; write me@x", "https://h: can't be reached; write me@x"),
        ("tar://a@b/c.jpg::https://h/x@y.tar", "tar://***@b/c.jpg::https://h/x@y.tar"),
    ],
)
def test_no_error_shows_a_password(text: str, shown: str) -> None:
    assert str(ConfigError(text)) == shown


@pytest.mark.parametrize(
    "arguments",
    [
        ["export", "--out=o.onnx", "--weights=https://me:hush@host/w.pt"],
        ["evaluate", "--weights=yolo11n-bccd", "--out=o", "--data=https://me:hush@host/d"],
        ["import_weights", "https://me:hush@host/w.pt", "o.safetensors"],
        ["train", "--config=https://me:hush@host/c.yaml"],
    ],
)
def test_no_command_shows_a_password(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    output = capsys.readouterr()
    assert "host" in output.err
    assert "hush" not in output.out + output.err


@given(st.text(st.characters(), max_size=50))
def test_any_text_is_one_line_that_can_be_encoded(text: str) -> None:
    line = printable(text)
    assert line.encode() is not None
    assert not obeyed(line)
    assert len(line.splitlines()) <= 1


@pytest.mark.parametrize("name", [FOREIGN, *"\n\r\t\x00\u0085\u2028\u2029\udfff", "\n"])
def test_names_of_any_characters_can_be_drawn(name: str) -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    assert draw_boxes(image, [[8, 30, 40, 60]], [0], [f"{name} 0.5"]).any()


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n"])
def test_no_cell_of_a_csv_file_is_a_formula(start: str, tmp_path: Path) -> None:
    formula = f"{start}HYPERLINK(0)"
    entry = {"file_name": f"{formula}.jpg", "category_name": formula, "score": 0.5, "bbox": [-1.5, 2, 3, 4]}
    with csv_writer(tmp_path / "a.csv") as write:
        write([entry | {"category_name": "a=b"}, entry])
    with (tmp_path / "a.csv").open(newline="") as file:
        plain_row, row = csv.DictReader(file)
    assert (row["category_name"], row["file_name"]) == (f"'{printable(formula)}", f"'{printable(formula)}.jpg")
    assert (plain_row["category_name"], row["x"], list(row)) == ("a=b", "-1.5", list(COLUMNS))


@pytest.mark.slow
def test_a_dataset_with_such_names_goes_through_every_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    data = tmp_path / "data"
    make_data(data)
    image_name = "0\x1b[2J\u2028.jpg"
    for split in ("train", "val"):
        file = data / "annotations" / f"instances_{split}.json"
        content = json.loads(file.read_text())
        for category in content["categories"]:
            category["name"] = FOREIGN + category["name"]
        content["images"][0]["file_name"] = image_name
        (data / split / "0.jpg").rename(data / split / image_name)
        (data / split / image_name).write_bytes(b"no image")
        file.write_text(json.dumps(content))
    small = ["--epochs", "1", "--image_size", "32", "--batch_size", "2", "--workers", "0", "--max_unreadable", "0.5"]
    run = "run [a]:dog:"  # as markup, the name of another folder
    found = ["--conf", "0", "--max_detections", "2"]
    for arguments in (
        ["train", "--data", "data", "--out", run, *small, "--license", FOREIGN.replace("\0", "")],
        ["report", run],
        ["evaluate", "--data", "data", "--weights", f"{run}/best.safetensors", "--out", "eval [a]", *small[-4:]],
        [
            "export",
            "--weights",
            f"{run}/best.safetensors",
            "--format",
            "safetensors",
            "--out",
            "a.safetensors",
            "--force",
        ],
        ["train", "--data", "data", "--out", "again", "--weights", f"{run}/best.safetensors", *small],
    ):
        assert main(arguments) == 0, capsys.readouterr().err
    assert main(["infer", "data/val", "--weights", f"{run}/best.safetensors", "--out", "found", *found]) == 1
    assert main(["infer", "data/val", "--weights", f"{run}/best.safetensors", "--out", "x", "--classes", "y"]) == 2
    said = "".join(capsys.readouterr())
    assert obeyed(said) == []
    assert said.count(SHOWN) >= 5
    assert f"epoch 1: {run}/best.safetensors\n" in said
    assert f"written: {run}/report.html, with" in said
    assert "eval [a]" in said
    page = Path(run, "report.html").read_text(encoding="utf-8")
    assert obeyed(page) == []
    assert SHOWN.replace("</h1>", "&lt;/h1&gt;") in page
    for path in (*Path("found").glob("*.jpg"), *Path(run, "report").glob("*.png")):
        Image.open(path).load()
    assert len(list(Path("found").glob("*.jpg"))) == 3


def test_an_output_that_is_not_utf_8_takes_any_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where PYTHONIOENCODING or the locale says so, or Windows writes to a file."""
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    with pytest.raises(SystemExit, match="0"):
        main(["train", "--help"])
    assert rb"cuda:1, \u2026" in written.getvalue()


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"{DISTRIBUTION} {version(DISTRIBUTION)}\n"


def with_command(monkeypatch: pytest.MonkeyPatch, run: Callable[[DemoConfig], int]) -> None:
    monkeypatch.setitem(cli.COMMANDS, "demo", cli.COMMANDS["demo"]._replace(run=run))


def print_table(_config: object) -> int:
    print_metrics({"AP": 1.0}, {})
    raise AssertionError("unreachable")


@pytest.mark.parametrize("in_notebook", [True, False])
def test_a_cell_of_a_notebook_gets_plain_lines(in_notebook: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("FORCE_COLOR", "1"), ("TERM", "xterm-color")):  # as Jupyter sets them
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("JPY_PARENT_PID", raising=False)
    if in_notebook:
        monkeypatch.setenv("JPY_PARENT_PID", "1")
    out = io.StringIO()
    with Progress(console=Terminal(file=out)) as bar:
        bar.add_task("train", total=2, completed=1)
        bar.console.print("[bold red]evaluated[/]")
    assert "evaluated" in out.getvalue()
    assert ("\x1b" in out.getvalue()) is not in_notebook


@pytest.mark.parametrize("run", [lambda _: print("a") or 0, print_table], ids=["print", "rich"])
def test_a_command_whose_reader_is_gone_ends_as_other_programs_do(
    run: Callable[[object], int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As with `| head`, which ends after some lines."""
    reader, writer = os.pipe()
    os.close(reader)
    with_command(monkeypatch, run)
    with open(writer, "w") as stdout:  # noqa: PTH123, a number
        monkeypatch.setattr(sys, "stdout", stdout)
        assert main(["demo"]) == 141
        stdout.flush()
    assert capsys.readouterr().err == ""


def test_another_broken_pipe_is_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_config: object) -> int:
        raise BrokenPipeError

    with_command(monkeypatch, broken)
    with pytest.raises(BrokenPipeError):
        main(["demo"])
