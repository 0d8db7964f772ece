"""Small networks for the program that runs whole images, batches of their images, and where its values may differ."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from lccl.engines.base import exit_confidence
from lccl.engines.cuda.batch import Batch
from lccl.engines.cuda.image_program import ImageProgram
from lccl.engines.reference import ReferenceEngine
from lccl.networks.gates import GateSpec
from lccl.networks.lowering import lower
from lccl.networks.resnet import ResNet, Stem
from lccl.networks.sidenet import SideNetSpec
from lccl.plan.geometry import shape_of
from lccl.plan.run import RunOptions
from lccl.preprocessing import Preprocessing

SIZE = 12  # then 6 and 3: maps whose positions fill no whole tile


def small_plan(form="post", gate: GateSpec | None = None, projection=False, exits=False, size=SIZE, seed=0):
    """A plan with a block a stage, whose normalisations hold the statistics of noise under exact thresholds."""
    torch.manual_seed(seed)
    stem = Stem(channels=16, kernel=3, stride=1, pool=False)
    network = ResNet(
        widths=(16, 32, 64), depths=(1, 1, 1), stem=stem, form=form, gate=gate,
        projection=projection, classes=10, image_size=size,
    )  # fmt: skip
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.3)
            module.momentum = None
    for module in network.skip_convs.values():
        module.gate.norm.weight.data *= 0.3
        module.gate.norm.bias.data.uniform_(0.2, 0.4)
    if exits:
        network.add_sidenets([SideNetSpec(0, 2, 7), SideNetSpec(1, 1, 20)])
    with torch.no_grad():
        network.train()(torch.from_numpy(images(16, size, seed=1)).permute(0, 3, 1, 2) / 64 - 2)
    return lower(network.eval().requires_grad_(False), Preprocessing(size, size, (0.5, 0.48, 0.52), (0.25, 0.24, 0.26)))


def images(count, size=SIZE, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def mixed(images, layers, seed=0):
    """Rows 0, −∞ and +∞, then rows whose layers have thresholds of their own."""
    levels = np.array([-np.inf, 0, 0.1, 0.2, 0.3, 0.4, np.inf])
    chosen = np.random.default_rng(seed).choice(levels, (images, layers), p=[0.05, 0.15, 0.2, 0.2, 0.2, 0.15, 0.05])
    chosen[:3] = np.array([0, -np.inf, np.inf])[: min(3, images), None]
    return chosen.astype(np.float32)


def controls_for(plan, thresholds, **fields):
    images = len(thresholds)
    nothing = {"norm_set": np.zeros(images, np.int64), "exit_confidence": np.ones((images, plan.exits), np.float32)}
    return RunOptions(np.asarray(thresholds, np.float32), **nothing | fields)


def of_images(options, images):
    """The controls of some of the images; masks are not forced."""
    return replace(
        options,
        thresholds=options.thresholds[images],
        norm_set=options.norm_set[images],
        exit_confidence=options.exit_confidence[images],
    )


@dataclass(frozen=True)
class Answer:
    """What a launch wrote, as numpy arrays, and what it says that it ran."""

    logits: np.ndarray
    kept: np.ndarray
    left: np.ndarray
    masks: tuple[np.ndarray, ...]
    executed: np.ndarray


def launch(plan, pixels, options, device, dtype=torch.float16, valid=None):
    """Run a program of its own, all that it is to write filled with what is wrong."""
    size, shape = len(pixels), shape_of(plan)
    program = ImageProgram(plan, shape, size, device, dtype)
    poison(program)
    batch = Batch.of(plan, shape, size, device, torch.from_numpy(pixels).dtype)
    inputs = {
        "images": pixels, "thresholds": options.thresholds, "norm_set": options.norm_set,
        "confidence": exit_confidence(plan, options), "valid": np.ones(size) if valid is None else valid,
    }  # fmt: skip
    for name, value in inputs.items():
        getattr(batch, name).copy_(torch.from_numpy(np.array(value)))
    for output, wrong in [(batch.logits, torch.nan), (batch.kept, -7), (batch.left, -7)]:
        output.fill_(wrong)
    for mask in batch.masks:
        mask.fill_(255)
    forced = options.forced_masks
    program.launch(batch, (), forced and tuple(torch.from_numpy(mask).to(device) for mask in forced))
    kept, left = batch.kept.cpu().numpy().astype(np.int64), batch.left.cpu().numpy().astype(np.int64)
    masks = tuple(mask.cpu().numpy() for mask in batch.masks)
    return Answer(batch.logits.cpu().numpy(), kept, left, masks, program.executed_macs(kept, left, ()))


def poison(program):
    """Fill the scratch with NaN, its zero borders left alone."""
    for place in program.layout.places.values():
        height, width = place.height + 2, place.width + 2
        elements = program.maps[:, place.offset : place.offset + height * width * place.channels]
        elements.view(-1, height, width, place.channels)[:, 1:-1, 1:-1] = torch.nan
    program.room.fill_(torch.nan)
    program.listed.fill_(-1)


def check_against_reference(plan, pixels, options, answer, gate_error=0.02, logit_error=0.02):
    """Logits agree with the reference's under the same masks, and masks with its gates where those are not close to τ.

    Gives the share of the masks' elements that are not close; 1 without masks.
    """
    engine = ReferenceEngine(plan, torch.device("cpu"), "fp64")
    out, state = engine.trace(pixels, replace(options, forced_masks=answer.masks, want_masks=True))
    np.testing.assert_array_equal(answer.left, out.exit)
    np.testing.assert_array_equal(answer.kept, out.kept)
    np.testing.assert_allclose(answer.logits, out.logits, rtol=0, atol=logit_error * np.abs(out.logits).max())
    shares = [1.0]
    for layer, mask in enumerate(answer.masks):
        gates, tau = state.gates[layer].numpy(), options.thresholds[:, layer, None, None, None]
        reached = engine.shape.reached(out.exit)[:, layer, None, None, None]
        clear = np.abs(gates - tau) > gate_error
        np.testing.assert_array_equal(mask[clear], (reached & (gates > tau))[clear])
        shares.append(clear.mean())
    return min(shares)
