"""Uses a cache of files in a process of its own: imports little, since spawned processes import it anew."""

import random

from detector.utils.file_cache import FileCache


def use(cache: FileCache, seed: int) -> None:
    """Read files at random; what is wrong becomes the process's exit code."""
    draw = random.Random(seed)
    for _ in range(300):
        name = str(draw.randrange(40))
        content = name.encode().ljust(100)
        assert cache.read(name, lambda content=content: content) == content  # type: ignore[misc]
