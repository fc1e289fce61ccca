"""Files made to run code, to fill the memory or to end in the middle: one line each, and nothing of them is run.

The audit hook at the end is Python's own account of what a process does: it can't be switched off, so it is asked only
while `watched` is open.
"""

import io
import os
import pickle
import random
import struct
import sys
import tarfile
import tracemalloc
import zipfile
from collections import OrderedDict, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from foreign_checkpoint import foreign_classes, modules_of
from torch import nn

from detector.cli import main
from detector.errors import WeightsError
from detector.weights.published import unpickle as pickle_reader
from detector.weights.published.archive import read_archive
from detector.weights.published.read import read_published
from detector.weights.published.unpickle import Name, Record

MARKER = "marker"  # what the attacks would make, in the current folder
FORBIDDEN = ("os.", "subprocess.", "pickle.", "socket.", "ctypes.", "shutil.", "import", "exec", "compile")


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def named(module: str, name: str) -> bytes:
    return b"c" + f"{module}\n{name}\n".encode()


def called(function: bytes, *arguments: bytes) -> bytes:
    return function + b"(" + b"".join(arguments) + b"tR"


def archive(path: Path, program: bytes, entries: dict[str, bytes] | None = None) -> Path:
    """As torch.save lays it out; `program`: the pickle between PROTO and STOP."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("best/data.pkl", b"\x80\x02" + program + b".")
        for name, content in (entries or {}).items():
            file.writestr(name, content)
    return path


def storage(kind: str = "FloatStorage", key: str = "0", elements: int = 4) -> bytes:
    number = b"\x8a\x08" + struct.pack("<q", elements)
    return b"(" + text("storage") + named("torch", kind) + text(key) + text("cpu") + number + b"tQ"


TOUCH = text(f"touch {MARKER}")
CODE = text(f"open({MARKER!r}, 'w').close()")
ATTACKS = {
    "os.system": called(named("os", "system"), TOUCH),
    "posix.system": called(named("posix", "system"), TOUCH),
    "nt.system": called(named("nt", "system"), TOUCH),
    "eval": called(named("builtins", "eval"), CODE),
    "eval of Python 2": called(named("__builtin__", "eval"), CODE),
    "exec": called(named("builtins", "exec"), CODE),
    "getattr": called(called(named("builtins", "getattr"), named("torch", "os"), text("system")), TOUCH),
    "__import__": called(named("builtins", "__import__"), text("os")),
    "subprocess.Popen": called(named("subprocess", "Popen"), b"(" + text("touch") + text(MARKER) + b"t"),
    "Popen as a class": named("subprocess", "Popen") + b"(" + TOUCH + b"t\x81",
    "subprocess of Python 2": called(named("commands", "getoutput"), TOUCH),
    "only mentioned": named("os", "system"),
    "eval of a module of torch": called(named("torch.nn.modules.module", "eval"), CODE),
    "eval of the publisher": called(named("ultralytics.nn.tasks", "eval"), CODE),
    "through torch": called(b"\x80\x04" + text("torch") + text("_utils.os.system") + b"\x93", TOUCH),
    "through a class": called(b"\x80\x04" + text("torch.nn.modules.conv") + text("Conv2d.eval") + b"\x93", CODE),
    "through collections": called(b"\x80\x04" + text("collections") + text("abc.sys.modules") + b"\x93", CODE),
    "through an allowed module": called(named("collections", "namedtuple"), text("x"), CODE),
    "torch.load": called(named("torch", "load"), text("x")),
    "torch's loader of bytes": called(named("torch.storage", "_load_from_bytes"), text("x")),
    "numpy's runner of text": called(named("numpy.testing._private.utils", "runstring"), CODE, b"}"),
    "an unknown function": called(named("unknown", "run"), CODE),
    "a call of a call": called(called(named("unknown", "Maker"), text("x")), CODE),
    "a call of a text": called(text("eval"), CODE),
    "setting the state of a function": named("torch._utils", "_rebuild_tensor_v2") + b"}" + text("a") + b"Nsb",
    "code object": called(named("types", "CodeType"), CODE),
    "marshal": called(named("marshal", "loads"), text("x")),
    "partial": called(named("functools", "partial"), named("os", "system"), TOUCH),
    "INST": b"(" + TOUCH + b"ios\nsystem\n",
    "OBJ": b"(" + named("os", "system") + TOUCH + b"o",
    "extension": b"\x82\x01",
    "extension of two bytes": b"\x83\x01\x00",
    "extension of four bytes": b"\x84\x01\x00\x00\x00",
    "attrgetter": called(named("operator", "attrgetter"), text("__class__")),
    "a method of objects": called(named("unknown", "__reduce_ex__"), b"K\x02"),
    "through a module of torch": called(b"\x80\x04" + text("torch.os") + text("system") + b"\x93", TOUCH),
    "spelled with escapes": called(named("o\\x73", "system"), TOUCH),
    "a call of a tensor's storage": b"(" + text("storage") + named("torch", "FloatStorage") + b"tQ)R",
    "a buffer outside of the file": b"\x97",
    "persistent id as text": b"P../../x\n",
    "no identifier": named("os;x", "system"),
    "no module": named("", "system"),
    "line breaks": b"\x80\x04" + text("os\nsystem") + text("a\n\x1b[2J") + b"\x93",
}


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsError):  # so that Python's own late imports are done
        read_published(archive(Path("first.pt"), b"N"))
    Path("first.pt").unlink()


def refused(path: Path) -> str:
    """The one line with which the file is refused; nothing has been run."""
    before = sorted(Path.cwd().iterdir())
    with pytest.raises(WeightsError) as caught, watched() as events:
        read_published(path)
    assert events == []
    assert sorted(Path.cwd().iterdir()) == before
    line = str(caught.value)
    assert line.startswith(f"{path}: ")
    assert line.isprintable()
    assert len(line) < len(str(path)) + 400
    return line


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_what_could_run_code_is_refused(attack: bytes) -> None:
    refused(archive(Path("a.pt"), attack))
    refused(archive(Path("b.pt"), b"}" + text("model") + attack + b"s"))


@pytest.mark.parametrize("name", ["os.system", "posix.system", "exec", "eval of Python 2"])
def test_these_attacks_are_real(name: str) -> None:
    """Python's own unpickler does what they ask for, and the audit hook of these tests sees it."""
    with watched() as events:
        pickle.loads(b"\x80\x02" + ATTACKS[name].replace(TOUCH, text("touch marker; wait")) + b".")
    assert Path(MARKER).exists()
    assert set(events) & {"os.system", "exec"}


class Malicious:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {MARKER}",)


@pytest.mark.parametrize("place", ["names", "beside", "inside", "state"])
def test_an_attack_within_a_checkpoint_that_is_right_else(place: str, capsys: pytest.CaptureFixture[str]) -> None:
    with foreign_classes() as classes:
        network = modules_of({"model.0.conv.weight": torch.zeros(2)}, classes)
        content = {"model": network}
        if place == "names":
            network.names = {0: Malicious()}
        elif place == "beside":
            content["optimizer"] = [Malicious()]
        elif place == "inside":
            network.get_submodule("model.0").hook = Malicious()
        else:
            content = {"model.0.conv.weight": torch.zeros(2), "x": Malicious()}
        torch.save(content, "a.pt")
    assert main(["import_weights", "a.pt", "out.safetensors"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: a.pt: its pickle asks for 'os.system'") or "'posix.system'" in printed.err
    assert printed.err.count("\n") == 1
    assert sorted(path.name for path in Path.cwd().iterdir()) == ["a.pt"]


def test_unknown_classes_are_inert(tmp_path: Path) -> None:
    """Also those that would do something if they were made, given a state, filled or hashed."""
    program = (
        b"}("
        + text("made") + called(named("detector_evil", "Class"), CODE)
        + text("by new") + named("detector_evil", "lower") + b"(" + CODE + b"t\x81"
        + text("built") + named("detector_evil", "B") + b")\x81}" + text("__setstate__") + named("e", "run") + b"sb"
        + text("filled") + named("detector_evil", "C") + b")\x81" + text("k") + text("v") + b"s" + text("x") + b"a"
        + text("key") + b"}" + named("detector_evil", "D") + b")\x81" + b"Ns"
        + b"u"
    )  # fmt: skip
    path = archive(tmp_path / "a.pt", program)
    with watched() as events:
        content = read_archive(path)
    assert events == []
    assert {key: type(value) for key, value in content.items() if key != "key"} == dict.fromkeys(
        ("made", "by new", "built", "filled"), Record
    )
    assert content["made"].cls == Name("detector_evil", "Class")
    assert content["made"].arguments == (f"open({MARKER!r}, 'w').close()",)
    assert content["built"].state == {"__setstate__": Name("e", "run")}
    assert not Path(MARKER).exists()


def test_values_are_those_that_were_saved(tmp_path: Path) -> None:
    shared = torch.arange(12.0)
    content = {
        "numbers": [0, 1, -1, 255, 256, 65535, 65536, 2**31, -(2**40), 2**100, 0.5, float("inf"), True, False, None],
        "texts": ["", "a", "ü" * 300, b"", b"x" * 300],
        "tuples": ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)),
        "sets": {"a", "b"},
        1: OrderedDict([("x", 1), ("y", [])]),
        (2, "b"): torch.Size([3, 4]),
        "views": [shared[2:8:2], shared.view(3, 4).t(), shared, nn.Parameter(shared[:3])],
        "types": [torch.ones(2, dtype=d) for d in (torch.half, torch.bfloat16, torch.double, torch.long, torch.bool)],
        "more types": [torch.ones(2, dtype=d) for d in (torch.int32, torch.int16, torch.int8, torch.uint8)],
        "empty": [torch.zeros(0), torch.zeros(3, 0, 2), torch.tensor(5)],
    }  # fmt: skip
    for protocol in (2, 3, 4, 5):
        torch.save(content, tmp_path / "a.pt", pickle_protocol=protocol)
        got = read_archive(tmp_path / "a.pt")
        assert list(got) == list(content)
        for key in content:
            if isinstance(content[key], list) and isinstance(content[key][0], torch.Tensor):
                for a, b in zip(got[key], content[key], strict=True):
                    assert (a.dtype, a.shape) == (b.dtype, b.shape)
                    assert torch.equal(a, b)
            elif key == "texts" and protocol == 2:  # bytes are calls of _codecs.encode there
                assert got[key][:3] == content[key][:3]
                assert {type(value) for value in got[key][3:]} == {Record}
            else:
                assert got[key] == content[key], (protocol, key)


def test_what_checkpoints_hold_beside_tensors_is_inert(tmp_path: Path) -> None:
    itself: list[Any] = []
    itself.append(itself)
    counts: defaultdict[str, Any] = defaultdict(dict, a=1)
    values = [Path("a"), SimpleNamespace(imgsz=320), torch.float16, torch.device("cpu"), nn.SiLU(), itself, counts]
    torch.save(values, tmp_path / "a.pt")
    path, settings, dtype, device, act, loop, table = read_archive(tmp_path / "a.pt")
    assert (path.cls.module, settings.state, dtype) == ("pathlib", {"imgsz": 320}, Name("torch", "float16"))
    assert device.cls == Name("torch", "device")
    assert act.cls == Name("torch.nn.modules.activation", "SiLU")
    assert loop[0] is loop
    assert table == {"a": 1}


def tensor(*sizes: int, offset: int = 0, stride: tuple[int, ...] = (1,), of: bytes | None = None) -> bytes:
    def numbers(values: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(b"\x8a\x08" + struct.pack("<q", value) for value in values) + b"t"

    function = named("torch._utils", "_rebuild_tensor_v2")
    return called(function, storage() if of is None else of, numbers((offset,))[1:-1], numbers(sizes), numbers(stride))


FOUR = {"best/data/0": bytes(16)}


@pytest.mark.parametrize(
    "program",
    [
        tensor(5),
        tensor(4, offset=1),
        tensor(4, offset=-1),
        tensor(2, stride=(4,)),
        tensor(4, stride=(-1,)),
        tensor(10**6, 10**6, stride=(0, 0)),
        tensor(2**62, 2**62, 0, stride=(0, 0, 0)),
        tensor(-1),
        tensor(4, stride=(1, 1)),
        tensor(*[1] * 100, stride=(1,) * 100),
        tensor(4, of=text("no storage")),
        tensor(4, of=storage(elements=5)),
        tensor(4, of=storage(elements=-4)),
        tensor(4, of=storage("DoubleStorage")),
        tensor(4, of=storage(key="1")),
        tensor(4, of=storage(key="../../../etc/passwd")),
        tensor(4, of=storage(key="../data.pkl")),
        tensor(4, of=storage("QInt8Storage")),
        tensor(4, of=storage("save")),
        tensor(4, of=b"(" + text("storage") + b"tQ"),
        storage() + b"0" + tensor(4, of=storage("IntStorage")),
        called(named("torch._utils", "_rebuild_tensor_v2")),
        called(named("torch._utils", "_rebuild_parameter"), text("x")),
        b"}" + b")" * 2 + b"\x85Ns",
        b"}" + b"]Ns",
        b"]" + b"Q",
        b"a",
        b"t",
        b"R",
        b"h\x07",
        b"N(u",
        b"}(Nu",
        b"N}b",
        b"2",
        called(named("builtins", "set"), b"N"),
        called(named("torch", "Size"), b"K\x05"),
        called(named("collections", "OrderedDict"), b"](K\x01K\x02e"),
        called(named("copyreg", "_reconstructor"), b"N"),
        b"\x80\x04NN\x93",
        b"",
    ],
)
def test_programs_that_are_wrong_are_refused(program: bytes) -> None:
    refused(archive(Path("a.pt"), program, FOUR))


def test_a_tensor_of_these_parts_would_be_right() -> None:
    assert read_archive(archive(Path("a.pt"), tensor(2, 2, stride=(2, 1)), FOUR)).shape == (2, 2)


@pytest.mark.slow
def test_a_tuple_nested_without_end_is_no_key() -> None:
    """Python would hash it by recursion and end the process."""
    assert "a key that is neither" in refused(archive(Path("a.pt"), b"}" + b")" + b"\x85" * 300_000 + b"Ns"))


def test_tuples_that_share_their_parts_are_no_keys() -> None:
    """Python would hash the innermost one 2**60 times."""
    key = b")q\x01" + b"h\x01\x86q\x01" * 60
    for program in (
        b"}" + key + b"Ns",
        b"}(" + key + b"Nu",
        b"\x80\x04\x8f(" + key + b"\x90",
        b"(" + key + b"\x91",
        called(named("builtins", "set"), b"](" + key + b"e"),
        called(named("collections", "OrderedDict"), b"](" + key + b"N\x86e"),
    ):
        assert "a key that is neither" in refused(archive(Path("a.pt"), program))
    read_archive(archive(Path("b.pt"), key))  # as a value it takes no memory


@pytest.mark.slow
@pytest.mark.parametrize(
    "program",
    [
        b")" + b"\x85" * 50_000,
        b"]" * 50_000 + b"a" * 49_999,
        (b"}" + text("a")) * 50_000 + b"N" + b"s" * 50_000,
        named("a", "A") + b"q\x01" + b"h\x01" * 50_000 + b")" + b"\x85\x81" * 50_000,
        named("a", "A") + b"q\x01)\x81" + b"h\x01)\x81" * 50_000 + b"N" + b"b" * 50_000,
    ],
    ids=["tuples", "lists", "tables", "arguments", "states"],
)
def test_values_nested_without_end_do_not_end_the_process(program: bytes) -> None:
    path = archive(Path("a.pt"), program)
    with watched() as events:
        read_archive(path)
    assert events == []


def test_attributes_for_values_change_nothing() -> None:
    """Python would hand them to the method __setstate__ of the value (of a tensor: another storage), or set them."""
    attributes = b"}(" + b"".join(text(f"__{a}__") + named("e", "E") for a in ("class", "dict", "setstate")) + b"u"
    for state in (attributes, b"N" + attributes + b"\x86", b"(" + tensor(2) + b"K\x63K\x02\x85K\x01\x85t"):
        content = read_archive(archive(Path("a.pt"), tensor(2) + state + b"b", FOUR))
        assert type(content) is torch.Tensor
        assert (content.shape, content.storage_offset(), vars(content)) == ((2,), 0, {})
        assert read_archive(archive(Path("b.pt"), b"}" + state + b"b", FOUR)) == {}
        content = read_archive(archive(Path("c.pt"), named("a", "A") + b")\x81" + state + b"b", FOUR))
        assert type(content) is Record
        assert vars(content).keys() == {"cls", "arguments", "state"}
        for other in (b"]", b")", b"K\x01", text("x"), named("a", "A"), storage() + b"\x85"):
            assert "gives attributes" in refused(archive(Path("d.pt"), other + state + b"b", FOUR))


def test_numbers_of_values_take_no_memory() -> None:
    """Python makes room for all values of a lower number."""
    path = archive(Path("a.pt"), b"Nr\xff\xff\xff\x7f")
    tracemalloc.start()
    try:
        assert read_archive(path) is None
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_long_keys_are_refused() -> None:
    """Python would compare equal ones to their end, whenever one of them is mentioned."""
    for key in (text("x" * 1001), text("x" * 1001) + b"\x85", b"\x80\x04B" + struct.pack("<I", 1001) + bytes(1001)):
        assert "more than 1000 characters" in refused(archive(Path("a.pt"), b"}" + key + b"Ns"))
    read_archive(archive(Path("b.pt"), b"}" + text("x" * 1000) + b"Ns"))


@pytest.mark.parametrize(
    "value",
    [
        b"]q\x01" + (b"0](" + b"h\x01" * 10 + b"eq\x01") * 10,
        tensor(2, 1, stride=(1, 1)),
        text("\n\x1b[2J" * 100),
        b"\x8a\xff" + b"\x7f" * 255,
    ],
    ids=["nested lists", "tensor", "text", "number"],
)
def test_messages_with_values_are_one_short_line(value: bytes) -> None:
    repr(torch.ones(2, 1))  # so that torch's own late imports are done
    program = named("a", "BatchNorm2d") + b")\x81}" + text("eps") + value + b"sb"
    assert "with eps" in refused(archive(Path("a.pt"), program, FOUR))


def test_networks_without_end_are_refused() -> None:
    def module(children: bytes) -> bytes:
        return named("a", "M") + b")\x81q\x01}" + text("_modules") + b"}" + children + b"ssb"

    refused(archive(Path("a.pt"), b"}" + text("model") + module(text("x") + b"h\x01") + b"s"))
    two = text("x") + b"h\x01s" + text("y") + b"h\x01"
    refused(archive(Path("b.pt"), b"}" + text("model") + module(two) + b"s"))
    refused(archive(Path("c.pt"), b"}" + text("model") + module(text("x" * 100) + b"N") + b"s"))


def test_programs_that_go_on_and_on_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickle_reader, "MAX_STEPS", 1000)
    assert "more than 1000 steps" in refused(archive(Path("a.pt"), b"N0" * 501))


MANY = 20_000
NUMBERS = b"(" + b"K\x01" * MANY + b"t"
AGAIN = {
    "torch.Size": (named("torch", "Size"), NUMBERS + b"\x85"),
    "set": (named("builtins", "set"), b"](" + text("x") + b"h\x03" * MANY + b"e\x85"),
    "OrderedDict": (named("collections", "OrderedDict"), b"](" + text("a") + text("b") + b"\x86q\x04" + b"h\x04" * MANY + b"e\x85"),
    "_reconstructor": (named("copyreg", "_reconstructor"), b"(" + named("a", "A") + b"K\x01" * MANY + b"t"),
    "_rebuild_parameter": (
        named("torch._utils", "_rebuild_parameter"), b"(" + tensor(2) + b"K\x01" * MANY + b"t"
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("function", "arguments"), AGAIN.values(), ids=AGAIN)
def test_arguments_given_again_and_again_take_no_memory(function: bytes, arguments: bytes) -> None:
    """Two hundred copies of some 20,000 elements, four bytes in the file each; one is as torch.save would have it."""
    start = text("x") + b"q\x030" + b"](" + function + b"q\x01" + arguments + b"q\x02R"
    read_archive(archive(Path("one.pt"), start + b"e", FOUR))
    path = archive(Path("a.pt"), start + b"h\x01h\x02R" * 200 + b"e", FOUR)
    tracemalloc.start()
    try:
        assert "copies the same values again and again" in refused(path)
        assert tracemalloc.get_traced_memory()[1] < 50 * path.stat().st_size
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("failure", [MemoryError, RecursionError])
def test_memory_and_depth_that_run_out_are_said_in_a_line(
    failure: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> None:
        raise failure

    monkeypatch.setattr(pickle_reader, "_checked_name", failing)
    assert "more memory than there is" in refused(archive(Path("a.pt"), named("a", "A")))


def long_number(number: int) -> bytes:
    content = number.to_bytes(number.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(content)]) + content


def test_keys_whose_hashes_are_chosen_are_refused() -> None:
    """Python finds each of them by looking at all others, as all multiples of this number have the hash 0."""
    modulus = sys.hash_info.modulus
    assert {hash(k * modulus) for k in range(100)} == {0}
    for number in (modulus, -(2**60), 2**2000):
        key = long_number(number)
        for program in (
            b"}" + key + b"Ns",
            b"}" + key + b"\x85Ns",
            b"\x80\x04\x8f(" + key + b"\x90",
            b"(" + key + b"\x91",
            called(named("builtins", "set"), b"](" + key + b"e"),
            called(named("collections", "OrderedDict"), b"](" + key + b"N\x86e"),
        ):
            assert "a key of more than 60 bits" in refused(archive(Path("a.pt"), program))
    largest = 2**60 - 1
    assert read_archive(archive(Path("b.pt"), b"}" + long_number(largest) + b"Ns")) == {largest: None}


def test_numbers_are_few_among_the_keys() -> None:
    """Those of less bits can be chosen so, too: as parts of tuples, or one for each place at which Python looks."""
    keys = [b"M" + struct.pack("<H", number) for number in range(10_001)]
    wide = b"(" + b"K\x01" * 101 + b"t"
    for kind, program in {
        "table": b"}(" + b"".join(key + b"N" for key in keys) + b"u",
        "many tables": b"(" + b"".join(b"}" + key + b"Ns" for key in keys) + b"t",
        "set": b"\x8f(" + b"".join(keys) + b"\x90",
        "frozen set": b"(" + b"".join(keys) + b"\x91",
        "called": called(named("builtins", "set"), b"](" + b"".join(keys) + b"e"),
        "one tuple": b"}" + wide + b"q\x01Ns" + b"h\x01Ns" * 100,
    }.items():
        assert "more than 10000 keys that are no texts" in refused(archive(Path("a.pt"), program)), kind
    few = read_archive(archive(Path("b.pt"), b"}(" + b"".join(key + b"N" for key in keys[:10_000]) + b"u"))
    assert list(few) == list(range(10_000))
    names = [f"layer{number}" for number in range(20_000)]
    torch.save(dict.fromkeys(names), "c.pt")
    assert list(read_archive(Path("c.pt"))) == names


def test_names_without_end_are_refused() -> None:
    """Every mention of one would be looked through from its start to its end."""
    for module, name in (("a", "B" * 1001), ("a." * 500 + "a", "B")):
        assert "more than 1000 characters" in refused(archive(Path("a.pt"), named(module, name)))


@pytest.mark.parametrize(
    "length", [b"\x8d" + b"\xff" * 8, b"B\xff\xff\xff\x7f", b"\x8b\xff\xff\xff\x7f", b"\x96" + b"\x7f" * 8]
)
def test_lengths_beyond_the_file_take_no_memory(length: bytes) -> None:
    assert "damaged" in refused(archive(Path("a.pt"), length + b"abc"))


def test_numbers_without_end_are_refused() -> None:
    refused(archive(Path("a.pt"), b"\x8b" + struct.pack("<i", 300) + bytes(300)))
    refused(archive(Path("b.pt"), b"I" + b"9" * 10_000 + b"\n"))


def test_zip_bombs_are_refused() -> None:
    with zipfile.ZipFile("a.pt", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("best/data.pkl", bytes(200_000_000))
    assert Path("a.pt").stat().st_size < 300_000
    assert "compressed" in refused(Path("a.pt"))
    with zipfile.ZipFile("b.pt", "w") as file:  # many names for the same bytes
        file.writestr("best/data.pkl", b"\x80\x02N.")
        file.writestr("best/data/0", bytes(100_000))
        for number in range(1, 100):
            twin = zipfile.ZipInfo(f"best/data/{number}")
            original = file.filelist[1]
            twin.file_size = twin.compress_size = original.file_size
            twin.CRC, twin.header_offset = original.CRC, original.header_offset
            file.filelist.append(twin)
    assert "longer than the file" in refused(Path("b.pt"))


def test_truncated_files_are_refused() -> None:
    torch.save({"a": torch.ones(300)}, "whole.pt")
    whole = Path("whole.pt").read_bytes()
    read_archive(Path("whole.pt"))
    for length in [*range(0, len(whole), 97), len(whole) - 1]:
        Path("a.pt").write_bytes(whole[:length])
        refused(Path("a.pt"))


def test_other_files_are_refused_with_the_remedy() -> None:
    torch.save({"a": torch.ones(3)}, "old.pt", _use_new_zipfile_serialization=False)
    with tarfile.open("older.pt", "w") as file:
        file.addfile(tarfile.TarInfo("storages"))
    Path("pickle.pt").write_bytes(pickle.dumps(Malicious()))
    Path("text.pt").write_text("hello")
    for name in ("old.pt", "older.pt", "pickle.pt", "text.pt"):
        assert "convert it to safetensors where you trust it" in refused(Path(name))
    Path("a.safetensors").write_bytes(struct.pack("<Q", 10**12) + b"{}")
    assert "safetensors" in refused(Path("a.safetensors"))
    Path("folder").mkdir()
    assert "it is a folder" in refused(Path("folder"))
    with zipfile.ZipFile("docx.pt", "w") as file:
        file.writestr("word/document.xml", "<x/>")
    assert "none that torch.save wrote" in refused(Path("docx.pt"))
    with zipfile.ZipFile("script.pt", "w") as file:
        for name in ("data.pkl", "constants.pkl"):
            file.writestr(f"best/{name}", b"\x80\x02N.")
    assert "TorchScript" in refused(Path("script.pt"))
    assert "big-endian" in refused(archive(Path("big.pt"), b"N", {"best/byteorder": b"big"}))


@pytest.mark.filterwarnings("ignore:invalid escape sequence:DeprecationWarning")
def test_damaged_files_never_do_harm() -> None:
    """Four hundred random changes of a small checkpoint: a value or a WeightsError, nothing else, and nothing run."""
    with foreign_classes() as classes:
        network = modules_of({"model.0.conv.weight": torch.ones(3), "model.0.bn.bias": torch.ones(2)}, classes)
        buffer = io.BytesIO()
        torch.save({"model": network, "train_args": {"imgsz": 64}}, buffer)
    whole = buffer.getvalue()
    generator = random.Random(0)
    start = whole.index(b"data.pkl")
    end = whole.index(b"PK", start)
    outcomes = {True: 0, False: 0}
    for number in range(400):
        changed = bytearray(whole)
        in_pickle = number % 2 == 0  # the checksum of the pickle is mended, so that the reader sees the change
        for _ in range(generator.randrange(1, 4)):
            position = generator.randrange(start + 8, end) if in_pickle else generator.randrange(len(whole))
            changed[position] = generator.randrange(256)
        if number % 7 == 0 and not in_pickle:
            del changed[generator.randrange(len(changed)) :]
        path = Path("a.pt")
        path.write_bytes(mended(changed) if in_pickle else changed)
        with watched() as events:
            try:
                read_archive(path)
                outcomes[True] += 1
            except WeightsError:
                outcomes[False] += 1
        assert events == []
    assert min(outcomes.values()) > 25  # both happen
    assert [path.name for path in Path.cwd().iterdir()] == ["a.pt"]


def mended(content: bytearray) -> bytearray:
    """The archive with the right checksum of its pickle, wherever it is stated."""
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        info = next(info for info in file.infolist() if info.filename.endswith("data.pkl"))
    start = info.header_offset + 30 + sum(struct.unpack_from("<HH", content, info.header_offset + 26))
    right = zipfile.crc32(bytes(content[start : start + info.file_size]))
    return content.replace(struct.pack("<I", info.CRC), struct.pack("<I", right))


_open: list[list[str]] = []


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if _open and (event.startswith(FORBIDDEN) or (event == "open" and arguments[1] not in ("r", "rb", None))):
        _open[-1].append(event)


sys.addaudithook(_note)


@contextmanager
def watched() -> Iterator[list[str]]:
    """The names of the events inside that a reader of data has no business with."""
    _open.append([])
    try:
        yield _open[-1]
    finally:
        _open.pop()
