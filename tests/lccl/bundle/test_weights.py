"""Weights that are not those of a bundle, or no sound ones, are refused in one sentence."""

import pickle

import pytest
import torch
from safetensors.torch import load_file
from safetensors.torch import save as tensor_bytes

from lccl.bundle import format as bundles
from tests.lccl.bundle.edits import WEIGHTS, refused, write_weights


def test_truncated_weights_are_refused(folder):
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[:-1])
    refused(folder, "damaged or foreign")


def test_one_flipped_bit_is_refused(folder):
    content = bytearray((folder / WEIGHTS).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / WEIGHTS).write_bytes(content)
    refused(folder, "damaged or foreign")


class Executed:
    """Unpickling this would raise."""

    def __reduce__(self):
        return eval, ("1 / 0",)


@pytest.mark.parametrize(
    "content", [pickle.dumps({"weight": [1.0]}), pickle.dumps(Executed()), b"", b"\x00" * 8, b"\xff" * 64, b"{}" * 40]
)
def test_weights_in_another_format_are_refused_and_never_executed(folder, content):
    write_weights(folder, content)
    refused(folder, "not a safetensors file")


def test_truncated_weights_with_a_matching_hash_are_refused(folder):
    write_weights(folder, (folder / WEIGHTS).read_bytes()[:-4])
    refused(folder, "not a safetensors file")


def change_tensors(folder, change):
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    write_weights(folder, tensor_bytes(tensors))


@pytest.mark.parametrize("name", ["stem_conv.weight", "blocks.0.conv1.gate.norm.running_var", "classifier.bias"])
def test_a_missing_tensor_is_named(folder, name):
    change_tensors(folder, lambda tensors: tensors.pop(name))
    refused(folder, f"lacks {name}")


def test_an_unknown_tensor_is_named(folder):
    change_tensors(folder, lambda tensors: tensors.update({"extra": torch.zeros(1)}))
    refused(folder, "has an unknown tensor extra")


def test_a_tensor_of_another_shape_is_named(folder):
    change_tensors(folder, lambda tensors: tensors.update({"classifier.weight": torch.zeros(10, 63)}))
    refused(folder, r"classifier.weight is \[10, 63\], not \[10, 64\]")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["blocks.3.conv2.conv.weight", "stem_norm.running_mean"])
def test_a_weight_that_is_not_finite_is_named(folder, name, value):
    change_tensors(folder, lambda tensors: tensors[name].view(-1)[3:4].fill_(value))
    refused(folder, f"{name} must hold finite")


def test_a_float64_weight_beyond_float32_is_named(folder):
    change_tensors(
        folder, lambda tensors: tensors.update({"classifier.bias": torch.full((10,), 1e300, dtype=torch.float64)})
    )
    refused(folder, "classifier.bias must hold finite")


def test_whole_numbers_as_weights_are_refused(folder):
    change_tensors(folder, lambda tensors: tensors.update({"classifier.bias": torch.zeros(10, dtype=torch.int64)}))
    refused(folder, "classifier.bias must hold finite floating numbers")


def test_a_negative_variance_is_named(folder):
    change_tensors(folder, lambda tensors: tensors["stem_norm.running_var"][5:6].fill_(-0.01))
    refused(folder, "stem_norm.running_var holds a negative variance")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_of_half_precision_are_taken_as_float32(folder, dtype):
    tensors = {name: tensor.to(dtype) for name, tensor in load_file(folder / WEIGHTS).items()}
    write_weights(folder, tensor_bytes(tensors))
    loaded = bundles.load(folder).network
    assert loaded.classifier.weight.dtype == torch.float32
    assert torch.equal(loaded.classifier.weight, tensors["classifier.weight"].float())


def test_what_half_precision_holds_is_stored_in_it_and_nothing_else(folder):
    bundle = bundles.load(folder)
    with torch.no_grad():
        bundle.network.classifier.weight.copy_(bundle.network.classifier.weight.half().float())
        bundle.network.stem_conv.weight[0, 0, 0, 0] = 1 + 2**-20
    bundles.save(bundle, folder)
    stored = load_file(folder / WEIGHTS)
    assert stored["classifier.weight"].dtype == torch.float16
    assert stored["stem_conv.weight"].dtype == stored["stem_norm.weight"].dtype == torch.float32
    loaded, kept = bundles.load(folder).network.state_dict(), bundle.network.state_dict()
    assert all(torch.equal(loaded[name], kept[name]) for name in stored)
