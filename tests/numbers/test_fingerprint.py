"""ML2: every implementation equals the numpy definition, and sees what other summaries are blind to."""

import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whydiff.errors import UsageError
from whydiff.numbers import fingerprint as fp
from whydiff.numbers.kernels import threads

CHUNK_BYTES = 4 * fp.ML2_CHUNK
BORDERS = [n + d for n in (CHUNK_BYTES, 4 * CHUNK_BYTES, 5 * CHUNK_BYTES) for d in (-5, -1, 0, 1, 4)]


def noise(nbytes: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, nbytes, dtype=np.uint8)


def by_hand(data: bytes) -> tuple[int, int]:
    """The docstring's formula in Python integers."""
    padded = data + bytes(-len(data) % CHUNK_BYTES)
    chunks = len(padded) // CHUNK_BYTES
    multipliers, chunk_keys = fp.keys(chunks)
    lanes = []
    for m, k in zip(multipliers.tolist(), chunk_keys.tolist(), strict=True):
        total = k[0] * len(data)
        for c in range(chunks):
            words = np.frombuffer(padded, "<u4")[c * fp.ML2_CHUNK : (c + 1) * fp.ML2_CHUNK].tolist()
            inner = sum(a * w for a, w in zip(m, words, strict=True)) % 2**64
            total += k[2 * c + 1] * (inner % 2**32) + k[2 * c + 2] * (inner // 2**32)
        lanes.append(total % 2**64)
    return lanes[0], lanes[1]


def test_splitmix64_gives_the_published_outputs() -> None:
    # Vigna's splitmix64.c seeded with 1234567 (the test vector of Rosetta Code's "Pseudo-random numbers").
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert fp.splitmix64(1234567, 4).tolist() == expected


@pytest.mark.parametrize("nbytes", [0, 1, 2, 3, 4, 5, 40, CHUNK_BYTES - 1, CHUNK_BYTES, 2 * CHUNK_BYTES + 3])
def test_the_definition_is_the_documented_formula(nbytes: int) -> None:
    data = noise(nbytes).tobytes()
    assert fp.fingerprint_reference(data) == by_hand(data)


def test_known_values_never_change() -> None:
    assert fp.fingerprint_bytes(b"").lanes == (0, 0)
    assert fp.fingerprint_bytes(b"abc").lanes == (13241901806451651406, 15665985613990130658)


@pytest.mark.parametrize("nbytes", [*range(41), *BORDERS, 3 * 2**20 + 7])
def test_fast_equals_definition_at_every_size(nbytes: int) -> None:
    data = noise(nbytes, seed=nbytes)
    fingerprint = fp.fingerprint_bytes(data)
    assert fingerprint.lanes == fp.fingerprint_reference(data)
    assert (fingerprint.nbytes, fingerprint.covers) == (nbytes, "content")


@given(data=st.binary(max_size=300), offset=st.integers(0, 7), repeats=st.integers(1, 400), threads=st.integers(1, 5))
def test_fast_equals_definition_at_any_alignment_and_thread_number(
    data: bytes, offset: int, repeats: int, threads: int
) -> None:
    memory = np.frombuffer(bytes(offset) + data * repeats, np.uint8)
    address = memory.__array_interface__["data"][0] + offset
    expected = fp.fingerprint_reference(memory[offset:].copy())
    nbytes = memory.size - offset
    assert fp.fingerprint_address(address, nbytes) == expected
    assert fp.fingerprint_address(address, nbytes, threads=threads) == expected


def test_default_threads_do_not_change_a_large_buffer() -> None:
    data = noise(fp.PARALLEL_FROM + CHUNK_BYTES + 3)
    address = data.__array_interface__["data"][0]
    values = {fp.fingerprint_address(address, data.size, threads=n) for n in (None, 1, 2, 3, 8)}
    assert values == {fp.fingerprint_reference(data)}


def test_many_small_buffers_start_no_threads() -> None:
    data = noise(5_000)
    address = data.__array_interface__["data"][0]
    threads.stop()
    found = fp.fingerprint_addresses([(address, 10 * n) for n in range(500)])
    assert not threads.started()
    assert found[::99] == [fp.fingerprint_reference(data[: 10 * n]) for n in range(0, 500, 99)]
    assert fp.fingerprint_addresses([(address, 5_000)] * 3, threads=2) == [fp.fingerprint_reference(data)] * 3


@given(st.integers(2, 64), st.integers(0, 2**32 - 1))
def test_both_lanes_see_what_values_and_sums_do_not(size: int, seed: int) -> None:
    x = np.random.default_rng(seed).standard_normal(size).astype(np.float32)
    views = {"itself": x, "swapped halves": np.roll(x, size // 2), "reversed": x[::-1].copy()}
    flipped = x.copy()
    flipped[[0, 1]] *= -1
    views["two sign flips"] = flipped
    views["appended zero"] = np.append(x, np.float32(0))
    views["appended zero byte"] = np.frombuffer(x.tobytes() + b"\0", np.uint8)
    distinct = {view.tobytes(): fp.fingerprint_bytes(view).lanes for view in views.values()}
    for lane in (0, 1):
        assert len({lanes[lane] for lanes in distinct.values()}) == len(distinct)


def test_every_single_sign_flip_and_every_pair_of_them_differ() -> None:
    # The trap of 64-bit words: two sign flips (2**63 each) cancel. Here every difference is 2**31.
    size = 48
    seen = set()
    for i in range(size):
        for j in range(i, size):
            x = np.ones(size, np.float32)
            x[[i, j]] = -1
            seen.add(fp.fingerprint_bytes(x).lanes)
    assert len(seen) == size * (size + 1) // 2


def test_equal_halves_do_not_vanish() -> None:
    half = noise(CHUNK_BYTES)
    doubled = np.concatenate([half, half])  # rotary's cat(freqs, freqs): zero under any XOR of values
    assert 0 not in fp.fingerprint_bytes(doubled).lanes
    assert fp.fingerprint_bytes(doubled).lanes != fp.fingerprint_bytes(np.zeros_like(doubled)).lanes


def test_chunks_may_not_be_swapped() -> None:
    data = noise(6 * CHUNK_BYTES).reshape(6, CHUNK_BYTES)
    assert fp.fingerprint_bytes(data).lanes != fp.fingerprint_bytes(data[[1, 0, 2, 3, 4, 5]]).lanes


def test_the_lanes_use_unrelated_keys() -> None:
    multipliers, chunk_keys = fp.keys(1000)
    assert multipliers.shape == (2, fp.ML2_CHUNK) and chunk_keys.shape == (2, 2001)
    every = np.concatenate([multipliers.ravel(), chunk_keys.ravel()])
    assert np.unique(every).size == every.size
    # Unrelated bits agree half of the time; 524288 of them stay within 1 % of that (14 standard deviations).
    agreeing = np.unpackbits((multipliers[0] ^ multipliers[1]).view(np.uint8)).mean()
    assert 0.49 < agreeing < 0.51


def test_keys_are_a_prefix_of_longer_keys() -> None:
    assert np.array_equal(fp.keys(3)[1], fp.keys(9)[1][:, :7])


@pytest.mark.parametrize("dtype", ["bool", "int64", "float16", "complex128"])
def test_any_dtype_and_shape_is_read_as_bytes(dtype: str) -> None:
    array = np.arange(24).astype(dtype).reshape(2, 3, 4)
    assert fp.fingerprint_bytes(array) == fp.fingerprint_bytes(array.tobytes())
    assert fp.fingerprint_bytes(array[0, 0, 0].reshape(())).nbytes == array.itemsize


def test_a_non_contiguous_array_is_refused_with_the_remedy() -> None:
    with pytest.raises(UsageError, match=r"C-contiguous[\s\S]*ascontiguousarray"):
        fp.fingerprint_bytes(np.zeros((4, 4)).T[1:])


def test_spread_keeps_the_order_and_raises_what_a_part_raises() -> None:
    parts = [(n,) for n in range(50)]
    assert threads.spread(lambda n: n * n, parts, workers=4) == [n * n for n in range(50)]
    assert threads.spread(lambda n: n, [], workers=4) == []
    with pytest.raises(ZeroDivisionError):
        threads.spread(lambda n: 1 / (n - 25), parts, workers=4)
    assert 1 <= threads.usable_threads() <= threads.MOST_THREADS


def run(program: str, **environment: str) -> str:
    """Output of a fresh interpreter."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


PROGRAM = """
import sys
from whydiff.numbers import fingerprint as fp
assert "numba" not in sys.modules, "importing the fingerprint imported numba"
{before}
data = bytes(range(256)) * 600
print(fp.fingerprint_bytes(data).lanes, fp.fingerprint_bytes(b"").lanes, fp.implementation())
"""


def test_numba_is_lazy_and_numpy_stands_in_for_it() -> None:
    data = bytes(range(256)) * 600
    expected = f"{fp.fingerprint_reference(data)} (0, 0)"
    assert run(PROGRAM.format(before="")) == f"{expected} {fp.implementation()}"
    assert run(PROGRAM.format(before="sys.modules['numba'] = None")) == f"{expected} numpy"
    assert run(PROGRAM.format(before=""), NUMBA_DISABLE_JIT="1") == f"{expected} numpy"


def test_numpy_stands_in_for_large_buffers_and_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    data = noise(5 * CHUNK_BYTES + 1)
    address = data.__array_interface__["data"][0]
    expected = fp.fingerprint_address(address, data.size)
    monkeypatch.setattr(fp, "_ml2", fp._numpy_share)
    assert fp.implementation() == "numpy"
    assert fp.fingerprint_address(address, data.size, threads=2) == expected


@pytest.mark.skipif(fp.implementation() != "numba", reason="numba is not installed")
def test_no_folder_for_the_compiled_kernel_is_no_failure() -> None:
    nowhere = """
    from numba.core import caching
    for locator in caching.CacheImpl._locator_classes:
        locator.from_function = classmethod(lambda cls, function, path: None)
    """
    data = bytes(range(256)) * 600
    before = textwrap.dedent(nowhere)
    assert run(PROGRAM.format(before=before)) == f"{fp.fingerprint_reference(data)} (0, 0) numba"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
def test_a_forked_child_starts_its_own_threads() -> None:
    program = """
    import os, warnings
    warnings.simplefilter("ignore")
    from whydiff.numbers import fingerprint as fp
    import numpy as np
    data = np.ones(1 << 20, np.uint8)
    def read(): return fp.fingerprint_address(data.__array_interface__["data"][0], data.size, threads=3)
    expected = read()
    child = os.fork()
    if child == 0:
        os._exit(0 if read() == expected else 1)
    print(os.waitpid(child, 0)[1])
    """
    assert run(program) == "0"
