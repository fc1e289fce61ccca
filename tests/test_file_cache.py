"""Copies of what comes from elsewhere: the size is held, the least recently used go first, processes share them."""

import multiprocessing
import random
from contextlib import suppress
from pathlib import Path

import pytest
from cache_user import use

from detector.utils.file_cache import FileCache
from detector.utils.fileio import LOCK
from detector.utils.locks import lock, unlock


def bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*/*"))


def fetched(cache: FileCache, name: str, size: int = 100) -> bool:
    """Whether a read had to fetch."""
    asked: list[str] = []

    def fetch() -> bytes:
        asked.append(name)
        return name.encode().ljust(size)

    assert cache.read(name, fetch).decode().strip() == name
    return bool(asked)


def test_what_was_read_is_kept(tmp_path: Path) -> None:
    cache = FileCache(tmp_path / "cache", 1000)
    assert [fetched(cache, "a"), fetched(cache, "a"), fetched(cache, "b"), fetched(cache, "a")] == [
        True,
        False,
        True,
        False,
    ]
    assert (tmp_path / "cache").stat().st_mode & 0o077 == 0
    cache.discard("a")
    cache.discard("unknown")
    assert [fetched(cache, "a"), fetched(cache, "b")] == [True, False]


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    cache = FileCache(tmp_path, 1000)
    for name in "abcdefghij":
        fetched(cache, name)
    assert not fetched(cache, "a")
    assert fetched(cache, "k")  # in the place of b and c: a tenth is made free at once
    assert not any(fetched(cache, name) for name in "adefghijk")
    assert fetched(cache, "b")


def test_the_size_is_held(tmp_path: Path) -> None:
    cache, draw = FileCache(tmp_path, 1000), random.Random(0)
    for number in range(300):
        fetched(cache, str(draw.randrange(60)), draw.randrange(1100) if number % 7 == 0 else 100)
        assert bytes_in(tmp_path) <= 1000
        if number == 100:  # somebody removes files, or the note of the size
            next(tmp_path.glob("*/*")).unlink()
        if number == 200:
            (tmp_path / ".lock").write_text("no number")
    assert bytes_in(tmp_path) > 500


@pytest.mark.parametrize("limit", [0, 99])
def test_what_is_larger_than_the_cache_is_not_kept(tmp_path: Path, limit: int) -> None:
    cache = FileCache(tmp_path / "cache", limit)
    assert [fetched(cache, "a"), fetched(cache, "a")] == [True, True]
    assert not (tmp_path / "cache").exists()


def test_a_folder_that_can_not_be_written_is_said_once_and_done_without(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("detector.utils.file_cache._said", set())
    (tmp_path / "file").touch()
    cache = FileCache(tmp_path / "file" / "cache", 1000)
    assert [fetched(cache, "a"), fetched(cache, "a")] == [True, True]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("no local copies of what comes from elsewhere: ")
    assert str(tmp_path) in line


def test_what_a_killed_process_has_left_goes_too(tmp_path: Path) -> None:
    cache = FileCache(tmp_path, 1000)
    fetched(cache, "a")
    (folder,) = {path.parent for path in tmp_path.glob("*/*")}
    (folder / "123.new").write_bytes(b"x" * 800)
    for name in "bcdefghijklm":
        fetched(cache, name)
    assert bytes_in(tmp_path) <= 1000
    assert not (folder / "123.new").exists()


@pytest.mark.slow
def test_processes_share_it(tmp_path: Path) -> None:
    """Three of them read 40 files of 100 bytes, for which there is room for 15, again and again."""
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=use, args=(FileCache(tmp_path, 1500), seed)) for seed in range(3)]
    for process in processes:
        process.start()
    while any(process.is_alive() for process in processes):
        with suppress(OSError):  # locked, or not there yet
            descriptor, _ = lock(tmp_path / LOCK)
            assert bytes_in(tmp_path) <= 1500
            unlock(descriptor)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert bytes_in(tmp_path) > 750
