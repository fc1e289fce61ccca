"""Pickles as data: a reader for files of unknown origin that never runs anything they ask for.

A pickle is a program for a stack machine, and Python's own machine calls whatever the program names. This one knows no
call at all. What it holds are plain values, tensors, and two inert kinds: a `Name` (module and name, two texts) and a
`Record` (a name with the arguments and the state that its object was made of). No name is ever imported or looked up;
the few in `REBUILD` select a function of this file, every other makes a `Record` or ends the reading.

Refused, with WeightsError:

- any name of Python's own library that is not listed here (os.system, eval, getattr, subprocess.Popen, ...), mentioned or
  called; names with dots, which would reach through a module ("torch", "_utils.os.system"); what is no identifier;
- a call of anything but a class: of a name that is not listed and does not begin with a capital (unpickled objects are
  instances of classes; a function is only called to have an effect), or of something that is no name;
- operations that torch.save does not write: those of protocol 0, extension codes, DUP, buffers outside of the file;
- programs of more than `MAX_STEPS` steps. An operation makes nothing larger than its own argument in the file and the
  values it takes off the stack; a call copies values, but all calls together no more than the file has bytes. Whole numbers
  have at most 255 bytes. So the memory needed is a multiple of the length of the file;
- keys that make Python search long: those other than scalars and flat tuples of them (it hashes nested ones without a
  limit), numbers of more than 60 bits (their hashes can be chosen), texts of more than `MAX_LETTERS` (equal ones are
  compared to the end), more than `MAX_KEYS` that are no texts.
"""

import pickletools
import reprlib
import sys
from _compat_pickle import IMPORT_MAPPING  # module names of Python 2, which protocol 2 writes: __builtin__ for builtins
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

from torch import Tensor

from detector.errors import WeightsError

MAX_STEPS = 2_000_000
"""Operations of a pickle; a published checkpoint has some 100,000."""
MAX_KEYS = 10_000
"""Keys other than texts, in all tables and sets; parts of tuples count each. Hashes of numbers are no secret, so a file could
choose keys of which each is compared with all others."""
MAX_LETTERS = 1_000
"""Of a module's or class's name and of a key; they are looked through whenever they are mentioned."""
MAX_SIDES = 16
MAX_ELEMENTS = 2**40
"""Product of a tensor's sides, those of 0 counted as 1: within what torch can count."""

_SHORT = reprlib.Repr()
_SHORT.maxstring = 100
_SHORT.maxlevel = 2

Storages = Callable[[Any], Tensor]
"""The flat tensor of a storage, from the tuple by which the pickle names it."""


class Name(NamedTuple):
    """A class or function that the pickle names: two texts, never looked up."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False, repr=False)  # both would follow the file's references without an end
class Record:
    """An object of a class that is not loaded: what the pickle would have made it of. `state`: its attributes as a rule."""

    cls: Name
    arguments: tuple[Any, ...]
    state: Any = None


def read_pickle(data: bytes, storages: Storages) -> Any:
    """The value of the pickle: None, bool, int, float, str, bytes, list, tuple, dict, set, tensor, `Name` or `Record`.

    Raises WeightsError for everything above, and for what is no complete pickle; the text lacks the file's name.
    """
    machine = _Machine(storages, max_copies=len(data))
    try:
        for step, (operation, argument, _) in enumerate(pickletools.genops(data)):
            if step == MAX_STEPS:
                raise WeightsError(f"its pickle has more than {MAX_STEPS} steps; a checkpoint has far fewer")
            if operation.name == "STOP":
                return machine.pop()
            machine.run(operation.name, argument)
    except ValueError as error:  # unknown operation, or the end of the data within an argument
        raise WeightsError(f"its pickle is damaged ({shown(str(error))}); get the file again") from error
    except (MemoryError, RecursionError) as error:
        raise WeightsError("its pickle takes more memory than there is; get weights as safetensors instead") from error
    raise AssertionError("genops ends with STOP or ValueError")


def shown(value: object) -> str:
    """A value from the file, short and without control characters, for a message."""
    text = " ".join(_SHORT.repr(value).split())  # that of a tensor has line breaks
    return text if len(text) <= 120 else f"{text[:117]}..."


class _Machine:
    """The stack machine; `memo`: values by number; `marked`: the stacks below the open marks."""

    def __init__(self, storages: Storages, max_copies: int) -> None:
        self.storages = storages
        self.copies_left = max_copies
        self.keys_left = MAX_KEYS
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def pop(self) -> Any:
        if not self.stack:
            raise _damaged("takes a value where there is none")
        return self.stack.pop()

    def pop_to_mark(self) -> list[Any]:
        if not self.marked:
            raise _damaged("has an end without a beginning")
        values, self.stack = self.stack, self.marked.pop()
        return values

    def run(self, operation: str, argument: Any) -> None:
        """One step. `operation`: its name in pickletools; `argument`: as parsed there."""
        match operation:
            case "PROTO" | "FRAME":
                pass
            case ("BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT") | (
                "SHORT_BINUNICODE" | "BINUNICODE" | "BINUNICODE8" | "SHORT_BINBYTES" | "BINBYTES" | "BINBYTES8"
            ):
                self.stack.append(argument)
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                self.stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[operation])
            case "EMPTY_TUPLE" | "EMPTY_LIST" | "EMPTY_DICT" | "EMPTY_SET":
                kinds = {"EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set}
                self.stack.append(kinds[operation]())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                self.stack.append(tuple(reversed([self.pop() for _ in range(int(operation[-1]))])))
            case "TUPLE":
                values = self.pop_to_mark()  # before self.stack is looked at: it becomes another
                self.stack.append(tuple(values))
            case "FROZENSET":
                values = self.pop_to_mark()
                self.stack.append(frozenset(self.keys(values)))
            case "MARK":
                self.marked.append(self.stack)
                self.stack = []
            case "POP":
                self.pop()
            case "POP_MARK":
                self.pop_to_mark()
            case "BINPUT" | "LONG_BINPUT" | "MEMOIZE":
                value = self.pop()
                self.stack.append(value)
                self.memo[len(self.memo) if operation == "MEMOIZE" else argument] = value
            case "BINGET" | "LONG_BINGET":
                if argument not in self.memo:
                    raise _damaged("refers to a value that is not there")
                self.stack.append(self.memo[argument])
            case "APPEND" | "APPENDS" | "ADDITEMS":
                values = [self.pop()] if operation == "APPEND" else self.pop_to_mark()
                self.add(values)
            case "SETITEM" | "SETITEMS":
                pairs = [self.pop(), self.pop()][::-1] if operation == "SETITEM" else self.pop_to_mark()
                self.set_items(pairs)
            case "GLOBAL":
                self.stack.append(_checked_name(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                name, module = self.pop(), self.pop()
                self.stack.append(_checked_name(module, name))
            case "BINPERSID":
                self.stack.append(self.storages(self.pop()))
            case "REDUCE" | "NEWOBJ":
                arguments, function = self.pop(), self.pop()
                self.stack.append(self.made(function, arguments, is_class=operation == "NEWOBJ"))
            case "NEWOBJ_EX":
                keywords, arguments, function = self.pop(), self.pop(), self.pop()
                self.stack.append(self.made(function, (arguments, keywords), is_class=True))
            case "BUILD":
                self.build()
            case _:
                raise WeightsError(
                    f"its pickle has the operation {operation}, which torch.save does not write; get the file from its publisher"
                )

    def add(self, values: list[Any]) -> None:
        """Into the list or set on the stack; an inert record does without, as it is asked for its attributes only."""
        match self.stack[-1:]:
            case [list() as target]:
                target.extend(values)
            case [set() as target]:
                target.update(self.keys(values))
            case [Record()]:
                pass
            case _:
                raise _damaged("adds to something that is no list")

    def set_items(self, pairs: list[Any]) -> None:
        """Keys and values in turn into the dict on the stack."""
        match self.stack[-1:]:
            case [dict() as target] if len(pairs) % 2 == 0:
                target.update(zip(self.keys(pairs[::2]), pairs[1::2], strict=True))
            case [Record()]:
                pass
            case _:
                raise _damaged("adds to something that is no table")

    def build(self) -> None:
        """Attributes for the object on the stack. A dict or tensor does without (`_metadata` of a state)."""
        state = self.pop()
        match self.stack[-1:]:
            case [Record() as record]:
                record.state = state
            case [dict() | Tensor()]:
                pass
            case _:
                raise _damaged("gives attributes to something that has none")

    def made(self, function: Any, arguments: Any, is_class: bool) -> Any:
        """What stands for the result of function(*arguments)."""
        if not (isinstance(function, Name) and isinstance(arguments, tuple)):
            raise _damaged("calls something that is no name")
        if function in REBUILD:
            self.copies_left -= len(arguments) + sum(len(a) for a in arguments if isinstance(a, list | tuple | set))
            if self.copies_left < 0:
                raise _damaged("copies the same values again and again")
            try:
                return REBUILD[function](self, *arguments)
            except TypeError as error:  # another number of arguments
                raise WeightsError(
                    f"its pickle is damaged (a wrong {shown(str(function))}); get the file again"
                ) from error
        if not is_class and function not in INERT and not function.name.lstrip("_")[:1].isupper():
            raise _asks_for(f"a call of {shown(str(function))}")
        return Record(function, arguments)

    def make_set(self, values: Any = ()) -> set[Any]:
        return set(self.keys(_items(values)))

    def make_dict(self, *arguments: Any) -> dict[Any, Any]:
        """An OrderedDict, of pairs or none, or a defaultdict, of a name or none."""
        match arguments:
            case () | (Name(),) | (None,):
                return {}
            case (list() as pairs,) if all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
                return dict(zip(self.keys([pair[0] for pair in pairs]), [pair[1] for pair in pairs], strict=True))
        raise _damaged("has a table that is none")

    def keys(self, values: list[Any]) -> list[Any]:
        """Values that may be keys: those that Python hashes without recursion and finds without a long search."""
        for value in values:
            parts = value if isinstance(value, tuple) else (value,)
            if not isinstance(value, str):
                self.keys_left -= len(parts)
            if self.keys_left < 0:
                raise _damaged(f"has more than {MAX_KEYS} keys that are no texts")
            for part in parts:
                if not (part is None or isinstance(part, bool | int | float | str | bytes | Record)):
                    raise _damaged("has a key that is neither a number nor a text")
                if isinstance(part, int) and part.bit_length() > 60:
                    raise _damaged("has a key of more than 60 bits")
                if isinstance(part, str | bytes) and len(part) > MAX_LETTERS:
                    raise _damaged(f"has a key of more than {MAX_LETTERS} characters")
        return values


def _checked_name(module: Any, name: Any) -> Name:
    """The name, if it may stand in a checkpoint at all."""
    if not (isinstance(module, str) and isinstance(name, str)):
        raise _damaged("has a name that is no text")
    if max(len(module), len(name)) > MAX_LETTERS:
        raise _damaged(f"has a name of more than {MAX_LETTERS} characters")
    if not (name.isidentifier() and all(part.isidentifier() for part in module.split("."))):
        raise _asks_for(f"{shown(name)} of {shown(module)}, which is no plain name")
    named = Name(IMPORT_MAPPING.get(module, module), name)
    listed = named in REBUILD or named in INERT
    if not listed and named.module.split(".")[0] in sys.stdlib_module_names:
        raise _asks_for(f"{shown(str(named))}, a part of Python")
    return named


def _tensor(_machine: _Machine, storage: Any, offset: Any, size: Any, stride: Any, *_unused: Any) -> Tensor:
    """A view of the storage that lies inside it."""
    if not (isinstance(storage, Tensor) and isinstance(size, tuple) and isinstance(stride, tuple)):
        raise _damaged("has a tensor that is none")
    numbers = (offset, *size, *stride)
    possible = all(type(number) is int and 0 <= number <= MAX_ELEMENTS for number in numbers)
    if not possible or not len(size) == len(stride) <= MAX_SIDES or prod(max(side, 1) for side in size) > MAX_ELEMENTS:
        raise _damaged("has a tensor of an impossible shape")
    if 0 in size:
        return storage.new_empty(size)
    last = offset + sum((side - 1) * step for side, step in zip(size, stride, strict=True))
    if storage.dim() != 1 or last >= storage.numel() or prod(size) > storage.numel():
        raise _damaged("has a tensor that reaches out of its storage")
    return storage.as_strided(size, stride, offset)


def _parameter(_machine: _Machine, tensor: Any, *_unused: Any) -> Tensor:
    if not isinstance(tensor, Tensor):
        raise _damaged("has a parameter that is no tensor")
    return tensor


def _size(_machine: _Machine, values: Any = ()) -> tuple[Any, ...]:
    return tuple(_items(values))


def _reconstructed(_machine: _Machine, cls: Any, *arguments: Any) -> Record:
    if not isinstance(cls, Name):
        raise _damaged("has an object without a class")
    return Record(cls, arguments)


def _items(values: Any) -> list[Any]:
    if not isinstance(values, list | tuple | set):
        raise _damaged("has a list that is none")
    return list(values)


def _asks_for(what: str) -> WeightsError:
    return WeightsError(
        f"its pickle asks for {what}: this could run code, so the file is refused and nothing of it was run;"
        " get weights as safetensors or from another source"
    )


def _damaged(what: str) -> WeightsError:
    return WeightsError(f"its pickle {what}: it is damaged or made to do harm; get the file again from its publisher")


REBUILD: dict[Name, Callable[..., Any]] = {
    Name("torch._utils", "_rebuild_tensor"): _tensor,
    Name("torch._utils", "_rebuild_tensor_v2"): _tensor,
    Name("torch._utils", "_rebuild_parameter"): _parameter,
    Name("torch._utils", "_rebuild_parameter_with_state"): _parameter,
    Name("torch", "Size"): _size,
    Name("builtins", "set"): _Machine.make_set,
    Name("collections", "OrderedDict"): _Machine.make_dict,
    Name("collections", "defaultdict"): _Machine.make_dict,
    Name("copyreg", "_reconstructor"): _reconstructed,
}
"""What a call of these names stands for, done by this file."""

INERT = {
    *(Name("builtins", name) for name in ("object", "list", "dict", "tuple", "int", "float", "bool", "str", "bytes")),
    *(Name("builtins", name) for name in ("bytearray", "complex", "frozenset", "range", "slice")),
    *(Name("pathlib", name) for name in ("Path", "PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")),
    *(
        Name("pathlib._local", name)
        for name in ("Path", "PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")
    ),
    *(Name("datetime", name) for name in ("datetime", "date", "timedelta", "timezone")),
    *(Name(f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    Name("numpy", "dtype"),
    Name("torch", "device"),
    Name("types", "SimpleNamespace"),
    Name("argparse", "Namespace"),
    Name("collections", "deque"),
    Name("collections", "Counter"),  # of learning rate schedules
    Name("typing", "Any"),  # of OmegaConf's settings
    Name("_codecs", "encode"),  # how protocol 2 writes bytes
}
"""Names of Python, and lower-case ones of others, that become a `Name` or a `Record` as any unknown class does."""
