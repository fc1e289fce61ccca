"""The documentation site that `make docs` has built, from the disk: links and anchors lead somewhere, search needs no network."""

import json
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

SITE = Path(__file__).parents[2] / "build" / "docs"
PAGES = sorted(path for path in SITE.rglob("*.html") if "_static" not in path.parts)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PATIENCE = 90_000  # ms

if not PAGES:
    pytest.skip("make docs builds the site", allow_module_level=True)


class Page(HTMLParser):
    """What a page links to, what it loads by itself, and its anchors."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value for name, value in attrs if value}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        elif tag == "link" and values.get("rel") == "stylesheet":
            self.loaded.append(values["href"])
        elif tag in ("img", "script", "iframe", "source") and "src" in values:
            self.loaded.append(values["src"])


@pytest.fixture(scope="module")
def pages() -> dict[Path, Page]:
    return {path: Page(path) for path in PAGES}


def is_elsewhere(target: str) -> bool:
    parts = urlsplit(target)
    return bool(parts.netloc) or parts.scheme not in ("", "data")


def test_every_link_and_anchor_leads_somewhere(pages: dict[Path, Page]) -> None:
    count = 0
    for path, page in pages.items():
        for target in [*page.links, *page.loaded]:
            if is_elsewhere(target) or target.startswith("data:"):
                continue
            parts = urlsplit(target)
            file = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert file.is_file(), f"{path.relative_to(SITE)}: {target}"
            if parts.fragment and file in pages:
                assert unquote(parts.fragment) in pages[file].anchors, f"{path.relative_to(SITE)}: {target}"
            count += 1
    assert count > 1000


def test_pages_load_nothing_from_elsewhere(pages: dict[Path, Page]) -> None:
    found = {
        path.relative_to(SITE): [each for each in page.loaded if is_elsewhere(each)] for path, page in pages.items()
    }
    assert {path: loaded for path, loaded in found.items() if loaded} == {}


def test_every_tutorial_is_a_page_with_what_came_out_and_can_be_taken(pages: dict[Path, Page]) -> None:
    for name in ("train", "deploy", "large"):
        path = SITE / "docs" / "tutorials" / f"{name}.html"
        assert any(target.endswith(".jpeg") or target.endswith(".jpg") for target in pages[path].loaded)
        taken = next(target for target in pages[path].links if target.endswith(f"{name}.ipynb"))
        assert json.loads((path.parent / taken).read_text(encoding="utf-8"))["cells"]


@pytest.fixture
def browser_page() -> "Iterator[object]":
    playwright = pytest.importorskip("playwright.sync_api", reason="make test-extras installs playwright")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium here")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        context = browser.new_context(offline=True)
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        yield page
        browser.close()


@pytest.mark.slow
@pytest.mark.parametrize(("words", "title"), [("letterbox", "Export"), ("perceptual hash", "Doctor")])
def test_search_works_from_the_disk_without_a_network(browser_page: object, words: str, title: str) -> None:
    page = browser_page
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))  # type: ignore[attr-defined]
    page.goto((SITE / "docs" / "index.html").as_uri())  # type: ignore[attr-defined]
    page.goto((SITE / "search.html").as_uri() + f"?q={words.replace(' ', '+')}")  # type: ignore[attr-defined]
    page.locator(f"#search-results li a:text-is('{title}')").first.wait_for()  # type: ignore[attr-defined]
    page.locator(f"#search-results li a:text-is('{title}')").first.click()  # type: ignore[attr-defined]
    page.locator(f"h1:has-text('{title}')").wait_for()  # type: ignore[attr-defined]
    assert errors == []
