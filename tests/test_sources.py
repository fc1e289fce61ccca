"""From names on the command line to image files, videos, cameras and URLs."""

import base64
import contextlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from detector.errors import DataError
from detector.images.read import IMAGE_FORMATS, read_image
from detector.inference import sources
from detector.inference.sources import Source, fetch, find_sources, without_secrets


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


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("rtsp://me:hush@cam/1", "rtsp://***@cam/1"),
        ("http://cam:8080/a/@b.jpg?size=3", "http://cam:8080/a/@b.jpg?size=3"),
        ("http://me:hu/sh#@cam/a.jpg", "http://***@cam/a.jpg"),
        (
            "https://cam/a.jpg?id=4&access_token=hush&x=1#key=hush",
            "https://cam/a.jpg?id=4&access_token=***&x=1#key=***",
        ),
        (
            "http://cam/a.jpg?%74oken=hush&n%61me=x&API%5Fk%45y=hush",
            "http://cam/a.jpg?%74oken=***&n%61me=x&API%5Fk%45y=***",
        ),
        ("http://cam/a.jpg?next=/b?key=hu?sh&x=1", "http://cam/a.jpg?next=/b?key=***&x=1"),
        ("HTTP://me:hush@cam/1", "HTTP://***@cam/1"),
        ("rtmp://me:hush@cam/1", "rtmp://***@cam/1"),
        ("folder/me:hush@x?token=1", "folder/me:hush@x?token=1"),
    ],
)
def test_secrets_of_urls_are_not_shown(url: str, shown: str) -> None:
    assert without_secrets(url) == shown


class Handler(http.server.BaseHTTPRequestHandler):
    """Asks for a password at /secret; sends without end elsewhere, at /slow a byte at a time until it is let go."""

    release = threading.Event()

    def do_GET(self) -> None:
        given = self.headers.get("Authorization")
        if self.path.startswith("/secret") and given != "Basic " + base64.b64encode(b"me:hu/sh").decode():
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="camera"')
            self.end_headers()
            return
        if self.path == "/bearer":
            self.send_response(401)
            self.send_header("WWW-Authenticate", "Bearer")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("Content-Type", "image/jpeg")
        self.end_headers()
        with contextlib.suppress(OSError):
            if self.path.startswith("/secret"):
                self.wfile.write(b"image")
            while self.path == "/endless":
                self.wfile.write(bytes(1000))
            if self.path == "/slow":
                while not self.release.wait(0.05):
                    self.wfile.write(b"x")

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def server() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        Handler.release.clear()
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{running.server_port}"
        Handler.release.set()
        running.shutdown()


def test_a_password_of_a_url_is_sent_and_not_shown(server: str) -> None:
    url = f"http://me:hu%2Fsh@{server}/secret?token=hush"
    assert fetch(url)[0] == b"image"
    (source,) = find_sources([url])
    assert source.location == url
    assert "hu" not in f"{source} {source!r} {source.name}"
    with pytest.raises(DataError, match="another way to log in"):
        fetch(f"http://{server}/bearer")
    for wrong in (url.replace("me:", "you:"), f"http://me:hu/sh@{server}/secret"):
        with pytest.raises(DataError) as caught:
            find_sources([wrong])
        assert "hu" not in str(caught.value)
        assert "***@" in str(caught.value)


@pytest.mark.parametrize(
    ("path", "limit", "words"),
    [("endless", "LARGEST", "the limit of an image"), ("slow", "DEADLINE", "not complete after")],
)
def test_a_transfer_has_a_size_limit_and_a_deadline(
    server: str, path: str, limit: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, limit, {"LARGEST": 1 << 20, "DEADLINE": 0.3}[limit])
    with pytest.raises(DataError, match=words):
        fetch(f"http://{server}/{path}")
