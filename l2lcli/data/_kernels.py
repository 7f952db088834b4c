"""The kernels of a small convolutional network, from a .safetensors file.

    conv0/kernel [3, 3, 3, D]   conv0/bias [D]   conv1/kernel [3, 3, D, E]   …      as Flax has them, or
    conv0.weight [D, 3, 3, 3]   conv0.bias [D]   conv1.weight [E, D, 3, 3]   …      as PyTorch has them

in float16, float32 or float64; a number beside them that is called otherwise is left alone. The format is eight bytes, a
header in JSON, and the numbers: reading it needs no package.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from l2lcli.data.source import DataError

if TYPE_CHECKING:
    import numpy as np

PARTS = ("/kernel", "/bias", ".weight", ".bias")
TYPES = {"F16": "<f2", "F32": "<f4", "F64": "<f8"}
SHIPPED = Path(__file__).parent.parent / "shipped"  # in the package: <name>.safetensors


class Kernels(NamedTuple):
    """A stack of convolutions.

    Attributes:
      layers: (kernel [3, 3, in, out], bias [out]) of each, float32.
      fingerprint: first 16 hex digits of the sha256 of the file.
    """

    layers: list[tuple[np.ndarray, np.ndarray]]
    fingerprint: str


def load(path: Path) -> Kernels:
    """Raises DataError, in one line, where the file is not there, is damaged, or is no such network on three colours."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error
    arrays = _arrays(path, data)
    layers, inputs = [], 3
    while found := _layer(arrays, len(layers)):
        kernel, bias = found
        name = f"{path}: conv{len(layers)}"
        if kernel.ndim != 4 or kernel.shape[:3] != (3, 3, inputs) or not kernel.shape[3]:
            raise DataError(f"{name} has a kernel {list(kernel.shape)}, not [3, 3, {inputs}, out]")
        if bias.shape != kernel.shape[3:]:
            raise DataError(f"{name} has a bias {list(bias.shape)}, not [{kernel.shape[3]}]")
        layers.append((kernel, bias))
        inputs = kernel.shape[3]
    if not layers:
        raise DataError(f"{path}: neither conv0/kernel and conv0/bias nor conv0.weight and conv0.bias in it")
    if left := sorted(set(arrays) - {f"conv{i}{part}" for i in range(len(layers)) for part in PARTS}):
        raise DataError(f"{path}: {left[0]} without its partner, or without the layer below")
    return Kernels(layers, hashlib.sha256(data).hexdigest()[:16])


def _layer(arrays: Mapping[str, np.ndarray], i: int) -> tuple[np.ndarray, np.ndarray] | None:
    if f"conv{i}/kernel" in arrays and f"conv{i}/bias" in arrays:
        return arrays[f"conv{i}/kernel"], arrays[f"conv{i}/bias"]
    if f"conv{i}.weight" in arrays and f"conv{i}.bias" in arrays:
        weight = arrays[f"conv{i}.weight"]
        return weight.transpose(2, 3, 1, 0) if weight.ndim == 4 else weight, arrays[f"conv{i}.bias"]
    return None


def _arrays(path: Path, data: bytes) -> dict[str, np.ndarray]:
    """What is called conv… in the file, as float32."""
    import numpy as np

    found = {}
    try:
        begin = 8 + int.from_bytes(data[:8], "little")
        header = json.loads(data[8:begin])
        for name, about in header.items():
            if not name.startswith("conv"):
                continue
            start, end = about["data_offsets"]
            held = memoryview(data)[begin:][start:end]
            if about["dtype"] not in TYPES:
                raise ValueError(f"{name} is {about['dtype']}, not one of {', '.join(TYPES)}")
            if len(held) != end - start:
                raise ValueError("it breaks off")
            array = np.frombuffer(held, TYPES[about["dtype"]]).reshape(about["shape"]).astype(np.float32)
            if not np.isfinite(array).all():
                raise ValueError(f"{name} has numbers that are not finite")
            found[name] = array
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        said = " ".join(str(error).split())[:120]
        raise DataError(f"{path}: damaged, or not a .safetensors file: {said or type(error).__name__}") from error
    return found
