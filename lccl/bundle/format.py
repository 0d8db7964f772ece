"""A trained model on disk: a folder with ``model.safetensors`` and ``bundle.json``; nothing in it is ever executed.

The hashes show damage, not origin: whoever can write the folder can write matching hashes too.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from lccl.bundle.int8 import INT8_WEIGHTS, Int8, check_int8, read_int8
from lccl.bundle.training_record import TrainingRecord
from lccl.errors import ArchitectureError, BundleError, DataError, LcclError, require
from lccl.networks import NETWORKS, Architecture, ResNet, build
from lccl.networks.lowering import network_shape
from lccl.networks.sidenet import SideNetSpec
from lccl.operating_points import OperatingPointTable
from lccl.plan.geometry import NetworkShape
from lccl.preprocessing import Preprocessing

FORMAT = "lccl-bundle"
FORMAT_VERSION, INT8_FORMAT_VERSION = 1, 2  # a bundle with int8 weights has the latter
WEIGHTS, DESCRIPTION = "model.safetensors", "bundle.json"
MAX_DESCRIPTION_BYTES = 16 << 20
MAX_WEIGHTS_BYTES = 4 << 30


@dataclass(frozen=True, slots=True, eq=False)
class Bundle:
    """A model with all that serving needs.

    Attributes:
        network: in evaluation mode, float32.
        labels: the classes' names, in the order of the logits.
        table: what it offers between accuracy and work.
        splits: sizes and digest of the two held-out parts of the training data, and what dealt them.
        training: how it was trained, its early exits, and the plain twin it is compared with.
        calibration: per operating point and layer, mean and spread of the skip ratio between images.
        self_test: what it answers to images drawn from a seed (:mod:`lccl.bundle.self_test`); empty where not recorded.
        int8: the same network in int8; None where it was not quantised.
        digest: SHA-256 over the description and the weights; empty until saved or loaded.

    """

    architecture: Architecture
    network: ResNet
    labels: tuple[str, ...]
    preprocessing: Preprocessing
    table: OperatingPointTable
    splits: Mapping[str, Any]
    training: TrainingRecord = field(default_factory=TrainingRecord)
    calibration: Mapping[str, Any] = field(default_factory=dict)
    self_test: Mapping[str, Any] = field(default_factory=dict)
    version: str = "1"
    int8: Int8 | None = None
    digest: str = ""

    @property
    def shape(self) -> NetworkShape:
        """What counts in its network; an engine that runs it has the same."""
        return network_shape(self.architecture, self.preprocessing.size, self.network.sidenets.specs)

    @property
    def held_out_by(self) -> str:
        """What dealt the held-out images: ``files``, or ``pixels`` in bundles from before that was noted."""
        return str(self.splits.get("by", "pixels"))

    def check_held_out(self, digest: str) -> None:
        """Refuse data whose held-out images are not the bundle's: among them may be some that it was trained on.

        Raises:
            DataError: they differ.

        """
        if self.splits.get("digest") != digest:
            raise DataError("this is not the data that the bundle was trained on: its held-out images differ")

    def in_precision(self, precision: str) -> "Bundle":
        """The bundle as an engine of that precision serves it: table, calibration and self-test are int8's for int8.

        It is not for saving. All other precisions have the points that were measured in fp32.

        Raises:
            BundleError: nothing was measured in int8.

        """
        if precision != "int8":
            return self
        if self.int8 is None or self.int8.table is None:
            todo = "lccl quantize and then lccl calibrate" if self.int8 is None else "lccl calibrate"
            raise BundleError(f"the bundle has no operating points measured in int8: run {todo} --precision int8")
        own = self.int8
        return replace(self, table=self.int8.table, calibration=own.calibration, self_test=own.self_test)

    def with_points(self, precision: str, table: OperatingPointTable, calibration: Mapping[str, Any]) -> "Bundle":
        """The bundle with operating points measured in a precision; those of the others stay."""
        if precision != "int8":
            # what int8 loses was measured at the settings of the points before
            int8 = self.int8 and replace(self.int8, losses={})
            return replace(self, table=table, calibration=calibration, int8=int8, digest="")
        if self.int8 is None:
            raise BundleError("the bundle has no int8 weights: run lccl quantize")
        return replace(self, int8=replace(self.int8, table=table, calibration=calibration, self_test={}), digest="")


def save(bundle: Bundle, folder: str | os.PathLike[str]) -> str:
    """Write a bundle and return its digest. All files are written beside the old ones, then replace them at once."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: _smallest(tensor) for name, tensor in _stored_tensors(bundle.network).items()}
    contents = {WEIGHTS: save_tensors(tensors)}
    if bundle.int8 is not None:
        contents[INT8_WEIGHTS] = save_tensors(bundle.int8.tensors())
    description = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION if bundle.int8 is None else INT8_FORMAT_VERSION,
        "version": bundle.version,
        "architecture": bundle.architecture.to_json(),
        "sidenets": [asdict(spec) for spec in bundle.network.sidenets.specs],
        "labels": list(bundle.labels),
        "preprocessing": bundle.preprocessing.to_json(),
        "operating_points": bundle.table.to_json(),
        "splits": dict(bundle.splits),
        "training": bundle.training.to_json(),
        "calibration": dict(bundle.calibration),
        "self_test": dict(bundle.self_test),
        "files": {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()},
        **({} if bundle.int8 is None else bundle.int8.to_json()),
    }
    digest = _digest(description)
    text = json.dumps(description | {"digest": digest}, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    contents[DESCRIPTION] = text.encode()
    for name, content in contents.items():
        with (folder / f"{name}.new").open("wb") as fresh:
            fresh.write(content)
            fresh.flush()
            os.fsync(fresh.fileno())
    for name in contents:
        (folder / f"{name}.new").replace(folder / name)
    if bundle.int8 is None:
        (folder / INT8_WEIGHTS).unlink(missing_ok=True)
    return digest


def load(folder: str | os.PathLike[str]) -> Bundle:
    """Read a bundle, checking its form, hashes, shapes and values.

    Raises:
        BundleError: with one sentence that says what is wrong.

    """
    folder = Path(folder)
    description = _read_description(folder)
    try:
        bundle = _described(description)
        expected = description["files"][WEIGHTS]
    except KeyError as missing:
        raise BundleError(f"{folder / DESCRIPTION} lacks {missing}") from missing
    except (LcclError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise BundleError(f"{folder / DESCRIPTION} is not usable: {error}") from error
    _fill(bundle.network, _read_weights(folder / WEIGHTS, expected), folder / WEIGHTS)
    return bundle if "int8" not in description else _with_int8(bundle, folder, description)


def _with_int8(bundle: Bundle, folder: Path, description: Mapping[str, Any]) -> Bundle:
    """The bundle with what it holds for int8, checked against its network."""
    tensors = _read_weights(folder / INT8_WEIGHTS, description["files"][INT8_WEIGHTS])
    try:
        int8 = read_int8(description, tensors)
        check_int8(int8, bundle.network, bundle.preprocessing)
        if int8.table is not None:
            _check_exact(int8.table, bundle.network)
        _check_self_test(int8.self_test, bundle.architecture.classes)
    except LcclError as error:
        raise BundleError(f"{folder} is not usable in int8: {error}") from error
    return replace(bundle, int8=int8)


def bundle_folder(word: str) -> Path | None:
    """The folder that a command was given, or None for a network by name.

    A network's name always means the network; a folder called like one is written with a separator, ``./resnet20``.

    Raises:
        BundleError: there is neither.

    """
    if word in NETWORKS:
        return None
    if not Path(word).is_dir():
        raise BundleError(f"{word!r} is neither a bundle's folder nor a network: use one of {', '.join(NETWORKS)}")
    return Path(word)


def version_of(folder: Path) -> str:
    """The version that a bundle gives itself.

    Raises:
        BundleError: its description is not readable.

    """
    return str(_read_description(folder).get("version", ""))


def check_files(folder: Path) -> None:
    """Compare a bundle's description and files with their hashes, without loading it.

    Raises:
        BundleError: one of them is damaged or missing.

    """
    files = _read_description(folder).get("files")
    if not isinstance(files, dict) or not files.keys() <= {WEIGHTS, INT8_WEIGHTS} or WEIGHTS not in files:
        raise BundleError(f"{folder / DESCRIPTION} does not list its files")
    for name, expected in files.items():
        try:
            with (folder / name).open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise BundleError(f"{folder / name} cannot be read: {error.strerror}") from error
        if found != expected:
            raise BundleError(f"{folder / name} is damaged or foreign: its hash does not match {DESCRIPTION}")


def _described(description: Mapping[str, Any]) -> Bundle:
    """The bundle that a description describes, its network with fresh weights.

    Raises:
        KeyError: a part is missing.
        LcclError, TypeError, ValueError: a part is wrong.

    """
    architecture = Architecture.from_json(description["architecture"])
    network = build(architecture)
    sidenets = description.get("sidenets", [])  # bundles from before there were any do not say
    if not isinstance(sidenets, list):
        raise ArchitectureError("sidenets are a list")
    network.add_sidenets([SideNetSpec.from_json(entry) for entry in sidenets])
    bundle = Bundle(
        architecture=architecture,
        network=network.eval().requires_grad_(False),
        labels=description["labels"],
        preprocessing=Preprocessing.from_json(description["preprocessing"]),
        table=OperatingPointTable.from_json(description["operating_points"]),
        splits=description["splits"],
        training=TrainingRecord.from_json(description["training"]),
        calibration=description["calibration"],
        self_test=description.get("self_test", description.get("canary", {})),  # its name before version 0.2
        version=description["version"],
        digest=description["digest"],
    )
    labels, files, classes = description["labels"], description["files"], architecture.classes
    texts = [*labels, bundle.version] if isinstance(labels, list) else [labels]
    parts = (bundle.splits, bundle.calibration)
    wanted = [WEIGHTS, INT8_WEIGHTS] if "int8" in description else [WEIGHTS]
    is_int8 = description["format_version"] == INT8_FORMAT_VERSION
    require(
        BundleError,
        (isinstance(files, dict) and set(files) == {*wanted}, f"files must list exactly {' and '.join(wanted)}"),
        (("int8" in description) == is_int8, f"int8 and format version {INT8_FORMAT_VERSION} go together"),
        (
            isinstance(labels, list) and all(isinstance(text, str) for text in texts),
            "labels are a list of texts, and the version is a text",
        ),
        (len(texts) - 1 == classes, f"it names {len(texts) - 1} labels for {classes} classes"),
        (all(isinstance(part, dict) for part in parts), "splits and calibration are objects"),
    )
    _check_exact(bundle.table, network)
    try:
        "".join(texts).encode()
    except UnicodeEncodeError as error:
        raise BundleError(f"it has labels or a version that are no text: {error}") from error
    _check_self_test(bundle.self_test, classes)
    return replace(bundle, labels=tuple(labels))


def _check_exact(table: OperatingPointTable, network: ResNet) -> None:
    """A table has a threshold for every gated convolution and a confidence for every SideNet."""
    exact, gated, exits = table.exact.setting, len(network.skip_convs), len(network.sidenets)
    require(
        BundleError,
        (
            len(exact.thresholds) == gated,
            f"it gives {len(exact.thresholds)} thresholds for {gated} gated convolutions",
        ),
        (
            len(exact.exit_confidence) == exits,
            f"it gives {len(exact.exit_confidence)} exit confidences for {exits} SideNets",
        ),
    )


def _check_self_test(self_test: Mapping[str, Any], classes: int) -> None:
    """A self-test is empty, or a seed and finite logits [images, classes] per operating point."""
    if self_test == {}:
        return
    try:
        if not isinstance(self_test["seed"], int) or not 0 <= self_test["seed"] < 1 << 32:
            raise TypeError("it needs a seed")
        for rows in self_test["logits"].values():
            logits = np.array(rows, dtype=np.float64)
            if logits.shape[1:] != (classes,) or not len(logits) or not np.isfinite(logits).all():
                raise ValueError("it needs finite logits of every class")
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError) as error:
        raise BundleError("it has an unreadable self-test: record it again with lccl self-test") from error


def _read_description(folder: Path) -> dict[str, Any]:
    file = folder / DESCRIPTION
    content = _read(file, MAX_DESCRIPTION_BYTES)
    try:
        description = json.loads(content)
        digest = _digest(description) if isinstance(description, dict) else None
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{file} is not readable JSON") from error
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise BundleError(f"{file} does not describe an LCCL bundle")
    found = description.get("format_version")
    require(
        BundleError,
        (
            found in (FORMAT_VERSION, INT8_FORMAT_VERSION),
            f"{file} has format version {found!r}; this is {FORMAT_VERSION}, or {INT8_FORMAT_VERSION} with int8",
        ),
        (digest == description.get("digest"), f"{file} is damaged or was edited: its digest does not match"),
    )
    return description


def _read_weights(file: Path, expected: object) -> dict[str, Tensor]:
    content = _read(file, MAX_WEIGHTS_BYTES)
    if hashlib.sha256(content).hexdigest() != expected:
        raise BundleError(f"{file} is damaged or foreign: its hash does not match bundle.json")
    try:
        return load_tensors(content)
    except (SafetensorError, ValueError, KeyError) as error:
        raise BundleError(f"{file} is not a safetensors file: {error}") from error


def _read(file: Path, limit: int) -> bytes:
    try:
        if file.stat().st_size > limit:
            raise BundleError(f"{file} is larger than {limit >> 20} MiB")
        return file.read_bytes()
    except OSError as error:
        raise BundleError(f"{file} cannot be read: {error.strerror}") from error


def _fill(network: ResNet, tensors: dict[str, Tensor], file: Path) -> None:
    wanted = _stored_tensors(network)
    strange = sorted(set(wanted) ^ set(tensors))
    if strange:
        kind = "lacks" if strange[0] in wanted else "has an unknown tensor"
        raise BundleError(f"{file} does not fit its architecture: it {kind} {strange[0]}")
    for name, tensor in tensors.items():
        shape, values, is_floating = wanted[name].shape, tensor.float(), tensor.is_floating_point()
        require(
            BundleError,
            (tensor.shape == shape, f"{file}: {name} is {list(tensor.shape)}, not {list(shape)}"),
            (is_floating and torch.isfinite(values).all(), f"{file}: {name} must hold finite floating numbers"),
            (
                not name.endswith("running_var") or (values >= 0).all(),
                f"{file}: {name} holds a negative variance",
            ),
            (not name.endswith("temperature") or (values > 0).all(), f"{file}: {name} must lie above 0"),
        )
    network.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, strict=False)


def _stored_tensors(network: ResNet) -> dict[str, Tensor]:
    """All that the network needs for evaluation; the counters of its normalisations are not part of it."""
    state = network.state_dict()
    return {name: value.contiguous() for name, value in state.items() if not name.endswith("num_batches_tracked")}


def _smallest(tensor: Tensor) -> Tensor:
    """The same numbers, of two dimensions or more, in half precision where that loses none of them."""
    half = tensor.half()
    return half if tensor.dim() > 1 and torch.equal(half.to(tensor.dtype), tensor) else tensor


def _digest(description: Mapping[str, Any]) -> str:
    """SHA-256 over all of a description but the digest itself, sorted and unspaced."""
    covered = {name: value for name, value in description.items() if name != "digest"}
    canonical = json.dumps(covered, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()
