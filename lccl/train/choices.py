"""From what somebody asks for to the network's input and the recipe: the defaults for thumbnails and photographs."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from lccl import provenance
from lccl.bundle.format import Bundle
from lccl.compiler import choose_device
from lccl.data import Dataset
from lccl.errors import LcclError
from lccl.networks import Architecture, build
from lccl.preprocessing import Preprocessing, Statistics
from lccl.train.attach import input_of
from lccl.train.export import SMALL, has_other_classes, network_input
from lccl.train.plain_weights import PlainNetwork
from lccl.train.recipe import PHOTOGRAPHS, Recipe, attached, continued, read_sizes, tuned

SIZES, SMALL_SIZES = (96, 320), (16, 320)
GROWS_FROM = 64  # coarse pixels teach much of a photograph in little time
USUAL_SIZES = "128:160"
STEPS, FEWEST_IMAGES = 15, 8
TUNED_EPOCHS = 15
BF16 = {"avx512_bf16", "amx_bf16"}
SHAPE = ("form", "placement", "gate_norm", "split")


@dataclass(frozen=True, slots=True)
class Choice:
    """What is settled before the data is read; ``given`` is what was asked for by name."""

    preprocessing: Preprocessing
    recipe: Recipe
    device: torch.device
    given: Mapping[str, Any]


def named(network: str | None, gate: str | None, shape: Mapping[str, Any], start: Bundle | None) -> Architecture:
    """The architecture; what is not named is as the start has it, or else as usual. A plain start gets the usual gates.

    Args:
        shape: further fields of the architecture; None where they are not named.

    Raises:
        ArchitectureError: there is no such network.

    """
    begun = start.architecture if start else Architecture("resnet20")
    kept = {name: getattr(begun, name) for name in SHAPE} if network in (None, begun.name) else {}
    asked = {name: value for name, value in shape.items() if value is not None}
    gates = gate or (begun.gate if begun.gate != "none" else "shared")
    return Architecture(network or begun.name, gate=gates, **(kept | asked))


def chosen(
    architecture: Architecture,
    start: Bundle | None,
    size: str | None,
    fit: str | None,
    device: str,
    given: Mapping[str, Any],
) -> Choice:
    """Settle how a network is trained.

    Args:
        start: what training begins from; its images' size and fit hold where no other is given.
        size: see :func:`lccl.train.recipe.read_sizes`.
        given: fields of the recipe, None where the default holds.

    Raises:
        LcclError: a size, fit, device or recipe that cannot be.

    """
    image_size = build(architecture).image_size
    large = image_size >= SMALL
    usual = str(start.preprocessing.size) if start else USUAL_SIZES if large else str(image_size)
    sizes = read_sizes(usual) if size is None else _sizes(size, large)
    if start is None:
        preprocessing = network_input(sizes[-1], fit or "crop")
    else:
        preprocessing = _fitted(start.preprocessing, sizes[-1], fit)
    target = choose_device(device)
    recipe = _recipe(large, target, given, sizes=(size or usual) if len(sizes) > 1 else "")
    return Choice(preprocessing, recipe, target, given)


def adapted(choice: Choice, dataset: Dataset, start: Bundle | None) -> Recipe:
    """The recipe, once it is known how many images there are and whether their classes are new."""
    recipe = fewer(choice, dataset)
    if start is None:
        return recipe
    if not has_other_classes(start, dataset):
        return continued(recipe)
    return tuned(recipe if choice.given["epochs"] else replace(recipe, epochs=TUNED_EPOCHS))


def fewer(choice: Choice, dataset: Dataset) -> Recipe:
    """The recipe with smaller batches where few photographs would make few steps, or few thumbnails none.

    A batch that was asked for stays.
    """
    recipe, images = choice.recipe, len(dataset.train) - 2 * (len(dataset.train) // 10)
    if choice.given["batch"] or (recipe.augmentation != "crops" and images >= recipe.batch):
        return recipe
    return replace(recipe, batch=max(2, min(recipe.batch, max(FEWEST_IMAGES, images // STEPS), images)))


def chosen_to_attach(
    plain: PlainNetwork,
    statistics: Statistics | None,
    size: str | None,
    fit: str | None,
    device: str,
    given: Mapping[str, Any],
) -> Choice:
    """Settle how a plain network is trained with gates; see :func:`chosen`.

    Raises:
        LcclError: a size, device or recipe that cannot be.

    """
    large = plain.network.image_size >= SMALL
    preprocessing = input_of(plain, statistics) or network_input(plain.network.image_size)
    sizes = [preprocessing.size] if size is None else _sizes(size, large)
    preprocessing = _fitted(preprocessing, sizes[-1], fit)
    target = choose_device(device)
    usual = given["lr"] or (PHOTOGRAPHS.lr if large else Recipe().lr) / 2
    recipe = _recipe(large, target, {**given, "lr": usual}, sizes=size if size and len(sizes) > 1 else "")
    return Choice(preprocessing, attached(recipe), target, given)


def _fitted(given: Preprocessing, size: int, fit: str | None) -> Preprocessing:
    """The same at another size, and with another fit if one is asked for."""
    if fit in (None, given.fit):
        return given.at(size)
    return replace(network_input(size, fit or "crop"), mean=given.mean, std=given.std)


def _recipe(large: bool, device: torch.device, given: Mapping[str, Any], *, sizes: str) -> Recipe:
    wanted = {name: value for name, value in given.items() if value is not None}
    base = replace(PHOTOGRAPHS, precision=usual_precision(device)) if large else Recipe()
    return replace(base, **wanted, sizes=sizes)


def usual_precision(device: torch.device) -> str:
    """bf16 where the processor multiplies it, else fp32."""
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if BF16 & set(provenance.machine()["flags"]) else "fp32"


def _sizes(text: str, large: bool) -> list[int]:
    sizes = read_sizes(text)
    least, most = SIZES if large else SMALL_SIZES
    first = GROWS_FROM if large and ":" in text else least
    if not (first <= sizes[0] and least <= sizes[-1] <= most):
        growing = f", and may grow from {GROWS_FROM}" if large else ""
        raise LcclError(f"this network takes images of {least} to {most} pixels a side{growing}, not {text}")
    return sizes
