"""Thresholds that training draws: they skip the wanted shares, and leave some images exact."""

import pytest
import torch

from lccl.train.thresholds import ThresholdSampler

MACS = [1, 2, 5]


def synthetic_gates(count, zeros=0.0, seed=0):
    """Three layers whose values are spread differently; a share of them is exactly 0."""
    random = torch.Generator().manual_seed(seed)
    layers = [torch.rand(count, 1, 16, 16, generator=random) * scale for scale in (1.0, 0.5, 2.0)]
    return [gate * (torch.rand(gate.shape, generator=random) >= zeros) for gate in layers]


def settled(gates):
    sampler, random = ThresholdSampler(MACS, torch.device("cpu")), torch.Generator().manual_seed(1)
    for _ in range(60):
        sampler.observe(gates, random)
    return sampler


def skipped_share(gates, threshold):
    shares = torch.stack([(gate <= threshold).double().mean() for gate in gates])
    return float(shares @ torch.tensor(MACS).double() / sum(MACS))


@pytest.mark.parametrize("zeros", [0.0, 0.3])
@pytest.mark.parametrize("ratio", [0.35, 0.5, 0.75, 0.9])
def test_a_threshold_skips_the_wanted_share_weighted_by_macs(ratio, zeros):
    gates = synthetic_gates(20, zeros)
    threshold = float(settled(gates).common(torch.tensor([ratio]))[0, 0])
    assert skipped_share(gates, threshold) == pytest.approx(ratio, abs=0.03)


def test_thresholds_are_zero_where_exact_already_skips_as_much():
    sampler, ratios = settled(synthetic_gates(20, zeros=0.5)), torch.tensor([0.0, 0.2, 0.4, 0.6])
    for found in (sampler.common(ratios), sampler.thresholds(ratios[:, None].expand(-1, 3))):
        assert not found[:3].any()
        assert (found[3] > 0).all()


def test_thresholds_grow_with_the_gates():
    gates = synthetic_gates(20)
    wanted = torch.tensor([0.3, 0.6])
    thresholds = [settled(values).common(wanted) for values in (gates, [3 * gate for gate in gates])]
    torch.testing.assert_close(thresholds[1], 3 * thresholds[0])


@pytest.mark.parametrize(("images", "share", "exact"), [(10, 0.3, 3), (10, 0.0, 0), (10, 1.0, 10), (7, 0.5, 4)])
def test_the_first_images_of_a_batch_run_exactly(images, share, exact):
    thresholds = settled(synthetic_gates(20)).draw(images, share, (0.0, 0.8), torch.Generator().manual_seed(2))
    assert thresholds.shape == (images, 3)
    assert not thresholds[:exact].any()
    assert (thresholds[exact:] > 0).all()


def test_common_thresholds_are_one_per_image_and_reach_up_to_the_top():
    sampler = settled(synthetic_gates(20))
    thresholds = sampler.draw(2000, 0.0, (0.0, 0.6), torch.Generator().manual_seed(2), "common")
    highest = float(sampler.common(torch.tensor([0.6]))[0, 0])
    assert (thresholds == thresholds[:, :1]).all()
    assert 0.95 * highest < thresholds.max() <= highest
    assert thresholds.min() < 0.05 * highest


def test_a_range_of_one_ratio_gives_its_thresholds_to_every_image():
    sampler = settled(synthetic_gates(20))
    thresholds = sampler.draw(9, 0.0, (0.45, 0.45), torch.Generator().manual_seed(2), "common")
    torch.testing.assert_close(thresholds, sampler.common(torch.tensor([0.45])).expand(9, -1))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.85])
def test_each_layer_skips_its_own_share(share):
    gates = synthetic_gates(20)
    row = settled(gates).thresholds(torch.tensor([[share, 0.0, 1 - share]]))[0]
    skipped = [float((gate <= threshold).double().mean()) for gate, threshold in zip(gates, row, strict=True)]
    assert skipped == pytest.approx([share, 0, 1 - share], abs=0.02)


def test_random_shares_differ_between_layers_and_lie_around_the_networks():
    gates, random = synthetic_gates(20), torch.Generator().manual_seed(2)
    sampler = settled(gates)
    without = sampler.draw(500, 0.0, (0.0, 0.8), random, "random", spread=0.0)
    with_spread = sampler.draw(500, 0.0, (0.0, 0.8), random, "random", spread=1.0)

    def shares(thresholds):
        return torch.stack([(gate.flatten()[:, None] <= column).float().mean(0) for gate, column in
                            zip(gates, thresholds.T, strict=True)], dim=1)  # fmt: skip

    assert shares(without).std(dim=1).max() < 0.03
    assert shares(with_spread).std(dim=1).mean() > 0.1
    assert shares(with_spread).mean() == pytest.approx(0.4, abs=0.05)


def test_a_path_shares_out_as_it_was_told_and_is_common_before():
    sampler, random = settled(synthetic_gates(20)), torch.Generator()
    first = sampler.draw(50, 0.2, (0.0, 0.6), random.manual_seed(2), "path")
    assert torch.equal(first, sampler.draw(50, 0.2, (0.0, 0.6), random.manual_seed(2), "common"))
    sampler.follow(torch.tensor([0.1, 0.4, 0.9]), torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.5, 0.0], [1.0, 1.0, 1.0]]))
    drawn = sampler.draw(4000, 0.0, (0.0, 0.4), random.manual_seed(2), "path")
    assert not drawn[:, 2].any()
    assert float((drawn[:, 0] == 0).float().mean()) == pytest.approx(0.25, abs=0.03)
    middle = sampler.thresholds(torch.tensor([[1.0, 0.5, 0.0]]))[0]
    assert (drawn <= middle + 1e-6).all()
    assert drawn.amax(0) == pytest.approx(middle.numpy(), rel=0.01)


def test_before_any_gate_was_seen_all_is_exact():
    sampler = ThresholdSampler(MACS, torch.device("cpu"))
    random = torch.Generator().manual_seed(0)
    sampler.observe([gate[:0] for gate in synthetic_gates(2)], random)
    assert not sampler.draw(8, 0.0, (0.0, 0.9), random).any()


def test_a_sampler_goes_on_where_another_stopped():
    first, second = settled(synthetic_gates(20)), ThresholdSampler(MACS, torch.device("cpu"))
    first.follow(torch.tensor([0.0, 1.0]), torch.tensor([[0.0] * 3, [1.0] * 3]))
    second.restore(first.state(), 60)
    for sampler in (first, second):
        sampler.observe(synthetic_gates(5, seed=3), torch.Generator().manual_seed(4))
    assert torch.equal(first.quantiles, second.quantiles)
    drawn = [one.draw(9, 0.0, (0.0, 0.5), torch.Generator().manual_seed(5), "path") for one in (first, second)]
    assert torch.equal(*drawn)
