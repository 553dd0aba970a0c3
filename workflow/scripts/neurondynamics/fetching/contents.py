"""What a file of JSON or safetensors in a model folder says, or why it cannot be read."""

from __future__ import annotations

import json
import math
from pathlib import Path

from neurondynamics.data.formats import refuse_foreign

LONGEST_HEADER = 100_000_000  # bytes; the format allows no more
ITEM_BITS = {
    **dict.fromkeys(("F64", "I64", "U64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "I8", "U8", "BOOL"), 8),
}
AGAIN = "it is damaged or was not fetched whole: fetch it again"


def read_mapping(path: Path) -> dict:
    """Return what a file in JSON holds; raise ValueError, with the place, if it is no mapping."""
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty: {AGAIN}")
    refuse_foreign(path, "JSON")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is no UTF-8 text ({error.reason}, byte {error.start}): {AGAIN}"
        ) from error
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}: {error.msg}"
        raise ValueError(
            f"{path}, {place}. This is no JSON: correct it, or fetch it again"
        ) from error
    except (RecursionError, ValueError) as error:
        raise ValueError(f"{path} is no JSON that can be read: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds {type(found).__name__}, not a mapping of keys: {AGAIN}")
    return found


def read_header(path: Path) -> dict[str, dict]:
    """Return name, `dtype` and `shape` of every tensor in a file of safetensors.

    Raises ValueError unless the file is as long as it says, and each tensor as long as its shape.
    """
    size = path.stat().st_size
    if size == 0:
        raise ValueError(f"{path} is empty: {AGAIN}")
    refuse_foreign(path, "a safetensors file")
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(LONGEST_HEADER, size - 8):
            raise ValueError(f"{path} is no safetensors file, or cut off in its header: {AGAIN}")
        text = file.read(length)
    try:
        tensors = json.loads(text)
        tensors.pop("__metadata__", None)
        ends = [_check_tensor(name, tensor) for name, tensor in tensors.items()]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} has a header that cannot be read ({error}): {AGAIN}") from error
    expected = 8 + length + max(ends, default=0)
    if size != expected:
        than = "shorter" if size < expected else "longer"
        raise ValueError(
            f"{path} is {than} than its header says, {size} bytes and not {expected}: {AGAIN}"
        )
    return tensors


def _check_tensor(name: str, tensor: dict) -> int:
    """Return where a tensor ends; raise ValueError if it is not as long as its shape."""
    begin, end = tensor["data_offsets"]
    bits = ITEM_BITS.get(tensor["dtype"])
    if bits and (end - begin) * 8 != math.prod(tensor["shape"]) * bits:
        raise ValueError(f"{name} has another size than its shape {tensor['shape']}")
    return end
