"""Distances, quality, diversity and neighbours: closed forms, parity with torch-fidelity, coverage of intervals."""

import math

import comparisons
import numpy as np
import pytest
import torch
from oracle import generator, normal, random_images
from torch.testing import assert_close
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kernel_poly, kid_features_to_metric, mmd2

from facelab.evaluation import metrics
from facelab.evaluation.metrics import frechet_difference, frechet_distance, frechet_estimate, inception_score
from facelab.evaluation.statistics import wilson

kernel_distance, precision_recall = metrics.kernel_distance, metrics.precision_recall
memorization, nearest_neighbors = metrics.memorization, metrics.nearest_neighbors


@pytest.mark.parametrize(("m", "n", "size"), [(300, 200, 24), (60, 40, 24), (9, 300, 24), (12, 11, 24)])
def test_frechet_distance_equals_torch_fidelitys(m, n, size):
    a, b = (normal(k, size, k) @ normal(size, size, 5 + k) + k / 100 for k in (m, n))
    truth = fid_statistics_to_metric(*map(fid_features_to_statistics, (a, b)), False)["frechet_inception_distance"]
    assert frechet_distance(a, b) == pytest.approx(truth, rel=1e-6)
    assert frechet_distance(b, a) == pytest.approx(truth, rel=1e-6)
    mean, root = metrics.moments(a)
    assert_close((mean, root.T @ root), (a.mean(0), torch.cov(a.T)))


def test_frechet_distance_of_degenerate_sets():
    x, constant = normal(10, 30), torch.ones(4, 30)
    for same in (normal(10, 30, seed) for seed in range(30)):
        assert 0 <= frechet_distance(same, same) < 1e-10
    assert frechet_distance(constant, 3 * constant) == pytest.approx(120)
    spread = (x.mean(0) - 1).square().sum() + torch.cov(x.T).trace()
    assert frechet_distance(x, constant) == pytest.approx(spread.item())
    assert frechet_distance(x, x[:, torch.randperm(30, generator=generator())] + 1) > 30


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (normal(1, 4), normal(5, 4), "at least [24] images are needed, got 1"),
        (normal(5, 4), normal(5, 3), "both sets need the same features, got 4 and 3"),
        (normal(5, 4), normal(5, 4).index_fill(0, torch.tensor([1, 3]), math.nan), "2 rows of the features"),
        (normal(5, 4) / 0, normal(5, 4), "5 rows of the features are not finite"),
        (normal(5, 4), torch.zeros(5, 3, 8, 8), r"float \(N, D\), got torch.float32 \(5, 3, 8, 8\)"),
        (torch.ones(5, 4, dtype=torch.long), normal(5, 4), "got torch.int64"),
    ],
)
def test_invalid_features_are_refused(a, b, message):
    functions = frechet_distance, frechet_estimate, kernel_distance, precision_recall
    for function in (*functions, lambda a, b: frechet_difference(a, b, b)):
        with pytest.raises(ValueError, match=message):
            function(a, b)


def bootstrap_width(statistic, *sets, replicates=300):
    values = []
    for seed in range(replicates):
        g = generator(seed)
        values.append(statistic(*(x[torch.randint(len(x), (len(x),), generator=g)] for x in sets)))
    return 3.92 * np.std(values)


def test_the_interval_of_a_distance_is_as_wide_as_the_bootstraps():
    a, b = normal(200, 4), normal(200, 4, 1, mean=0.8)
    found = frechet_estimate(a, b)
    assert found.value == frechet_distance(a, b) and frechet_estimate(a, a).low == 0
    assert found.high - found.low == pytest.approx(bootstrap_width(frechet_distance, a, b), rel=0.2)


@pytest.mark.parametrize("size", [8, 80])
def test_the_interval_of_a_difference_is_as_wide_as_the_bootstraps(size):
    scale = torch.arange(1, size + 1) ** -0.5
    real, a, b = (normal(60, size, i, mean=m, sd=scale) for i, m in enumerate((0.0, 1.0, -0.7)))
    found = frechet_difference(real, a, b)
    assert found.value == frechet_distance(real, a) - frechet_distance(real, b)
    slow = bootstrap_width(lambda r, a, b: frechet_distance(r, a) - frechet_distance(r, b), real, a, b)
    assert found.high - found.low == pytest.approx(slow, rel=0.25)


def test_the_nearer_model_has_the_smaller_distance():
    real, near, far = normal(300, 6), normal(300, 6, 1, mean=0.1), normal(300, 6, 2, mean=0.5)
    found = frechet_difference(real, near, far)
    assert found.high < 0 and found.low + found.high == pytest.approx(2 * found.value)
    mirrored = frechet_difference(real, far, near)
    assert mirrored[:3] == pytest.approx((-found.value, -found.high, -found.low))
    with pytest.raises(ValueError, match="same number of images, got 20 and 10"):
        frechet_difference(normal(20, 3), normal(20, 3), normal(10, 3))


@pytest.mark.parametrize("size", [3, 9])
def test_influence_is_the_effect_of_one_more_copy_of_an_image(size):
    a, b = normal(6, size).exp(), normal(8, size, 1, mean=0.5)
    for x, other in ((a, b), (b, a)):
        # Among a thousand copies of all, so that one more changes the distance by little.
        many = x.repeat(1000, 1)
        change = torch.tensor([frechet_distance(torch.cat([many, one[None]]), other) * len(many) for one in x]).double()
        for influence in (metrics._influence(many, other)[0], metrics._influence(other, many)[1]):
            found = influence[: len(x)] - influence.mean()
            assert_close(change - change.mean(), found, rtol=0.01, atol=0.01)


def test_intervals_of_distances_cover_their_expectation():
    pairs = [(normal(150, 6, 2 * i), normal(150, 6, 2 * i + 1, mean=0.5)) for i in range(150)]
    for measure in (frechet_estimate, lambda a, b: kernel_distance(a, b, subsets=30)):
        found = [measure(a, b) for a, b in pairs]
        values = torch.tensor([one.value for one in found])
        covered = sum(one.low <= values.mean() <= one.high for one in found)
        width = sum(one.high - one.low for one in found) / 150 / 3.92 / values.std().item()
        assert covered >= 132 and 0.8 < width < 1.5


@pytest.mark.parametrize("case", ["equal models", "off to two sides"])
def test_comparisons_seldom_err(case):
    found = comparisons.run(case, trials=60, dimensions=6, count=120)
    assert found.holds >= 54 and 0.8 < found.width < 1.6


@pytest.mark.slow
@pytest.mark.parametrize("case", comparisons.CASES)
def test_comparisons_cover_the_expected_difference(case):
    found = comparisons.run(case)
    assert found.trials == 1000 and found.holds >= 930 and found.width <= 1.5


def test_kernel_distance_is_the_unbiased_cubic_mmd():
    a, b = normal(30, 5), normal(30, 5, 1, mean=0.5)
    x, y = a.numpy(), b.numpy()
    truth = mmd2(kernel_poly(x, x), kernel_poly(x, y), kernel_poly(y, y))
    inside = sum((p @ q / 5 + 1) ** 3 for s in (x, y) for i, p in enumerate(s) for j, q in enumerate(s) if i != j)
    across = sum((p @ q / 5 + 1) ** 3 for p in x for q in y)
    assert truth == pytest.approx(inside / (30 * 29) - 2 * across / 900)
    # Where a subset is the whole set, all subsets are the same.
    found = kernel_distance(a, b, subsets=3, size=30)
    assert found.value == pytest.approx(truth, rel=1e-4) and math.isnan(found.low)


def test_kernel_distance_by_subsets():
    a, b = normal(200, 5), normal(150, 5, 1, mean=0.5)
    found = kernel_distance(a, b)
    assert found == kernel_distance(a, b, 100, 75) == kernel_distance(a, b) != kernel_distance(a, b, seed=1)
    assert found.value > 5 * abs(kernel_distance(a, normal(150, 5, 2)).value)
    for size in (1, 151):
        with pytest.raises(ValueError, match="1 subset of 2 to 150 images"):
            kernel_distance(a, b, size=size)
    with pytest.raises(ValueError, match="too large for a cubic kernel"):
        kernel_distance(a * 1e20, b)


def test_kid_its_interval_and_the_inception_score_equal_torch_fidelitys():
    a, b = normal(120, 12).float(), normal(120, 12, 1, mean=0.3).float()
    theirs = kid_features_to_metric(a, b, kid_subsets=20, kid_subset_size=40, rng_seed=3, verbose=False)
    found = kernel_distance(a, b, 20, 40, 3)
    assert found.value == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-4)
    half = 1.96 * theirs["kernel_inception_distance_std"] * math.sqrt(40 / 80)
    assert found.high - found.value == pytest.approx(half, rel=1e-6)
    for splits in (1, 10):
        theirs = isc_features_to_metric(3 * a, splits, rng_seed=7)["inception_score_mean"]
        assert inception_score(3 * a, splits, seed=7).value == pytest.approx(theirs, rel=1e-9)


def test_inception_score_of_extremes():
    assert inception_score(torch.zeros(50, 7), 1).value == pytest.approx(1)
    certain = 1000 * torch.eye(5).repeat(20, 1)  # every class a fifth, each image certain: the number of classes
    found = inception_score(certain, 1)
    assert found.value == pytest.approx(5) and found.high - found.low < 1e-6
    assert inception_score(certain[:20].roll(1, 0), 10).value < 2.01, "two images a split have at most two classes"
    with pytest.raises(ValueError, match="at least 10 images are needed, got 9"):
        inception_score(normal(9, 5))
    with pytest.raises(ValueError, match="splits must be at least 1"):
        inception_score(normal(9, 5), 0)


def test_the_interval_of_an_inception_score_is_as_wide_as_it_varies():
    found = [inception_score(2 * normal(300, 6, seed), 1) for seed in range(200)]
    width = sum(one.high - one.low for one in found) / 200 / 3.92
    assert width == pytest.approx(torch.tensor([one.value for one in found]).std().item(), rel=0.2)


def test_precision_by_hand():
    def shares(real, generated, k):
        return [share.value for share in precision_recall(real, generated, k)]

    real, generated = torch.tensor([[0.0], [1.0], [3.0], [7.0]]), torch.tensor([[-1.5], [4.5], [20.0], [21.0]])
    # k = 1: real balls have radii 1, 1, 2, 4, so they hold 4.5; generated ones 6, 6, 1, 1, which hold all real ones.
    assert shares(real, generated, 1) == [0.25, 1]
    # k = 2: radii 3, 2, 3, 6 reach -1.5 too.
    assert shares(real, generated, 2)[0] == 0.5
    # A distance equal to the radius counts. Precision is a share of the generated images, recall of the real ones.
    five, two = torch.arange(5.0)[:, None], torch.tensor([[-1.0], [6.0]])
    assert shares(five, two, 1) == [0.5, 1] and [share.n for share in precision_recall(five, two, 1)] == [2, 5]
    assert shares(real, real, 3) == [1, 1]
    with pytest.raises(ValueError, match="at least 5 images are needed, got 4"):
        precision_recall(real, generated, k=4)
    with pytest.raises(ValueError, match="k must be at least 1"):
        precision_recall(real, generated, k=0)


@pytest.mark.parametrize("chunk", [1, 7, 1024])
def test_nearest_neighbors_as_by_brute_force(chunk):
    queries, candidates = normal(20, 5).float() + 1000, normal(30, 5, 1).float() + 1000
    distances, indices = nearest_neighbors(queries, candidates, chunk)
    truth = (queries[:, None].double() - candidates[None].double()).norm(dim=2).min(1)
    assert torch.equal(indices, truth.indices)
    assert_close(distances, truth.values)


def test_nearest_neighbors_finds_copies_of_images():
    images = random_images(50, 16)
    distances, indices = nearest_neighbors(images[[31, 4]], images, chunk=8)
    assert distances.tolist() == [0, 0] and indices.tolist() == [31, 4]
    other = images[[31]].clone()
    other[0, 0, 0, 0] ^= 8
    assert [x.item() for x in nearest_neighbors(other, images)] == [8, 31]


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (normal(5, 3), normal(5, 4), r"one shape.*float64 \(5, 3\) and torch.float64 \(5, 4\)"),
        (normal(5, 3), normal(0, 3), r"one shape.*\(0, 3\)"),
        (torch.zeros(5, 1), torch.zeros(5, 1).byte(), "both uint8 or both float, got torch.float32"),
        (normal(5, 3) / 0, normal(5, 3), "finite numbers"),
        (normal(5, 3), normal(5, 3) / 0, "finite numbers"),
    ],
)
def test_sets_without_neighbours_are_refused(a, b, message):
    with pytest.raises(ValueError, match=message):
        nearest_neighbors(a, b)


def test_copies_are_memorized_and_new_images_are_not():
    train, held_out = random_images(300), random_images(100, seed=1)
    new = [memorization(*(random_images(100, seed=3 * i + k) for k in range(3)), seed=i) for i in range(60)]
    # Noise has hubs: the interval knows them.
    assert sum(one.low <= 0.5 <= one.high for one in new) >= 53
    assert sum(one.high - one.low for one in new) / 60 < 0.35 and new[0].n == 100
    rows = torch.randperm(300, generator=generator(0))[:100]  # those of the larger set that are compared
    assert memorization(train[rows], train, held_out).value == 1
    assert memorization(held_out, train, held_out).value == 0
    assert memorization(normal(50, 4), normal(40, 4, 1, mean=5.0), normal(90, 4, 2)).value < 0.1
    with pytest.raises(ValueError, match="n above 0; got 0.0 of 0"):
        memorization(train[:0], train, held_out)


def test_an_equal_distance_counts_one_half():
    x = random_images(60)
    tied = memorization(x, x, x.clone())
    assert tied.value == 0.5 and tied.low < 0.5 < tied.high and tied.n == 60
    some = torch.cat([x[:30], random_images(30, seed=1)])
    assert memorization(some, some, x).value == 0.75, "half are tied, half are copies of training images alone"
    far = torch.zeros(1, 2)
    assert memorization(far.repeat(40, 1), far, far) == pytest.approx(wilson(20, 40))


@pytest.mark.parametrize("side", [28, 64])
def test_amplitudes_of_a_known_spectrum(side):
    """A cosine of amplitude a has |FFT| / pixels of a at the Nyquist frequency, and of a / 2 at others."""
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    waves = {"rows": y, "columns": x, "both axes": x + y}
    for period, factor in ((2, 1), (4, 0.5)):
        for name, position in waves.items():
            wave = 128 + 30 * torch.cos(2 * math.pi * position / period)
            expected = {f"period {p}, {n}": 0.0 for p in (2, 4) for n in waves}
            expected[f"period {period}, {name}"] = factor * 30
            images = (wave / 127.5 - 1).expand(2, 3, -1, -1)
            assert metrics.spectrum_amplitudes(images) == pytest.approx(expected, abs=1e-3)
            rounded = wave.round().to(torch.uint8)[None, None]
            assert metrics.spectrum_amplitudes(rounded) == pytest.approx(expected, abs=0.6)


def test_the_spectrum_of_odd_or_oblong_images_is_refused():
    for shape in ((1, 1, 27, 27), (1, 1, 28, 64), (1, 28, 28)):
        with pytest.raises(ValueError, match="square and of even size"):
            metrics.spectrum_amplitudes(torch.zeros(shape))
