"""How large the pieces are that a convolution's kernel works in: a device's table, made by ``lccl tune``, or defaults.

The tables, ``tiles/<device>.json`` beside this file, vary rows, channels, warps and stages of a tile alone. The order
in which a cell's products are summed is not theirs to choose, so results are bitwise the same with every table.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lccl.engines.cuda.devices import slug
from lccl.errors import EngineError

FOLDER = Path(__file__).with_name("tiles")


@dataclass(frozen=True, slots=True)
class Tile:
    """A tile of the matrix product.

    Attributes:
        rows: positions, 64 or a multiple: a whole number of the widest matrix instruction's.
        channels: of the output.
        warps: that work on it together.
        stages: of its loads in flight.

    """

    rows: int
    channels: int
    warps: int
    stages: int

    def __post_init__(self) -> None:
        """Refuse what no kernel is built for.

        Raises:
            ValueError: a size is off.

        """
        is_size = self.rows in (64, 128, 256) and self.channels in (16, 32, 64, 128, 256)
        if not (is_size and self.warps in (4, 8) and self.stages in range(1, 8)):
            raise ValueError(f"no kernel is built for {self}")


@dataclass(frozen=True, slots=True)
class Shape:
    """What a tile is chosen by: a convolution over ``height`` × ``width`` positions, ``channels`` of one group."""

    inputs: int
    channels: int
    kernel: int
    stride: int
    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.inputs}-{self.channels} {self.kernel}x{self.kernel}/{self.stride} {self.height}x{self.width}"


@dataclass(frozen=True, slots=True)
class Tiles:
    """Tiles for one device.

    Attributes:
        source: where they are from, for people.

    """

    source: str
    known: Mapping[str, Tile]

    def of(self, shape: Shape) -> Tile:
        """The tile for a shape: the table's, else one that is safe on every GPU of the last eight years."""
        return self.known.get(str(shape)) or default(shape)


def default(shape: Shape) -> Tile:
    """A tile that needs little shared memory and suits the shape roughly."""
    # What is computed for no channel is lost; so is what a narrow tile reads again and again.
    channels = min((128, 64, 32, 16), key=lambda size: -(-shape.channels // size) * size * (1 + 16 / size))
    rows = 64 if shape.height * shape.width < 128 else 128
    return Tile(rows, channels, 4 if rows * channels <= 64 * 128 else 8, 3)


def tiles_for(device: str, folder: Path = FOLDER) -> Tiles:
    """The table of a device model, by the name that its driver gives; defaults where there is none.

    Raises:
        EngineError: the table is broken.

    """
    path = folder / f"{slug(device)}.json"
    return read(path, device) if path.exists() else Tiles(f"defaults, for there is no table of {device}", {})


def read(path: Path, device: str) -> Tiles:
    """The table that :func:`write` wrote to a file for a device model.

    Raises:
        EngineError: there is no table there, it is broken, or of another device model.

    """
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        of, known = table.get("device", device), {shape: Tile(**tile) for shape, tile in table["tiles"].items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise EngineError(f"{path} is no table of tiles: make it anew with `lccl tune`") from error
    if of != device:
        raise EngineError(f"{path} is a table for {of}, not for {device}: make one with `lccl tune`")
    return Tiles(f"the table {path.name}", known)


def write(path: Path, device: str, tiles: Mapping[Shape, Tile], provenance: Mapping[str, Any]) -> None:
    """Write a table that :func:`read` reads."""
    known = {str(shape): asdict(tile) for shape, tile in tiles.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"device": device, **provenance, "tiles": known}, indent=1) + "\n", encoding="utf-8")
