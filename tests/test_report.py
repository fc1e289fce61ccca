"""The report of a run: one page that needs nothing else, for any run that has finished an epoch."""

import base64
import dataclasses
import io
import json
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import yaml
from lively_model import lively_model
from PIL import Image
from small_run import small_config

from detector import cli
from detector.config import PathsConfig
from detector.data.layouts import find_split
from detector.demo.scenes import make_dataset
from detector.errors import DataError, DetectorError
from detector.evaluation.matching import match_image
from detector.images.input_size import InputSize
from detector.models.catalog import create_model
from detector.reporting.examples import choose
from detector.reporting.label_charts import class_chart, crowding_chart, label_statistics, place_chart, size_chart
from detector.reporting.report import Drawing, report, scores
from detector.reporting.run_record import read_config, read_run
from detector.reporting.score_charts import confusion_chart, group_classes, worst_confusions
from detector.training.loop import train
from detector.utils.charts import plain
from detector.weights.files import load_weights, save_weights

pytestmark = pytest.mark.slow

NAMES = ("<b>boat</b> & co", "ballon à gaz", "$fi$h", "_mushroom", "家 house with a name that is far too long")


class Page(HTMLParser):
    """Tags with their attributes, and the text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def images(self) -> list[Image.Image]:
        sources = [str(attributes["src"]) for tag, attributes in self.tags if tag == "img"]
        assert all(source.startswith(("data:image/png;base64,", "data:image/jpeg;base64,")) for source in sources)
        return [Image.open(io.BytesIO(base64.b64decode(source.split(",")[1]))) for source in sources]


def train_run(data: Path, out: Path) -> Path:
    train(small_config(data, out, epochs=1))
    return out


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A drawn dataset whose class names are hard on HTML, fonts and matplotlib."""
    root = tmp_path_factory.mktemp("scenes") / "data"
    make_dataset(root, seed=1, train=8, val=8, test=3)
    for path in (root / "annotations").glob("*.json"):
        content = json.loads(path.read_text())
        for category, name in zip(content["categories"], NAMES, strict=True):
            category["name"] = name
        path.write_text(json.dumps(content))
    return root


@pytest.fixture(scope="module")
def run(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one epoch, its weights replaced by ones that find many things."""
    out = train_run(scenes, tmp_path_factory.mktemp("runs") / "run & <more>")
    _, info = load_weights(out / "best.safetensors")
    save_weights(out / "best.safetensors", lively_model(len(NAMES)), info)
    return out


@pytest.fixture(scope="module")
def page(run: Path) -> Page:
    return Page(report(run))


def test_the_closing_epochs_are_shown(scenes: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(small_config(scenes, out))
    page = Page(report(out))
    assert "From the first batch of epoch 1, full augmentation." in page.text
    assert "From the first batch of epoch 2, weak augmentation." in page.text


def test_the_page_needs_no_other_file(page: Page) -> None:
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "link", "iframe", "object", "source"}
    for tag, attributes in page.tags:
        assert tag == "img" or "src" not in attributes
        assert str(attributes.get("href") or "#").startswith("#")
        assert not [name for name in attributes if name.startswith("on")]
    assert "url(" not in page.text
    assert "@import" not in page.text


def test_every_image_of_the_folder_is_in_the_page(run: Path, page: Page) -> None:
    images = page.images()
    written = {path.read_bytes() for path in (run / "report").iterdir()}
    shown = {base64.b64decode(str(a["src"]).split(",")[1]) for tag, a in page.tags if tag == "img"}
    assert shown == written
    names = {path.stem for path in (run / "report").iterdir()}
    assert {"precision-recall", "f1-confidence", "confusion", "losses", "precision", "objects-per-class"} <= names
    assert {"batch-epoch-1", "worst-1", "confused-1", "box-sizes", "box-centers", "learning-rate"} <= names
    for image in images:
        image.load()
        assert min(image.size) > 100
        assert len(np.unique(np.asarray(image.convert("L")))) > 5  # not blank


def test_names_are_texts_not_markup(page: Page) -> None:
    assert not [attributes for tag, attributes in page.tags if tag == "b" and attributes]
    for name in NAMES:
        assert name in page.text
    assert "run & <more>" in page.text


def test_what_the_page_says(run: Path, page: Page) -> None:
    assert "yolo11n" in page.text
    assert "not stated" in page.text  # the license
    assert "image_size" in page.text  # differs from the default
    assert "train.momentum" not in page.text
    assert "workers" in page.text
    row = json.loads((run / "metrics.jsonl").read_text())
    assert f"{row['images_per_second']:.1f} images/s in training" in page.text


def test_a_run_that_finds_nothing(run: Path, tmp_path: Path) -> None:
    blind = shutil.copytree(run, tmp_path / "run")
    _, info = load_weights(run / "best.safetensors")
    model = create_model("yolo11n", len(NAMES))
    for branch in model.head.class_branches:
        branch[-1].bias.data.fill_(-50.0)
    save_weights(blind / "best.safetensors", model, info)
    text = Page(report(blind)).text
    assert "train longer" in text
    assert "Nothing was found" in text


def test_data_that_has_moved(run: Path, scenes: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(run, tmp_path / "run")
    config = yaml.safe_load((moved / "config.yaml").read_text())
    config["data"] = str(tmp_path / "gone")
    (moved / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(DataError, match=r"gone: this dataset of .* is no longer there; say with --data FOLDER"):
        report(moved)
    assert read_run(moved, str(scenes)).config.data == str(scenes)
    found = find_split(scenes, "val")
    paths = {"val_json": str(found.annotations), "val_images": str(tmp_path / "gone")}
    (moved / "config.yaml").write_text(
        yaml.safe_dump({**config, "data": str(scenes), "paths": config["paths"] | paths})
    )
    with pytest.raises(
        DataError, match=r"gone: this dataset of .* is no longer there; say with --paths.val_images where"
    ):
        report(moved)
    record = read_run(moved, None, PathsConfig(val_images=str(found.images)))
    assert record.config.paths == PathsConfig(val_json=paths["val_json"], val_images=str(found.images))
    assert len(record.val_dataset) > 0


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.yaml", None, "there is no config.yaml, so no run"),
        ("best.safetensors", None, "there is no best.safetensors, so no run"),
        ("config.yaml", "train: [", r"config\.yaml: not the configuration that training wrote"),
        ("config.yaml", "nothing", r"config\.yaml: not the configuration that training wrote"),
        ("metrics.jsonl", '{"epoch": 1', "is missing or has none; restore it"),
        ("metrics.jsonl", "", "is missing or has none; restore it"),
        ("metrics.jsonl", None, "is missing or has none; restore it"),
    ],
)
def test_what_is_no_run(run: Path, tmp_path: Path, name: str, content: str | None, message: str) -> None:
    broken = shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("report*", "last*"))
    (broken / name).unlink()
    if content is not None:
        (broken / name).write_text(content)
    with pytest.raises(DetectorError, match=message):
        report(broken)


def test_gray_and_tiny_images_and_one_class(tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    sizes = [(1, 1), (3, 40), (40, 3), (9, 7)]
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        for index, size in enumerate(sizes):
            Image.new("L", size, 40 * index).save(tmp_path / split / f"{index}.png")
        content = {
            "images": [{"id": i, "file_name": f"{i}.png", "width": w, "height": h} for i, (w, h) in enumerate(sizes)],
            "annotations": [
                {"id": 1, "image_id": 0, "category_id": 5, "bbox": [0, 0, 1, 1], "area": 1, "iscrowd": 0},
                {"id": 2, "image_id": 3, "category_id": 5, "bbox": [2, 2, 5, 4], "area": 20, "iscrowd": 0},
            ],
            "categories": [{"id": 5, "name": "dot"}],
        }
        (tmp_path / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    run = train_run(tmp_path, tmp_path / "run")
    assert Page(report(run)).images()


def test_a_validation_split_without_objects_has_no_curves(run: Path, tmp_path: Path) -> None:
    assert "The validation split has no object" in scores(read_run(run, None), [], Drawing(tmp_path))


def test_label_statistics(run: Path) -> None:
    images = read_run(run, None).train_dataset
    content = json.loads(images.annotations_path.read_text())
    objects = [a for a in content["annotations"] if not a["iscrowd"]]
    statistics = label_statistics(images, InputSize(64, 64))
    assert statistics.per_class.sum() == statistics.per_image.sum() == len(statistics.sizes) == len(objects)
    longest = {image["id"]: max(image["width"], image["height"]) for image in content["images"]}
    expected = sorted(64 * a["bbox"][2] / longest[a["image_id"]] for a in objects)
    assert np.abs(np.sort(statistics.sizes[:, 0]) - expected).max() < 0.6  # the letterbox rounds sides to pixels
    assert (statistics.centers >= 0).all()
    assert (statistics.centers <= 1).all()


def test_charts_of_many_classes_show_the_largest_and_say_so(run: Path) -> None:
    images = read_run(run, None).train_dataset
    many = dataclasses.replace(label_statistics(images, InputSize(64, 64)), per_class=np.arange(80))
    names = tuple(f"class {label}" for label in range(80))
    axes = class_chart({"training": many}, names).axes[0]
    assert "25 of 80 classes" in axes.get_title(loc="left")
    assert axes.get_yticklabels()[0].get_text() == "class 79"
    matrix = np.random.default_rng(0).integers(0, 50, (81, 81))
    axes = confusion_chart(matrix, names).axes[0]
    assert "60 other classes" in [text.get_text() for text in axes.get_yticklabels()]
    table = group_classes(matrix, np.array([4, 9, 2]))
    assert table.shape == (5, 5)
    assert table.sum() == matrix.sum()
    assert table[1, 2] == matrix[9, 2]
    assert table[3, 0] == matrix[:80, 4].sum() - matrix[[4, 9, 2], 4].sum()


def test_a_split_without_objects_can_be_drawn(run: Path) -> None:
    images = read_run(run, None).train_dataset
    empty = dataclasses.replace(
        label_statistics(images, InputSize(64, 64)),
        per_class=np.zeros(5, np.int64),
        per_image=np.zeros(3, np.int64),
        sizes=np.zeros((0, 2)),
        centers=np.zeros((0, 2)),
    )
    for figure in (
        class_chart({"training": empty}, NAMES),
        crowding_chart({"training": empty}),
        size_chart(empty, InputSize(64, 64)),
        place_chart(empty),
    ):
        figure.savefig(io.BytesIO())


def test_most_frequent_confusions_come_first() -> None:
    matrix = np.array([[9, 2, 0, 5], [7, 9, 1, 5], [0, 0, 9, 5], [8, 8, 8, 0]])
    assert worst_confusions(matrix, 10) == [(1, 0, 7), (0, 1, 2), (1, 2, 1)]
    assert worst_confusions(matrix, 1) == [(1, 0, 7)]


def test_no_image_is_shown_twice() -> None:
    from test_curves import crowded, images_of

    matches = [match_image(image, 0.25, 0.5) for seed in range(3) for image in images_of(*crowded(seed))]
    chosen = choose(matches, 4)
    everything = [id(each) for kind in chosen.values() for each in kind]
    assert len(everything) == len(set(everything))
    assert {kind: len(each) for kind, each in chosen.items()} == {"best": 4, "worst": 4, "confused": 4}
    assert min(o.quality() for o in chosen["best"]) > max(o.quality() for o in chosen["worst"])


def test_names_that_matplotlib_would_take_for_something_else() -> None:
    assert plain("_hidden") == " _hidden"
    assert plain("5$ and 6$") == r"5\$ and 6\$"
    assert plain("two\nlines") == "two lines"
    assert len(plain("x" * 99)) == 22


def test_train_draws_the_report(scenes: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    options = ["--epochs=1", "--image_size=32", "--workers=0"]
    assert cli.main(["train", "--data", str(scenes), "--out", str(out), *options]) == 0
    said = capfd.readouterr()
    assert f"written: {out / 'report.html'}" in said.out
    assert said.err == ""
    assert (out / "report.html").is_file()


def test_the_report_command(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr("detector.reporting.report.report", lambda *values: asked.append(values) or values[0] / "r")
    assert cli.main(["report", "runs/mine", "--data", "moved", "--device", "cpu", "--paths.val_json", "v"]) == 0
    assert asked == [(Path("runs/mine"), "moved", "cpu", PathsConfig(val_json="v"))]


@pytest.mark.parametrize("error", [DataError("no space"), ValueError("a bug"), KeyboardInterrupt()])
def test_a_report_that_fails_is_told_but_is_no_failed_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException
) -> None:
    def failing(*_: object) -> None:
        raise error

    monkeypatch.setattr("detector.training.loop.train", lambda _: None)
    monkeypatch.setattr("detector.reporting.report.report", failing)
    assert cli.main(["train", "--data", "d", "--out", str(tmp_path)]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert str(error) in line
    assert "weights are written" in line
    assert line.endswith(f"detector report {tmp_path}")


def test_report_wants_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report"]) == 2
    assert "missing: run" in capsys.readouterr().err
    assert cli.main(["report", str(tmp_path)]) == 2
    assert "give the folder that --out named" in capsys.readouterr().err


def test_a_run_of_height_times_width(run: Path, tmp_path: Path) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["image_size"] = [64, 96]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    assert read_config(tmp_path / "config.yaml").image_size == (64, 96)
