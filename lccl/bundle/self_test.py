"""A model's self-test: its answers to images drawn from a seed, which a server compares with its own before serving."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lccl.bundle.format import Bundle
from lccl.engines.base import Engine
from lccl.errors import BundleError
from lccl.plan.run import NEVER, RunOptions, Setting

SEED, IMAGES = 0, 2
COARSE = 5  # the images are noise of this many points a side, enlarged, so that they are smooth like photographs
# Largest difference that is taken for rounding, relative to the largest logit. At a point past exact, rounding
# moves gates across their thresholds.
TOLERANCE = {
    "fp64": (1e-3, 0.1), "fp32": (1e-3, 0.1), "fp16": (0.05, 0.25), "bf16": (0.15, 0.35),
    "int8": (1e-5, 1e-5),  # every engine gives the same bits, of which six digits are recorded
}  # fmt: skip


def draw(seed: int, images: int, height: int, width: int) -> NDArray[np.uint8]:
    """Images from a seed, uint8 [images, height, width, 3]; the same on every machine and version of NumPy."""
    random = np.random.RandomState(seed)
    coarse = random.randint(0, 256, (images, COARSE, COARSE, 3))
    rows = np.linspace(0, COARSE - 1, height).round().astype(int)
    columns = np.linspace(0, COARSE - 1, width).round().astype(int)
    fine = random.randint(-16, 17, (images, height, width, 3))
    drawn: NDArray[np.uint8] = np.clip(coarse[:, rows][:, :, columns] + fine, 0, 255).astype(np.uint8)
    return drawn


def images_for(engine: Engine, bundle: Bundle) -> NDArray[np.uint8]:
    """The self-test's images for a model, uint8 [IMAGES, height, width, 3]."""
    image = engine.plan.image
    return draw(int(bundle.self_test.get("seed", SEED)), IMAGES, image.height, image.width)


def record(bundle: Bundle, engine: Engine) -> dict[str, Any]:
    """What the bundle stores: answers at exact, at the last point's thresholds and at every exit.

    A point at which a barely trained network has no finite answer is left out.

    Args:
        engine: the reference engine of the bundle.

    """
    answers = {name: _run(engine, bundle, setting) for name, setting in _settings(bundle).items()}
    finite = {name: logits for name, logits in answers.items() if np.isfinite(logits).all()}
    return {
        "seed": SEED,
        "logits": {name: [[float(f"{value:.6g}") for value in row] for row in rows] for name, rows in finite.items()},
    }


def check(engine: Engine, bundle: Bundle) -> NDArray[np.floating]:
    """Compare an engine's answers with the recorded ones; a bundle without a record needs finite ones only.

    Returns:
        the engine's logits at exact, [IMAGES, classes].

    Raises:
        BundleError: they differ by more than rounding.

    """
    recorded: Mapping[str, Any] = bundle.self_test.get("logits", {})
    exact: NDArray[np.floating] | None = None
    for name, setting in _settings(bundle).items():
        logits = _run(engine, bundle, setting)
        exact = logits if exact is None else exact
        if not np.isfinite(logits).all():
            raise BundleError(f"the self-test's logits at {name} are not finite")
        if name in recorded:
            wanted = np.array(recorded[name], dtype=np.float64)
            if wanted.shape != logits.shape:
                raise BundleError(f"the self-test's record at {name} is {wanted.shape}, not {logits.shape}")
            off = float(np.abs(logits - wanted).max() / np.abs(wanted).max())
            if not off <= TOLERANCE[engine.precision][int(any(setting.thresholds))]:
                raise BundleError(f"the self-test's logits at {name} differ by {off:.2g} of their size")
    assert exact is not None
    return exact


def _settings(bundle: Bundle) -> dict[str, Setting]:
    """What to run the images under: no image leaves early, or all by the same exit."""
    exact, last = bundle.table.points[0], bundle.table.points[-1]
    exits = len(exact.setting.exit_confidence)
    settings = {str(point.name): replace(point.setting, exit_confidence=(NEVER,) * exits) for point in (exact, last)}
    for number in range(exits):
        only_here = tuple(NEVER * (number != other) for other in range(exits))
        settings[f"exit {number}"] = replace(exact.setting, exit_confidence=only_here)
    return settings


def _run(engine: Engine, bundle: Bundle, setting: Setting) -> NDArray[np.floating]:
    return engine.run(images_for(engine, bundle), RunOptions.of([setting] * IMAGES)).logits
