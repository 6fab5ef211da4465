"""The one door to numba: how whydiff's kernels are compiled, and raw memory as words of any type.

Raises ImportError where numba is missing, refuses this numpy, or is switched off; see `kernel_of`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba

nb: Any = numba
if nb.config.DISABLE_JIT:
    raise ImportError("numba is switched off (NUMBA_DISABLE_JIT)")


Kernel = TypeVar("Kernel", bound=Callable[..., Any])


def compiled(signature: Any = None, fastmath: Any = False) -> Callable[[Kernel], Kernel]:
    """`numba.njit` without the GIL and with the disk cache; uncached where no folder can be written.

    Args:
        signature: a numba signature, compiled (or read from the cache) at once; None: one per combination of
            argument types, at its first call.
        fastmath: numba's set of permissions, e.g. ``{"reassoc"}`` to sum in SIMD lanes.
    """
    # numpy's error model: x / 0 is inf instead of an exception, whose check would keep loops out of SIMD
    options = {"nogil": True, "fastmath": fastmath, "error_model": "numpy"}

    def decorate(function: Kernel) -> Kernel:
        try:
            done: Kernel = nb.njit(signature, cache=True, **options)(function)
        except RuntimeError as error:  # numba: "cannot cache function ...: no locator available"
            if "cannot cache" not in str(error):
                raise
            done = nb.njit(signature, **options)(function)
        return done

    return decorate


def loader(result: Any) -> Any:
    """An intrinsic ``load(address, index)`` of one type, at any alignment.

    ``address`` is a uint64, ``index`` an int64 in words of that type.
    """

    def load(typing_context: Any, address: Any, index: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            pointer = builder.inttoptr(arguments[0], context.get_value_type(nb.types.CPointer(result)))
            return builder.load(builder.gep(pointer, [arguments[1]]), align=1)

        return result(nb.types.uint64, nb.types.int64), generate

    return nb.extending.intrinsic(load)


u8, u16, u32, u64 = nb.types.uint8, nb.types.uint16, nb.types.uint32, nb.types.uint64
i64, f32, f64 = nb.types.int64, nb.types.float32, nb.types.float64
load_u8, load_u16, load_u32, load_u64 = loader(u8), loader(u16), loader(u32), loader(u64)
load_i64, load_f32, load_f64 = loader(i64), loader(f32), loader(f64)
