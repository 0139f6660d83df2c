"""The table of scores and the verdict: names, floors, controls, closed forms, parity with torch-fidelity, and what is refused."""

import importlib.util
import json
import math
from pathlib import Path

import pytest
import torch
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

from facelab import scores
from facelab.features import Extractor
from facelab.metrics import (
    class_score,
    frechet_distance,
    frechet_estimate,
    kernel_distance,
    memorised,
    precision_recall,
    proportion_of,
)
from facelab.scores import evaluate, one_mode, short, verdict

_spec = importlib.util.spec_from_file_location("verdicts", Path(__file__).parent / "benchmarks/verdicts.py")
verdicts = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(verdicts)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def draws(count, size, seed=0, mean=0.0, sd=1.0):
    return torch.randn(count, size, generator=generator(seed), dtype=torch.float64) * sd + mean


def levels(count, side=8, seed=0):
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator(seed))


# the table


def test_fakes_stand_between_the_floor_and_the_control():
    found = evaluate(draws(600, 8), draws(300, 8, 1, mean=0.25), "made here")
    drawn, floor, broken = found.rows
    assert [row.of for row in found.rows] == ["drawn", "other real ones (the floor)", "one mode repeated (the control)"]
    assert (
        found.count == 300 and floor.distance.value < drawn.distance.low < drawn.distance.high < broken.distance.value
    )
    assert abs(floor.kernel.value) < drawn.kernel.low and drawn.kernel.high < broken.kernel.value
    # The control knows one mode: what it shows is good, and nearly all that is real is missing.
    assert broken.precision.share > floor.precision.share and broken.recall.share < 0.05 < 0.6 < floor.recall.share
    # 8 dimensions, each 0.25 apart: half a unit, beside what the floor has too.
    assert 0.25 < drawn.distance.value - floor.distance.value < 0.8
    assert all(row.classes is None for row in found.rows)


def test_the_floor_is_found_again_by_another_seed():
    real, fake = draws(400, 6), draws(200, 6, 1, mean=0.2)
    one, two = (evaluate(real, fake, "made here", seed=seed) for seed in (0, 1))
    assert one.rows[1].distance != two.rows[1].distance
    for a, b in ((one, two), (two, one)):
        assert a.rows[1].distance.low <= b.rows[1].distance.value <= a.rows[1].distance.high
    again = evaluate(real, fake, "made here", seed=1)
    assert again.rows == two.rows


def test_halves_are_drawn_at_random_and_share_no_picture():
    # Sorted, the two halves would be far apart; doubled, a picture in both halves would be found.
    real = torch.arange(400, dtype=torch.float64)[:, None].repeat(1, 3)
    floor = evaluate(real, real[:200], "made here").rows[1]
    assert floor.distance.value < 1000 and floor.precision.share > 0.9
    other = evaluate(real[:200], real[:200], "made here", other=real[200:]).rows[1]
    assert other.distance.value == pytest.approx(3 * 200**2) and other.precision.share < 0.02


def test_every_set_is_cut_to_one_count():
    found = evaluate(draws(200, 4), {"a": draws(90, 4, 1), "b": draws(70, 4, 2)}, "made here", other=draws(80, 4, 3))
    assert found.count == 70 and [row.of for row in found.rows[:2]] == ["a", "b"]
    assert all(row.precision.count == row.recall.count == 70 for row in found.rows)
    assert evaluate(draws(200, 4), draws(90, 4, 1), "made here", count=30).count == 30


def test_a_control_of_ones_own():
    real, fake = draws(200, 4), draws(100, 4, 1)
    found = evaluate(real, fake, "made here", broken={"far away": draws(100, 4, 2, mean=9.0)})
    assert found.rows[-1].of == "far away (the control)" and found.rows[-1].precision.share == 0
    assert evaluate(real, fake, "made here", broken=draws(100, 4, 2, mean=9.0)).rows[-1].of == "broken (the control)"


def test_one_mode_is_the_tenth_nearest_to_the_first():
    features = torch.cat([draws(30, 4), draws(270, 4, 1, mean=50.0)])
    mode = one_mode(features)
    assert mode.shape == features.shape and len(mode.unique(dim=0)) == 30
    assert mode.max() < 10 and torch.equal(mode[:30], mode[30:60])
    assert one_mode(draws(25, 4)).shape == (25, 4)


# names


def eyes(name, size, classes=None):
    return Extractor(name, size, f"{name}, {size} features", lambda x: x.float().mean((2, 3)), 64, classes)


def test_a_value_is_called_fid_only_with_inceptions_2048_features():
    real, fake = draws(60, 2048).float(), draws(30, 2048, 1).float()
    fid = evaluate(real, fake, eyes("Inception-v3", 2048, lambda x: x[:, :10]))
    assert fid.names == ("FID-30", "KID-30", "IS-30", "precision-30", "recall-30") and "not FID" not in str(fid)
    other = evaluate(real[:, :64], fake[:, :64], "Inception-v3's cousin of 64 features".replace("Inception-v3", "A"))
    assert other.names[:3] == ("distance-30", "kernel distance-30", "class score-30") and "this is not FID" in str(
        other
    )
    assert "FID" not in "".join(other.names)
    with pytest.raises(ValueError, match="Inception-v3's features are 2048 numbers a picture, got 64"):
        evaluate(real[:, :64], fake[:, :64], eyes("Inception-v3", 2048))
    with pytest.raises(ValueError, match="Inception-v3's features are 2048 numbers a picture, got 64"):
        evaluate(real[:, :64], fake[:, :64], "Inception-v3")


@pytest.mark.parametrize(
    ("count", "name"), [(2000, "2k"), (50_000, "50k"), (1500, "1.5k"), (600, "600"), (1234, "1234")]
)
def test_the_count_is_part_of_the_name(count, name):
    assert short(count) == name


def test_the_table_can_be_read_and_written():
    found = evaluate(draws(100, 4), draws(50, 4, 1), eyes("some eyes", 4, lambda x: x), seed=3)
    told = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert (told["count"], told["seed"], told["features"]) == (50, 3, "some eyes, 4 features")
    for row in told["rows"]:
        for name in ("distance-50", "kernel distance-50", "class score-50"):
            assert row[name]["low"] <= row[name]["value"] <= row[name]["high"]
        assert row["precision-50"]["low"] <= row["precision-50"]["share"] and row["recall-50"]["count"] == 50
    lines = str(found).splitlines()
    assert len(lines) == 5 and lines[0].startswith("50 pictures each, seed 3; some eyes") and "the floor" in lines[3]
    assert found._repr_html_().count("<tr>") == 4


def test_pictures_are_looked_at_and_kept(tmp_path):
    real, fake = levels(60), levels(30, seed=1)
    found = evaluate(real, fake, eyes("means", 3), keep=tmp_path)
    assert found.rows == evaluate(real, fake, eyes("means", 3)).rows
    assert len(list(tmp_path.glob("*/features.npy"))) == 3
    assert evaluate(real.float() / 127.5 - 1, fake.float() / 127.5 - 1, eyes("means", 3)).rows == found.rows


# what is refused, and what is defined


@pytest.mark.parametrize(
    ("real", "fake", "says"),
    [
        (levels(1), levels(1), "at least 20 pictures of every set, and the real ones twice as many.*room for 0"),
        (levels(39), levels(30), "room for 19"),
        (levels(60), levels(60, 16), r"one size, got \(3, 8, 8\) and \(3, 16, 16\)"),
        (levels(60), draws(60, 3), "all sets must be pictures"),
        (levels(60), levels(60).float() * math.nan, "finite in"),
        (draws(60, 3), draws(60, 4), r"one size, got \(3,\) and \(4,\)"),
        (draws(60, 3), draws(60, 3) / 0, "not finite"),
        (levels(60)[0], levels(60)[0], "all sets must be pictures"),
    ],
)
def test_what_cannot_be_scored_is_one_sentence(real, fake, says):
    with pytest.raises(ValueError, match=says):
        evaluate(real, fake, eyes("means", 3) if real.ndim == 4 else "made here")


def test_more_than_there_are_cannot_be_counted():
    with pytest.raises(ValueError, match="at least 60 pictures of every set; here is room for 50"):
        evaluate(draws(100, 3), draws(50, 3), "made here", other=draws(100, 3), count=60)


def test_constant_pictures_and_fewer_pictures_than_features_have_scores():
    grey = torch.full((50, 3, 8, 8), 128, dtype=torch.uint8)
    drawn, floor, _ = evaluate(grey, grey[:25], eyes("means", 3, lambda x: x)).rows
    assert drawn.distance.value == floor.distance.value == 0 and drawn.precision.share == drawn.recall.share == 1
    assert drawn.classes.value == pytest.approx(1) and drawn.kernel.value == pytest.approx(0, abs=1e-3)
    real, fake = draws(60, 200), draws(30, 200, 1)
    found = evaluate(real, fake, "made here", seed=5).rows[0].distance
    assert math.isfinite(found.value) and found.low < found.value < found.high


# equal to torch-fidelity, and to closed forms


def test_all_scores_are_torch_fidelitys():
    a, b = draws(120, 12).float(), draws(120, 12, 1, mean=0.3).float()
    theirs = fid_statistics_to_metric(*map(fid_features_to_statistics, (a.double(), b.double())), False)
    assert frechet_estimate(a, b).value == pytest.approx(theirs["frechet_inception_distance"], rel=1e-6)
    told = kid_features_to_metric(a, b, kid_subsets=20, kid_subset_size=40, rng_seed=3, verbose=False)
    found = kernel_distance(a, b, 20, 40, 3)
    assert found.value == pytest.approx(told["kernel_inception_distance_mean"], rel=1e-6)
    assert found.sd == pytest.approx(told["kernel_inception_distance_std"], rel=1e-6)
    told = prc_features_to_metric(b.double(), a.double(), prc_neighborhood=3, verbose=False)
    shares = precision_recall(a, b)
    assert (shares.precision.share, shares.recall.share) == pytest.approx((told["precision"], told["recall"]))
    for splits in (1, 10):
        told = isc_features_to_metric(3 * a, splits, rng_seed=7)["inception_score_mean"]
        assert class_score(3 * a, splits, seed=7).value == pytest.approx(told, rel=1e-9)


@pytest.mark.parametrize("chunk", [7, 1000])
def test_precision_does_not_depend_on_strips(chunk, monkeypatch):
    from facelab import metrics

    real, fake = draws(60, 3), draws(50, 3, 1, mean=0.5)
    whole = precision_recall(real, fake)
    monkeypatch.setattr(metrics._among, "__defaults__", (chunk,))
    assert precision_recall(real, fake) == whole


def test_class_score_at_its_ends():
    assert class_score(torch.zeros(50, 7), 1).value == pytest.approx(1)
    sure = 1000 * torch.eye(5).repeat(20, 1)  # every class a fifth, each picture sure: as many as there are classes
    found = class_score(sure, 1)
    assert found.value == pytest.approx(5) and found.high - found.low < 1e-6
    assert class_score(sure[:20].roll(1, 0), 10).value < 2.01, "two pictures a split know at most two classes"
    assert class_score(draws(200, 5).sign() * 5, 1, 1).low > 1
    with pytest.raises(ValueError, match="at least 10 pictures are needed, got 9"):
        class_score(draws(9, 5))
    with pytest.raises(ValueError, match="splits must be at least 1"):
        class_score(draws(9, 5), 0)


def test_the_interval_of_a_class_score_is_as_wide_as_it_varies():
    found = [class_score(2 * draws(300, 6, seed), 1) for seed in range(200)]
    values = torch.tensor([one.value for one in found])
    width = sum(one.high - one.low for one in found) / 200 / 3.92
    assert width == pytest.approx(values.std().item(), rel=0.2)


def test_intervals_of_distances_hold_their_expectation():
    pairs = [(draws(150, 6, 2 * i), draws(150, 6, 2 * i + 1, mean=0.5)) for i in range(150)]
    for measure in (frechet_estimate, lambda a, b: kernel_distance(a, b, subsets=30)):
        found = [measure(a, b) for a, b in pairs]
        values = torch.tensor([one.value for one in found])
        holds = sum(one.low <= values.mean() <= one.high for one in found)
        width = sum(one.high - one.low for one in found) / 150 / 3.92 / values.std().item()
        assert holds >= 132 and 0.8 < width < 1.5


def test_one_distance_by_influence_and_by_bootstrap():
    a, b = draws(200, 4), draws(200, 4, 1, mean=0.8)
    quick, slow = frechet_estimate(a, b), frechet_estimate(a, b, replicates=200)
    assert quick.value == slow.value == frechet_distance(a, b)
    assert quick.high - quick.low == pytest.approx(slow.high - slow.low, rel=0.2)
    assert frechet_estimate(a, a).low == 0
    with pytest.raises(ValueError, match="replicates must be 0, or at least 2"):
        frechet_estimate(a, b, replicates=1)


def test_precision_and_recall_are_of_as_many_as_their_names_say(monkeypatch):
    monkeypatch.setattr(scores, "MOST", 30)
    real, fake = draws(120, 4), draws(60, 4, 1)
    found = evaluate(real, fake, "x")
    assert found.names[-2:] == ("precision-30", "recall-30") and found.count == 60
    assert {row.precision.count for row in found.rows} == {row.recall.count for row in found.rows} == {30}
    assert found == evaluate(real, fake, "x") and found.rows[0].distance.value == whole(real, fake).distance.value
    monkeypatch.setattr(scores, "MOST", 60)
    assert evaluate(real, fake, "x").rows[0].precision.count == 60


def whole(real, fake):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scores, "MOST", 10_000)
        return evaluate(real, fake, "x").rows[0]


@pytest.mark.parametrize(
    ("fake", "broken", "says"),
    [
        ({}, None, "there is nothing to score"),
        ({scores.FLOOR: draws(30, 4)}, None, r"name of its own: other real ones \(the floor\) would stand there twice"),
        ({"a (the control)": draws(30, 4)}, {"a": draws(30, 4)}, r"a \(the control\) would stand there twice"),
        (draws(30, 4) * 1e20, None, "too large for a cubic kernel"),
    ],
)
def test_a_table_that_would_be_wrong_is_refused(fake, broken, says):
    with pytest.raises(ValueError, match=says):
        evaluate(draws(60, 4), fake, "x", broken=broken)


# learned by heart


def test_copies_are_found_and_strangers_are_not():
    train, held_out = levels(300), levels(100, seed=1)
    strangers = [memorised(*(levels(100, seed=3 * i + k) for k in range(3)), seed=i) for i in range(60)]
    # Noise has hubs: the interval knows them.
    assert sum(one.low <= 0.5 <= one.high for one in strangers) >= 53
    assert sum(one.high - one.low for one in strangers) / 60 < 0.35 and strangers[0].count == 100
    picked = torch.randperm(300, generator=generator(0))[:100]  # those of the larger set that are compared with
    assert memorised(train[picked], train, held_out).share == 1
    assert memorised(held_out, train, held_out).share == 0
    assert memorised(draws(50, 4), draws(40, 4, 1, mean=5.0), draws(90, 4, 2)).share < 0.1


def test_a_tie_counts_one_half():
    x = levels(60)
    tied = memorised(x, x, x.clone())
    assert tied.share == 0.5 and tied.low < 0.5 < tied.high and tied.count == 60
    some = memorised(torch.cat([x[:30], levels(30, seed=1)]), torch.cat([x[:30], levels(30, seed=1)]), x)
    assert some.share == 0.75, "half are tied, half are copies of the training pictures alone"
    far = torch.zeros(1, 2)
    hub = memorised(torch.cat([far] * 40), far, far)
    assert (hub.low, hub.share, hub.high) == pytest.approx(proportion_of(0.5, 40)[1::-1] + proportion_of(0.5, 40)[2:3])


def test_numbers_that_are_not_finite_are_nearest_to_nothing():
    x = draws(8, 3)
    for i in range(3):
        sets = [x.clone(), draws(8, 3, 1), draws(8, 3, 2)]
        sets[i][2, 1] = math.nan
        with pytest.raises(ValueError, match="neighbours need finite numbers"):
            memorised(*sets)
    with pytest.raises(ValueError, match="there is no fake"):
        memorised(x[:0], x, x)


# verdicts


def test_a_verdict_is_the_sign_of_a_sure_difference():
    real, near, far = draws(300, 6), draws(300, 6, 1, mean=0.1), draws(300, 6, 2, mean=0.5)
    assert verdict(real, near, far).word == "A better" and verdict(real, far, near).word == "B better"
    alike = verdict(real, near, draws(300, 6, 3, mean=0.1))
    assert alike.word == "inconclusive" and alike.difference.low < 0 < alike.difference.high
    assert str(verdict(real, near, far)).startswith("A better: A's distance minus B's -") and alike.count == 300
    few = verdict(real, near[:20], draws(20, 6, 3, mean=0.2))
    assert few.word == "inconclusive", "what few pictures do not tell"
    assert verdict(real, near, far, replicates=20, seed=1) == verdict(real, near, far, replicates=20, seed=1)


def test_a_verdict_seldom_errs_in_a_few_draws():
    found = verdicts.tried("models alike", draws=60, dimensions=6, count=120)
    assert found.holds >= 54 and 0.8 < found.width < 1.6


@pytest.mark.slow
@pytest.mark.parametrize("world", verdicts.WORLDS)
def test_the_verdicts_interval_holds_the_expected_difference(world):
    found = verdicts.tried(world)
    assert found.draws == 1000 and found.holds >= 930 and found.width <= 1.5
