"""The models that are served: name and version → loaded bundle and engine."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lccl.controls import Controls
from lccl.errors import BundleError
from service.errors import UnknownModelError

if TYPE_CHECKING:
    from lccl.bundle import Bundle
    from lccl.engines.base import Engine

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True, eq=False)
class ServedModel:
    """A bundle and the engine that runs it, under the name that clients use."""

    name: str
    bundle: Bundle
    engine: Engine


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """What models are compiled for; the fields are :func:`lccl.compile`'s."""

    engine: str = "auto"
    device: str = "auto"
    precision: str = "fp32"
    threads: int = 0
    instruction_set: str = "auto"


class Registry:
    """Loads bundles and finds them by name."""

    def __init__(self, default: str | None = None) -> None:
        self._models: dict[str, ServedModel] = {}
        self._default = default

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(sorted(self._models.values(), key=lambda model: model.name))

    def __len__(self) -> int:
        return len(self._models)

    def load_folder(self, folder: Path, choice: EngineChoice) -> None:
        """Load every bundle in a folder, warm it up and see a canary's answer.

        Raises:
            BundleError: none there, one that cannot be used, a bad name, or no such default model.
            EngineError: the engine, device or precision is not to be had.

        """
        homes = sorted(home.parent for home in folder.glob("*/bundle.json"))
        if not homes:
            raise BundleError(f"no bundles in {folder}: each is a folder with bundle.json and model.safetensors")
        for home in homes:
            self.load(home, choice)
        if self._default is not None and self._default not in self._models:
            raise BundleError(f"the default model {self._default!r} is not among {', '.join(self._models)}")

    def load(self, home: Path, choice: EngineChoice) -> ServedModel:
        """Load one bundle under its folder's name."""
        from lccl.bundle import load
        from lccl.compiler import compile as make_engine

        if not NAME.fullmatch(home.name):
            raise BundleError(f"{home.name!r} is no model name: use letters, digits, '.', '_' and '-'")
        bundle = load(home)
        engine = make_engine(
            bundle,
            choice.device,
            choice.precision,
            choice.engine,
            threads=choice.threads,
            instruction_set=choice.instruction_set,
        )
        model = ServedModel(home.name, bundle, engine)
        _warm_up(model)
        self._models[model.name] = model
        return model

    def find(self, name: str | None) -> ServedModel:
        """The model of that name; for None the default one.

        Raises:
            UnknownModelError: there is none.

        """
        wanted = name if name is not None else self._default or min(self._models, default="")
        if wanted in self._models:
            return self._models[wanted]
        known = ", ".join(sorted(self._models)) or "none"
        raise UnknownModelError(f"no model {wanted[:64]!r} is served here; there is {known}")


def _warm_up(model: ServedModel) -> None:
    """Run a batch of one and a full one on noise, at every operating point, and look at what comes back."""
    plan, table = model.engine.plan, model.bundle.table
    random = np.random.default_rng(0)
    for count in (1, model.engine.batch_limit):
        images = random.integers(0, 256, (count, plan.image.height, plan.image.width, 3), dtype=np.uint8)
        for point in (table.points[0], table.points[-1]):
            output = model.engine.run(images, Controls.uniform(count, point.thresholds, point.norm_set))
            if output.logits.shape != (count, plan.classes) or not np.isfinite(output.logits).all():
                raise BundleError(f"{model.name} does not answer its canary with finite logits")
