"""TorchScript and torch.export files are programs, and loading one runs parts of it: only those are let through that say nothing
beyond what `detector export` writes.

All checks are lists of what is admitted; whatever else stands in a file, known to be dangerous or not, ends the loading before
torch sees the file. A model whose graph needs another operator can't be exported until the operator is listed here, as export
loads what it wrote. Names are compared, never looked up.

The content is read once, so the file that was checked is the one that is loaded. Both readers, Python's and torch's, must see
the same archive: uncompressed entries of known names, none twice, and nothing before, between or behind that one of them could
take for another directory.
"""

import io
import json
import pickletools
import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from detector.errors import WeightsError
from detector.weights.published.archive import DTYPES, ZIP_FAILURES
from detector.weights.published.unpickle import Name, read_pickle, shown

OPERATORS = """
    _assert_tensor_metadata.default add.Tensor arange.default arange.start arange.start_step avg_pool2d.default cat.default
    chunk.default clamp.default conv2d.default cos.default div.Tensor expand.default flatten.using_ints full_like.default
    matmul.default max_pool2d.default maximum.default meshgrid.indexing minimum.default mT.default mul.Tensor neg.default
    permute.default pow.Scalar reshape.default scaled_dot_product_attention.default select.int sigmoid.default silu_.default
    sin.default slice.Tensor softmax.int split_with_sizes.default stack.default sub.Tensor sum.dim_IntList sym_size.int
    to.dtype transpose.int unflatten.int unsqueeze.default upsample_nearest2d.vec
"""
"""Of ATen, each with its overload: those in the graphs of all models. They compute; none reads or writes files."""
TARGETS = {"_operator.add", "_operator.mul", *(f"torch.ops.aten.{operator}" for operator in OPERATORS.split())}
CALLS = {"torch._convolution", "torch.size", "ops.prim.device", "ops.prim.NumToTensor"}
CALLS |= {f"torch.{operator.split('.')[0]}" for operator in OPERATORS.split()}


def safe_exported(path: Path) -> io.BytesIO:
    """The content of a file of torch.export whose loading and running only computes. Raises WeightsError for any other."""
    return _checked(path, _require_exported)


def safe_torchscript(path: Path) -> io.BytesIO:
    """The content of a TorchScript file; as `safe_exported`."""
    return _checked(path, _require_torchscript)


def _checked(path: Path, require: Callable[[bytes], None]) -> io.BytesIO:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"{path}: can't be read ({error.strerror})") from error
    try:
        require(content)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error
    except (*ZIP_FAILURES, RecursionError, NotImplementedError, LookupError) as error:  # the last: a missing entry
        raise WeightsError(f"{path}: damaged, or not written by detector export; export the weights again") from error
    return io.BytesIO(content)


def _refusal(what: str) -> WeightsError:
    return WeightsError(
        f"{what}: detector export writes no such thing, and it could run code, so nothing of the file was run;"
        " export the weights again"
    )


ALWAYS = r"archive/(extra/detector\.json|byteorder|(\.data/)?version|\.data/serialization_id|"
EXPORTED_ENTRIES = re.compile(
    ALWAYS + r"archive_format|archive_version|models/model\.json|data/sample_inputs/model\.pt"
    r"|data/constants/model_constants_config\.json|data/weights/(model_weights_config\.json|weight_[0-9]+))"
)
TORCHSCRIPT_ENTRIES = re.compile(ALWAYS + r"data\.pkl|constants\.pkl|constants/[0-9]+|code/__torch__/[a-z0-9_/]+\.py)")


def _archive(content: bytes, admitted: re.Pattern[str]) -> zipfile.ZipFile:
    """The archive, if its entries have names that match and are laid out as torch does."""
    _, _, made, needed, _, _, count, _, size, offset = struct.unpack("<4sQ2H2L4Q", content[-98:-42])
    directory = 0, 0, count, count, size, offset
    end = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, made, needed, *directory)
    end += struct.pack("<4sLQL4s4H2LH", b"PK\6\7", 0, offset + size, 1, b"PK\5\6", *directory, 0)
    if content[-98:] != end or offset + size + 98 != len(content) or not content.startswith(b"PK\3\4"):
        raise zipfile.BadZipFile("not as torch writes them")
    archive, seen = zipfile.ZipFile(io.BytesIO(content)), set[str]()
    for info in archive.infolist():
        name = info.orig_filename
        plain = info.compress_type == zipfile.ZIP_STORED and info.compress_size == info.file_size
        if not plain or info.flag_bits & ~0x808 or info.extra or info.comment:
            raise _refusal(f"{shown(name)} inside is compressed or has parts beside its content")
        if name in seen or not admitted.fullmatch(name):
            raise _refusal(f"the entry {shown(name)} inside")
        seen.add(name)
    return archive


# torch.export


SYMBOLS_AND_NUMBERS = r"Symbol\('s[0-9]{1,9}', positive=True, integer=True\)|Integer\(-?[0-9]{1,18}\)"


def _is_size(text: str) -> bool:
    """A sum, product or the like of symbols and whole numbers, as sympy writes it: torch has Python evaluate it."""
    if len(text) > 2000:
        return False
    text, count = re.sub(SYMBOLS_AND_NUMBERS, "1", text), 1
    while count:  # the innermost ones first
        text, count = re.subn(r"(?:Add|FloorDiv|Max|Min|Mul)\(1(?:, 1)*\)", "1", text)
    return text == "1"


def _like(pattern: str) -> Callable[[str], Any]:
    return re.compile(pattern, re.ASCII).fullmatch


def _spec(children: str) -> str:
    """As torch writes the structure of arguments or results."""
    return f"[1, {A_TUPLE % children}]"


A_TENSOR = '{"type": null, "context": null, "children_spec": []}'
A_TUPLE = '{"type": "builtins.tuple", "context": "null", "children_spec": [%s]}'
NO_KEYWORDS = '{"type": "builtins.dict", "context": "[]", "children_spec": []}'
NAME, LAYER = _like(r"[a-z_]\w*"), _like(r"model(\.[a-z0-9]\w*)+")
TEXTS: dict[str, Callable[[str], Any]] = {
    "as_name": NAME,
    "as_string": {"ij"}.__contains__,
    "expr_str": _is_size,
    "forward_arg_names": {"inputs"}.__contains__,
    "fqn": {""}.__contains__,
    "in_spec": {_spec(f"{A_TUPLE % A_TENSOR}, {NO_KEYWORDS}")}.__contains__,
    "name": NAME,
    "out_spec": {_spec(f"{A_TENSOR}, {A_TENSOR}")}.__contains__,
    "parameter_name": LAYER,
    "path_name": _like("weight_[0-9]+"),
    "target": TARGETS.__contains__,
    "torch_version": _like("[0-9a-z.+]+"),
    "type": {"cpu"}.__contains__,
    "verifiers": {"TRAINING"}.__contains__,
}
"""Every text in the JSON parts by the key that it stands under. torch evaluates or looks up many of them; some it puts into
Python code as they are (names), others it would run (guards_code, metadata of nodes): they are omitted."""
TABLES = {
    "config": LAYER,
    "range_constraints": _like(r"([0-9]+\*)?s[0-9]+"),
    "sym_int_values": NAME,
    "tensor_values": NAME,
}
"""What is listed under these keys has names of its own."""
PLAIN_KEYS = """
    arg as_bool as_device as_expr as_float as_floats as_int as_ints as_layout as_none as_scalar_type as_sym_int as_sym_ints
    as_tensor as_tensors aten device dtype graph graph_module hint index input_specs inputs is_param is_single_tensor_return
    kind layout major max_val min_val minor module_call_graph nodes opset_version output_specs outputs parameter requires_grad
    schema_version signature sizes storage_offset strides tensor_meta use_pickle user_input user_output
"""
KEYS = {*TEXTS, *TABLES, *PLAIN_KEYS.split()}


def _require_json(value: Any, key: str) -> None:
    """Every key, and every text under its key, is one that export writes; what is empty (null, [] or {}) may have any key."""
    match value:
        case dict():
            for inner, part in value.items():
                if part not in (None, [], {}) and not (TABLES[key](inner) if key in TABLES else inner in KEYS):
                    raise _refusal(f"{shown(inner)} under {shown(key)} inside")
                _require_json(part, "" if key in TABLES else inner)
        case list():
            for part in value:
                _require_json(part, key)
        case str():
            if key not in TEXTS or not TEXTS[key](value):
                raise _refusal(f"{shown(value)} as {shown(key)} inside")
        case bool() | int() | float():
            if key == "use_pickle" and value is not False:
                raise _refusal("a pickle inside")


def _require_exported(content: bytes) -> None:
    archive = _archive(content, EXPORTED_ENTRIES)
    if archive.read("archive/data/sample_inputs/model.pt"):
        raise _refusal("example inputs inside")
    for name in ("models/model", "data/weights/model_weights_config", "data/constants/model_constants_config"):
        _require_json(json.loads(archive.read(f"archive/{name}.json").decode()), "")


# TorchScript

CLASS = re.compile(rb"\x80\x02c(__torch__\.detector\.[a-z0-9_.]+)\n([A-Za-z0-9_]+)\nq\x00\)\x81\}\(ubq\x01\.")
HEADER = """class {name}(Module):
  __parameters__ = []
  __buffers__ = []
  def forward(self: {module}.{name},
    inputs: Tensor) -> Tuple[Tensor, Tensor]:
"""
STATEMENT = re.compile(r"    (?:return |((?:[a-z_][a-z0-9_]*,? )+)= )(.+)")
TOKEN = re.compile(
    r" ?(?:(?P<plain>CONSTANTS\.c[0-9]+(?![\w.])|-?[0-9]+(?:\.[0-9]*)?(?:e[+-]?[0-9]+)?(?![\w.])|\"ij\"|[][(),]"
    r"|(?:dtype|layout|device|pin_memory|indexing)=)|(?P<call>[a-z]+(?:\.\w+)+)(?![\w.])|(?P<word>\w+)(?![\w.]))",
    re.ASCII,
)
WORDS = {"annotate", "number", "None", "True", "False", "inputs"}
OPERATIONS = """
    BINGET BININT BININT1 BININT2 BINPERSID BINPUT BINUNICODE EMPTY_TUPLE GLOBAL LONG_BINGET LONG_BINPUT MARK NEWFALSE PROTO
    REDUCE STOP TUPLE
"""


def _require_torchscript(content: bytes) -> None:
    archive = _archive(content, TORCHSCRIPT_ENTRIES)
    found = CLASS.fullmatch(archive.read("archive/data.pkl"))
    if found is None:
        raise _refusal("another class in data.pkl")
    module, name = (part.decode() for part in found.groups())
    code = f"archive/code/{module.replace('.', '/')}.py"
    for other in archive.namelist():
        if other.endswith(".py") and other != code:
            raise _refusal(f"the entry {shown(other)} inside")
    _require_code(archive.read(code).decode("ascii"), HEADER.format(module=module, name=name))
    pickle, usual = archive.read("archive/constants.pkl"), set(OPERATIONS.split())
    for operation, argument, _ in pickletools.genops(pickle):
        if operation.name not in usual:
            raise _refusal(f"the operation {operation.name} {shown(argument)} in constants.pkl")
    constants = read_pickle(pickle, lambda named: _storage(named, archive))
    if not (isinstance(constants, tuple) and all(isinstance(constant, Tensor) for constant in constants)):
        raise _refusal("constants other than tensors inside")


def _require_code(code: str, header: str) -> None:
    """One function of assignments without branches; each word in it is listed, or the target of an earlier assignment."""
    if not code.startswith(header):
        raise _refusal(f"{shown(code[: len(header)])} as the beginning of its code")
    known, calls = {None, *WORDS}, {None, *CALLS}
    for line in code[len(header) :].removesuffix("\n").split("\n"):
        statement = STATEMENT.fullmatch(line)
        if statement is None:
            raise _refusal(f"{shown(line)} in its code")
        targets, expression = statement.groups()
        position = 0
        while position < len(expression):
            token = TOKEN.match(expression, position)
            if token is None or token["call"] not in calls or token["word"] not in known:
                raise _refusal(f"{shown(expression[position:])} in its code")
            position = token.end()
        known.update((targets or "").replace(",", "").split())


def _storage(named: Any, archive: zipfile.ZipFile) -> Tensor:
    """In the place of the storage that the pickle names: a tensor of its length, without its content."""
    match named:
        case ("storage", Name() as kind, str(key), "cpu", int(elements)) if kind in DTYPES:
            if archive.getinfo(f"archive/constants/{key}").file_size == elements * DTYPES[kind].itemsize:
                return torch.empty(elements, dtype=DTYPES[kind], device="meta")
    raise _refusal(f"the storage {shown(named)} in constants.pkl")
