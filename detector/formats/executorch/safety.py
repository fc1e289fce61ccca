"""ExecuTorch files name operators and the backends that parts of them are handed to: only those are let through that
`detector export` writes.

Among the backends that the package brings are some that hand what is in the file to libraries of chip makers, drivers
included. XNNPACK computes, and so do the operators listed here; none reads or writes files.
"""

from pathlib import Path

from detector.errors import WeightsError
from detector.formats.flatbuffer import FlatbufferError, Table

METADATA = "detector"
"""The method that returns the metadata; a file has no other place for them."""
METHODS = {"forward", METADATA}
BACKEND = "XnnpackBackend"
OPERATORS = """
    aten::_softmax.out aten::add.Scalar_out aten::add.out aten::any.out aten::arange.out aten::arange.start_out
    aten::avg_pool2d.out aten::bmm.out aten::cat.out aten::clamp.out aten::clone.out aten::convolution.out aten::cos.out
    aten::div.out aten::eq.Scalar_out aten::expand_copy.out aten::full.out aten::full_like.out aten::logical_not.out
    aten::max_pool2d_with_indices.out aten::maximum.out aten::minimum.out aten::mm.out aten::mul.Scalar_out aten::mul.out
    aten::neg.out aten::permute_copy.out aten::pow.Scalar_out aten::select_copy.int_out aten::sigmoid.out aten::sin.out
    aten::slice_copy.Tensor_out aten::split_with_sizes_copy.out aten::sub.Scalar_out aten::sub.out aten::sum.IntList_out
    aten::unsqueeze_copy.out aten::upsample_nearest2d.vec_out aten::view_copy.out aten::where.self_out
    dim_order_ops::_clone_dim_order.out dim_order_ops::_empty_dim_order.out dim_order_ops::_to_dim_order_copy.out
    executorch_prim::et_view.default
"""
"""What ExecuTorch calls the operators that `torch_native.safety` lists, those in the graphs of all models, once it has taken
them apart; XNNPACK takes most. A model that needs another can't be exported until it is listed, as export loads what it
wrote."""
# numbers of fields in ExecuTorch's schema/program.fbs
PLANS = 1
PLAN_NAME, PLAN_OPERATORS, PLAN_DELEGATES = 0, 6, 7
OPERATOR_NAME, OPERATOR_OVERLOAD = 0, 1
DELEGATE_BACKEND = 0


def safe_program(path: Path) -> bytes:
    """The content of an ExecuTorch file whose loading and running only computes. Raises WeightsError for any other."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"{path}: can't be read ({error.strerror})") from error
    try:
        plans = list(Table.root(content, b"ET12").tables(PLANS))
        if len(plans) != len(METHODS) or {plan.text(PLAN_NAME) for plan in plans} != METHODS:
            raise WeightsError(f"{path}: was not written by detector export; export the weights with it")
        for plan in plans:
            _require_known(path, plan)
    except FlatbufferError as error:
        raise WeightsError(f"{path}: no ExecuTorch file, or a damaged one ({error}); export it again") from error
    return content


def _require_known(path: Path, plan: Table) -> None:
    """Raise WeightsError for a plan that names an operator or a backend that is not listed."""
    for operator in plan.tables(PLAN_OPERATORS):
        name = f"{operator.text(OPERATOR_NAME)}.{operator.text(OPERATOR_OVERLOAD)}"
        if name not in OPERATORS.split():
            raise _refusal(path, f"the operator {name}")
    for delegate in plan.tables(PLAN_DELEGATES):
        if delegate.text(DELEGATE_BACKEND) != BACKEND:
            raise _refusal(path, f"the backend {delegate.text(DELEGATE_BACKEND)}")


def _refusal(path: Path, what: str) -> WeightsError:
    return WeightsError(
        f"{path}: {what}: detector export writes no such thing, and it could run code, so nothing of the file was run;"
        " export the weights again"
    )
