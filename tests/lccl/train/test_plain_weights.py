"""A plain network read from a file gives the logits of the network it was written from, and nothing else is read."""

import hashlib
import pickle
import struct

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

from lccl.bundle import format as bundles
from lccl.bundle.format import save
from lccl.errors import ArchitectureError, BundleError, WeightsError
from lccl.networks import Architecture
from lccl.train.plain_weights import read_plain

NORM = ("weight", "bias", "running_mean", "running_var")


def resnet18_shapes(classes=5):
    """Torchvision's names of a ResNet-18's tensors, counters left out, with their shapes."""
    shapes = {"conv1.weight": (64, 3, 7, 7)} | {f"bn1.{leaf}": (64,) for leaf in NORM}
    for stage, (before, width) in enumerate([(64, 64), (64, 128), (128, 256), (256, 512)], 1):
        for block in (0, 1):
            name, inputs = f"layer{stage}.{block}", before if block == 0 else width
            shapes |= {f"{name}.conv1.weight": (width, inputs, 3, 3), f"{name}.conv2.weight": (width, width, 3, 3)}
            shapes |= {f"{name}.bn{number}.{leaf}": (width,) for number in (1, 2) for leaf in NORM}
        if stage > 1:
            shapes |= {f"layer{stage}.0.downsample.0.weight": (width, before, 1, 1)}
            shapes |= {f"layer{stage}.0.downsample.1.{leaf}": (width,) for leaf in NORM}
    return shapes | {"fc.weight": (classes, 512), "fc.bias": (classes,)}


class TheirBlock(nn.Module):
    """A CIFAR block by torchvision's names; type-A shortcut with new channels behind or around the old ones."""

    def __init__(self, inputs, width, stride, centred):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.stride, new = stride, width - inputs
        self.padding = (new // 2, new // 2) if centred else (0, new)

    def forward(self, x):
        z = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(z + F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, *self.padding)))


class TheirResNet(nn.Module):
    def __init__(self, classes=4, centred=False, blocks=3):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        for stage, (inputs, width) in enumerate([(16, 16), (16, 32), (32, 64)], 1):
            first = TheirBlock(inputs, width, 1 if stage == 1 else 2, centred)
            rest = [TheirBlock(width, width, 1, centred) for _ in range(blocks - 1)]
            setattr(self, f"layer{stage}", nn.Sequential(first, *rest))
        self.fc = nn.Linear(64, classes)

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))
        return self.fc(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))


def unsettle(network):
    """Move the normalisations far from the identity, so that each one counts."""
    torch.manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            module.bias.data.normal_(0, 0.3)
            module.running_mean.normal_(0, 0.3)
    return network.eval()


def their_weights(**options):
    torch.manual_seed(0)
    return unsettle(TheirResNet(**options)).state_dict()


def written(tmp_path, tensors):
    file = tmp_path / "weights.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)
    return file


def same_logits(theirs, ours, size=32):
    images = torch.randn(2, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        torch.testing.assert_close(ours.double()(images).logits, theirs.double()(images))


# what can be read


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50"])
def test_a_network_of_torchvision_gives_the_same_logits(tmp_path, name):
    models = pytest.importorskip(
        "torchvision.models", reason="torchvision is not installed: nothing else here needs it"
    )
    torch.manual_seed(0)
    theirs = unsettle(getattr(models, name)(num_classes=5))
    ours = read_plain(written(tmp_path, theirs.state_dict()))
    assert ours.architecture == Architecture(name, "post", "none", 5)
    same_logits(theirs, ours.network, size=96)


def test_every_name_of_a_torchvision_resnet18_has_its_place(tmp_path):
    tensors = {name: torch.rand(shape) for name, shape in resnet18_shapes().items()}
    ours = read_plain(written(tmp_path, tensors))
    assert ours.architecture == Architecture("resnet18", "post", "none", 5)
    state = {name: value for name, value in ours.network.state_dict().items() if "num_batches" not in name}
    assert len(tensors) == len(state) == 102
    for theirs, place in (
        ("conv1.weight", "stem_conv.weight"),
        ("bn1.running_mean", "stem_norm.running_mean"),
        ("layer1.1.conv2.weight", "blocks.1.conv2.conv.weight"),
        ("layer2.0.downsample.0.weight", "blocks.2.shortcut.conv.weight"),
        ("layer2.0.downsample.1.bias", "blocks.2.shortcut.norm.bias"),
        ("layer4.1.bn2.running_var", "blocks.7.conv2.norm.running_var"),
        ("fc.weight", "classifier.weight"),
    ):
        assert torch.equal(tensors[theirs], state[place])


@pytest.mark.parametrize("blocks", [3, 5, 7, 9, 18])
def test_a_cifar_network_is_recognised_by_its_depth(tmp_path, blocks):
    theirs = unsettle(TheirResNet(blocks=blocks))
    ours = read_plain(written(tmp_path, theirs.state_dict()))
    assert ours.architecture == Architecture(f"resnet{6 * blocks + 2}", "post", "none", 4)
    same_logits(theirs, ours.network)
    assert not ours.network.training
    assert not any(parameter.requires_grad for parameter in ours.network.parameters())


def test_shortcuts_with_new_channels_around_the_old_ones_are_reordered(tmp_path):
    theirs = unsettle(TheirResNet(centred=True))
    file = written(tmp_path, theirs.state_dict())
    same_logits(theirs, read_plain(file, centred=True).network)
    with pytest.raises(AssertionError):
        same_logits(theirs, read_plain(file).network)


@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod.", "_orig_mod.module.", "module.model."])
def test_what_wrappers_put_before_the_names_is_left_out(tmp_path, prefix):
    weights = their_weights()
    plain = read_plain(written(tmp_path, {prefix + name: value for name, value in weights.items()}))
    assert torch.equal(plain.network.classifier.weight, weights["fc.weight"])


def test_the_classifier_may_be_called_linear(tmp_path):
    weights = their_weights()
    renamed = {name.replace("fc.", "linear."): value for name, value in weights.items()}
    assert torch.equal(read_plain(written(tmp_path, renamed)).network.classifier.bias, weights["fc.bias"])


@pytest.mark.parametrize(
    "architecture",
    [
        Architecture("resnet20", gate="none", classes=3),
        Architecture("resnet20", "pre", "none", 7),
        Architecture("wrn-16-4", "pre", "none", 3),
    ],
)
def test_this_projects_own_names_are_read(tmp_path, random_network, architecture):
    network = random_network(architecture)
    plain = read_plain(written(tmp_path, network.state_dict()))
    assert plain.architecture == architecture
    read = plain.network.state_dict()
    assert all(torch.equal(read[name], value) for name, value in network.state_dict().items() if value.ndim)


def test_a_bundle_brings_its_labels_and_digest(tmp_path, random_bundle):
    made = random_bundle(Architecture("resnet20", gate="none"))
    digest = save(made, tmp_path / "twin")
    plain = read_plain(tmp_path / "twin", "resnet20")
    assert (plain.digest, plain.source, plain.bundle.labels) == (digest, "twin", made.labels)
    assert plain.architecture == made.architecture


def test_a_file_is_named_by_its_hash(tmp_path):
    file = written(tmp_path, their_weights())
    assert read_plain(file).digest == hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_floating_numbers_become_float32(tmp_path, dtype):
    weights = {name: value.to(dtype) if value.ndim else value for name, value in their_weights().items()}
    network = read_plain(written(tmp_path, weights)).network
    assert network.stem_conv.weight.dtype == torch.float32
    assert torch.equal(network.stem_conv.weight, weights["conv1.weight"].float())


def test_counters_may_be_there_or_not(tmp_path):
    weights = {name: value for name, value in their_weights().items() if "num_batches" not in name}
    assert read_plain(written(tmp_path, weights)).architecture.name == "resnet20"


# what is refused


def refused(path, sentence, name=None, error=WeightsError, **options):
    with pytest.raises(error) as caught:
        read_plain(path, name, **options)
    assert sentence in str(caught.value)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ""])
def test_a_pickle_is_not_opened_and_the_error_tells_how_to_convert_it(tmp_path, suffix):
    file = tmp_path / f"weights{suffix}"
    torch.save(their_weights(), file)
    refused(file, "save_file(model.state_dict()")


@pytest.mark.parametrize("content", [b"", pickle.dumps({}), struct.pack("<Q", 1 << 60), struct.pack("<Q", 2) + b"[]"])
def test_a_file_that_only_bears_the_name_is_refused(tmp_path, content):
    file = tmp_path / "weights.safetensors"
    file.write_bytes(content)
    refused(file, "is not a safetensors file")


def test_a_shape_without_its_bytes_is_refused(tmp_path):
    header = b'{"fc.weight":{"dtype":"F32","shape":[1000000000,1000000000],"data_offsets":[0,4]}}'
    file = tmp_path / "weights.safetensors"
    file.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    refused(file, "is not a safetensors file")


def test_a_file_that_is_not_there_is_refused(tmp_path):
    refused(tmp_path / "nowhere.safetensors", "cannot be read")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "cannot be read", error=BundleError)


def test_a_file_too_large_for_a_resnet_is_refused(tmp_path, monkeypatch):
    file = written(tmp_path, their_weights())
    monkeypatch.setattr("lccl.train.plain_weights.MAX_WEIGHTS_BYTES", file.stat().st_size)
    read_plain(file)
    monkeypatch.setattr("lccl.train.plain_weights.MAX_WEIGHTS_BYTES", file.stat().st_size - 1)
    refused(file, "is larger than")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"layer1.0.conv1.bias": (16,)}, "has layer1.0.conv1.bias, which the nearest, resnet20, does not"),
        ({"layer1.0.se.fc1.weight": (4, 16, 1, 1)}, "has layer1.0.se.fc1.weight"),
        ({"layer2.1.bn2.running_var": None}, "lacks layer2.1.bn2.running_var of the nearest, resnet20"),
        ({"conv1.weight": (16, 3, 7, 7)}, "conv1.weight is 16 × 3 × 7 × 7, where the nearest, resnet20, has 16 × 3"),
        ({"conv1.weight": (16, 0, 3, 3)}, "conv1.weight is empty"),
        ({"fc.bias": (5,)}, "fc.bias is 5"),
        ({"layer2.0.downsample.0.weight": (32, 16, 1, 1)}, "its shortcuts hold convolutions (type B)"),
        ({"layer2.0.shortcut.0.weight": (32, 16, 1, 1)}, "its shortcuts hold convolutions (type B)"),
        ({"layer1.0.conv1.gate.conv.weight": (1, 16, 3, 3)}, "is an LCCL network already"),
        ({"fc.weight": None}, "lacks fc.weight"),
        ({"fc.weight": ()}, "lacks fc.weight"),
        ({"linear.weight": (4, 64)}, "two classifiers"),
    ],
)
def test_tensors_of_another_network_are_refused(tmp_path, changes, sentence):
    weights = their_weights()
    for name, shape in changes.items():
        weights.pop(name, None)
        if shape is not None:
            weights[name] = torch.ones(shape)
    refused(written(tmp_path, weights), sentence)


def test_a_deep_stem_is_refused(tmp_path):
    """As timm's resnet18d has: the same names from the first block on."""
    tensors = {name: torch.rand(shape) for name, shape in resnet18_shapes().items() if name != "conv1.weight"}
    stem = {"conv1.0.weight": (32, 3, 3, 3), "conv1.3.weight": (32, 32, 3, 3), "conv1.6.weight": (64, 32, 3, 3)}
    refused(
        written(tmp_path, tensors | {name: torch.rand(shape) for name, shape in stem.items()}), "has conv1.0.weight"
    )


def test_what_timm_stores_beside_the_weights_is_believed(tmp_path):
    """Its resnetblur18, say, has the names and shapes of a ResNet-18, but blurs where it strides."""
    file = written(tmp_path, their_weights())
    for harmless in ('{"architecture": "resnet20"}', "{}", "[]", "{"):
        (tmp_path / "config.json").write_text(harmless)
        assert read_plain(file).architecture.name == "resnet20"
    (tmp_path / "config.json").write_text('{"architecture": "resnetblur20"}')
    refused(file, "calls it a resnetblur20, whose arithmetic is not that of a resnet20")


def test_normalisations_before_their_convolutions_are_refused(tmp_path):
    """The names of a pre-activation block are the same; where the width changes the shapes are not."""
    weights = their_weights() | {f"layer2.0.bn1.{leaf}": torch.ones(16) for leaf in NORM}
    refused(written(tmp_path, weights), "layer2.0.bn1.weight is 16")


@pytest.mark.parametrize("classes", [1, 100_001])
def test_a_number_of_classes_that_no_network_has_is_refused(tmp_path, classes):
    weights = their_weights() | {"fc.weight": torch.ones(classes, 1)}
    refused(written(tmp_path, weights), "2 to 100,000 classes", error=ArchitectureError)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_refused(tmp_path, value):
    weights = their_weights()
    weights["layer3.0.conv1.weight"][0, 0, 0, 0] = value
    refused(written(tmp_path, weights), "layer3.0.conv1.weight holds values that are not finite")


def test_float64_beyond_float32_is_refused(tmp_path):
    refused(
        written(tmp_path, their_weights() | {"fc.bias": torch.full((4,), 1e300, dtype=torch.float64)}),
        "fc.bias holds values",
    )


def test_a_negative_variance_is_refused(tmp_path):
    refused(written(tmp_path, their_weights() | {"bn1.running_var": -torch.ones(16)}), "negative variance")


def test_whole_numbers_are_refused(tmp_path):
    refused(written(tmp_path, their_weights() | {"fc.bias": torch.ones(4, dtype=torch.int32)}), "not I32")


def test_a_bundles_sidenets_stay_behind(tmp_path, leaving_bundle):
    save(leaving_bundle(Architecture("resnet20", gate="none")), tmp_path / "leaving")
    plain = read_plain(tmp_path / "leaving")
    assert not len(plain.network.sidenets)
    assert len(plain.bundle.network.sidenets) == 2


def test_a_network_other_than_the_one_asked_for_is_refused(tmp_path, random_bundle):
    save(random_bundle(Architecture("resnet20", gate="none")), tmp_path / "twin")
    refused(tmp_path / "twin", "holds a resnet20, not a resnet32", "resnet32")
    file = written(tmp_path, their_weights())
    assert read_plain(file, "resnet20").architecture.name == "resnet20"
    refused(file, "is no resnet32: it lacks layer1.3", "resnet32")
    refused(file, "a wrn-16-4 is of the pre-activation form", "wrn-16-4")
    refused(file, "unknown network 'resnet21'", "resnet21", error=ArchitectureError)


def test_a_bundle_with_gates_is_refused(tmp_path, bundle):
    save(bundle, tmp_path / "gated")
    refused(tmp_path / "gated", "is an LCCL network already")
    refused(tmp_path / "gated" / bundles.WEIGHTS, "is an LCCL network already")
    assert any(".gate." in name for name in load_file(tmp_path / "gated" / bundles.WEIGHTS))


def test_shortcuts_that_cannot_be_centred_are_refused(tmp_path, random_bundle):
    save(random_bundle(Architecture("resnet20", gate="none")), tmp_path / "twin")
    refused(tmp_path / "twin", "no shortcuts that could be centred", centred=True)
    tensors = {name: torch.rand(shape) for name, shape in resnet18_shapes().items()}
    refused(written(tmp_path, tensors), "no shortcuts that could be centred", centred=True)
