"""What the extras `mlflow`, `mobile`, `serve`, `ui` and `wandb` bring is under no GPL or AGPL either; see test_licenses.py."""

from importlib.metadata import PackageNotFoundError

import pytest
from test_licenses import findings, reachable


@pytest.mark.slow
@pytest.mark.parametrize(
    "package",
    [
        *("mlflow", "wandb", "fastapi", "uvicorn", "python-multipart", "prometheus-client", "gradio"),
        *("executorch", "ai-edge-litert", "litert-torch", "coremltools"),
    ],
)
def test_nothing_that_an_extra_brings_is_under_the_gpl(package: str) -> None:
    try:
        packages = reachable(package, frozenset())
    except PackageNotFoundError as missing:
        pytest.skip(f"make test-extras or test-mobile installs {missing.name}")
    found = [line for each in packages.values() for line in findings(each)]
    assert not found, "\n".join(found)
