"""What is measured of edits and interpolations: by hand, on synthetic faces, and with a classifier that is known exactly."""

import json
import math
import sys
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "data/make"))
import record_editing
from record_editing import counterfactuals, edit_errors, monotonicity, psnr, rank_correlation, rms
from record_results import main

from facelab import pretrained
from facelab.analytic import GaussianDenoiser
from facelab.attributes import SYNTHETIC, Attributes
from facelab.classifier import AttributeClassifier
from facelab.data import synthetic_faces
from facelab.data.dataset import AttributeDataset
from facelab.data.synthetic_faces import people, render, render_many
from facelab.denoiser import Denoiser
from facelab.editing import edit
from facelab.samplers import DDIM, noise
from facelab.schedules import rectified_flow

NAMES = Attributes(["Hat", "Glasses", "Smile"])


def test_errors_by_hand():
    a, b = torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 4)
    b[0] += 2 / 255  # one level everywhere
    b[1, 0, :2] += 20 / 255  # ten levels, in a third of half of all
    assert_close(rms(a, b), torch.tensor([1.0, 10 / math.sqrt(6)]).double())
    assert_close(psnr(a, b), torch.tensor([48.1308, 20 * math.log10(25.5 * math.sqrt(6))]).double(), rtol=0, atol=1e-3)
    assert psnr(a, a).tolist() == pytest.approx([58.92] * 2, abs=0.01)
    mask = torch.zeros(2, 1, 4, 4, dtype=torch.bool)
    mask[:, :, :2] = True
    assert_close(rms(a, b, mask), torch.tensor([1.0, 10 / math.sqrt(3)]).double())
    assert rms(a, b, ~mask)[1] == 0 and rms(a, b, mask & False).isnan().all()


def test_rank_correlation_with_and_without_ties():
    rows = [[0.1, 0.2, 0.3, 0.9, 1.0], [5.0, 4, 3, 2, 1], [0, 0, 0, 0, 0], [1, 2, 4, 3, 5], [0, 0, 1, 1, 1]]
    found = [rank_correlation(torch.tensor(row), torch.arange(5)) for row in rows]
    # The last has the ranks 1.5 1.5 4 4 4.
    assert found == pytest.approx([1, -1, 0, 0.9, 7.5 / math.sqrt(7.5 * 10)])


# edits


@pytest.fixture(scope="module")
def pairs():
    return counterfactuals(6, ["Eyeglasses", "Smiling"])


def test_counterfactuals_are_the_same_faces_with_one_attribute_flipped(pairs):
    conds, seeds = people(6, "test")
    assert torch.equal(pairs.source_cond, conds.float())
    levels = ((pairs.before + 1) * 127.5).round().to(torch.uint8)
    assert torch.equal(levels, render_many(conds.float(), seeds))
    for i, changed in enumerate(pairs.changed):
        name = ("Eyeglasses", "Smiling")[i % 2]
        at = SYNTHETIC.index(name)
        assert pairs.source_cond[i, at] == -pairs.target_cond[i, at]
        assert changed == f"{'' if pairs.target_cond[i, at] > 0 else 'no '}{name}"
        again = render(pairs.target_cond[i], int(seeds[i]))
        assert torch.equal(((pairs.after[i] + 1) * 127.5).round().to(torch.uint8), again)
    shares = pairs.mask.double().mean((1, 2, 3))
    assert (shares > 0).all() and (shares < 0.3).all()
    assert (rms(pairs.others, pairs.after) > 20).all(), "another face: not a few pixels differ"


def test_edits_of_known_quality(pairs):
    """The true image inside and one level off outside; then an edit that changes nothing."""
    exact = torch.where(pairs.mask, pairs.after, pairs.before + 2 / 255)
    found = edit_errors(exact, pairs.before + 1 / 255, pairs)
    inside, improvement, outside = found["inside"], found["improvement"], found["outside"]
    assert inside["edit"].value == 0 and inside["unedited"].value > 5
    for name in ("unedited", "another face"):
        assert improvement[f"over {name}"].value == pytest.approx(inside[name].value)
        assert improvement[f"over {name}"].low > 0
    assert outside["edit"].value == pytest.approx(48.13, abs=0.01)
    assert outside["reconstruction"].value == pytest.approx(54.15, abs=0.01)
    assert outside["cost of the edit"].value == pytest.approx(6.02, abs=0.01)
    nothing = edit_errors(pairs.before, pairs.before + 1 / 255, pairs)
    assert nothing["improvement"]["over unedited"] == (0, 0, 0, 6)


def test_an_exact_model_edits_well_and_a_reversed_one_badly(pairs):
    """Six faces, equally likely, that look as the condition says: before under the source, after under the target."""

    def image(row):
        sides = (pairs.after, pairs.target_cond), (pairs.before, pairs.source_cond)
        return next(images[i] for images, conds in sides for i in range(6) if (conds[i] == row).all())

    denoise = GaussianDenoiser(lambda cond: torch.stack([image(row) for row in cond]), 0.1, rectified_flow())

    def improvement(pairs):
        sampler = DDIM(rectified_flow(), clip=False)
        edited = edit(denoise, pairs.before, pairs.source_cond, pairs.target_cond, sampler, 10, 1.0, 4)
        return edit_errors(edited, pairs.before, pairs)["improvement"]["over unedited"]

    assert improvement(pairs).low > 1
    reversed_ = pairs._replace(source_cond=pairs.target_cond, target_cond=pairs.source_cond)
    assert improvement(reversed_).value < 0


# interpolation


class Classifier:
    """Predicts attribute k from the brightness of row k; `leak` of it counts for the next row too."""

    attributes = NAMES

    def __init__(self, leak=0.0, change=lambda rows: rows):
        self.leak, self.change = leak, change

    def predict_proba(self, images):
        rows = images.mean((1, 3))[:, :3] * 4
        return self.change(rows + self.leak * rows.roll(1, 1)).sigmoid()


def model(strength=0.5):
    """Row k is as bright as attribute k says, with a little noise."""
    mean = lambda cond: strength * cond[:, None, :, None].expand(-1, 1, -1, 4)  # noqa: E731
    return GaussianDenoiser(mean, 0.05, rectified_flow())


def real_images(correlated):
    conds = torch.randint(0, 2, (400, 3), generator=torch.Generator().manual_seed(0)) * 2 - 1
    conds[:, 1] = conds[:, 0] if correlated else conds[:, 1]
    images = ((conds[:, None, :, None].expand(-1, 1, -1, 4) * 0.5 + 1) * 127.5).round().to(torch.uint8)
    return AttributeDataset(images, conds, NAMES, "made for this test", "test")


def measure(classifier=None, denoise=None, correlated=False, x_T=None, name="Hat", **options):
    classifier, real = classifier or Classifier(), real_images(correlated)
    p_real = classifier.predict_proba(real.images.float() / 127.5 - 1).double()
    x_T = noise(3, (1, 3, 4)) if x_T is None else x_T
    sampler = DDIM(rectified_flow(), clip=False)
    given = x_T, sampler, 6, real.conds, p_real
    return monotonicity(denoise or model(), classifier, name, *given, **{"frames": 5} | options)


def test_an_interpolation_that_changes_its_attribute_alone():
    found = measure(x_T=noise(200, (1, 3, 4)), paths=3)
    assert found["rank_correlation"].value == found["rank_correlation"].high == 1 and found["rank_correlation"].n == 3
    assert found["rank_correlation_of_the_mean"] == pytest.approx(1)
    # Two units of brightness by four: from sigmoid(-2) to sigmoid(2).
    assert found["change"].value == pytest.approx(0.76, abs=0.06)
    assert found["change_of_others"] < 0.01 and found["change_of_others_in_data"] < 0.06
    with pytest.raises(ValueError, match="did you mean 'Hat'|no attribute 'Hatt'"):
        measure(name="Hatt")


def test_a_change_of_other_attributes_is_found():
    free, leaking = (measure(Classifier(leak))["change_of_others"] for leak in (0.0, 1.0))
    assert leaking > 0.3 > 0.01 > free
    # Glasses come with hats in these images: half of the two others changes completely.
    found = measure(correlated=True, x_T=noise(200, (1, 3, 4)), paths=3)
    assert found["change_of_others_in_data"] == pytest.approx(0.38, abs=0.05)


def test_changes_that_cancel_over_the_noise_are_no_change():
    """Whether glasses come or go with the hat depends on the noise; half of these noises are the others' negatives."""

    def fickle(rows):
        return rows + rows[:, :1] * rows[:, 2:].sign() * torch.tensor([0, 1, 0])

    x_T = noise(3, (1, 3, 4))
    found = measure(Classifier(change=fickle), x_T=torch.cat([x_T, -x_T]), frames=3)
    assert found["change_of_others"] < 0.02 and found["change"].value > 0.7


def test_decreasing_and_mixed_interpolations():
    found = measure(denoise=model(-0.5))
    assert found["rank_correlation"].value == -1 and found["rank_correlation_of_the_mean"] == pytest.approx(-1)
    assert found["change"].value < -0.6

    def torn(rows):
        return rows * torch.stack([torch.where(rows[:, 2] > 0, 1, -0.5), *torch.ones(2, len(rows))], 1)

    x_T = noise(2, (1, 3, 4))
    found = measure(Classifier(change=torn), x_T=torch.cat([x_T, -x_T]))
    assert abs(found["rank_correlation"].value) < 0.1 and found["rank_correlation_of_the_mean"] == pytest.approx(1)


def test_paths_use_few_noises_and_ends_all():
    found = measure(paths=2)
    assert (found["rank_correlation"].n, found["change"].n) == (2, 3)
    assert found["change"].value == pytest.approx(measure()["change"].value, abs=1e-6)


# the command


def test_both_parts_are_recorded(tmp_path, monkeypatch, capsys):
    tiny = Denoiser((3, 64, 64), SYNTHETIC.names, block_out_channels=(32,), attention=(False,), patch_size=4)
    pretrained.save(tiny, tmp_path / "model", {"what": "made for this test"})
    classifier = AttributeClassifier((3, 64, 64), SYNTHETIC.names, channels=(8, 8))
    pretrained.save(classifier, tmp_path / "synthetic-classifier", {"what": "made for this test"})
    monkeypatch.setattr(pretrained, "shipped_dir", lambda kind="pretrained": tmp_path)
    monkeypatch.setitem(synthetic_faces.SPLIT_SIZES, "test", 40)
    monkeypatch.delenv("FACELAB_DATA", raising=False)
    parts = {"edits": record_editing.edits, "interpolation": record_editing.interpolation}
    found = {}
    for part in parts:
        options = "--model model --count 3 --steps 2 --names Smiling --out".split()
        main([part, *options, str(tmp_path / "out")], parts, "record_editing.py")
        found[part] = json.loads((tmp_path / "out" / f"model_{part}.json").read_text())
        assert found[part]["about"]["command"].startswith(f"python data/make/record_editing.py {part} --model model")
    assert list(found["edits"]["reconstruction"]) == list(record_editing.INVERSIONS)
    assert found["edits"]["inside"]["edit"]["n"] == 3 and sum(found["edits"]["about"]["changes"].values()) == 3
    row = found["interpolation"]["rows"]["Smiling"]
    assert row["change"]["n"] == 3 and -1 <= row["rank_correlation"]["low"] <= row["rank_correlation"]["high"] <= 1
