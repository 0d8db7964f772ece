"""What a bundle holds for int8: the quantisation, and the operating points measured in that arithmetic.

Integer weights, their scales and corrections lie in ``int8.safetensors``; scales of maps, points and the self-test in
``bundle.json``. Bundles without int8 know nothing of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lccl.errors import BundleError, require
from lccl.json_values import read_fields
from lccl.networks import ResNet
from lccl.networks.lowering import lower
from lccl.operating_points import Interval, OperatingPointTable
from lccl.preprocessing import Preprocessing
from lccl.quantization.parameters import Quantisation, QuantisedWeight
from lccl.quantization.plan import quantise

INT8_WEIGHTS = "int8.safetensors"
SECTION = ("scales", "losses", "calibration", "self_test")
PARTS = ("weight", "scale", "correction")


@dataclass(frozen=True, slots=True)
class Loss:
    """What int8 loses against fp32 under one setting, image by image.

    Attributes:
        drop: in percentage points, with its 95 % ``interval``.
        accuracy: in fp32 and in int8; 0..1.
        skip_ratio: likewise.
        images: how many it was measured on.

    """

    drop: float
    interval: Interval
    accuracy: tuple[float, float]
    skip_ratio: tuple[float, float]
    images: int


@dataclass(frozen=True, slots=True, eq=False)
class Int8:
    """A network in int8.

    Attributes:
        quantisation: scales and integer weights.
        losses: on held-out images, by the name of the operating point in fp32 that has the setting.
        table: operating points measured in int8; None until calibrated: then it is not served.
        calibration: as a bundle's, of this table.
        self_test: as a bundle's, in int8.

    """

    quantisation: Quantisation
    losses: Mapping[str, Loss] = field(default_factory=dict)
    table: OperatingPointTable | None = None
    calibration: Mapping[str, Any] = field(default_factory=dict)
    self_test: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Keys of a bundle's description; the weights are apart."""
        section = {
            "scales": dict(self.quantisation.scales),
            "losses": {name: asdict(loss) for name, loss in self.losses.items()},
            "calibration": dict(self.calibration),
            "self_test": dict(self.self_test),
        }
        return {"int8": section, "tables": {} if self.table is None else {"int8": self.table.to_json()}}

    def tensors(self) -> dict[str, Tensor]:
        """What ``int8.safetensors`` holds: ``NAME.weight``, ``NAME.scale`` and ``NAME.correction`` of each weight."""
        return {
            f"{name}.{part}": torch.from_numpy(np.ascontiguousarray(getattr(weight, part)))
            for name, weight in self.quantisation.weights.items()
            for part in PARTS
        }


def read_int8(description: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Int8:
    """Read what :class:`Int8` wrote.

    Raises:
        BundleError, QuantisationError: anything else.

    """
    section, tables = description["int8"], description.get("tables")
    sound = isinstance(section, dict) and isinstance(tables, dict) and set(tables) <= {"int8"}
    parts = [section.get(name) for name in SECTION] if sound else [None]
    require(
        BundleError,
        (sound, "int8 and tables are objects, and there are tables of int8 alone"),
        (all(isinstance(part, dict) for part in parts), f"int8 holds {', '.join(SECTION)}, all objects"),
    )
    try:
        scales = {name: _number(scale) for name, scale in section["scales"].items()}
        losses = {name: read_fields(Loss, loss) for name, loss in section["losses"].items()}
    except (TypeError, KeyError, ValueError, OverflowError) as error:
        raise BundleError(f"its scales or losses are not readable: {error}") from error
    quantisation = Quantisation(scales, _weights(tensors))
    table = OperatingPointTable.from_json(tables["int8"]) if tables else None
    return Int8(quantisation, losses, table, section["calibration"], section["self_test"])


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r:.40} is no number")
    return float(value)


def check_int8(int8: Int8, network: ResNet, preprocessing: Preprocessing) -> None:
    """Refuse a quantisation that is not of this network.

    Raises:
        QuantisationError: a scale or weight is missing, does not fit, or could overflow.

    """
    quantise(lower(network, preprocessing), int8.quantisation)


def _weights(tensors: Mapping[str, Tensor]) -> dict[str, QuantisedWeight]:
    names = dict.fromkeys(name.rpartition(".")[0] for name in tensors)
    missing = [f"{name}.{part}" for name in names for part in PARTS if f"{name}.{part}" not in tensors]
    strange = [name for name in tensors if name.rpartition(".")[2] not in PARTS]
    foreign = [name for name, tensor in tensors.items() if tensor.dtype not in (torch.int8, torch.float32)]
    require(
        BundleError,
        (not strange, f"{INT8_WEIGHTS} has an unknown tensor {strange[:1]}"),
        (not foreign, f"{INT8_WEIGHTS} holds int8 and float32 alone, but not in {foreign[:1]}"),
        (not missing, f"{INT8_WEIGHTS} lacks {missing[:1]}"),
    )
    return {name: QuantisedWeight(*(tensors[f"{name}.{part}"].numpy() for part in PARTS)) for name in names}
