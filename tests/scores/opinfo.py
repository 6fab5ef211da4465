"""``python -m tests.scores.opinfo``: torch's own second implementations, and mutants of its decompositions.

*Benign*: an operator against its Python reference (`torch._refs`), on the samples of `OpInfo`. The two are one function
where they agree in float64 (`plain.SAME`), by plain calculation; then the verdict may be neither `semantic` nor
`unstable`. *Mutants*: an operator against a decomposition of it in which one thing was changed, where the two differ in
float64; found is what is called `semantic` or `unstable` or has a cause confirmed or located.
"""

from __future__ import annotations

import itertools
import random
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from tests.scores import mutants, plain, rows

from whydiff.pipeline import compare
from whydiff.records import Diagnosis, Verdict

UNINITIALISED = ("empty", "empty_like", "empty_permuted", "empty_strided", "new_empty", "new_empty_strided")
SAMPLES = {torch.float32: 8, torch.bfloat16: 2}
Job = tuple[str, str, Callable[[], rows.Row | None]]


def benign(diagnosis: Diagnosis) -> bool:
    """Whether a pair of one function may be called that."""
    return diagnosis.verdict not in (Verdict.SEMANTIC, Verdict.UNSTABLE)


def mutant(diagnosis: Diagnosis) -> bool:
    """Whether another function was found."""
    if diagnosis.verdict in (Verdict.ROUNDING, Verdict.IDENTICAL):
        return False
    return diagnosis.verdict in (Verdict.SEMANTIC, Verdict.UNSTABLE) or bool(rows.found(diagnosis))


def references(dtype: torch.dtype) -> Iterator[Job]:
    """Operators against their Python references."""
    from torch.testing._internal.common_methods_invocations import python_ref_db

    for reference in sorted(python_ref_db, key=lambda entry: entry.full_name):
        info = reference.torch_opinfo
        if dtype not in reference.supported_dtypes("cpu") or dtype not in info.supported_dtypes("cpu"):
            continue
        if info.name in UNINITIALISED:
            continue
        for index, sample in enumerate(_samples(info, dtype)):
            name = f"{reference.full_name}[{index}] {str(dtype)[6:]}"
            kind = f"benign {str(dtype)[6:]}"
            yield name, kind, lambda a=info.op, b=reference.op, s=sample, n=name, k=kind: _benign(n, k, a, b, s)


def _samples(info: Any, dtype: torch.dtype) -> Iterator[Any]:
    for index, sample in enumerate(info.sample_inputs("cpu", dtype, requires_grad=False)):
        if index == SAMPLES[dtype]:
            return
        yield sample


def _benign(name: str, kind: str, op: Any, reference: Any, sample: Any) -> rows.Row | None:
    args, kwargs = (sample.input, *sample.args), dict(sample.kwargs)
    double = plain.lifted(args), plain.lifted(kwargs)
    try:
        far = plain.apart(plain.called(op, *double), plain.called(reference, *double))
    except Exception as error:  # noqa: BLE001 - a sample that one of them refuses is no pair
        print(f"no pair: {name}: {type(error).__name__}: {error}"[:160], file=sys.stderr)
        return None
    if far is None or far > plain.SAME:
        print(f"no pair: {name}: {far} apart in float64", file=sys.stderr)
        return None
    return rows.timed(name, kind, lambda: compare(op, reference, *args, **kwargs), benign)


def changed(each: int = 2) -> Iterator[Job]:
    """Operators against mutants of their decompositions."""
    from torch.testing._internal.common_methods_invocations import op_db

    for info in sorted(op_db, key=lambda entry: entry.full_name):
        if torch.float32 in info.supported_dtypes("cpu") and info.name not in UNINITIALISED:
            for number in range(each):
                name = f"{info.full_name} mutant {number}"
                yield name, "mutant float32", lambda i=info, n=name: _mutant(n, i)


def _mutant(name: str, info: Any) -> rows.Row | None:
    """The mutant of a seed's choice that is another function on its sample."""
    draw = random.Random(name)
    samples = [s for s in _samples(info, torch.float32) if mutants.tensors(s)]
    found = (mutants.of(info.op, sample, draw) for sample in draw.sample(samples, min(len(samples), 3)))
    made = next((one for one in found if one is not None), None)
    if made is None:
        return None
    more = {"change": made.change, "apart": made.apart}
    return rows.timed(name, "mutant float32", lambda: compare(made.original, made.graph, *made.args), mutant, more)


def main() -> int:
    """Run, print misses as they come, then the rates."""
    given = rows.options(__doc__).parse_args()
    warnings.simplefilter("ignore")
    jobs = itertools.chain(changed(), references(torch.float32), references(torch.bfloat16))
    print(rows.summary(rows.collect(jobs, given)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
