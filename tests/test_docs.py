"""The pages for readers: short enough, their links lead somewhere, their commands and Python are the program's.

Notebooks are pages, too; tests/extras/test_tutorials.py runs them.
"""

import base64
import json
import re
import shlex
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

from detector.cli import COMMANDS, build_parser, parse
from detector.formats.table import FORMATS
from detector.models.catalog import MODELS

REPOSITORY = Path(__file__).parents[1]
README = REPOSITORY / "README.md"
DOCS = sorted((REPOSITORY / "docs").glob("*.md"))
BESIDE = [*sorted((REPOSITORY / "benchmarks").glob("*.md")), REPOSITORY / "weights" / "README.md"]
TUTORIALS = sorted((REPOSITORY / "docs" / "tutorials").glob("*.ipynb"))
CHEAT_SHEET = REPOSITORY / "docs" / "cheat-sheet.md"
PAGES = [README, *DOCS, *BESIDE, *TUTORIALS]
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+)`")
HOUSE_WORDS = re.compile(
    r"(?<![a-z])(pictures?|licence|colours?|centres?|optimiser|normalis\w+|tally|cards?|told|passed over|left out)(?![a-z])",
    re.IGNORECASE,
)
"""Words for which the field has others: image, license, color, GPU, …; also within names such as read_picture."""


def name_of(page: Path) -> str:
    return str(page.relative_to(REPOSITORY))


def text_of(page: Path) -> str:
    """The Markdown of a page; of a notebook without its outputs, lines that begin with ! as shell."""
    text = page.read_text(encoding="utf-8")
    if page.suffix != ".ipynb":
        return text
    parts = []
    for cell in json.loads(text)["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
        else:
            lines = source.splitlines()
            shell = [line[1:] for line in lines if line.startswith("!")]
            python = [line for line in lines if not line.startswith("!")]
            parts += [
                f"```{name}\n{chr(10).join(code)}\n```" for name, code in (("sh", shell), ("python", python)) if code
            ]
    return "\n\n".join(parts) + "\n"


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and the site make them."""
    prose = CODE.sub("", text_of(page))
    headings = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    plain = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower() for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading).strip().replace(" ", "-") for heading in plain}


def code_blocks(page: Path, *languages: str) -> Iterator[str]:
    for language, text in CODE.findall(text_of(page)):
        if language in languages:
            yield text


def commands(text: str) -> Iterator[list[str]]:
    """The arguments of each call of `detector` in lines of shell."""
    for line in text.replace("\\\n", " ").splitlines():
        if "detector " in line:
            words = shlex.split(line, comments=True)
            starts = [
                place for place, word in enumerate(words[:-1]) if word == "detector" and words[place + 1] in COMMANDS
            ]
            for start in starts:
                yield words[start + 1 :]


@cache
def known_options(command: str) -> set[str]:
    parser = build_parser(command, COMMANDS[command])
    return {option for action in parser._actions for option in action.option_strings}


def test_the_readme_is_short() -> None:
    lines = README.read_text(encoding="utf-8").splitlines()
    assert len(lines) < 150
    assert [number for number, line in enumerate(lines, start=1) if len(line) > 120] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_and_images_exist(page: Path) -> None:
    for target in LINK.findall(CODE.sub("", text_of(page))):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), f"{name_of(page)}: {target}"
        assert not anchor or anchor in anchors(file), f"{name_of(page)}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_have_the_options_they_are_shown_with(page: Path) -> None:
    text = text_of(page)
    inline = (code for code in INLINE.findall(CODE.sub("", text)) if code.startswith("detector "))
    shell = [*code_blocks(page, "sh"), *(code for code in inline if "…" not in code and "COMMAND" not in code)]
    for block in shell:
        for line in block.splitlines():
            if found := re.match(r"\s*detector\s+(\w+)", line):
                assert found[1] in COMMANDS, f"{name_of(page)}: {line}"
        for command, *arguments in commands(block):
            options = known_options(command)
            used = {argument.split("=")[0] for argument in arguments if argument.startswith("--")}
            assert used <= options, f"{name_of(page)}: detector {command} {used - options}"


def test_the_cheat_sheet_has_every_command_as_the_program_takes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "runs" / "mine"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text("epochs: 60\n", encoding="utf-8")  # to resume
    rows = re.findall(r"^\|.*\| `(.+)` \|$", text_of(CHEAT_SHEET), re.MULTILINE)
    shown = [command for row in rows for command in commands(row)]
    assert len(shown) > 40
    for name, *arguments in shown:
        if "--print_config" not in arguments:
            parse(name, COMMANDS[name], arguments)  # raises ConfigError
    assert {name for name, *_ in shown} == set(COMMANDS)


@pytest.mark.parametrize("page", [README, *DOCS, *TUTORIALS], ids=name_of)
def test_options_in_the_prose_exist(page: Path) -> None:
    known = set().union(*map(known_options, COMMANDS))
    others = {
        "--max-restarts",
        "--nproc_per_node",
        "--prefix",
        "--logdir",
        "--shm-size",
        "--data-binary",
    }  # of other programs
    prose = CODE.sub("", text_of(page))
    used = {option for code in INLINE.findall(prose) for option in re.findall(r"(?<![\w-])--[a-z][\w.\-]*", code)}
    assert {option.rstrip(".") for option in used} <= known | others


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_python_compiles_and_its_imports_exist(page: Path) -> None:
    for block in code_blocks(page, "python"):
        compile(block, name_of(page), "exec")
        for module, names in re.findall(r"^from (detector[\w.]*) import (.+)$", block, re.MULTILINE):
            for name in names.split(","):
                assert hasattr(import_module(module), name.strip()), f"{name_of(page)}: {module}.{name.strip()}"


@pytest.mark.parametrize(("example", "page"), [("tune.py", "train.md"), ("spark.py", "scale.md")])
def test_examples_are_shown_as_they_are(example: str, page: str) -> None:
    shown = code_blocks(REPOSITORY / "docs" / page, "python")
    assert (REPOSITORY / "examples" / example).read_text(encoding="utf-8") in shown


@pytest.mark.parametrize("page", [*PAGES, REPOSITORY / "CHANGELOG.md"], ids=name_of)
def test_only_what_every_reader_has(page: Path) -> None:
    text = text_of(page)
    assert "../shared" not in text
    assert "tools/" not in text.replace("`tools/train.py …`", "")  # a pip user has no tools
    assert not re.search(r"pip install '?detector\b", text)  # somebody else's package


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_words_are_the_fields(page: Path) -> None:
    assert HOUSE_WORDS.findall(text_of(page)) == []


def test_the_words_in_the_code_are_the_fields() -> None:
    files = [path for folder in ("detector", "configs", "tools") for path in (REPOSITORY / folder).rglob("*")]
    texts = {name_of(path): path.read_text(encoding="utf-8") for path in files if path.suffix in {".py", ".yaml"}}
    assert len(texts) > 100
    assert {name: words for name, text in texts.items() if (words := HOUSE_WORDS.findall(text))} == {}


@pytest.mark.parametrize("notebook", TUTORIALS, ids=name_of)
def test_notebooks_are_run_small_and_say_nothing_of_their_machine(notebook: Path) -> None:
    book = json.loads(notebook.read_text(encoding="utf-8"))
    assert set(book["metadata"]) == {"kernelspec", "language_info"}
    assert all(cell["metadata"] == {} for cell in book["cells"])
    code = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert any("assert " in line for cell in code for line in cell["source"])
    outputs = [output for cell in code for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} <= {"stream", "display_data", "execute_result"}
    images = [output["data"]["image/jpeg"] for output in outputs if "image/jpeg" in output.get("data", {})]
    assert images
    assert max(len(base64.b64decode(image)) for image in images) <= 100_000
    text = json.dumps([{**output, "data": None} for output in outputs])
    assert not re.search(r"(/home/|/root/|/tmp/|/work/|/usr/|[A-Z]:\\\\)", text)


def test_the_readme_lists_every_model() -> None:
    text = README.read_text(encoding="utf-8")
    assert [name for name in MODELS if f"| {name} |" not in text] == []


def test_every_format_and_page_is_described() -> None:
    export = (REPOSITORY / "docs" / "export.md").read_text(encoding="utf-8")
    assert [name for name in FORMATS if f"`{name}`" not in export] == []
    index = (REPOSITORY / "docs" / "index.md").read_text(encoding="utf-8")
    assert [page.name for page in DOCS if page.name != "index.md" and f"]({page.name})" not in index] == []
