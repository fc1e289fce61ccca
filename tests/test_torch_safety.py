"""Exported torch files that would run code: each is made of a file that export wrote, and refused in one line before torch sees it.

Those marked `runs` are first loaded and run by torch alone, which shows that they would have done it.
"""

import io
import json
import pickle
import re
import sys
import warnings
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from lively_model import calmed, lively_model
from narrow_yolov9 import narrow_model
from torch import Tensor, nn

from detector.config import ExportConfig
from detector.errors import WeightsError
from detector.exporting.verify import differences, shipped_photos
from detector.formats.table import FORMATS
from detector.formats.torch_native.export import read_entries, write_entries
from detector.formats.torch_native.safety import safe_exported
from detector.images.read import read_image
from detector.inference.detector import Detector
from detector.models.base import DetectionModel
from detector.structures import Categories
from detector.weights.files import WeightsInfo

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_shape_checks_in_module")]

CATEGORIES = Categories((1, 2, 3), ("a", "b", "c"))
FRAME = (64, 96)
MARKER = "marker"  # what the attacks would make, in the current folder
CODE = f"open('{MARKER}', 'w').close()"
PROGRAM, INPUTS = "models/model.json", "data/sample_inputs/model.pt"
WEIGHTS, CONSTANTS = "data/weights/model_weights_config.json", "data/constants/model_constants_config.json"

Entries = dict[str, bytes]


def write(folder: Path, model: DetectionModel, name: str, format: str) -> Path:
    path = folder / f"{name}{FORMATS[format].suffix}"
    info = WeightsInfo(name, CATEGORIES, FRAME, {}, {}, "CC0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        FORMATS[format].write(path, model, info, ExportConfig(weights="", out=path.name, format=format), None)
    return path


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("pt2"), narrow_model("c", 3).eval(), "yolov9c", "torch_export")


@pytest.fixture(scope="module")
def torchscript(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("script"), narrow_model("c", 3).eval(), "yolov9c", "torchscript")


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)


def refused(path: Path) -> str:
    """The one line with which the file is refused; nothing has been run."""
    Path(MARKER).unlink(missing_ok=True)
    with pytest.raises(WeightsError) as caught:
        Detector.load(path, device="cpu")
    assert not Path(MARKER).exists()
    line = str(caught.value)
    assert line.startswith(f"{path}: ")
    assert line.isprintable()
    assert len(line) < len(str(path)) + 350
    return line


def run_by_torch(path: Path) -> bool:
    """Whether torch alone, without our checks, runs what the file asks for."""
    inputs = torch.zeros(2, *FRAME, 3, dtype=torch.uint8)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            (torch.export.load(path).module() if path.suffix == ".pt2" else torch.jit.load(path))(inputs)
        except Exception as error:  # most fail after they have run it
            print(error)
    return Path(MARKER).exists()


class Attack(NamedTuple):
    """A change of the entries; `runs`: torch alone runs it; `told`: what the refusal names."""

    change: Callable[[Entries], Entries]
    runs: bool
    told: str


def require_refused(attack: Attack, original: Path, path: Path) -> None:
    write_entries(path, attack.change(read_entries(io.BytesIO(original.read_bytes()))))
    if attack.runs and not run_by_torch(path):
        pytest.skip("this torch does not run it")
    assert attack.told in refused(path)


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return eval, (CODE,)


def saved(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def in_json(name: str, change: Callable[[Any], None], **others: bytes) -> Callable[[Entries], Entries]:
    def changed(entries: Entries) -> Entries:
        parts = json.loads(entries[name])
        change(parts)
        return {**entries, name: json.dumps(parts).encode(), **others}

    return changed


def pickled_weight(entries: Entries) -> Entries:
    def change(parts: Any) -> None:
        next(iter(parts["config"].values()))["use_pickle"] = True

    return {**in_json(WEIGHTS, change)(entries), "data/weights/weight_0": saved(Evil())}


def constant(file: str, content: bytes, use_pickle: bool) -> Callable[[Entries], Entries]:
    def changed(entries: Entries) -> Entries:
        of_weight = next(iter(json.loads(entries[WEIGHTS])["config"].values()))
        config = {"config": {"model.c": {**of_weight, "path_name": file, "use_pickle": use_pickle}}}
        padding = bytes(-len(content) % 4)
        return {**entries, CONSTANTS: json.dumps(config).encode(), f"data/constants/{file}": content + padding}

    return changed


def operator(target: str, **arguments: Any) -> Callable[[Any], None]:
    """A node in front of the others."""

    def change(parts: Any) -> None:
        graph = parts["graph_module"]["graph"]
        inputs = [{"name": name, "arg": {f"as_{kind}": value}, "kind": 1} for name, (kind, value) in arguments.items()]
        node = {"target": target, "name": "evil", "inputs": inputs, "outputs": [{"as_tensor": {"name": "evil"}}]}
        graph["nodes"].insert(0, {**node, "metadata": {}, "is_hop_single_tensor_return": None})
        graph["tensor_values"]["evil"] = graph["tensor_values"]["inputs"]

    return change


def size(text: str) -> Callable[[Any], None]:
    def change(parts: Any) -> None:
        parts["graph_module"]["graph"]["tensor_values"]["inputs"]["sizes"][0]["as_expr"]["expr_str"] = text

    return change


def renamed(pattern: str, new: str) -> Callable[[Entries], Entries]:
    """What the pattern's group matches in the text of the program."""

    def changed(entries: Entries) -> Entries:
        program = entries[PROGRAM].decode()
        places = [found.span(1) for found in re.finditer(pattern, program)]
        for start, end in reversed(places):
            program = program[:start] + new + program[end:]
        return {**entries, PROGRAM: program.encode()}

    return changed


def in_root(**values: Any) -> Callable[[Any], None]:
    def change(parts: Any) -> None:
        parts["graph_module"]["module_call_graph"][0]["signature"].update(values)

    return change


def structure_of_a_module(parts: Any) -> None:
    Path("evil_module.py").write_text(CODE)
    sys.modules.pop("evil_module", None)
    signature = parts["graph_module"]["module_call_graph"][0]["signature"]
    context = json.dumps(json.dumps([{"__enum__": True, "fqn": "evil_module:A", "name": "b"}]))
    signature["in_spec"] = signature["in_spec"].replace('"[]"', context)


EXAMPLE = saved(((torch.zeros(2, *FRAME, 3, dtype=torch.uint8),), {}))
EXPORTED = {
    "a pickled weight": Attack(pickled_weight, True, "a pickle inside"),
    "a pickled constant": Attack(constant("tensor_0", saved(Evil()), True), True, "tensor_0"),
    "a pickled object": Attack(constant("opaque_obj_0", pickle.dumps(Evil()), False), True, "opaque_obj_0"),
    "a script object": Attack(constant("custom_obj_0", pickle.dumps(Evil()), False), False, "custom_obj_0"),
    "a pickle in the list of constants": Attack(
        lambda entries: {**entries, CONSTANTS: constant("weight_0", b"", True)(entries)[CONSTANTS]},
        False,
        "a pickle inside",
    ),
    "another name in the list of constants": Attack(
        lambda entries: {**entries, CONSTANTS: constant("opaque_obj_0", b"", False)(entries)[CONSTANTS]},
        False,
        "opaque_obj_0",
    ),
    "example inputs": Attack(lambda entries: {**entries, INPUTS: saved(Evil())}, True, "example inputs"),
    "plain example inputs": Attack(lambda entries: {**entries, INPUTS: EXAMPLE}, False, "example inputs"),
    "an operator that writes a file": Attack(
        in_json(
            PROGRAM,
            operator(
                "torch.ops.aten.from_file.default", filename=("string", MARKER), shared=("bool", True), size=("int", 16)
            ),
        ),
        True,
        "aten.from_file.default",
    ),
    "another operator": Attack(
        in_json(PROGRAM, operator("torch.ops.aten.from_file.default")), False, "aten.from_file.default"
    ),
    "a function of Python": Attack(
        in_json(PROGRAM, operator("torch.serialization.os.system")), False, "torch.serialization.os.system"
    ),
    "a function of math": Attack(in_json(PROGRAM, operator("math.__loader__.load_module")), False, "math.__loader__"),
    "an extension": Attack(in_json(PROGRAM, operator("#evil:a")), False, "#evil"),
    "a size": Attack(in_json(PROGRAM, size(f'eval("{CODE}")')), True, "expr_str"),
    "a size in a sum": Attack(in_json(PROGRAM, size(f"Add(Integer(1), {CODE})")), False, "expr_str"),
    "a size behind a long one": Attack(
        in_json(PROGRAM, size(f"Add({', '.join(['Integer(1)'] * 200)}), {CODE}")), False, "expr_str"
    ),
    "a power as a size": Attack(in_json(PROGRAM, size("Pow(Integer(9), Integer(99999999))")), False, "expr_str"),
    "a check of sizes": Attack(
        lambda entries: {
            **in_json(PROGRAM, lambda parts: parts.update(guards_code=[f"{CODE} is None"]))(entries),
            INPUTS: EXAMPLE,
        },
        True,
        "example inputs",
    ),
    "a check of sizes without inputs": Attack(
        in_json(PROGRAM, lambda parts: parts.update(guards_code=[f"{CODE} is None"])), False, "guards_code"
    ),
    "the name of an input": Attack(
        renamed(r'(?:"name": "|")(inputs)(?:": \{"dtype"|"\})', f"inputs={CODE}"), True, "inputs="
    ),
    "the name of a node": Attack(renamed('"(permute)"', f"x = {CODE}; x"), False, "x = "),
    "the name of an argument": Attack(
        in_json(PROGRAM, in_root(forward_arg_names=[f"inputs={CODE}"])), False, "forward_arg_names"
    ),
    "the structure of arguments": Attack(in_json(PROGRAM, structure_of_a_module), True, "in_spec"),
    "the structure of results": Attack(in_json(PROGRAM, in_root(out_spec="[1, {}]")), False, "out_spec"),
    "the name of a weight": Attack(
        renamed(r'"(model\.backbone\.stem\.0\.conv\.bias)"', "model.__class__.bias"), False, "parameter_name"
    ),
    "where a node comes from": Attack(
        in_json(PROGRAM, lambda parts: parts["graph_module"]["graph"]["nodes"][0].update(metadata={"torch_fn": "a"})),
        False,
        "metadata",
    ),
    "a subgraph": Attack(
        in_json(
            PROGRAM,
            lambda parts: parts["graph_module"]["graph"]["nodes"][0]["inputs"][0].update(
                arg={"as_graph": {"name": "a"}}
            ),
        ),
        False,
        "as_graph",
    ),
    "a library": Attack(lambda entries: {**entries, "data/aotinductor/model/a.so": b"a"}, False, "aotinductor"),
    "a second program": Attack(lambda entries: {**entries, "models/other.json": b"{}"}, False, "models/other.json"),
    "weights of an older layout": Attack(
        lambda entries: {**entries, "data/weights/model.pt": saved(Evil())}, True, "data/weights/model.pt"
    ),
    "constants of an older layout": Attack(
        lambda entries: {**entries, "data/constants/model.pt": saved(Evil())}, True, "data/constants/model.pt"
    ),
    "another file": Attack(lambda entries: {**entries, "executorch/a.pte": b"a"}, False, "executorch"),
    "a name in capitals": Attack(lambda entries: {**entries, "MODELS/MODEL.json": b"{}"}, False, "MODELS/MODEL.json"),
    "a number for a table": Attack(lambda entries: {**entries, PROGRAM: b"[" * 100_000}, False, "damaged"),
    "no program": Attack(
        lambda entries: {name: content for name, content in entries.items() if name != PROGRAM}, False, "damaged"
    ),
}


@pytest.mark.parametrize("attack", EXPORTED.values(), ids=EXPORTED)
def test_a_file_of_torch_export_that_could_run_code_is_refused(attack: Attack, exported: Path) -> None:
    require_refused(attack, exported, Path("evil.pt2"))


def in_code(old: str, new: str) -> Callable[[Entries], Entries]:
    """The first place where the text stands in the code of the network."""

    def changed(entries: Entries) -> Entries:
        (name,) = (name for name in entries if name.endswith(".py"))
        code = entries[name].decode()
        assert old in code
        return {**entries, name: code.replace(old, new, 1).encode()}

    return changed


DEVICE = "    _0 = ops.prim.device(inputs)\n"


def line(text: str) -> Callable[[Entries], Entries]:
    return in_code(DEVICE, f"{DEVICE}{text}\n")


class StateSetter(nn.Module):
    @torch.jit.export
    def __getstate__(self) -> tuple[bool]:
        return (self.training,)

    @torch.jit.export
    def __setstate__(self, state: tuple[bool]) -> None:
        torch.save(torch.zeros(1), "marker")
        self.training = state[0]

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs


def state_setter(_entries: Entries) -> Entries:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(StateSetter()), buffer)
    return {name: content for name, content in read_entries(buffer).items() if not name.endswith(".debug_pkl")}


def pickle_of_another_class(entries: Entries) -> Entries:
    return {**entries, "data.pkl": re.sub(rb"__torch__\.[\w.]+", b"__torch__.torch.classes.a", entries["data.pkl"])}


def constants(program: bytes) -> Callable[[Entries], Entries]:
    return lambda entries: {**entries, "constants.pkl": b"\x80\x02" + program + b"."}


SAVE = f'torch.save(inputs, "{MARKER}")'
TORCHSCRIPT = {
    "torch.save": Attack(line(f"    {SAVE}"), True, "torch.save"),
    "torch.save in an assignment": Attack(line(f"    a = {SAVE}"), True, "torch.save"),
    "aten::save": Attack(line(f"    ops.aten.{SAVE.removeprefix('torch.')}"), True, "ops.aten.save"),
    "from_file": Attack(
        in_code("ops.prim.device(inputs)", f'ops.prim.device(torch.from_file("{MARKER}", True, 16))'),
        True,
        "torch.from_file",
    ),
    "a method": Attack(line('    a = inputs.save("a")'), False, "inputs.save"),
    "a method of an expression": Attack(line('    a = (inputs).save("a")'), False, ".save"),
    "a method of a constant": Attack(line('    a = CONSTANTS.c0.save("a")'), False, "CONSTANTS.c0.save"),
    "another name for torch": Attack(line("    a = torch"), False, "torch"),
    "a function of Python": Attack(line('    a = open("a")'), False, "open"),
    "getattr": Attack(line('    a = getattr(self, "a")'), False, "getattr"),
    "another text": Attack(line('    a = torch.add("a", "b")'), False, '"a"'),
    "a loop": Attack(line("    while True:\n      a = 1"), False, "while"),
    "a branch": Attack(line("    if True:\n      a = 1"), False, "if True"),
    "an import": Attack(in_code("class ", "import os\nclass "), False, "beginning"),
    "another method": Attack(
        in_code("  def forward(", "  def __setstate__(self, state: int) -> NoneType:\n    return None\n  def forward("),
        False,
        "beginning",
    ),
    "another function": Attack(line("  def other(self) -> int:"), False, "def other"),
    "another class": Attack(
        lambda entries: {**entries, "code/__torch__/other.py": b"class A(Module):\n  pass\n"}, False, "other.py"
    ),
    "other letters": Attack(line("    a = tor\u212ah.add(inputs)"), False, "damaged"),
    "another line break": Attack(line("    a = 1\r    torch.save(inputs)"), False, "save"),
    "setting the state": Attack(state_setter, True, "data.pkl"),
    "a class of C++": Attack(pickle_of_another_class, False, "data.pkl"),
    "bytecode": Attack(lambda entries: {**entries, "bytecode.pkl": b"a"}, False, "bytecode.pkl"),
    "source lines": Attack(lambda entries: {**entries, "code/a.py.debug_pkl": b"a"}, False, "debug_pkl"),
    "a call in the constants": Attack(constants(b"cos\nsystem\n(X\x01\0\0\0atR"), False, "os.system"),
    "an object in the constants": Attack(constants(b"(c__torch__.A\nB\n)\x81t"), False, "NEWOBJ"),
    "a number in the constants": Attack(constants(b"(K\x01t"), False, "other than tensors"),
    "another storage": Attack(
        constants(b"((X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0aX\3\0\0\0cpuK\1tQt"), False, "damaged"
    ),
}


@pytest.mark.parametrize("attack", TORCHSCRIPT.values(), ids=TORCHSCRIPT)
def test_a_torchscript_file_that_could_run_code_is_refused(attack: Attack, torchscript: Path) -> None:
    require_refused(attack, torchscript, Path("evil.torchscript"))


def rewritten_by_python(content: bytes, **options: Any) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(buffer, "w", **options) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    return buffer.getvalue()


def appended(content: bytes) -> bytes:
    """A second file of the same name, which other readers than torch's see."""
    buffer = io.BytesIO(content)
    with zipfile.ZipFile(buffer, "a") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        archive.writestr("archive/models/model.json", "{}")
    return buffer.getvalue()


def with_entry(other: str, name: str) -> Callable[[bytes], bytes]:
    """In torch's own layout, with a name that its writer refuses in the place of another as long."""

    def changed(content: bytes) -> bytes:
        path = Path("other.pt2")
        write_entries(path, {**read_entries(io.BytesIO(content)), other: b"{}"})
        return path.read_bytes().replace(f"archive/{other}".encode(), name.encode())

    return changed


def directory_field(offset: int, value: bytes) -> Callable[[bytes], bytes]:
    """A change in the archive's directory, of its first entry."""

    def changed(content: bytes) -> bytes:
        place = content.index(b"PK\1\2") + offset
        return content[:place] + value + content[place + len(value) :]

    return changed


ARCHIVES: dict[str, Callable[[bytes], bytes]] = {
    "rewritten": rewritten_by_python,
    "compressed": lambda content: rewritten_by_python(content, compression=zipfile.ZIP_DEFLATED),
    "a second entry appended": appended,
    "a second entry": with_entry("models/model.jsoN", "archive/models/model.json"),
    "an entry outside": with_entry("models/model.jsoN", "archivf/models/model.json"),
    "an entry above": with_entry("models/model.jsoN", "archive/../../model.json/"),
    "a name with an end in it": with_entry("models/model.jsoN", "archive/archive_version\0a"),
    "said to be compressed": directory_field(10, b"\x08"),
    "said to be encrypted": directory_field(8, b"\x09"),
    "said to be longer": directory_field(24, b"\xff\xff\xff\x7f"),
    "something in front": lambda content: b"PK\3\4" + content,
    "something behind": lambda content: content + b"a",
    "a comment": lambda content: content[:-2] + b"\1\0a",
    "another directory": lambda content: content + content[-98:],
    "another number of entries": lambda content: content[:-12] + b"\1\0" + content[-10:],
    "a cut": lambda content: content[:-30],
    "nothing": lambda _: b"",
}


@pytest.mark.parametrize("change", ARCHIVES.values(), ids=ARCHIVES)
def test_an_archive_that_readers_could_see_differently_is_refused(
    change: Callable[[bytes], bytes], exported: Path
) -> None:
    path = Path("odd.pt2")
    path.write_bytes(change(exported.read_bytes()))
    refused(path)


def test_the_layout_before_torch_2_8_is_refused() -> None:
    """torch still unpickles it."""
    path = Path("old.pt2")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("version", "8.20")
        for name in ("exported_program.json", "state_dict.pt", "constants.pt", "example_inputs.pt"):
            archive.writestr(f"serialized_{name}", saved(Evil()))
    assert "damaged, or not written by detector export" in refused(path)


def test_what_torch_writes_of_itself_is_refused(exported: Path) -> None:
    """With example inputs, checks of sizes and lines of the sources: all that export leaves out."""
    program = torch.export.load(exported)
    torch.export.save(program, Path("own.pt2"))
    refused(Path("own.pt2"))


def test_a_file_can_be_changed_after_the_check_without_effect(exported: Path) -> None:
    path = Path("changed.pt2")
    path.write_bytes(exported.read_bytes())
    content = safe_exported(path)
    path.write_bytes(b"other")
    assert content.read() == exported.read_bytes()


def test_a_damaged_file_is_one_line_wherever_the_damage_is(exported: Path, torchscript: Path) -> None:
    """Or loads, where it is in a number."""
    for original in (exported, torchscript):
        content = original.read_bytes()
        start = content.index(b"{" if original is exported else b"class ")
        path = Path(f"damaged{original.suffix}")
        for place in [*range(start, start + 4000, 997), *range(len(content) - 2000, len(content), 197)]:
            path.write_bytes(content[:place] + bytes([content[place] ^ 0x20]) + content[place + 1 :])
            with suppress(WeightsError):
                FORMATS_READ[original.suffix](path, "cpu", None)


FORMATS_READ = {FORMATS[name].suffix: FORMATS[name].read for name in ("torch_export", "torchscript")}


@pytest.mark.parametrize("format", ["torch_export", "torchscript"])
@pytest.mark.parametrize("name", ["yolo11n-cross", "yolov9t", "yolov9e"])
def test_files_of_all_families_load_and_find_what_the_model_finds(name: str, format: str, tmp_path: Path) -> None:
    """yolo11n's are tested with the other formats."""
    model = calmed(narrow_model("e", 3).eval() if name == "yolov9e" else lively_model(3, name))
    path = write(tmp_path, model, name, format)
    image = read_image(shipped_photos()[0])
    for size in (FRAME, 96):
        found, expected = (
            Detector(network, CATEGORIES, size, conf=0.05, device="cpu")(image)
            for network in (Detector.load(path, device="cpu").runtime, model)
        )
        boxes, scores, alone = differences(expected, found, 0.0)
        assert len(expected) > 0
        assert alone == 0
        assert (boxes.abs() <= 0.5).all()
        assert (scores.abs() <= 1e-3).all()
