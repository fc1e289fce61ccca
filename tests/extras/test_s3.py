"""Images of a dataset in S3, as moto serves it on the loopback address: the same as on the disk, one by one and in tar files."""

import tarfile
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from detector.config import PathsConfig
from detector.data.coco import CocoDataset
from detector.data.layouts import find_split
from detector.data.load import load_split
from detector.demo.scenes import make_dataset
from detector.errors import DataError

pytest.importorskip("s3fs", reason="make test-extras installs s3fs")
server = pytest.importorskip("moto.server", reason="make test-extras installs moto")

pytestmark = pytest.mark.slow


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[fsspec.AbstractFileSystem]:
    """A store with the empty bucket `bucket`, found by the variables that people set for stores of their own."""
    served = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    served.start()
    host, port = served.get_host_and_port()
    variables = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    store = fsspec.filesystem("s3")
    store.mkdir("bucket")
    yield store
    store.clear_instance_cache()
    served.stop()


def test_images_in_s3_are_those_on_the_disk(bucket: fsspec.AbstractFileSystem, tmp_path: Path) -> None:
    make_dataset(tmp_path / "data", seed=1, train=5, val=3, test=3)
    here, found = load_split(str(tmp_path / "data"), "train"), find_split(tmp_path / "data", "train")
    files = sorted(found.images.iterdir())
    for number in range(2):
        with tarfile.open(tmp_path / f"train-{number}.tar", "w") as tar:
            for file in files[number::2]:
                tar.add(file, file.name)
        bucket.put_file(str(tmp_path / f"train-{number}.tar"), f"bucket/shards/train-{number}.tar")
    for file in files:
        bucket.put_file(str(file), f"bucket/train/{file.name}")

    def load(images: str) -> CocoDataset:
        paths = PathsConfig(train_json=str(found.annotations), train_images=images, cache=str(tmp_path / "cache"))
        return load_split(None, "train", paths=paths)

    for images in ("s3://bucket/train", "s3://bucket/shards/train-*.tar", "s3://bucket/shards/train-{0..1}.tar"):
        there = load(images)
        assert there.fingerprint() == here.fingerprint()
        assert all((there.read(index).image == here.read(index).image).all() for index in range(len(here)))
    for images, reason in {
        "s3://other/train": "does not exist",
        "s3://bucket/gone": "5 of 5 images named in .* are not in s3://bucket/gone",
        "s3://bucket/none-*.tar": "there are no such tar files",
        "s3://bucket/shards/train-{0..2}.tar": r"train-2\.tar: does not exist",
    }.items():
        with pytest.raises(DataError, match=reason):
            load(images)
