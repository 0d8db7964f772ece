"""What a bundle holds for int8: the quantisation, and the operating points measured in that arithmetic.

Integer weights, their scales and corrections lie in ``int8.safetensors``; scales of maps, points and the self-test in
``bundle.json``. Bundles without int8 know nothing of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lccl.errors import BundleError, require
from lccl.networks import ResNet
from lccl.networks.lowering import lower
from lccl.operating_points import OperatingPointTable
from lccl.preprocessing import Preprocessing
from lccl.quantization.parameters import Quantisation, QuantisedWeight
from lccl.quantization.plan import quantise

INT8_WEIGHTS = "int8.safetensors"
SECTION = ("scales", "losses", "calibration", "self_test")
PARTS = ("weight", "scale", "correction")


@dataclass(frozen=True, slots=True, eq=False)
class Int8:
    """A network in int8.

    Attributes:
        quantisation: scales and integer weights.
        losses: by the name of an operating point measured in fp32, what int8 loses at its setting on held-out images:
            ``drop`` in percentage points with its 95 % interval, and the number of ``images``.
        table: operating points measured in int8; None until calibrated: then it is not served.
        calibration: as a bundle's, of this table.
        self_test: as a bundle's, in int8.

    """

    quantisation: Quantisation
    losses: Mapping[str, Any] = field(default_factory=dict)
    table: OperatingPointTable | None = None
    calibration: Mapping[str, Any] = field(default_factory=dict)
    self_test: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Keys of a bundle's description; the weights are apart."""
        section = {
            "scales": dict(self.quantisation.scales),
            "losses": dict(self.losses),
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
    section, tables = description["int8"], description.get("tables", {})
    sound = isinstance(section, dict) and isinstance(tables, dict) and set(tables) <= {"int8"}
    parts = [section.get(name) for name in SECTION] if sound else [None]
    require(
        BundleError,
        (sound, "int8 and tables are objects, and there are tables of int8 alone"),
        (all(isinstance(part, dict) for part in parts), f"int8 holds {', '.join(SECTION)}, all objects"),
    )
    scales = section["scales"]
    for name, scale in scales.items():
        if isinstance(scale, bool) or not isinstance(scale, int | float):
            raise BundleError(f"the scale of {name} is no number")
    quantisation = Quantisation({name: float(scale) for name, scale in scales.items()}, _weights(tensors))
    table = OperatingPointTable.from_json(tables["int8"]) if tables else None
    return Int8(quantisation, section["losses"], table, section["calibration"], section["self_test"])


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
    require(
        BundleError,
        (not strange, f"{INT8_WEIGHTS} has an unknown tensor {strange[:1]}"),
        (not missing, f"{INT8_WEIGHTS} lacks {missing[:1]}"),
    )
    return {name: QuantisedWeight(*(tensors[f"{name}.{part}"].numpy() for part in PARTS)) for name in names}
