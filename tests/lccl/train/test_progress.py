"""While a network trains, loss and accuracy are those of the images so far, however many a batch has."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lccl.networks import Architecture
from lccl.networks.sidenet import SideNetSpec
from lccl.train import loop, sidenets
from lccl.train.recipe import Recipe

RESNET20 = Architecture("resnet20", classes=3)


class Heard:
    """What a run reports, and the mean loss of each batch with its images."""

    def __init__(self):
        self.steps, self.epochs, self.losses, self.images = [], [], [], []

    def report(self, kind, _done, _of, figures):
        (self.steps if kind == "step" else self.epochs).append(figures["loss"])

    def keep(self, loss, labels):
        self.losses.append(float(loss.detach()))
        self.images.append(len(labels))
        return loss

    @property
    def running(self):
        return np.cumsum(np.multiply(self.losses, self.images)) / np.cumsum(self.images)


def test_a_network(toy_data, tmp_path, monkeypatch):
    heard, loss = Heard(), loop._loss
    monkeypatch.setattr(loop, "_loss", lambda output, labels, *rest: heard.keep(loss(output, labels, *rest), labels))
    loop.train(
        RESNET20, toy_data(20, held=2), Recipe(epochs=1, batch=6, lr=0.01), tmp_path,
        device=torch.device("cpu"), compile_network=False, report=heard.report,
    )  # fmt: skip
    assert len(heard.steps) == 3
    assert heard.steps == pytest.approx(heard.running)
    assert heard.epochs == [heard.steps[-1]]


def test_side_nets_whose_last_batch_is_smaller(toy_data, random_bundle, monkeypatch):
    heard, loss = Heard(), F.cross_entropy
    monkeypatch.setattr(F, "cross_entropy", lambda logits, labels: heard.keep(loss(logits, labels), labels))
    data, recipe = toy_data(), sidenets.SideNetRecipe(epochs=1, batch=5)
    bundle = replace(random_bundle(RESNET20), splits={"digest": data.digest})
    sidenets._fit(_with_side_net(bundle), bundle, data.train.first(13), recipe, heard.report)
    assert heard.images == [5, 5, 3]
    assert heard.steps == pytest.approx(heard.running)
    assert heard.epochs == [heard.steps[-1]]


def _with_side_net(bundle):
    bundle.network.add_sidenets([SideNetSpec(2, 1, 8)])
    return bundle.network.eval()
