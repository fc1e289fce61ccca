"""`detector ui`: the page in headless Chromium, over a real socket of the loopback address; its detections without one."""

import http.client
import json
import re
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from time import monotonic, sleep
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np
import pytest
import torch
from drawn_video import draw_video
from jaxtyping import UInt8
from lively_model import calmed, lively_model
from PIL import Image
from pycocotools.coco import COCO
from torch import Tensor

from detector.config import UiConfig
from detector.data.coco import CocoDataset
from detector.data.layouts import SplitPaths
from detector.data.load import load_split
from detector.doctor.labels import check_labels, detect
from detector.errors import DataError
from detector.exporting.verify import shipped_photos
from detector.formats.runtime import HeadRuntime
from detector.images.input_size import InputSize
from detector.images.read import read_image
from detector.inference.attention.maps import attention_maps
from detector.inference.detector import Detector
from detector.inference.sources import Source
from detector.inference.tiles import TiledDetector
from detector.inference.video import read_video, video_writer
from detector.structures import Categories, Detections, Predictions

for package in ("gradio", "playwright"):
    pytest.importorskip(package, reason=f"make test-extras installs {package}")

import gradio  # noqa: E402
from playwright.sync_api import Browser, Error, Locator, Page, sync_playwright  # noqa: E402

from detector.ui.command import running  # noqa: E402
from detector.ui.controls import class_names, image_sizes, settings_of  # noqa: E402
from detector.ui.dataset_tab import progress, rows  # noqa: E402
from detector.ui.network import SharedNetwork  # noqa: E402
from detector.ui.page import build_page  # noqa: E402
from detector.ui.photo import Photo, Settings, read_upload, rows_of  # noqa: E402
from detector.ui.review import Review, as_coco  # noqa: E402
from detector.ui.showing import shown  # noqa: E402
from detector.ui.video_tab import annotate  # noqa: E402
from detector.utils.server import listen  # noqa: E402

CATEGORIES = Categories((3, 5, 9), ("cat", "<b>dog</b>", "caf\udcc3é"))
PHOTO = shipped_photos()[0]
PATIENCE = 90_000  # ms
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
]


class DrawnRuntime(HeadRuntime):
    """Finds other boxes in every input, with whole numbers as corners, and counts the inputs."""

    def __init__(self) -> None:
        self.count = 0

    def predict(self, inputs: UInt8[Tensor, "batch 3 height width"]) -> Predictions:
        self.count += len(inputs)
        drawn = [torch.Generator().manual_seed(int(each.sum(dtype=torch.int64))) for each in inputs]
        corners = [torch.randint(0, 64, (60, 4), generator=each) for each in drawn]
        boxes = torch.stack([torch.cat((each[:, :2], each[:, :2] + 1 + each[:, 2:]), dim=1) for each in corners])
        return Predictions(boxes.float(), torch.stack([torch.rand(60, 3, generator=each) for each in drawn]))


class PlantedRuntime(HeadRuntime):
    """Finds in each gray image what `PLANTED` has for the value of its pixels, or the nearest to it."""

    def predict(self, inputs: UInt8[Tensor, "batch 3 height width"]) -> Predictions:
        boxes, scores = torch.zeros(len(inputs), 2, 4), torch.zeros(len(inputs), 2, 3)
        for place, value in enumerate(inputs[:, 0, 0, 0].tolist()):
            nearest = min(PLANTED, key=lambda known: abs(known - value))
            for number, (label, box, score) in enumerate(PLANTED[nearest].found):
                boxes[place, number] = torch.tensor(box)
                scores[place, number, label] = score
        return Predictions(boxes, scores)


class Planted(NamedTuple):
    """A gray image of 96 x 96 px; labels: label and box of each; found: the same and the score; boxes are xyxy."""

    file_name: str
    labels: list[tuple[int, list[float]]]
    found: list[tuple[int, list[float], float]]


BOX, OTHER_BOX = [8.0, 8.0, 40.0, 48.0], [56.0, 40.0, 88.0, 80.0]
PLANTED = {
    10: Planted("good.png", [(0, BOX)], [(0, BOX, 0.9)]),
    60: Planted("unlabeled.png", [(0, BOX)], [(0, BOX, 0.9), (1, OTHER_BOX, 0.75)]),
    110: Planted("swapped.png", [(0, BOX), (2, OTHER_BOX)], [(1, BOX, 0.8), (2, OTHER_BOX, 0.9)]),
    160: Planted("not_found.png", [(1, BOX)], []),
}
WORST_FIRST = ["not_found.png", "swapped.png", "unlabeled.png", "good.png"]


def plant(root: Path) -> CocoDataset:
    """A dataset of `PLANTED` in a new folder."""
    (root / "annotations").mkdir(parents=True)
    (root / "val").mkdir()
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for value, (name, labels, _) in PLANTED.items():
        Image.new("RGB", (96, 96), (value, value, value)).save(root / "val" / name)
        images.append({"id": 100 + value, "file_name": name, "width": 96, "height": 96})
        for label, (left, top, right, bottom) in labels:
            entry = {"id": len(annotations) + 1, "image_id": 100 + value, "category_id": CATEGORIES.ids[label]}
            annotations.append({**entry, "bbox": [left, top, right - left, bottom - top], "iscrowd": 0})
    categories = [{"id": each, "name": name} for each, name in zip(CATEGORIES.ids, CATEGORIES.names, strict=True)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations" / "instances_val.json").write_text(json.dumps(content))
    return load_split(str(root), "val", CATEGORIES)


def planted_network() -> SharedNetwork:
    return SharedNetwork(Detector(PlantedRuntime(), CATEGORIES, 96), "planted")


@pytest.fixture
def drawn() -> Detector:
    return Detector(DrawnRuntime(), CATEGORIES, 96)


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector(calmed(lively_model(3)), CATEGORIES, 96)


def settings(conf: float | None = 0.25, iou: float = 0.7, **others: Any) -> Settings:
    return Settings(
        **{"conf": conf, "iou": iou, "labels": None, "image_size": InputSize(96, 96), "tiles": None, **others}
    )


def equal(one: Detections, other: Detections) -> bool:
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in ("boxes", "scores", "labels"))


def test_thresholds_and_classes_act_without_the_network_and_give_what_infer_gives(drawn: Detector) -> None:
    photo = Photo(SharedNetwork(drawn, "mine"), read_image(PHOTO))
    seen = set()
    for conf, iou, labels in (
        (0.5, 0.7, None),
        (0.9, 0.7, None),
        (0.02, 0.1, None),
        (0.02, 1.0, (1,)),
        (0.4, 0.5, (2, 0)),
    ):
        found = photo.detect(settings(conf, iou, labels=labels))
        names = None if labels is None else [CATEGORIES.names[label] for label in labels]
        alone = Detector(DrawnRuntime(), CATEGORIES, 96, conf=conf, iou=iou, classes=names)
        assert equal(found, alone(photo.pixels))
        seen.add(len(found))
    assert len(seen) == 5
    assert (drawn.runtime.count, photo.network.runs) == (1, 1)


def test_tiles_and_image_sizes_run_the_network_once_each(drawn: Detector) -> None:
    photo = Photo(SharedNetwork(drawn, "mine"), read_image(PHOTO))
    for others, runs in (({"tiles": 320}, 5), ({"image_size": InputSize(64, 128)}, 1)):
        before = drawn.runtime.count
        for conf in (0.5, 0.8):
            found = photo.detect(settings(conf, **others))
            alone = Detector(DrawnRuntime(), CATEGORIES, others.get("image_size", InputSize(96, 96)), conf=conf)
            assert equal(found, TiledDetector(alone, 320)(photo.pixels) if "tiles" in others else alone(photo.pixels))
        assert drawn.runtime.count == before + runs
    with pytest.raises(DataError, match="more than 100; choose larger ones"):
        photo.detect(settings(tiles=32))


def test_the_confidence_of_each_class_is_that_of_the_weights(drawn: Detector) -> None:
    drawn.conf = 0.1
    drawn.class_conf = torch.tensor([0.1, 0.5, 0.9])
    photo = Photo(SharedNetwork(drawn, "mine"), read_image(PHOTO))
    assert equal(photo.detect(settings(None)), drawn(photo.pixels))
    assert len(photo.detect(settings(0.1))) > len(photo.detect(settings(None)))


def test_several_users_at_once_run_the_network_once_for_each_image(drawn: Detector) -> None:
    network = SharedNetwork(drawn, "mine")
    photos = [Photo(network, read_image(path)) for path in shipped_photos()] * 4
    with ThreadPoolExecutor(8) as users:
        found = list(users.map(lambda photo: photo.detect(settings()), photos))
    assert network.runs == len(shipped_photos())
    alone = Detector(DrawnRuntime(), CATEGORIES, 96)
    assert all(equal(each, alone(photo.pixels)) for each, photo in zip(found, photos, strict=True))


def test_one_set_of_controls_sets_two_networks_with_classes_and_sizes_of_their_own(drawn: Detector) -> None:
    other = Detector(DrawnRuntime(), Categories((1, 2, 3), ("bird", "cat", "fish")), (64, 96))
    other.class_conf = torch.tensor([0.3, 0.4, 0.5])
    both = [drawn, other]
    assert class_names(both) == ["cat", "<b>dog</b>", "caf\udcc3é", "bird", "fish"]
    sizes = image_sizes(both)
    assert (InputSize(96, 96), InputSize(64, 96)) in sizes
    place = sizes.index((InputSize(192, 192), InputSize(128, 192)))
    one, two = settings_of(both, [0.2, True, 0.6, [0, 4], place, 0])
    assert one == Settings(0.2, 0.6, (0,), InputSize(192, 192), None)
    assert two == Settings(None, 0.6, (1, 2), InputSize(128, 192), None)
    _, unknown = settings_of(both, [0.2, False, 0.6, [1], place, 640])
    assert unknown == Settings(0.2, 0.6, (), InputSize(128, 192), 640)
    pixels = read_image(PHOTO)
    assert len(Photo(SharedNetwork(other, "other"), pixels).detect(settings(0.02, labels=()))) == 0
    assert len(Photo(SharedNetwork(other, "other"), pixels).detect(settings(0.02))) > 0


def test_maps_are_those_of_the_chosen_detection(detector: Detector) -> None:
    pixels = read_image(PHOTO)
    every = attention_maps(detector, pixels)
    one = attention_maps(detector, pixels, lambda _: [2])
    assert equal(one.detections, every.detections[[2]])
    (activation,) = one.activations
    assert (activation == every.activations[2]).all()


def test_uploads_have_limits(tmp_path: Path) -> None:
    config = UiConfig(weights="mine", max_mb=0.01, max_megapixels=0.01)
    path = tmp_path / "image.png"
    Image.new("RGB", (101, 100)).save(path)
    with pytest.raises(DataError, match="101 x 100 pixels are more than the limit of 10,000"):
        read_upload(str(path), config)
    path.write_bytes(bytes(10_001))
    with pytest.raises(DataError, match=r"larger than 0\.01 MB, the limit of this page \(--max_mb\)"):
        read_upload(str(path), config)


def test_a_split_is_sorted_by_error_and_its_suspicious_labels_are_the_doctors(tmp_path: Path) -> None:
    dataset = plant(tmp_path / "data")
    review = Review(planted_network(), dataset, 0.25)
    with review.running():
        wait_until(lambda: review.findings is not None)
    findings = review.findings
    assert findings is not None
    assert [dataset.file_name(match.image.index) for match in findings.matches] == WORST_FIRST
    assert [row[2:] for row in rows(review, findings)] == [
        [0.0, 1, 0, 0, 0, 1],
        [0.5, 0, 1, 0, 0, 1],
        [0.667, 0, 0, 0, 1, 1],
        [1.0, 0, 0, 0, 0, 0],
    ]
    doctors = check_labels(dataset, detect(review.detector, dataset, workers=0), "val")
    assert {code: len(each) for code, each in findings.doubts.items()} == {each.code: each.count for each in doctors}


def test_the_list_of_suspicious_labels_is_coco(tmp_path: Path) -> None:
    dataset = plant(tmp_path / "data")
    review = Review(planted_network(), dataset, 0.25)
    content = as_coco(dataset, review.find(detect(review.detector, dataset, workers=0)))
    file = tmp_path / "list.json"
    file.write_text(json.dumps(content))
    read = CocoDataset.load(SplitPaths(file, tmp_path / "data" / "val"), CATEGORIES)
    assert not read.problems
    assert [read.file_name(index) for index in range(len(read))] == ["unlabeled.png", "swapped.png", "not_found.png"]
    assert [read.image_id(index) for index in range(len(read))] == [160, 210, 260]
    assert [read.boxes(index).tolist() for index in range(len(read))] == [[OTHER_BOX], [BOX], [BOX]]
    assert [read.labels(index).tolist() for index in range(len(read))] == [[1], [0], [1]]
    own = [(each["attributes"]["suspicious"], each.get("score")) for each in content["annotations"]]
    assert own == [("label-missing", 0.75), ("label-class", 0.8), ("label-not-found", None)]
    assert COCO(str(file)).getAnnIds(catIds=[CATEGORIES.ids[1]]) == [1, 3]


def test_a_dataset_that_can_not_be_looked_at_is_one_line(tmp_path: Path) -> None:
    dataset = plant(tmp_path / "data")
    for image in (tmp_path / "data" / "val").iterdir():
        image.write_bytes(b"no image")
    review = Review(planted_network(), dataset, 0.25)
    with review.running():
        wait_until(lambda: review.findings is not None)
    assert "4 can't be read" in progress(review)
    review.findings, review.problem = None, "<b>"
    assert progress(review) == "The dataset can't be looked at: &lt;b&gt;"


def wait_until(there: Callable[[], bool]) -> None:
    end = monotonic() + PATIENCE / 1000
    while not there():
        assert monotonic() < end
        sleep(0.02)


def test_the_first_frames_of_a_video_get_what_infer_finds(tmp_path: Path, drawn: Detector) -> None:
    video = draw_video(tmp_path / "video.mp4", frames=5)
    alone = Detector(DrawnRuntime(), CATEGORIES, 96, conf=0.5)
    for limit, frames in ((9, 5), (3, 3)):
        target = tmp_path / f"{limit}.mp4"
        config = UiConfig(weights="mine", max_frames=limit)
        *_, report = annotate(SharedNetwork(drawn, "mine"), settings(0.5), str(video), target, config)
        read = [image for _, image in read_video(Source(str(target), "video"))]
        assert [image.shape for image in read] == [(64, 96, 3)] * frames
        found = [alone(image) for _, image in read_video(Source(str(video), "video"))][:frames]
        assert f"**{frames} frames**" in report
        assert ("--max_frames" in report) == (limit < 5)
        for name, count in Counter(name for each in found for name in each.names).items():
            assert f"{count} {shown(name)}" in report


def test_without_pyav_the_page_says_so(drawn: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    page = build_page([SharedNetwork(drawn, "mine")], UiConfig(weights="mine"), None)
    lines = [block.value for block in page.blocks.values() if isinstance(block, gradio.Markdown)]
    assert "videos: needs the package av: pip install &#x27;attention-detector[video]&#x27;" in lines
    assert not [block for block in page.blocks.values() if isinstance(block, gradio.Video)]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"max_megapixels": 0.006}, "frames of 96 x 64 pixels are more than the limit of 6,000"),
        ({"max_mb": 0.001}, "larger than 0.001 MB"),
    ],
)
def test_videos_have_limits(tmp_path: Path, drawn: Detector, options: dict[str, float], problem: str) -> None:
    video = draw_video(tmp_path / "video.mp4", frames=5)
    config = UiConfig(weights="mine", **options)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=problem):
        list(annotate(SharedNetwork(drawn, "mine"), settings(), str(video), tmp_path / "out.mp4", config))
    assert drawn.runtime.count == 0
    assert not (tmp_path / "out.mp4").exists()


def test_a_file_that_is_no_video_is_named_without_its_folder(tmp_path: Path, drawn: Detector) -> None:
    (tmp_path / "no.mp4").write_bytes(b"no video")
    with pytest.raises(DataError, match=r"^no\.mp4: this video can't be opened"):
        list(
            annotate(
                SharedNetwork(drawn, "mine"),
                settings(),
                str(tmp_path / "no.mp4"),
                tmp_path / "out.mp4",
                UiConfig(weights="mine"),
            )
        )


@pytest.fixture(scope="module")
def network(detector: Detector) -> SharedNetwork:
    return SharedNetwork(detector, "<i>mine</i>.safetensors")


@pytest.fixture(scope="module")
def port(network: SharedNetwork) -> Iterator[int]:
    config = UiConfig(weights="folder/<i>mine</i>.safetensors", max_mb=2, max_megapixels=1)
    with closing(listen("127.0.0.1", 0)) as listener, running(config, [network], listener):
        yield listener.getsockname()[1]


OTHERS = Categories((1, 2, 3), ("bird", "fish", "newt"))


@pytest.fixture(scope="module")
def port_of_two(network: SharedNetwork, detector: Detector) -> Iterator[int]:
    second = SharedNetwork(Detector(detector.model, OTHERS, 128), "second.onnx")
    with closing(listen("127.0.0.1", 0)) as listener, running(UiConfig(weights="first"), [network, second], listener):
        yield listener.getsockname()[1]


@pytest.fixture(scope="module")
def data_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    network = planted_network()
    review = Review(network, plant(tmp_path_factory.mktemp("planted") / "data"), 0.25)
    config = UiConfig(weights="planted")
    with closing(listen("127.0.0.1", 0)) as listener, running(config, [network], listener, review):
        yield listener.getsockname()[1]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("needs Chromium (Debian: apt install chromium)")
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        except Error as error:
            pytest.skip(f"Chromium does not start: {error}")
        yield browser
        browser.close()


def opened(browser: Browser, port: int, width: int = 1280) -> Page:
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.set_default_timeout(PATIENCE)
    page.goto(f"http://127.0.0.1:{port}/")
    return page


def upload(page: Page, file: Any) -> None:
    page.locator("#upload input[type=file]").set_input_files(file)


def wait_for_count(page: Page, count: int) -> Locator:
    """The table, once it and the text above it say so many detections."""
    page.get_by_text(f"{count} detections", exact=True).wait_for()
    page.locator(f"#table [role=grid][aria-rowcount='{count + 1}']").wait_for()
    return page.locator("#table")


def set_slider(page: Page, name: str, value: float) -> None:
    field = page.locator(f"#{name} input[type=number]")
    field.fill(str(value))
    field.press("Enter")


def middle_of(page: Page, box: tuple[float, ...]) -> Any:
    """The middle of a box of the photograph, as pixels of the image on the page, which shows it whole."""
    page.wait_for_function("(image => image.complete && image.naturalWidth)(document.querySelector('#drawn img'))")
    image = page.locator("#drawn img")
    width, height = image.evaluate("i => [i.clientWidth / i.naturalWidth, i.clientHeight / i.naturalHeight]")
    return {"x": (box[0] + box[2]) / 2 * width, "y": (box[1] + box[3]) / 2 * height}


@pytest.mark.slow
def test_an_image_is_detected_sliders_act_and_a_click_explains(
    browser: Browser, port: int, network: SharedNetwork
) -> None:
    page = opened(browser, port)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.reload()
    upload(page, PHOTO)
    photo = Photo(SharedNetwork(network.detector, "mine"), read_image(PHOTO))
    found = photo.detect(settings())
    table = wait_for_count(page, len(found))
    assert table.get_by_text(str(rows_of(found)[0][2]), exact=True).count() >= 1
    runs = network.runs
    for name, value, others in (("conf", 0.4, settings(0.4)), ("iou", 0.1, settings(0.4, 0.1))):
        fewer = photo.detect(others)
        assert 0 < len(fewer) < len(found)
        found = fewer
        set_slider(page, name, value)
        wait_for_count(page, len(found))
    assert network.runs == runs
    page.locator("#drawn img").click(position=middle_of(page, found[0].box))
    page.get_by_text(re.compile(r"^What .+ \d\.\d\d rests on:$")).wait_for()
    page.locator(".maps img").wait_for()
    assert hosts(asked) == {f"127.0.0.1:{port}"}
    assert len(asked) > 10
    page.close()


def hosts(urls: list[str]) -> set[str]:
    return {urlsplit(url).netloc for url in urls if not url.startswith(("data:", "blob:"))}


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 400])
def test_two_weights_are_shown_beside_each_other(
    browser: Browser, port_of_two: int, detector: Detector, width: int
) -> None:
    page = opened(browser, port_of_two, width)
    upload(page, PHOTO)
    photo = Photo(SharedNetwork(detector, ""), read_image(PHOTO))
    sides = (96, 128)
    for conf in (0.25, 0.4):
        if conf > 0.25:
            set_slider(page, "conf", conf)
        counts = [len(photo.detect(settings(conf, image_size=InputSize(side, side)))) for side in sides]
        assert min(counts) > 0
        assert counts[0] != counts[1]
        for number, count in enumerate(counts, start=1):
            page.locator(f"#summary{number}").get_by_text(f"{count} detections", exact=True).wait_for()
            page.locator(f"#drawn{number} img").wait_for()
    assert page.get_by_text("second.onnx").count() > 0
    page.locator("#table2").get_by_text(OTHERS.names[0], exact=True).last.click()
    page.get_by_text(re.compile(rf"^What {OTHERS.names[0]} \d\.\d\d rests on:$")).wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.close()


@pytest.mark.slow
def test_a_refused_image_is_one_line_on_the_page(browser: Browser, port: int, tmp_path: Path) -> None:
    Image.new("RGB", (1001, 1000)).save(tmp_path / "large.png")
    page = opened(browser, port)
    upload(page, tmp_path / "large.png")
    page.get_by_text("1001 x 1000 pixels are more than the limit of 1,000,000; send a smaller image").wait_for()
    upload(page, PHOTO)  # the page goes on
    page.locator("#drawn img").wait_for()
    page.close()


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 400])
def test_the_images_of_a_dataset_are_browsed_and_the_list_is_saved(
    browser: Browser, data_port: int, tmp_path: Path, width: int
) -> None:
    page = opened(browser, data_port, width)
    page.get_by_role("tab", name="Dataset").click()
    page.get_by_text("3 suspicious labels").wait_for()
    table = page.locator("#images")
    table.locator("[role=grid][aria-rowcount='5']").wait_for()
    names = table.get_by_text(re.compile(r"^\w+\.png$")).all_inner_texts()
    assert [name for name in dict.fromkeys(names) if name] == WORST_FIRST  # the table measures with hidden copies
    caption = page.locator("#caption")
    caption.get_by_text("1 of 4: not_found.png").wait_for()
    for name in ("truth", "prediction", "labels"):
        page.locator(f"#{name} img").wait_for()
    page.locator("#next").click()
    caption.get_by_text("2 of 4: swapped.png").wait_for()
    table.get_by_text("good.png", exact=True).last.click()
    caption.get_by_text("4 of 4: good.png").wait_for()
    page.locator("#labels img").wait_for(state="hidden")
    page.locator("#previous").click()
    caption.get_by_text("3 of 4: unlabeled.png").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    with page.expect_download() as download:
        page.locator("#save").click()
    download.value.save_as(tmp_path / "list.json")
    assert len(json.loads((tmp_path / "list.json").read_text())["annotations"]) == 3
    page.close()


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 400])
def test_a_video_comes_back_with_its_detections(browser: Browser, data_port: int, tmp_path: Path, width: int) -> None:
    page = opened(browser, data_port, width)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.get_by_role("tab", name="Video").click()
    chooser = page.locator("#video-upload input[type=file]")
    with video_writer(tmp_path / "video.mp4") as write:
        for number in range(12):  # gray frames of a value that the network knows
            write(np.full((96, 96, 3), 60, np.uint8), number / 10)
    chooser.set_input_files(tmp_path / "video.mp4")
    page.locator("#video-upload .file-preview").wait_for()
    page.locator("#video-start").click()
    page.get_by_text("12 frames: 12 cat, 12 <b>dog</b>").wait_for()
    page.wait_for_function("document.querySelector('#video-drawn video')?.videoWidth == 96")
    assert page.locator("#video-drawn video").evaluate("video => video.duration") == pytest.approx(1.2, abs=0.05)
    assert hosts(asked) == {f"127.0.0.1:{data_port}"}
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.close()


@pytest.mark.parametrize("place", [0, 1, 4])  # the image, a slider, the classes
@pytest.mark.parametrize("path", ["uploaded", str(PHOTO), "http://127.0.0.1:9/a.jpg", "https://example.com/a.jpg"])
def test_a_file_that_was_not_uploaded_is_not_read(port: int, network: SharedNetwork, path: str, place: int) -> None:
    runs = network.runs
    is_upload = path == "uploaded"
    if is_upload:  # the same request does what it should
        content = (
            b'--line\r\nContent-Disposition: form-data; name="files"; filename="a.jpg"\r\n\r\n' + PHOTO.read_bytes()
        )
        headers = {"Content-Type": "multipart/form-data; boundary=line"}
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE / 1000)) as connection:
            connection.request("POST", "/gradio_api/upload", content + b"\r\n--line--\r\n", headers)
            (path,) = json.loads(connection.getresponse().read())
    file = {"path": path, "meta": {"_type": "gradio.FileData"}}
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE / 1000)) as connection:
        connection.request("GET", "/config")
        page = json.loads(connection.getresponse().read())
        (uploaded,) = [each["id"] for each in page["components"] if each["props"].get("elem_id") == "upload"]
        (event,) = [each for each in page["dependencies"] if each["targets"] == [[uploaded, "change"]]]
        values = {each["id"]: each["props"].get("value") for each in page["components"]}
        data = [None, *(values[each] for each in event["inputs"][1:])]
        data[place] = file
        body = json.dumps({"data": data, "fn_index": event["id"], "session_hash": "mine"})
        connection.request("POST", "/gradio_api/queue/join", body, {"Content-Type": "application/json"})
        assert connection.getresponse().read()
        connection.request("GET", "/gradio_api/queue/data?session_hash=mine")
        (end,) = [line for line in connection.getresponse().read().decode().splitlines() if "process_completed" in line]
    end = json.loads(end.removeprefix("data:"))
    assert end["success"] == (is_upload and place == 0)
    if not is_upload:
        assert end["output"]["error"] == "only uploaded files are taken"
    assert network.runs == runs + end["success"]


@pytest.mark.parametrize("path", [str(PHOTO), "/etc/passwd", "https://example.com/a.jpg"])
def test_a_file_that_the_page_did_not_write_is_not_sent(port: int, path: str) -> None:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE / 1000)) as connection:
        connection.request("GET", f"/gradio_api/file={path}")
        assert connection.getresponse().status in (403, 404)
