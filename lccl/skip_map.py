"""Where a network computed: its masks as arrays, summed over the image, and drawn on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lccl.errors import InputError
from lccl.plan.geometry import NetworkShape
from lccl.plan.run import RunOptions
from lccl.request import QualityRequest, resolve

if TYPE_CHECKING:
    from lccl.bundle.format import Bundle
    from lccl.engines.base import Engine

COVER = (76, 20, 140)  # drawn over skipped positions
LEAST_SIDE = 256  # pixels of a drawn map


@dataclass(frozen=True, slots=True, eq=False)
class LayerMask:
    """What one SkipConv did with one image.

    Attributes:
        mask: uint8 [G, height, width], 1 where the gate let the convolution be computed, for each of its G groups.
        kept: cells computed (a position's channels count one by one).
        cells: all of them.
        macs: what all of them would take.

    """

    name: str
    mask: NDArray[np.uint8]
    kept: int
    cells: int
    macs: int

    @property
    def skip_ratio(self) -> float:
        """Share of the cells that was not computed."""
        return 1 - self.kept / self.cells

    def kept_share(self) -> NDArray[np.float64]:
        """Share of each position's cells that was computed, float64 [height, width]."""
        share: NDArray[np.float64] = self.mask.mean(axis=0, dtype=np.float64)
        return share


@dataclass(frozen=True, slots=True, eq=False)
class SkipMap:
    """What a network's SkipConvs did with one image.

    Attributes:
        size: height and width of the network's input.
        layers: in the order they run; none in a plain twin.

    """

    size: tuple[int, int]
    layers: tuple[LayerMask, ...]

    @classmethod
    def of(
        cls, bundle: Bundle, image: Image.Image, quality: QualityRequest | None = None, engine: Engine | None = None
    ) -> SkipMap:
        """Run an image as a request has it and say where it was computed.

        Args:
            bundle: as :func:`lccl.load` returns it.
            image: of any size and mode; what the network sees of it is cut out and scaled.
            quality: a target or a floor; without one exact.
            engine: the compiled bundle; without it the bundle is compiled here, which takes longer than the run.

        Raises:
            QualityError: the model does not offer that.
            EngineError: no engine runs here.

        """
        if engine is None:
            from lccl.compiler import compile_network

            engine = compile_network(bundle)
        pixels = bundle.preprocessing.apply(image)
        point = resolve(bundle.in_precision(engine.precision).table, quality or QualityRequest()).wanted
        output = engine.run(pixels[None], RunOptions.of([point.setting], want_masks=True))
        assert output.masks is not None
        return cls.of_masks(engine.shape, pixels.shape[:2], [mask[0] for mask in output.masks], output.kept[0])

    @classmethod
    def of_masks(
        cls, shape: NetworkShape, size: tuple[int, ...], masks: Sequence[NDArray[np.uint8]], kept: NDArray[np.int64]
    ) -> SkipMap:
        """Name one image's masks and weigh them.

        Args:
            shape: of the network that ran.
            size: height and width of its input.
            masks: per SkipConv uint8 [G, height, width], 1 where kept.
            kept: int64 [L], cells kept.

        """
        height, width = size
        layers = (
            LayerMask(layer.name, mask, count, layer.convolution.cells, layer.convolution.macs)
            for layer, mask, count in zip(shape.layers, masks, kept.tolist(), strict=True)
        )
        return cls((height, width), tuple(layers))

    @property
    def skip_ratio(self) -> float:
        """Share of all SkipConvs' cells that was not computed, weighted by MACs; 0 without SkipConvs."""
        total = sum(layer.macs for layer in self.layers)
        return sum(layer.skip_ratio * layer.macs for layer in self.layers) / total if total else 0.0

    def layer(self, name: str) -> LayerMask:
        """The layer of that name.

        Raises:
            InputError: there is none.

        """
        for layer in self.layers:
            if layer.name == name:
                return layer
        known = f"use one of {', '.join(layer.name for layer in self.layers)}" if self.layers else "this model has none"
        raise InputError(f"no gated layer {name[:64]!r}: {known}")

    def kept_share(self, layer: str | None = None) -> NDArray[np.float64]:
        """How much was computed at each pixel of the network's input, float64 [H, W], 0..1.

        A position stands for the pixels that it covers when the layer's map is laid over the input.

        Args:
            layer: a SkipConv's name; without one all of them together, weighted by MACs (1 where there are none).

        Raises:
            InputError: no such layer.

        """
        chosen = self.layers if layer is None else (self.layer(layer),)
        total = sum(each.macs for each in chosen)
        summed = np.zeros(self.size)
        for each in chosen:
            summed += each.macs / total * _spread(each.kept_share(), self.size)
        return summed if chosen else np.ones(self.size)

    def draw(self, image: Image.Image, layer: str | None = None, opacity: float = 0.8) -> Image.Image:
        """Cover what was skipped on an image: bright where the network computed, violet where it did not.

        Args:
            image: what the network saw, in any size that shows its square.
            layer: as in :meth:`kept_share`.
            opacity: of the cover where everything was skipped, 0..1.

        Returns:
            RGB, at least 256 pixels wide and high; smaller images are enlarged by a whole factor.

        Raises:
            InputError: no such layer, or an opacity beyond 0..1.

        """
        if not 0 <= opacity <= 1:
            raise InputError(f"opacity must lie in 0..1, not {opacity}")
        share = self.kept_share(layer)
        factor = -(-LEAST_SIDE // min(image.size))
        width, height = image.width * factor, image.height * factor
        pixels = np.asarray(image.convert("RGB").resize((width, height), Image.Resampling.NEAREST), dtype=np.float64)
        cover = opacity * (1 - _spread(share, (height, width)))[:, :, None]
        return Image.fromarray(np.rint(pixels * (1 - cover) + np.array(COVER) * cover).astype(np.uint8))


def _spread(values: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.float64]:
    """Lay a map over a larger one: [h, w] → [H, W], every pixel the value of the position that covers it."""
    (height, width), (rows, columns) = size, values.shape
    spread: NDArray[np.float64] = values[np.arange(height) * rows // height][:, np.arange(width) * columns // width]
    return spread
