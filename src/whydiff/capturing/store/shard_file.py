"""Write a safetensors file from memory as it is: the library's writer holds a second copy of everything.

Format: https://github.com/huggingface/safetensors#format.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from whydiff.capturing.store.dtypes import TAGS

_TAG = {stored: tag for tag, (true, stored) in TAGS.items() if true == stored}
_ALIGNED = 8


def write_shard(path: Path, arrays: Mapping[str, np.ndarray[Any, Any]]) -> None:
    """Write named C-contiguous little-endian arrays, wide elements first so that each is aligned.

    Raises:
        OSError: it cannot be written.
    """
    ordered = sorted(arrays.items(), key=lambda item: -item[1].itemsize)
    header: dict[str, Any] = {}
    end = 0
    for name, array in ordered:
        begin, end = end, end + array.nbytes
        header[name] = {"dtype": _TAG[array.dtype.name], "shape": list(array.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNED)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, array in ordered:
            file.write(array.reshape(-1).view(np.uint8).data)
