"""The table of scores, comparisons, and the recorded results: names, controls, what is refused."""

import json
import math

import pytest
import torch
from oracle import normal, random_images

from facelab.evaluation import report
from facelab.evaluation.features import Extractor
from facelab.evaluation.report import COLLAPSED, REAL, as_interval, compare, disjoint_rows, evaluate, one_mode


def network(name, size, logits=None):
    return Extractor(name, size, f"{name}, {size} features", lambda x: x.float().mean((2, 3)), 64, logits)


def test_generated_images_score_between_real_ones_and_the_control():
    found = evaluate(normal(600, 8), normal(300, 8, 1, mean=0.25), "made here")
    generated, real, collapsed = found.rows
    assert [row.images for row in found.rows] == ["generated", REAL, COLLAPSED] and found.about["count"] == 300
    distance = generated.frechet_distance
    assert real.frechet_distance.value < distance.low < distance.high < collapsed.frechet_distance.value
    assert abs(real.kernel_distance.value) < generated.kernel_distance.low
    assert generated.kernel_distance.high < collapsed.kernel_distance.value
    # The control has one mode: good images, and nearly all that is real is missing.
    assert collapsed.precision.value > real.precision.value and collapsed.recall.value < 0.05 < 0.6 < real.recall.value
    # 8 dimensions, each 0.25 apart: half a unit.
    assert 0.25 < distance.value - real.frechet_distance.value < 0.8
    assert all(row.inception_score is None for row in found.rows)


def test_scores_depend_on_the_seed_within_their_interval():
    real, fake = normal(400, 6), normal(200, 6, 1, mean=0.2)
    one, two = (evaluate(real, fake, "made here", seed=seed).rows[1].frechet_distance for seed in (0, 1))
    assert one != two and one.low <= two.value <= one.high and two.low <= one.value <= two.high
    assert evaluate(real, fake, "made here", seed=1).rows[1].frechet_distance == two


def test_the_halves_of_the_reference_are_random_and_disjoint():
    # Sorted, the halves would be far apart; with a shared image the precision below would be above 0.
    real = torch.arange(400, dtype=torch.float64)[:, None].repeat(1, 3)
    row = evaluate(real, real[:200], "made here").rows[1]
    assert row.frechet_distance.value < 1000 and row.precision.value > 0.9
    parts = disjoint_rows(100, 30, 50, 20, seed=1)
    assert [len(part) for part in parts] == [30, 50, 20] and torch.cat(parts).sort().values.tolist() == [*range(100)]
    assert parts[0].sort().values.tolist() != [*range(30)]
    with pytest.raises(ValueError, match="101 different rows are needed, and there are 100"):
        disjoint_rows(100, 51, 50)


def test_one_mode_is_the_tenth_nearest_to_the_first():
    features = torch.cat([normal(30, 4), normal(270, 4, 1, mean=50.0)])
    mode = one_mode(features)
    assert mode.shape == features.shape and len(mode.unique(dim=0)) == 30
    assert mode.max() < 10 and torch.equal(mode[:30], mode[30:60]) and one_mode(normal(25, 4)).shape == (25, 4)


def test_only_with_inceptions_2048_features_is_a_score_called_fid():
    real, fake = normal(60, 2048).float(), normal(30, 2048, 1).float()
    fid = evaluate(real, fake, network("Inception-v3", 2048, lambda x: x[:, :10]))
    assert fid.names == ("FID-30", "KID-30", "IS-30", "precision-30", "recall-30") and "not FID" not in str(fid)
    other = evaluate(real[:, :64], fake[:, :64], "another network")
    assert other.names[:3] == ("Fréchet distance-30", "kernel distance-30", "class score-30")
    assert "this is not FID" in str(other) and "FID" not in "".join(other.names)
    for features in (network("Inception-v3", 2048), "Inception-v3"):
        with pytest.raises(ValueError, match="2048 and 64 numbers"):
            evaluate(real[:, :64], fake[:, :64], features)


def test_every_set_has_the_count_of_the_names_and_precision_and_recall_their_own(monkeypatch):
    found = evaluate(normal(200, 4), {"a": normal(90, 4, 1), "b": normal(70, 4, 2)}, "made here")
    assert found.about["count"] == 70 and [row.images for row in found.rows[:2]] == ["a", "b"]
    assert all(row.precision.n == row.recall.n == 70 for row in found.rows)
    assert evaluate(normal(200, 4), normal(90, 4, 1), "made here", count=30).about["count"] == 30
    assert [report.short(n) for n in (2000, 50_000, 1500, 600, 1234)] == ["2k", "50k", "1.5k", "600", "1234"]
    monkeypatch.setattr(report, "MAXIMUM", 30)
    found = evaluate(normal(120, 4), normal(60, 4, 1), "x")
    assert found.names[-2:] == ("precision-30", "recall-30") and found.about["count"] == 60
    assert {row.precision.n for row in found.rows} == {row.recall.n for row in found.rows} == {30}


def test_a_table_is_shown_recorded_and_read_again():
    found = evaluate(normal(100, 4), normal(50, 4, 1), network("a network", 4, lambda x: x), seed=3)
    record = json.loads(json.dumps({"scores": [found.to_json()]}, allow_nan=False))
    about = record["scores"][0]["about"]
    assert (about["count"], about["seed"], about["features"]) == (50, 3, "a network, 4 features")
    lines = str(found).splitlines()
    assert len(lines) == 5 and lines[0].startswith("50 images each, seed 3; a network") and REAL in lines[3]
    (again,) = report.recorded_scores(record)
    assert again.rows == found.rows and str(again) == str(found) and again._repr_html_().count("<tr>") == 4
    assert math.isnan(as_interval({"value": None, "low": None, "high": None}).value) and as_interval("a") == "a"


def test_features_are_extracted_from_images():
    real, fake = random_images(60), random_images(30, seed=1)
    found = evaluate(real, fake, network("means", 3))
    assert evaluate(real.float() / 127.5 - 1, fake.float() / 127.5 - 1, network("means", 3)).rows == found.rows


def test_constant_images_and_fewer_images_than_features_have_scores():
    grey = torch.full((50, 3, 8, 8), 128, dtype=torch.uint8)
    generated, real, _ = evaluate(grey, grey[:25], network("means", 3, lambda x: x)).rows
    assert generated.frechet_distance.value == real.frechet_distance.value == 0
    assert generated.precision.value == generated.recall.value == 1
    assert generated.inception_score.value == pytest.approx(1)
    assert generated.kernel_distance.value == pytest.approx(0, abs=1e-3)
    found = evaluate(normal(60, 200), normal(30, 200, 1), "x").rows[0].frechet_distance
    assert math.isfinite(found.value) and found.low < found.value < found.high


@pytest.mark.parametrize(
    ("real", "fake", "message"),
    [
        (random_images(39), random_images(30), "at least 20 generated images and twice as many real ones; .* 19"),
        (random_images(60), random_images(60).float() * math.nan, "finite"),
        (normal(60, 3), {}, "at least one set"),
        (normal(60, 3), {REAL: normal(60, 3)}, "none 'other real images'"),
    ],
)
def test_invalid_sets_are_refused(real, fake, message):
    with pytest.raises(ValueError, match=message):
        evaluate(real, fake, network("means", 3))


def test_a_comparison_is_the_sign_of_a_significant_difference():
    real, near, far = normal(300, 6), normal(300, 6, 1, mean=0.1), normal(300, 6, 2, mean=0.5)
    assert compare(real, near, far).result == "a is nearer" and compare(real, far, near).result == "b is nearer"
    equal = compare(real, near, normal(300, 6, 3, mean=0.1))
    assert equal.result == "inconclusive" and equal.difference.low < 0 < equal.difference.high and equal.count == 300
    assert compare(real, near[:20], normal(20, 6, 3, mean=0.2)).result == "inconclusive", "too few images"


def test_recorded_results(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "shipped_dir", lambda kind: tmp_path)
    (tmp_path / "some.json").write_text('{"value": 3}')
    assert report.results("some") == {"value": 3}
    with pytest.raises(ValueError, match="no recorded result 'other': there are some"):
        report.results("other")
