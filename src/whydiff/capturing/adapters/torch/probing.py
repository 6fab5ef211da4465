"""A recorded sum or product, to be evaluated on other values: same shapes, strides, address and flags.

Every supported op is lowered to ``out[g, r, c] = sum over k of left[g, r, k] * right[g, c, k]`` plus
``bias[g, r, c]`` where there is one; ``left`` is missing for plain sums. Column c of group g is one probe;
the call is always made at its true shape.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from whydiff.capturing.adapters.contract import Executor, RecordedSum
from whydiff.capturing.adapters.torch.arguments import decode
from whydiff.capturing.adapters.torch.dtypes import dtype_name
from whydiff.errors import ReplayError
from whydiff.records import Call

_ALIGNMENT = 64
"""Bytes: the largest vector register; kernels choose their head and tail by the address modulo this."""


@dataclass(frozen=True)
class Lowered:
    """Views of an op's operands, and how its output is looked at.

    Attributes:
        right: (G, C, *reduced dimensions); for a plain sum (*kept dimensions, *reduced dimensions).
        left: (..., K), written by broadcasting; None for a plain sum.
        left_rows: the same as (G, R, K), possibly a copy.
        bias: broadcastable to (G, R, C), or None.
        look: output tensor → (G, R, C).
        divisor: the sum is divided by this afterwards (mean).
    """

    right: torch.Tensor
    look: Callable[[torch.Tensor], torch.Tensor]
    left: torch.Tensor | None = None
    left_rows: torch.Tensor | None = None
    bias: torch.Tensor | None = None
    divisor: int = 1


def _mm(a: torch.Tensor, b: torch.Tensor, bias: torch.Tensor | None = None) -> Lowered:
    """(…, M, K) @ (K, N)."""
    right = b.t().unsqueeze(0)
    rows = a.reshape(1, -1, a.shape[-1])
    return Lowered(right, lambda out: out.reshape(1, -1, right.shape[1]), a, rows, bias)


def _bmm(a: torch.Tensor, b: torch.Tensor, bias: torch.Tensor | None = None) -> Lowered:
    return Lowered(b.transpose(1, 2), lambda out: out, a, a, bias)


def _vector(a: torch.Tensor, b: torch.Tensor, bias: torch.Tensor | None = None) -> Lowered:
    """(M, K) @ (K,): the matrix carries the probes."""
    matrix, vector = (a, b) if a.dim() == 2 else (a.unsqueeze(0), b)
    bias = None if bias is None else bias.reshape(-1) if bias.numel() > 1 else bias
    return Lowered(matrix.unsqueeze(0), lambda out: out.reshape(1, 1, -1), vector, vector.reshape(1, 1, -1), bias)


def _sum(x: torch.Tensor, dims: Any = None, divide: bool = False) -> Lowered:
    reduced = sorted(d % x.dim() for d in ([dims] if isinstance(dims, int) else dims or range(x.dim())))
    kept = [d for d in range(x.dim()) if d not in reduced]
    view = x.permute(*kept, *reduced)
    terms = int(np.prod([x.shape[d] for d in reduced]))
    return Lowered(view, lambda out: out.reshape(1, 1, -1), divisor=terms if divide else 1)


def _linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> Lowered | None:
    return None if x.dim() < 2 else _mm(x, weight.t(), bias)


def _matmul(a: torch.Tensor, b: torch.Tensor) -> Lowered | None:
    if b.dim() == 2 and a.dim() >= 2:
        return _mm(a, b)
    if a.dim() == b.dim() == 3 and a.shape[0] == b.shape[0]:
        return _bmm(a, b)
    return _vector(a, b) if b.dim() == 1 and a.dim() <= 2 else None


def _lower(op: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Lowered | None:
    """The lowering of a call, or None if it is no sum that we know."""
    if op in ("addmm", "baddbmm", "addmv") and (kwargs.get("alpha", 1) != 1 or kwargs.get("beta", 1) != 1):
        return None
    if op in ("sum", "mean"):
        if kwargs.get("dtype") is not None and kwargs["dtype"] != args[0].dtype:
            return None
        return _sum(args[0], args[1] if len(args) > 1 else None, op == "mean")
    if op == "convolution":
        return _convolution(*args)
    table: dict[str, Callable[..., Lowered | None]] = {
        "mm": _mm,
        "bmm": _bmm,
        "matmul": _matmul,
        "linear": _linear,
        "mv": _vector,
        "dot": _vector,
        "addmm": _biased(_mm),
        "baddbmm": _biased(_bmm),
        "addmv": _biased(_vector),
    }
    return table[op](*args) if op in table else None


def _biased(product: Callable[..., Lowered]) -> Callable[..., Lowered]:
    """The same with the bias as the first argument."""
    return lambda bias, a, b: product(a, b, bias)


def _convolution(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
) -> Lowered | None:
    """2-D convolution: the output channels' weights carry the probes; taps in the padding are zeros."""
    if transposed or groups != 1 or x.dim() != 4 or any(padding):
        return None
    rows = torch.nn.functional.unfold(x, weight.shape[2:], dilation, padding, stride)
    rows = rows.transpose(1, 2).reshape(1, -1, rows.shape[1])
    channels = weight.shape[0]
    return Lowered(
        weight.unsqueeze(0), lambda out: out.permute(0, 2, 3, 1).reshape(1, -1, channels), x[:, :, :0], rows, bias
    )


class Summed(RecordedSum):
    """See `whydiff.capturing.adapters.contract.RecordedSum`."""

    def __init__(self, executor: Executor, call: Call, reads: Sequence[torch.Tensor], lowered: Lowered) -> None:
        self._executor, self._call, self._reads, self._real = executor, call, list(reads), lowered
        self._buffers = [_twin(read) for read in reads]
        found = _lowered(call, self._buffers)
        assert found is not None
        self._probe = found
        self._result = self._look(reads)
        groups, self.rows, columns = self._result.shape
        self.columns = groups * columns
        self._groups = groups
        right = self._probe.right
        self.terms_count = right.numel() // self.columns
        self.leaves = self.terms_count + (lowered.bias is not None)
        self.plain = frozenset({self.terms_count} if lowered.bias is not None else ())
        self.products = lowered.left is not None
        self.dtype = dtype_name(reads[0].dtype)
        self.output_dtype = dtype_name(self._result.dtype)
        self.divisor = lowered.divisor

    def _look(self, reads: Sequence[torch.Tensor]) -> torch.Tensor:
        with self._executor.running():
            (out,) = self._executor.apply(self._call, reads)
        return self._real.look(out)

    def outputs(self) -> npt.NDArray[np.float64]:
        """(R, G · C) of the call on its recorded inputs; float64 holds every value exactly."""
        values: npt.NDArray[np.float64] = self._result.transpose(0, 1).reshape(self.rows, -1).double().cpu().numpy()
        return values

    def evaluate(
        self, values: npt.NDArray[Any], factors: npt.NDArray[Any] | None, row: int, columns: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.float64]:
        """The op's outputs at (row, column) for other terms, as many a call as there are columns.

        Args:
            values: (n, leaves); rounded to the op's dtype.
            factors: (K,) in the place of every row of ``left``; ones if None.
            row: which row of the output is read.
            columns: usable columns.

        Returns:
            (n,) float64.
        """
        probe, terms = self._probe, self.terms_count
        rows = torch.from_numpy(np.ascontiguousarray(values)).to(self._buffers[0].dtype)
        results = []
        with self._executor.running():
            if probe.left is not None:
                self._fill_left(factors)
            for start in range(0, len(values), len(columns)):
                part = rows[start : start + len(columns)]
                at = torch.from_numpy(columns[: len(part)])
                probe.right.copy_(_spread(part[:, :terms], at, self.columns).reshape(probe.right.shape))
                if probe.bias is not None:
                    _fill_bias(probe.bias, _spread(part[:, terms], at, self.columns), self._groups)
                (out,) = self._executor.apply(self._call, self._buffers)
                results.append(probe.look(out)[:, row].reshape(-1).cpu()[at].double().numpy())
        return np.concatenate(results)

    def _fill_left(self, factors: npt.NDArray[Any] | None) -> None:
        left = self._probe.left
        assert left is not None
        if self._call.site.op == "convolution":
            self._buffers[0].fill_(1.0)
        elif factors is None:
            left.fill_(1.0)
        else:
            left.copy_(torch.from_numpy(np.array(factors)).to(left.dtype))

    @property
    def takes_factors(self) -> bool:
        """Whether ``left`` can be set term by term (not where inputs overlap, as in a convolution)."""
        return self.products and self._call.site.op != "convolution"

    def terms(self, where: npt.NDArray[np.int64]) -> tuple[npt.NDArray[Any], npt.NDArray[Any] | None]:
        """Recorded terms of some outputs.

        Args:
            where: flat positions in `outputs`.

        Returns:
            (leaves, S) left and right factors in the accumulator's dtype; plain sums have no right ones.
        """
        at = torch.from_numpy(where)
        row, column = at // self.columns, at % self.columns
        size = self.columns // self._groups
        wide = torch.float64 if self.dtype == "float64" else torch.float32
        right = self._real.right.reshape(self.columns, -1).cpu()[column].to(wide)
        if self._real.left_rows is None:
            return right.T.contiguous().numpy(), None
        left = self._real.left_rows.cpu()[column // size, row].to(wide)
        if self._real.bias is not None:
            shape = (self._groups, self.rows, size)
            bias = _expanded(self._real.bias.cpu(), shape)[column // size, row, column % size].to(wide)
            left = torch.cat([left, bias[:, None]], 1)
            right = torch.cat([right, torch.ones(len(right), 1, dtype=wide)], 1)
        return left.T.contiguous().numpy(), right.T.contiguous().numpy()


def summed(executor: Executor, call: Call, reads: Sequence[torch.Tensor]) -> Summed | None:
    """The probe of a recorded call; None if it is no sum or product that we can lower.

    Args:
        executor: replays the call's trace; supplies flags and threads.
        call: the recorded call.
        reads: its tensors as recorded.
    """
    if call.mutates or not reads or any(read.is_complex() or not read.is_floating_point() for read in reads):
        return None
    lowered = _lowered(call, reads)
    if lowered is None or lowered.right.numel() == 0 or len({read.dtype for read in reads}) != 1:
        return None
    if lowered.bias is not None and not _apart(lowered.bias, lowered.right):
        return None
    written = (lowered.right,) if lowered.bias is None else (lowered.right, lowered.bias)
    if any(0 in _real_strides(view) for view in written):
        return None  # one memory cell is several terms: they cannot be probed apart
    return Summed(executor, call, reads, lowered)


def _lowered(call: Call, reads: Sequence[torch.Tensor]) -> Lowered | None:
    try:
        args = decode(call.arguments[0], reads)
        named = {name: decode(value, reads) for name, value in call.arguments[1].items()}
    except ReplayError:  # packed weights and the like: it cannot be carried out on other terms
        return None
    return _lower(call.site.op, args, named)


def _apart(bias: torch.Tensor, right: torch.Tensor) -> bool:
    """Whether every column has a bias of its own."""
    groups, columns = right.shape[:2]
    own = bias.dim() > 0 and bias.shape[-1] == columns
    return own and (groups == 1 or (bias.dim() == 3 and bias.shape[0] == groups))


def _real_strides(view: torch.Tensor) -> list[int]:
    return [stride for stride, size in zip(view.stride(), view.shape, strict=True) if size > 1]


def _twin(tensor: torch.Tensor) -> torch.Tensor:
    """Zeros with the tensor's shape, strides and address modulo `_ALIGNMENT`."""
    extent = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    width = tensor.element_size()
    memory = torch.zeros(extent + 2 * _ALIGNMENT // width, dtype=tensor.dtype, device=tensor.device)
    shift = (tensor.data_ptr() - memory.data_ptr()) % _ALIGNMENT // width
    return memory.as_strided(tensor.shape, tensor.stride(), shift)


def _expanded(bias: torch.Tensor, shape: tuple[int, int, int]) -> torch.Tensor:
    return (bias.reshape(1, *bias.shape) if bias.dim() == 2 else bias).expand(shape)


def _spread(part: torch.Tensor, at: torch.Tensor, columns: int) -> torch.Tensor:
    """Rows of ``part`` at positions ``at`` of ``columns``, zeros elsewhere."""
    if len(part) == columns:
        return part  # ``at`` is ascending, so it is every column
    sheet = torch.zeros(columns, *part.shape[1:], dtype=part.dtype)
    sheet[at] = part
    return sheet


def _fill_bias(bias: torch.Tensor, line: torch.Tensor, groups: int) -> None:
    bias.copy_(line.reshape(groups, 1, -1) if bias.dim() == 3 else line)
