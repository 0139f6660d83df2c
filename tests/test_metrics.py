"""Features, distances and intervals: known answers, closed forms, parity with torch-fidelity, and what is refused."""

import json
import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_kid import kernel_poly, mmd2

from facelab import metrics
from facelab.metrics import (
    difference,
    frechet_difference,
    frechet_distance,
    kernel_distance,
    moments,
    nearest,
    precision_recall,
    proportion,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def draws(count, size, seed=0, mean=0.0, sd=1.0):
    return torch.randn(count, size, generator=generator(seed), dtype=torch.float64) * sd + mean


def exactly(count, mean, covariance, seed=0):
    """Features whose sample mean and covariance are these to rounding."""
    x = draws(count, len(mean), seed)
    x = x - x.mean(0)
    # Whitened by the sample's own covariance, then coloured.
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(torch.cov(x.T)), x.T, upper=False).T
    return white @ torch.linalg.cholesky(covariance).T + mean


# shares


def test_difference_of_shares_as_published():
    # Newcombe 1998 (Statistics in Medicine 17:873), table II, method 10.
    for (a, m), (b, n), low, high in [
        ((56, 70), (48, 80), 0.0524, 0.3339),
        ((9, 10), (3, 10), 0.1705, 0.8090),
        ((5, 56), (0, 29), -0.0381, 0.1926),
    ]:
        found = difference(proportion(a, m), proportion(b, n))
        assert found.value == pytest.approx(a / m - b / n)
        assert (found.low, found.high) == pytest.approx((low, high), abs=6e-5)
    assert str(difference(proportion(56, 70), proportion(48, 80))) == "+0.200 [+0.052, +0.334]"


# Fréchet


@pytest.mark.parametrize("count", [64, 500, 5000])
def test_frechet_between_gaussians_that_share_their_axes(count):
    means, sds = draws(2, 16, 1), draws(2, 16, 2).abs() + 0.1
    a, b = (exactly(count, mean, torch.diag(sd**2), i) for i, (mean, sd) in enumerate(zip(means, sds, strict=True)))
    truth = (means[0] - means[1]).square().sum() + (sds[0] - sds[1]).square().sum()
    assert frechet_distance(a, b) == pytest.approx(truth.item(), rel=1e-9)


def test_frechet_between_gaussians_that_do_not():
    a, b = torch.tensor([[2.0, 1.2], [1.2, 1.0]]).double(), torch.tensor([[0.5, -0.4], [-0.4, 3.0]]).double()
    # The root of a 2x2 matrix has the trace sqrt(Tr + 2 sqrt(det)).
    root = torch.sqrt((a @ b).trace() + 2 * (a.det() * b.det()).sqrt())
    truth = 25 + a.trace() + b.trace() - 2 * root
    found = frechet_distance(exactly(30, torch.zeros(2), a), exactly(50, torch.tensor([3.0, 4.0]), b, 1))
    assert found == pytest.approx(truth.item(), rel=1e-9)


@pytest.mark.parametrize(("m", "n", "size"), [(300, 200, 24), (60, 40, 24), (9, 300, 24), (12, 11, 24)])
def test_frechet_equals_torch_fidelitys(m, n, size):
    a, b = (draws(k, size, k) @ draws(size, size, 5 + k) + k / 100 for k in (m, n))
    truth = fid_statistics_to_metric(*map(fid_features_to_statistics, (a, b)), False)["frechet_inception_distance"]
    assert frechet_distance(a, b) == pytest.approx(truth, rel=1e-6)
    assert frechet_distance(moments(a), b) == frechet_distance(a, moments(b)) == frechet_distance(a, b)
    assert frechet_distance(b, a) == pytest.approx(truth, rel=1e-6)


@pytest.mark.parametrize("rows", [7, 100, 4096])
def test_moments_do_not_depend_on_how_many_rows_are_taken_at_once(rows, monkeypatch):
    monkeypatch.setattr(metrics, "ROWS", rows)
    x = draws(101, 12) @ draws(12, 12, 1) + 1000
    told = moments(x)
    assert told.count == 101 and len(told.root) == 12
    assert_close(told.mean, x.mean(0))
    assert_close(told.covariance, torch.cov(x.T))
    b = draws(50, 12, 2)
    truth = fid_statistics_to_metric(*map(fid_features_to_statistics, (x, b)), False)["frechet_inception_distance"]
    assert frechet_distance(told, b) == pytest.approx(truth, rel=1e-9)


def test_frechet_where_it_is_degenerate():
    x, constant = draws(10, 30), torch.ones(4, 30)
    for same in (draws(10, 30, seed) for seed in range(30)):
        assert 0 <= frechet_distance(same, same) < 1e-10
    assert frechet_distance(constant, 3 * constant) == pytest.approx(120)
    spread = (x.mean(0) - 1).square().sum() + torch.cov(x.T).trace()
    assert frechet_distance(x, constant) == pytest.approx(spread.item())
    assert frechet_distance(x, x[:, torch.randperm(30, generator=generator())] + 1) > 30


@pytest.mark.parametrize(
    ("a", "b", "says"),
    [
        (draws(1, 4), draws(5, 4), "at least 2 pictures are needed, got 1"),
        (draws(5, 4), draws(5, 3), "both need the same features, got 4 and 3"),
        (
            draws(5, 4),
            draws(5, 4).index_fill(0, torch.tensor([1, 3]), math.nan),
            "2 rows of the features are not finite",
        ),
        (draws(5, 4) / 0, draws(5, 4), "5 rows of the features are not finite"),
        (draws(5, 4), torch.zeros(5, 3, 8, 8), r"float \(N, D\), got torch.float32 \(5, 3, 8, 8\)"),
        (torch.ones(5, 4, dtype=torch.long), draws(5, 4), "got torch.int64"),
    ],
)
def test_features_of_which_there_is_no_distance(a, b, says):
    for distance in (frechet_distance, kernel_distance, precision_recall, lambda a, b: frechet_difference(a, b, b)):
        if distance is frechet_distance or len(a) > 1:
            with pytest.raises(ValueError, match=says):
                distance(a, b)


def test_the_nearer_model_has_the_smaller_distance():
    real, near, far = draws(300, 6), draws(300, 6, 1, mean=0.1), draws(300, 6, 2, mean=0.5)
    found = frechet_difference(real, near, far)
    assert found.value == pytest.approx(frechet_distance(real, near) - frechet_distance(real, far))
    assert found.high < 0 and found.low + found.high == pytest.approx(2 * found.value)
    mirrored = frechet_difference(real, far, near)
    assert mirrored == pytest.approx((-found.value, -found.high, -found.low))


@pytest.mark.parametrize("size", [8, 80])
def test_influence_and_bootstrap_agree_where_models_differ(size):
    scale = torch.arange(1, size + 1) ** -0.5
    real, a, b = (draws(60, size, i, mean=m, sd=scale) for i, m in enumerate((0.0, 1.0, -0.7)))
    quick, slow = frechet_difference(real, a, b), frechet_difference(real, a, b, replicates=300)
    assert quick.value == slow.value
    assert quick.high - quick.low == pytest.approx(slow.high - slow.low, rel=0.25)
    assert frechet_difference(real, a, b, 20, seed=1) == frechet_difference(real, a, b, 20, seed=1)
    assert frechet_difference(real, a, b, 20, seed=1) != frechet_difference(real, a, b, 20, seed=2)


@pytest.mark.parametrize("size", [3, 9])
def test_influence_is_what_one_more_copy_of_a_picture_does(size):
    a, b = draws(6, size).exp(), draws(8, size, 1, mean=0.5)
    for x, other in ((a, b), (b, a)):
        # Among a thousand copies of all, so that one more moves the distance by little.
        many = x.repeat(1000, 1)
        moved = [frechet_distance(torch.cat([many, one[None]]), other) * len(many) for one in x]
        moved = torch.tensor(moved).double()
        two = (many, moments(many)), (other, moments(other))
        for felt in (metrics._influence(*two[0], *two[1])[0], metrics._influence(*two[1], *two[0])[1]):
            assert_close(moved - moved.mean(), felt[: len(x)] - felt.mean(), rtol=0.01, atol=0.01)


@pytest.mark.parametrize(("first", "second"), [(0.0, 0.0), (0.4, -0.4)], ids=["alike", "on two sides"])
def test_the_interval_holds_the_expected_difference(first, second):
    found = [
        frechet_difference(draws(200, 8, 3 * i), draws(200, 8, 3 * i + 1, first), draws(200, 8, 3 * i + 2, second))
        for i in range(200)
    ]
    # By symmetry the expectation is zero. Influence is never too narrow, and at most too wide by the root of two.
    holds = sum(one.low <= 0 <= one.high for one in found) / 200
    width = sum(one.high - one.low for one in found) / 200 / (3.92 * np.std([one.value for one in found]))
    assert holds >= 0.91 and 0.9 <= width <= 1.55


def test_a_difference_that_would_mislead_is_refused():
    with pytest.raises(ValueError, match="same count of pictures, got 20 and 10"):
        frechet_difference(draws(20, 3), draws(20, 3), draws(10, 3))
    for replicates in (1, -1):
        with pytest.raises(ValueError, match="replicates must be 0, or at least 2"):
            frechet_difference(draws(20, 3), draws(20, 3), draws(20, 3), replicates)


# kernel distance, precision and recall


def test_kernel_distance_is_the_unbiased_cubic_mmd():
    a, b = draws(30, 5), draws(30, 5, 1, mean=0.5)
    x, y = a.numpy(), b.numpy()
    truth = mmd2(kernel_poly(x, x), kernel_poly(x, y), kernel_poly(y, y))
    inside = sum((p @ q / 5 + 1) ** 3 for s in (x, y) for i, p in enumerate(s) for j, q in enumerate(s) if i != j)
    across = sum((p @ q / 5 + 1) ** 3 for p in x for q in y)
    assert truth == pytest.approx(inside / (30 * 29) - 2 * across / 900)
    # Where a subset is the whole set, all subsets are the same.
    found = kernel_distance(a, b, subsets=3, size=30)
    assert found.value == pytest.approx(truth, rel=1e-4) and found.sd == pytest.approx(0, abs=1e-5)


def test_kernel_distance_by_subsets():
    a, b = draws(200, 5), draws(150, 5, 1, mean=0.5)
    found = kernel_distance(a, b)
    assert found.size == 75 and found.subsets == 100 and found.sd > 0
    assert found == kernel_distance(a, b) != kernel_distance(a, b, seed=1)
    assert found.value > 5 * abs(kernel_distance(a, draws(150, 5, 2)).value)
    assert kernel_distance(draws(2500, 2), draws(2100, 2, 1), subsets=1).size == 1000
    for size in (1, 151):
        with pytest.raises(ValueError, match="from 2 to 150 pictures"):
            kernel_distance(a, b, size=size)


def test_as_near_as_the_neighbour_is_near_enough():
    real, fake = torch.arange(5.0)[:, None], torch.tensor([[-1.0], [6.0]])
    found = precision_recall(real, fake, k=1)
    # The neighbour of each real one is 1 away, and so is the first fake from the nearest; of the fakes each is 7 from the other.
    assert (found.precision.share, found.recall.share) == (0.5, 1)


def test_precision_is_of_fakes_and_recall_of_the_real():
    # Two kinds of real pictures; the fakes know only one of them, and a tenth of them are nothing.
    real = torch.cat([draws(50, 3), draws(50, 3, 1, mean=20)])
    fake = torch.cat([draws(36, 3, 2, sd=0.5), draws(4, 3, 3, mean=-50)])
    precision, recall = precision_recall(real, fake)
    assert precision.share == pytest.approx(0.9) and precision.count == 40
    assert 0.1 < recall.share <= 0.5 and recall.count == 100
    assert precision.low < 0.9 < precision.high
    assert precision_recall(real, real).precision.share == precision_recall(real, real).recall.share == 1


def test_precision_by_hand():
    real, fake = torch.tensor([[0.0], [1.0], [3.0], [7.0]]), torch.tensor([[-1.5], [4.5], [20.0], [21.0]])
    # k = 1: real balls have radii 1, 1, 2, 4, so 4.5 lies among them; fake ones 6, 6, 1, 1, which hold all real ones.
    found = precision_recall(real, fake, k=1)
    assert (found.precision.share, found.recall.share) == (0.25, 1.0)
    # k = 2: radii 3, 2, 3, 6 reach -1.5 too.
    assert precision_recall(real, fake, k=2).precision.share == 0.5
    with pytest.raises(ValueError, match="at least 5 pictures are needed, got 4"):
        precision_recall(real, fake, k=4)
    with pytest.raises(ValueError, match="k must be at least 1"):
        precision_recall(real, fake, k=0)


# neighbours


@pytest.mark.parametrize("chunk", [1, 7, 1024])
def test_nearest_as_by_brute_force(chunk):
    these, among = draws(20, 5).float() + 1000, draws(30, 5, 1).float() + 1000
    distances, indices = nearest(these, among, chunk)
    truth = (these[:, None].double() - among[None].double()).norm(dim=2).min(1)
    assert torch.equal(indices, truth.indices)
    assert_close(distances, truth.values)


def test_nearest_finds_copies_of_pictures():
    among = torch.randint(0, 256, (50, 3, 16, 16), dtype=torch.uint8, generator=generator())
    distances, indices = nearest(among[[31, 4]], among, chunk=8)
    assert distances.tolist() == [0, 0] and indices.tolist() == [31, 4]
    other = among[[31]].clone()
    other[0, 0, 0, 0] ^= 8
    assert nearest(other, among)[0].item() == 8 and nearest(other, among)[1].item() == 31


def test_nearest_of_what_does_not_compare():
    with pytest.raises(ValueError, match=r"one shape, got \(5, 3\) and \(5, 4\)"):
        nearest(draws(5, 3), draws(5, 4))
    with pytest.raises(ValueError, match=r"one shape, got \(5, 3\) and \(0, 3\)"):
        nearest(draws(5, 3), draws(0, 3))
    with pytest.raises(ValueError, match="one range, both uint8 or both float"):
        nearest(torch.zeros(5, 1, 2, 2), torch.zeros(5, 1, 2, 2, dtype=torch.uint8))


def test_what_is_measured_can_be_written_down():
    real, fake = draws(40, 3), draws(40, 3, 1)
    found = [kernel_distance(real, fake), *precision_recall(real, fake), frechet_difference(real, fake, fake)]
    assert json.loads(json.dumps([one._asdict() for one in found]))[0]["size"] == 20


def test_a_share_is_of_whole_hits():
    for hits, count in ((1.5, 3), (1, 2.5), (4, 3), (0, 0)):
        with pytest.raises(ValueError, match="hits must be whole"):
            proportion(hits, count)
    assert proportion(2.0, 3) == proportion(2, 3) == metrics.proportion_of(2 / 3, 3)
    assert metrics.proportion_of(0.5, 3).low < 0.5 < metrics.proportion_of(0.5, 3).high


def test_a_kernel_distance_is_a_number_or_refused():
    a, b = draws(40, 4), draws(40, 4, 1)
    with pytest.raises(ValueError, match="at least 1 subset, got 0"):
        kernel_distance(a, b, subsets=0)
    with pytest.raises(ValueError, match=r"features up to \d.*e\+20 are too large for a cubic kernel"):
        kernel_distance(a * 1e20, b)
