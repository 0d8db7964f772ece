"""Attaching starts from the plain network's weights, measures it for comparison and resumes as training does."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from lccl.bundle.format import Bundle
from lccl.bundle.model_card import write_card
from lccl.bundle.training_record import AccuracyRecord, TeacherRecord, TrainingRecord
from lccl.data import Dataset, Split, hold_out
from lccl.errors import ArchitectureError, DataError, InputError, LcclError
from lccl.networks import Architecture
from lccl.train.attach import IMAGENET, attach, gated, input_of, prepare, read_labels
from lccl.train.export import network_input
from lccl.train.loop import channel_statistics
from lccl.train.plain_weights import PlainNetwork
from lccl.train.recipe import Recipe, attached

COLOURS = ("blue", "green", "red")
OWN = ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
PLAIN = Architecture("resnet20", gate="none", classes=3)
SHORT = attached(Recipe(epochs=2, batch=8, lr=0.02, allocation="common", seed=1))


@pytest.fixture(scope="module")
def dataset(toy_data):
    """40 training images whose colour tells the class, so that 4 are held out in each part, and 9 test images."""
    data = toy_data(40, held=9)
    return Dataset(data.train, data.measure, COLOURS)


@pytest.fixture(scope="module")
def seer(random_network):
    """A plain network with random weights; ``seer(Architecture(...), bundle)``."""

    def make(architecture=PLAIN, bundle=None):
        return PlainNetwork(random_network(architecture), architecture, "weights.safetensors", "abc", bundle)

    return make


@pytest.fixture(scope="module")
def sighted(seer):
    """A plain network that tells the three colours by the mean of each channel, with mean 0 and deviation 1."""
    plain = seer()
    network = plain.network
    for name, module in network.named_modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.zero_()
            module.running_var.fill_(1 - module.eps)
            module.weight.fill_(0 if name.endswith("conv2.norm") else 1)
            module.bias.zero_()
    network.stem_conv.weight.zero_()
    network.classifier.weight.zero_()
    network.classifier.bias.zero_()
    for colour in range(3):
        network.stem_conv.weight[colour, colour, 1, 1] = 1
        network.classifier.weight[colour, colour] = 1
    return plain


BARE = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def prepared(plain, dataset, statistics=BARE, labels=None):
    known = input_of(plain, statistics)
    return prepare(plain, dataset, known or network_input(32), labels, own_statistics=known is None)


def run(plain, dataset, folder, recipe=SHORT, **options):
    attachment = prepared(plain, dataset, **options)
    return attach(
        attachment, gated(plain, "shared"), recipe, folder,
        device=torch.device("cpu"), compile_network=False, report=lambda *_: None,
    )  # fmt: skip


# how images reach it


def test_statistics_that_are_given_are_taken(seer, bundle):
    assert input_of(seer(), OWN) == replace(network_input(32), mean=OWN[0], std=OWN[1])
    wide = replace(bundle, preprocessing=replace(bundle.preprocessing, resize=40))
    assert input_of(seer(bundle=wide), OWN) == replace(wide.preprocessing, mean=OWN[0], std=OWN[1])


def test_a_bundle_keeps_its_own_preprocessing(seer, bundle):
    assert input_of(seer(bundle=bundle), None) == bundle.preprocessing


def test_an_imagenet_network_gets_the_usual_statistics(seer):
    found = input_of(seer(Architecture("resnet18", gate="none")), None)
    assert (found.mean, found.std) == IMAGENET
    assert (found.size, found.resize) == (224, 256)


def test_a_small_bare_network_gets_those_of_the_data(seer, dataset):
    assert input_of(seer(), None) is None
    found = prepared(seer(), dataset, statistics=None).preprocessing
    assert (found.mean, found.std) == channel_statistics(hold_out(dataset.train).train)


def test_a_small_bare_network_is_served_what_it_was_trained_on(seer, dataset):
    """With the data's own mean and deviation, but the fit that the images were read with."""
    made = prepare(seer(), dataset, network_input(32, "stretch"), None, own_statistics=True)
    assert made.preprocessing.fit == "stretch"


@pytest.mark.parametrize(
    "statistics",
    [
        ((123.7, 116.3, 103.5), (58.4, 57.1, 57.4)), ((-0.1, 0, 0), OWN[1]), ((math.nan, 0, 0), OWN[1]),
        (OWN[0], (0, 1, 1)), (OWN[0], (-1, 1, 1)), (OWN[0], (math.inf, 1, 1)), (OWN[0], (math.nan, 1, 1)),
    ],
)  # fmt: skip
def test_statistics_that_are_none_are_refused(seer, statistics):
    with pytest.raises(InputError):
        input_of(seer(), statistics)


# what it is compared with


def test_the_plain_network_is_measured_for_comparison(sighted, dataset):
    attachment = prepared(sighted, dataset)
    twin = attachment.plain_twin
    assert twin.accuracy == 1
    assert twin.accuracy_interval[0] < 1 == twin.accuracy_interval[1]
    assert twin.test == AccuracyRecord(9, 1.0)
    assert (twin.attached_to, twin.digest, twin.recipe) == ("weights.safetensors", "abc", None)
    assert not attachment.doubtful


def test_its_preprocessing_counts(sighted, dataset):
    """Normalised so that two of the colours are hardly seen, all is taken for the third."""
    attachment = prepared(sighted, dataset, ((0.0,) * 3, (99.0, 99.0, 0.1)))
    third = float((attachment.dataset.test.labels == 2).mean())
    assert attachment.plain_twin.test.accuracy == third < 1


def test_labels_in_another_order_renumber_the_data(sighted, dataset):
    """The network's outputs are the folders' order; told otherwise, it names every colour wrongly."""
    assert prepared(sighted, dataset, labels=COLOURS).plain_twin.accuracy == 1
    wrong = prepared(sighted, dataset, labels=("red", "blue", "green"))
    assert wrong.plain_twin.accuracy == wrong.plain_twin.test.accuracy == 0
    assert wrong.doubtful
    assert wrong.dataset.classes == ("red", "blue", "green")


def test_a_bundles_labels_set_the_order(seer, dataset, bundle):
    ordered = replace(bundle, labels=("green", "red", "blue"))
    assert prepared(seer(bundle=ordered), dataset).dataset.classes == ("green", "red", "blue")


@pytest.mark.parametrize(("classes", "accuracy", "doubtful"), [(2, 0.59, True), (2, 0.6, False), (100, 0.02, False)])
def test_what_hardly_beats_guessing_is_doubtful(sighted, dataset, classes, accuracy, doubtful):
    attachment = prepared(sighted, dataset)
    other = replace(attachment.dataset, classes=("x",) * classes)
    assert (
        replace(attachment, dataset=other, plain_twin=replace(attachment.plain_twin, accuracy=accuracy)).doubtful
        is doubtful
    )


def test_images_are_unknown_only_to_a_bundle_that_held_out_the_same(seer, dataset, bundle):
    def may_know(digest):
        held = replace(bundle, labels=COLOURS, splits={"digest": digest})
        return prepared(seer(bundle=held), dataset).plain_twin.may_know_the_images

    assert not may_know(hold_out(dataset.train).digest)
    assert may_know("another")
    assert prepared(seer(), dataset).plain_twin.may_know_the_images


def test_classes_that_are_not_the_networks_are_refused(seer, dataset):
    with pytest.raises(DataError, match="the data have 3 classes and the network 5"):
        prepared(seer(replace(PLAIN, classes=5)), dataset)
    with pytest.raises(DataError, match="the labels have 2 classes and the network 3"):
        prepared(seer(), dataset, labels=("blue", "red"))
    with pytest.raises(DataError, match="'pink'"):
        prepared(seer(), dataset, labels=("blue", "green", "pink"))


def test_labels_are_lines(tmp_path):
    file = tmp_path / "labels.txt"
    file.write_bytes("red\r\n  grün \n\nblue".encode())
    assert read_labels(file) == ("red", "grün", "blue")
    file.write_bytes(b"\xff\xfe")
    for path in (file, tmp_path / "nowhere.txt"):
        with pytest.raises(DataError, match="one label per line"):
            read_labels(path)


# the start


@pytest.mark.parametrize("architecture", [PLAIN, replace(PLAIN, form="pre")])
def test_gates_are_all_that_is_added(seer, architecture):
    assert gated(seer(architecture), "pointwise") == replace(architecture, gate="pointwise")


def test_gates_that_do_not_exist_are_refused(seer):
    with pytest.raises(LcclError, match="attaching means gates"):
        gated(seer(), "none")
    with pytest.raises(ArchitectureError, match="unknown gate"):
        gated(seer(), "open")
    with pytest.raises(ArchitectureError, match="3 gate groups do not divide 16 channels"):
        gated(seer(), "grouped:3")


# training


@pytest.fixture(scope="module")
def run_once(sighted, dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return folder, run(sighted, dataset, folder)


def test_the_bundle_is_gated_and_records_the_plain_network(run_once, sighted, dataset):
    _, bundle = run_once
    assert isinstance(bundle, Bundle)
    assert (bundle.architecture.gate, bundle.labels) == ("shared", COLOURS)
    assert (bundle.preprocessing.mean, bundle.preprocessing.std) == BARE
    assert bundle.training.plain_twin == prepared(sighted, dataset).plain_twin
    assert bundle.training.teacher == TeacherRecord("abc", 1.0)
    assert bundle.training.test.images == 9
    assert len(bundle.training.epochs) == 2
    assert [point.name for point in bundle.table.points] == ["exact"]


def test_training_moved_the_weights_only_a_little(run_once, sighted):
    """It began from the plain weights: fresh ones would be nowhere near."""
    trained, plain = (net.stem_conv.weight.detach() for net in (run_once[1].network, sighted.network))
    assert 0 < float((trained - plain).norm()) < 0.5 * float(plain.norm())


def test_the_plain_network_teaches_at_the_size_it_was_trained_for(seer, dataset, tmp_path):
    seen, plain = set(), seer()
    plain.network.register_forward_pre_hook(lambda _, inputs: seen.add(tuple(inputs[0].shape[2:])))
    run(plain, dataset, tmp_path, replace(SHORT, augmentation="crops", sizes="16,24,32"))
    assert seen == {(32, 32)}


def test_a_finished_run_is_not_trained_again(run_once, sighted, dataset):
    folder, bundle = run_once
    again = run(sighted, dataset, folder)
    for name, value in bundle.network.state_dict().items():
        assert torch.equal(again.network.state_dict()[name], value)


def test_a_checkpoint_of_another_beginning_is_refused(run_once, sighted, dataset):
    folder, _ = run_once
    with pytest.raises(LcclError, match="began from another network"):
        run(replace(sighted, digest="another"), dataset, folder)
    with pytest.raises(LcclError, match="began from another network"):
        run(sighted, dataset, folder, labels=("red", "green", "blue"))
    with pytest.raises(LcclError, match="checkpoint with another data"):
        run(sighted, dataset, folder, statistics=OWN)


def test_a_checkpoint_that_lccl_train_left_is_refused(run_once, sighted, dataset, tmp_path):
    (tmp_path / "checkpoint.safetensors").write_bytes((run_once[0] / "checkpoint.safetensors").read_bytes())
    with pytest.raises(LcclError, match="began from another network"):
        run(sighted, dataset, tmp_path)


def test_a_beginning_without_a_checkpoint_binds_nothing(sighted, dataset, tmp_path):
    few = replace(SHORT, batch=1000)
    with pytest.raises(LcclError, match="do not fill a batch"):
        run(replace(sighted, digest="another"), dataset, tmp_path, few)
    assert run(sighted, dataset, tmp_path, replace(SHORT, epochs=1)).architecture.gate == "shared"


# the card


def test_the_card_says_what_it_was_attached_to(run_once, tmp_path):
    write_card(run_once[1], tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert "The plain network it was attached to (weights.safetensors) has 100.00 %" in card
    assert "The plain network it was attached to (weights.safetensors): 100.00 % of 9 test images." in card
    assert "It may have been trained on them" in card
    assert "trained with the same budget" not in card


def test_the_card_raises_no_doubt_about_images_that_were_held_out(run_once, tmp_path):
    twin = replace(run_once[1].training.plain_twin, may_know_the_images=False)
    write_card(replace(run_once[1], training=TrainingRecord(plain_twin=twin)), tmp_path)
    assert "It may have been trained on them" not in (tmp_path / "README.md").read_text()


# the order of the classes


def test_images_keep_their_class_when_the_classes_are_renumbered():
    split = Split(np.zeros((4, 2, 2, 3), np.uint8), np.array([0, 1, 2, 1]))
    dataset = Dataset(split, split.first(1), COLOURS).in_order_of(("red", "blue", "green"))
    assert dataset.classes == ("red", "blue", "green")
    assert dataset.train.labels.tolist() == [1, 2, 0, 2]
    assert dataset.test.labels.tolist() == [1]


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        (("red", "green", "green"), "the label 'green' is there twice"),
        (("red", "green"), "the data have a class 'blue' that the labels lack"),
        (("red", "green", "blue", "pink"), "the labels have a class 'pink' that the data lack"),
    ],
)
def test_labels_that_are_not_the_classes_are_refused(labels, sentence):
    split = Split(np.zeros((1, 2, 2, 3), np.uint8), np.zeros(1, np.int64))
    with pytest.raises(DataError, match=sentence):
        Dataset(split, split, COLOURS).in_order_of(labels)
