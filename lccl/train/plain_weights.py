"""Reading a plain ResNet trained elsewhere: safetensors with torchvision's names or this project's."""

import copy
import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from lccl.bundle import format as bundles
from lccl.bundle.format import MAX_WEIGHTS_BYTES, Bundle
from lccl.errors import ArchitectureError, WeightsError, require
from lccl.networks import FORMS, NETWORKS, Architecture, ResNet, build
from lccl.networks.resnet import IdentityShortcut

PREFIXES = ("module.", "model.", "_orig_mod.")
FLOATS = ("F64", "F32", "F16", "BF16")
COUNTER = "num_batches_tracked"
CONVERT = """write them as safetensors where your model is loaded:
  from safetensors.torch import save_file
  save_file(model.state_dict(), "model.safetensors")"""
Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class PlainNetwork:
    """A plain network that a gated one can start from.

    Attributes:
        network: in evaluation mode, float32, without gates.
        architecture: with gate ``none``.
        source: the name of the file or bundle.
        digest: SHA-256 of the file, or the bundle's digest.
        bundle: the bundle it was read from, with labels and preprocessing; None for a bare file.

    """

    network: ResNet
    architecture: Architecture
    source: str
    digest: str
    bundle: Bundle | None = None


def read_plain(path: Path, name: str | None = None, *, centred: bool = False) -> PlainNetwork:
    """Read a plain network from a ``.safetensors`` file or a bundle's folder.

    The names of the tensors may be torchvision's (timm's are the same) or this project's, all with a prefix that
    wrappers add. Which network it is follows from their shapes. Nothing is loaded before every shape fits.

    Args:
        name: the network it must be; without it any of this project's.
        centred: its type-A shortcuts put new channels on both sides of the old ones, not behind them; shapes cannot
            tell. The channels are reordered, which leaves the logits as they were.

    Raises:
        WeightsError: the file is none, holds no plain ResNet of this project's, or values that are not finite.
        BundleError: the bundle is broken.
        ArchitectureError: there is no network of that name.

    """
    if name is not None and name not in NETWORKS:
        raise ArchitectureError(f"unknown network {name!r}: use one of {', '.join(NETWORKS)}")
    plain = _from_bundle(path, name) if path.is_dir() else _from_file(path, name)
    if centred:
        shortcuts = [module for module in plain.network.modules() if isinstance(module, IdentityShortcut)]
        widening = any(shortcut.new_channels for shortcut in shortcuts)
        if plain.bundle is not None or plain.architecture.form != "post" or not widening:
            raise WeightsError(f"{path} has no shortcuts that could be centred: only weights of other CIFAR ResNets do")
        _reorder(plain.network)
    return plain


def _from_bundle(folder: Path, name: str | None) -> PlainNetwork:
    bundle = bundles.load(folder)
    held = bundle.architecture.name
    require(
        WeightsError,
        (bundle.architecture.gate == "none", f"{folder} is an LCCL network already: give a plain one (gate none)"),
        (name in (None, held), f"{folder} holds a {held}, not a {name}"),
    )
    network = copy.deepcopy(bundle.network)
    network.add_sidenets([])
    return PlainNetwork(network, bundle.architecture, folder.name, bundle.digest, bundle)


def _from_file(file: Path, name: str | None) -> PlainNetwork:
    if file.suffix != ".safetensors":
        raise WeightsError(f"{file} is no .safetensors file, and pickled weights are never opened: {CONVERT}")
    try:
        if file.stat().st_size > MAX_WEIGHTS_BYTES:
            raise WeightsError(f"{file} is larger than {MAX_WEIGHTS_BYTES >> 20} MiB: that is no ResNet")
        with file.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        with safe_open(file, "pt") as stored:
            return _from_tensors(file, stored, name, digest)
    except OSError as error:
        raise WeightsError(f"{file} cannot be read: {error.strerror or error}") from error
    except SafetensorError as error:
        raise WeightsError(f"{file} is not a safetensors file ({error}): {CONVERT}") from error


def _from_tensors(file: Path, stored: Any, name: str | None, digest: str) -> PlainNetwork:
    keys = _canonical_keys(file, stored.keys())
    shapes = {key: tuple(stored.get_slice(where).get_shape()) for key, where in keys.items()}
    architecture, names = _recognise(file, shapes, name)
    _check_timm(file, architecture.name)
    network = build(architecture)
    state = network.state_dict()
    for key, where in keys.items():
        kind, tensor = stored.get_slice(where).get_dtype(), stored.get_tensor(where).float()
        require(
            WeightsError,
            (kind in FLOATS, f"{file}: {key} must hold floating numbers, not {kind}"),
            (torch.isfinite(tensor).all(), f"{file}: {key} holds values that are not finite"),
            (not key.endswith("running_var") or (tensor >= 0).all(), f"{file}: {key} holds a negative variance"),
        )
        state[names[key]] = tensor
    network.load_state_dict(state)
    return PlainNetwork(network.eval().requires_grad_(False), architecture, file.name, digest)


def _check_timm(file: Path, name: str) -> None:
    """Some of timm's variants have a plain network's tensors; what it stores beside them tells them apart."""
    beside = file.with_name("config.json")
    try:
        config = json.loads(beside.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    called = config.get("architecture", name) if isinstance(config, dict) else name
    if called != name:
        raise WeightsError(f"{beside} calls it a {str(called)[:80]}, whose arithmetic is not that of a {name}")


def _canonical_keys(file: Path, stored: list[str]) -> dict[str, str]:
    """Where each tensor is stored, by its name without what wrappers put before it and with ``fc`` as classifier."""
    cut = 0
    while prefix := next((p for p in PREFIXES if stored and all(key[cut:].startswith(p) for key in stored)), ""):
        cut += len(prefix)
    keys: dict[str, str] = {}
    for key in stored:
        short = re.sub(r"^linear\.", "fc.", key[cut:])
        if short in keys:
            raise WeightsError(f"{file} has two classifiers, fc and linear: keep one")
        if not short.endswith(COUNTER):
            keys[short] = key
    return keys


def _recognise(file: Path, shapes: Mapping[str, Shape], name: str | None) -> tuple[Architecture, dict[str, str]]:
    """The one network whose tensors have these names and shapes, and its names by the file's."""
    if any(".gate." in key for key in shapes):
        raise WeightsError(f"{file} is an LCCL network already: give a plain one (gate none)")
    own = any(key.startswith("stem_conv.") for key in shapes)
    classifier = "classifier.weight" if own else "fc.weight"
    if not shapes.get(classifier):
        raise WeightsError(f"{file} lacks {classifier}, the classifier of a ResNet")
    others = []
    for candidate in _candidates(name, shapes[classifier][0], own):
        if candidate.shapes == shapes:
            return candidate.architecture, candidate.names
        others.append(candidate)
    if not others:
        raise WeightsError(
            f"{file} has torchvision's names, but a {name} is of the pre-activation form, which they lack"
        )
    nearest = min(others, key=lambda candidate: len(candidate.shapes.items() ^ shapes.items()))
    raise WeightsError(f"{file} is no {name or 'network of this project'}: {_difference(nearest, shapes)}")


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A plain network as a file would hold it: shapes by the file's names, and its own names by these."""

    architecture: Architecture
    shapes: dict[str, Shape]
    names: dict[str, str]


def _candidates(name: str | None, classes: int, own: bool) -> Iterator[_Candidate]:
    for known in NETWORKS if name is None else [name]:
        for form in FORMS[known] if own else set(FORMS[known]) - {"pre"}:  # torchvision names no pre-activation network
            architecture = Architecture(known, form, "none", classes)
            with torch.device("meta"):
                network = build(architecture)
            state = {key: value for key, value in network.state_dict().items() if not key.endswith(COUNTER)}
            modules = {} if own else torchvision_names(network)
            parts = {key: key.rpartition(".") for key in state}
            names = {key if own else f"{modules[module]}.{leaf}": key for key, (module, _, leaf) in parts.items()}
            yield _Candidate(architecture, {key: tuple(state[names[key]].shape) for key in names}, names)


def torchvision_names(network: ResNet) -> dict[str, str]:
    """What torchvision calls the modules of a post-activation network: ``blocks.2.conv1.norm`` → ``layer2.0.bn1``.

    A stage begins where the blocks' width changes. Source: torchvision/models/resnet.py.
    """
    names = {"stem_conv": "conv1", "stem_norm": "bn1", "classifier": "fc"}
    stage, position, width = 0, 0, 0
    for index, block in enumerate(network.blocks):
        widest = max(module.out_channels for module in block.modules() if isinstance(module, nn.Conv2d))
        stage, position = (stage, position + 1) if widest == width else (stage + 1, 0)
        width, theirs = widest, f"layer{stage}.{position}"
        for number in (1, 2, 3):
            names[f"blocks.{index}.conv{number}.conv"] = f"{theirs}.conv{number}"
            names[f"blocks.{index}.conv{number}.norm"] = f"{theirs}.bn{number}"
        names[f"blocks.{index}.shortcut.conv"] = f"{theirs}.downsample.0"
        names[f"blocks.{index}.shortcut.norm"] = f"{theirs}.downsample.1"
    return names


def _reorder(network: ResNet) -> None:
    """Put the channels of every stage in the order that shortcuts with new channels behind the old ones give them."""
    state = network.state_dict()
    order = torch.arange(len(state["stem_conv.weight"]))  # what the file calls each channel
    for index, block in enumerate(network.blocks):
        first = state[f"blocks.{index}.conv1.conv.weight"]
        first.copy_(first[:, order])
        if isinstance(block.shortcut, IdentityShortcut) and block.shortcut.new_channels:
            side, old = block.shortcut.new_channels // 2, len(order)
            order = torch.cat([order + side, torch.arange(side), torch.arange(old + side, old + 2 * side)])
        last = f"blocks.{index}.conv{3 if f'blocks.{index}.conv3.conv.weight' in state else 2}."
        for key, tensor in state.items():
            if key.startswith(last) and tensor.ndim:
                tensor.copy_(tensor[order])
    classifier = state["classifier.weight"]
    classifier.copy_(classifier[:, order])


def _difference(nearest: _Candidate, shapes: Mapping[str, Shape]) -> str:
    """What keeps a file from being the network it is nearest to, in one sentence."""
    name, wanted = nearest.architecture.name, nearest.shapes
    reshaped = next((key for key in wanted if key in shapes and shapes[key] != wanted[key]), None)
    if reshaped:
        both = (shapes[reshaped], wanted[reshaped])
        have, want = (" × ".join(map(str, shape)) if math.prod(shape) else "empty" for shape in both)
        return f"{reshaped} is {have}, where the nearest, {name}, has {want}"
    unknown = next((key for key in shapes if key not in wanted), None)
    if (
        unknown
        and ("downsample" in unknown or "shortcut" in unknown)
        and not any("downsample" in key for key in wanted)
    ):
        return f"its shortcuts hold convolutions (type B), where those of {name} are strided identities (type A)"
    if unknown:
        return (
            f"it has {unknown[:80]}, which the nearest, {name}, does not; variants with another stem, "
            "pooling, attention or normalisation have other arithmetic"
        )
    return f"it lacks {next(key for key in wanted if key not in shapes)} of the nearest, {name}"
