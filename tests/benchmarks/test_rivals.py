"""Rival networks: what is pruned or made binary, what it is counted as, and that each can be trained."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from benchmarks.rivals.binary import binarise, binarise_weights, sign
from benchmarks.rivals.kinds import RIVALS
from benchmarks.rivals.operations import convolution_macs
from benchmarks.rivals.pruning import Pruning
from lccl.compiler import compile_network
from lccl.errors import LcclError
from lccl.measurement import exact_setting
from lccl.networks import Architecture, build
from lccl.networks.lowering import lower
from lccl.plan.geometry import shape_of
from lccl.plan.run import RunOptions
from lccl.preprocessing import Preprocessing

SEEN = Preprocessing(32, 32, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
PLAIN_MACS = 40_551_040


def network(form="post", gate="none", name="resnet20"):
    torch.manual_seed(0)
    made = build(Architecture(name, form, gate)).eval()
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.running_mean, std=0.1)
    return made


def images(count=2):
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_operations_of_a_plain_network_are_its_multiply_accumulates():
    plain = network()
    assert sum(convolution_macs(plain).values()) + plain.classifier.weight.numel() == PLAIN_MACS


# pruned filters


@pytest.mark.parametrize("form", ["post", "pre"])
@pytest.mark.parametrize("saved", [0.1, 0.242, 0.349])
def test_pruning_saves_what_was_asked_for(form, saved):
    pruned = network(form)
    Pruning(saved)(pruned)
    shape = shape_of(lower(pruned, SEEN))
    assert shape.dense == RIVALS["pfec-24"].operations(pruned)
    assert 1 - shape.dense / PLAIN_MACS == pytest.approx(saved, abs=0.02)


@pytest.mark.parametrize("form", ["post", "pre"])
def test_the_smallest_filters_of_a_block_go_and_the_rest_computes_as_before(form):
    whole = network(form)
    block = whole.blocks[0]
    first, second = block.convs.values()
    with torch.no_grad():  # what goes has no effect: the pruned network answers alike
        first.conv.weight[[2, 5, 11]] *= 1e-3
        second.conv.weight[:, [2, 5, 11]] = 0
    pruned = copy.deepcopy(whole)
    Pruning(0.2)(pruned)
    gone = 16 - pruned.blocks[0].convs["conv1"].conv.out_channels
    assert gone >= 3
    kept = pruned.blocks[0].convs["conv1"].conv.weight
    sums = first.conv.weight.abs().sum(dim=(1, 2, 3))
    assert torch.equal(kept, first.conv.weight[sums.topk(16 - gone).indices.sort().values])
    for number in range(1, 9):
        pruned.blocks[number] = whole.blocks[number]
    others = set(sums.topk(gone, largest=False).indices.tolist()) - {2, 5, 11}
    with torch.no_grad():
        second.conv.weight[:, list(others)] = 0
    assert torch.allclose(pruned(images()).logits, whole(images()).logits, atol=1e-5)


def test_a_pruned_network_runs_on_the_engine():
    pruned = network()
    Pruning(0.242)(pruned)
    pixels = torch.randint(0, 256, (3, 32, 32, 3), dtype=torch.uint8).numpy()
    engines = [compile_network(pruned, "cpu", "fp32", engine=name, preprocessing=SEEN) for name in ("cpu", "reference")]
    first, second = (engine.run(pixels, RunOptions.of([exact_setting(engine)] * 3)).logits for engine in engines)
    assert torch.allclose(torch.from_numpy(first), torch.from_numpy(second), atol=1e-3)


def test_blocks_in_which_the_channels_change_keep_their_filters():
    pruned = network()
    Pruning(0.349)(pruned)
    inner = [block.convs["conv1"].conv.out_channels for block in pruned.blocks]
    assert [inner[3], inner[6]] == [32, 64]
    assert all(count < whole for count, whole in zip(inner[:3], [16] * 3, strict=True))


@pytest.mark.parametrize(
    ("made", "saved", "message"),
    [
        (network("post", "shared"), 0.2, "plain networks of basic blocks"),
        (network(name="resnet50"), 0.2, "plain networks of basic blocks"),
        (network(), 0.9, "cannot save 90%"),
    ],
)
def test_what_cannot_be_pruned_is_refused(made, saved, message):
    with pytest.raises(LcclError, match=message):
        Pruning(saved)(made)


# binary weights and inputs


def test_a_sign_has_a_gradient_where_its_input_is_small():
    x = torch.tensor([-2.0, -0.5, 0.0, 1.0, 1.5], requires_grad=True)
    y = sign(x)
    y.sum().backward()
    assert y.tolist() == [-1, -1, 1, 1, 1]
    assert x.grad.tolist() == [0, 1, 1, 1, 0]


def test_binary_weights_are_two_values_a_filter_and_stem_and_classifier_stay_real():
    made = network()
    real = copy.deepcopy(made)
    binarise_weights(made)
    for name, module in made.named_modules():
        if not isinstance(module, nn.Conv2d):
            continue
        before = real.get_submodule(name).weight
        if name.startswith("blocks."):
            mean = before.abs().mean(dim=(1, 2, 3), keepdim=True)
            assert torch.allclose(module.weight, torch.where(before < 0, -mean, mean))
        else:
            assert torch.equal(module.weight, before)
    assert torch.equal(made.classifier.weight, real.classifier.weight)


def test_binary_inputs_are_signs_of_what_is_normalised_scaled_by_its_size():
    made = network("pre")
    block = copy.deepcopy(made.blocks[4])
    binarise(made)
    x = torch.randn(2, 32, 16, 16, generator=torch.Generator().manual_seed(2))
    y = x
    for norm, conv in zip(block.norms, block.convs.values(), strict=True):
        normed = norm(y)
        window = torch.ones(1, 1, 3, 3) / 9
        scale = nn.functional.conv2d(normed.abs().mean(1, keepdim=True), window, padding=1)
        alpha = conv.conv.weight.abs().mean(dim=(1, 2, 3), keepdim=True)
        weight = torch.where(conv.conv.weight < 0, -alpha, alpha)
        y = scale * nn.functional.conv2d(torch.where(normed < 0, -1.0, 1.0), weight, padding=1)
    assert torch.allclose(made.blocks[4](x)[0], x + y, atol=1e-5)


@pytest.mark.parametrize("made", [network("post"), network("pre", "shared"), network("pre", name="resnet164")])
def test_binary_inputs_need_plain_pre_activation_blocks(made):
    with pytest.raises(LcclError, match="plain pre-activation blocks"):
        binarise(made)


@pytest.mark.parametrize(("name", "saved"), [("bwn", 0.494), ("xnor", 0.973)])
def test_what_binary_networks_are_counted_as(name, saved):
    made = network("pre")
    RIVALS[name].change(made)
    assert 1 - RIVALS[name].operations(made) / PLAIN_MACS == pytest.approx(saved, abs=0.001)


@pytest.mark.parametrize("name", RIVALS)
def test_every_rival_has_gradients_for_all_its_weights(name):
    made = network("pre").train()
    RIVALS[name].change(made)
    loss = made(images(4)).logits.square().mean()
    loss.backward()
    assert torch.isfinite(loss)
    assert all(one.grad is not None and one.grad.abs().sum() > 0 for one in made.parameters())
