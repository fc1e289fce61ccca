"""From names on the command line to image files, videos, cameras and URLs."""

from pathlib import Path

import pytest
from PIL import Image

from detector.errors import DataError
from detector.images.read import IMAGE_FORMATS, read_image
from detector.inference.sources import Source, find_sources


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in (
        "b.JPG",
        "a.png",
        "notes.txt",
        "._a.png",
        "sub/c.webp",
        "sub/deep/d.tiff",
        "odd[1]/e.jpeg",
        "none/x.txt",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


def _names(folder: Path, *sources: str) -> list[str]:
    found = find_sources([str(folder / source) for source in sources])
    return [Path(source.name).relative_to(folder).as_posix() for source in found]


def test_a_folder_gives_its_images_sorted_and_not_the_hidden_ones(folder: Path) -> None:
    assert _names(folder, "") == ["a.png", "b.JPG", "odd[1]/e.jpeg", "sub/c.webp", "sub/deep/d.tiff"]


def test_globs(folder: Path) -> None:
    assert _names(folder, "*.png") == ["a.png"]
    assert _names(folder, "sub/**") == ["sub/c.webp", "sub/deep/d.tiff"]
    assert _names(folder, "**/*.[tw]*") == ["sub/c.webp", "sub/deep/d.tiff"]


def test_links_to_their_own_folder_are_followed_once(folder: Path) -> None:
    """Two of them double the paths at each level."""
    for link in ("sub/again", "sub/and_again", "sub/deep/up"):
        (folder / link).symlink_to(folder / "sub")
    (folder / "linked").symlink_to(folder / "odd[1]")
    assert _names(folder, "sub") == _names(folder, "sub/**") == ["sub/c.webp", "sub/deep/d.tiff"]
    assert _names(folder, "") == ["a.png", "b.JPG", "linked/e.jpeg", "sub/c.webp", "sub/deep/d.tiff"]
    assert _names(folder, "**/deep/**/*.tiff") == ["sub/deep/d.tiff"]


def test_names_with_brackets_are_names_first(folder: Path) -> None:
    assert _names(folder, "odd[1]") == _names(folder, "odd[1]/e.jpeg") == ["odd[1]/e.jpeg"]


def test_order_is_kept_and_each_file_comes_once(folder: Path) -> None:
    assert _names(folder, "sub", "b.JPG", "sub/../a.png", "*.*")[:2] == ["sub/c.webp", "sub/deep/d.tiff"]
    assert len(find_sources([str(folder / "sub/../a.png"), str(folder / "a.png")])) == 1


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("absent.jpg", "no such file or folder"),
        ("none", "this folder holds no image"),
        ("*.heic", "this glob holds no image"),
        ("notes.txt", "not an image by its extension"),
    ],
)
def test_a_source_without_images_is_refused_in_one_line(folder: Path, source: str, words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        find_sources([str(folder / "a.png"), str(folder / source)])
    assert str(folder / source) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_empty_name_is_not_the_current_folder() -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        find_sources([""])


def test_videos_are_told_from_images(folder: Path) -> None:
    for name in ("sub/film.MP4", "sub/script.ts", "z.mkv"):
        (folder / name).touch()
    kinds = {Path(source.name).name: source.kind for source in find_sources([str(folder)])}
    assert kinds["film.MP4"] == kinds["z.mkv"] == "video"
    assert kinds["a.png"] == kinds["c.webp"] == "image"
    assert "script.ts" not in kinds


def test_cameras_and_streams_are_live_and_not_files() -> None:
    camera, stream = find_sources(["camera:2", "rtsp://localhost/street"])
    assert camera == Source("camera:2", "video", live=True)
    assert (camera.camera, stream.camera) == (2, None)
    assert stream == Source("rtsp://localhost/street", "video", live=True)
    with pytest.raises(DataError, match="no such file or folder"):
        find_sources(["camera:front"])
    with pytest.raises(DataError, match="camera:10000: the number of a camera has 4 digits at most"):
        find_sources(["camera:10000"])


@pytest.mark.parametrize("extension", [each for extensions in IMAGE_FORMATS.values() for each in extensions])
def test_the_formats_that_are_read_are_found(tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"a.{extension}"
    Image.init()
    if Image.EXTENSION[f".{extension}"] not in Image.SAVE:
        pytest.skip("Pillow can't write it")
    Image.new("1" if extension == "pbm" else "L" if extension == "pgm" else "RGB", (9, 6)).save(path)
    assert find_sources([str(tmp_path)]) == [Source(str(path), "image")]
    assert read_image(path).shape == (6, 9, 3)


def test_what_is_skipped_in_a_folder_is_counted_in_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "more.txt").touch()
    _names(folder, "")
    assert capsys.readouterr().err == (f"{folder}: 3 files skipped that are no images or videos (3 .txt)\n")


def test_transport_streams_and_animated_gif_are_videos(tmp_path: Path) -> None:
    packet = bytes([0x47]).ljust(188, b"0")
    (tmp_path / "a.ts").write_bytes(2 * packet)
    (tmp_path / "b.h264").touch()
    pages = [Image.new("L", (9, 6), shade) for shade in (0, 99)]
    pages[0].save(tmp_path / "c.gif", save_all=True, append_images=pages[1:])
    pages[0].save(tmp_path / "d.gif")
    assert [source.kind for source in find_sources([str(tmp_path)])] == ["video", "video", "video", "image"]
