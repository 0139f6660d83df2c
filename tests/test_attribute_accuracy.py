"""Attribute accuracy, in worlds where it is known exactly what is generated and what is predicted."""

import json
import math

import pytest
import torch

from facelab import DIGITS, AttributeDataset, Attributes, GaussianDenoiser, rectified_flow
from facelab.evaluation import attribute_accuracy as accuracy
from facelab.evaluation.attribute_accuracy import balanced_accuracy, mean_balanced_accuracy, predict_attributes

NAMES = Attributes(["Hat", "Glasses", "Smiling", "Male"], {"worn": ["Hat", "Glasses"], "face": ["Smiling", "Male"]})
SHAPE = (1, 2, 2)  # one pixel for each attribute: bright is yes, dark is no


def uniform(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def random_labels(count, rates=(0.05, 0.1, 0.5, 0.3), seed=0):
    """(N, 4) of -1 and +1, independent, with these rates of +1."""
    return torch.where(uniform(count, 4, seed=seed) < torch.tensor(rates), 1, -1).to(torch.int8)


def images_of(conds):
    """The images that show exactly these attributes."""
    return torch.where(conds > 0, 230, 25).to(torch.uint8).reshape(-1, *SHAPE)


def dataset(conds, names=NAMES):
    images = images_of(conds) if names is NAMES else torch.zeros(len(conds), 1, 1, 1, dtype=torch.uint8)
    return AttributeDataset(images, conds, names, "made for this test", "test")


class Classifier:
    """Predicts from a pixel; a positive (negative) one is right with probability `tpr` (`tnr`)."""

    attributes = NAMES

    def __init__(self, tpr=1.0, tnr=1.0):
        self.tpr, self.tnr, self.generator = tpr, tnr, torch.Generator().manual_seed(5)

    def predict(self, images):
        assert images.is_floating_point() and images.abs().max() <= 1
        shown = images.flatten(1).sign()
        right = torch.rand(shown.shape, generator=self.generator) < torch.where(shown > 0, self.tpr, self.tnr)
        return torch.where(right, shown, -shown).long()


def table(images, cond, real, names=None, classifier=None):
    """Balanced accuracy of images, beside that of the classifier on real images with these labels."""
    classifier = classifier or Classifier()
    on_real = accuracy.classifier_accuracy(classifier, dataset(real))
    return accuracy.attribute_table(classifier, images, cond, on_real, names)


def alone(each=20, count=4):
    """Each attribute alone, `each` times positive and negative."""
    signs = torch.tensor([1.0, -1.0]).repeat_interleave(each)
    return torch.cat([torch.eye(count)[i] * signs[:, None] for i in range(count)])


@pytest.mark.parametrize("cond", [random_labels(400).float(), alone()], ids=["all specified", "one specified"])
def test_images_that_follow_their_condition_and_images_that_show_the_opposite(cond):
    for row in table(images_of(cond), cond, random_labels(500)).rows:
        assert row.generated.value == row.real_images.value == 1 and row.gap.value == 0
        assert row.generated.high == 1 and 0.8 < row.generated.low < 1 and row.gap.high > 0
    opposite = table(images_of(-cond), cond, random_labels(500))
    assert [row.generated.value for row in opposite.rows] == [0] * 4
    assert [row.gap.value for row in opposite.rows] == [1] * 4 and opposite.about["mean"]["all"].value == 0


def test_images_that_ignore_their_condition_are_at_chance():
    cond, shown = (random_labels(600, (0.3, 0.2, 0.5, 0.7), seed) for seed in (0, 1))
    for row in table(images_of(shown), cond.float(), random_labels(500)).rows:
        assert row.generated.low < 0.5 < row.generated.high and row.gap.low > 0.3


def test_the_classifiers_errors_are_in_both_columns():
    cond = random_labels(2000, (0.3, 0.2, 0.5, 0.7)).float()
    real = random_labels(3000, (0.5, 0.5, 0.5, 0.1))
    for row in table(images_of(cond), cond, real, classifier=Classifier(0.9, 0.7)).rows:
        rates = row.generated.true_positive_rate.value, row.generated.true_negative_rate.value
        assert rates == pytest.approx((0.9, 0.7), abs=0.04)
        assert (row.generated.value, row.real_images.value) == pytest.approx((0.8, 0.8), abs=0.04)
        assert abs(row.gap.value) < 0.05 and row.gap.high - row.gap.low < 0.15


def test_one_attribute_that_fails_is_found():
    cond = alone(30)
    shown = torch.cat([-torch.ones(len(cond), 1), cond[:, 1:]], 1)
    found = table(images_of(shown), cond, random_labels(500))
    assert [row.generated.value for row in found.rows] == [0.5, 1, 1, 1]
    hat = found.rows[0].generated
    assert (hat.true_positive_rate.value, hat.true_negative_rate.value) == (0, 1)
    assert {group: mean.value for group, mean in found.about["mean"].items()} == {"all": 0.875, "worn": 0.75, "face": 1}


def test_unspecified_values_do_not_count_and_both_values_weigh_the_same():
    cond = torch.tensor([[1, 0, 0.5, 1]] * 2 + [[-1, 0, -1, 1]] * 8)
    predicted = torch.tensor([[1, 1, 1, 1], [-1, 1, 1, -1]] + [[-1, -1, 1, 1]] * 8)
    found = balanced_accuracy(predicted, cond, NAMES)
    hat = found["Hat"]
    assert (hat.true_positive_rate.value, hat.true_negative_rate.value, hat.value) == (0.5, 1, 0.75)
    assert (hat.true_positive_rate.n, hat.true_negative_rate.n) == (2, 8)
    assert math.isnan(found["Glasses"].low) and found["Glasses"].true_positive_rate is None
    assert found["Smiling"].value == 0.5 and str(found["Smiling"]).startswith("0.500 [")
    assert found["Male"].true_positive_rate.value == 0.9 and str(found["Male"]) == "-"
    # Predictions and conditions are not interchangeable.
    predicted, cond = torch.tensor([[1], [1], [1], [-1]]), torch.tensor([[1], [-1], [-1], [-1]])
    assert balanced_accuracy(predicted, cond, Attributes(["Hat"]))["Hat"].value == pytest.approx(2 / 3)
    for wrong in ((predicted, cond[1:]), (predicted.repeat(1, 4), cond)):
        for function in (balanced_accuracy, mean_balanced_accuracy):
            with pytest.raises(ValueError, match=r"both be \(B, 4\), got \(4, [14]\) and"):
                function(*wrong, NAMES)


def test_the_mean_over_attributes_and_its_interval():
    labels = random_labels(300, (0.2, 0.3, 0.5, 0.5))
    rates = torch.tensor([1.0, 0.9, 0.8, 0.7])

    def predicted(seed):
        return torch.where(uniform(300, 4, seed=seed) < rates, labels, -labels)

    found = mean_balanced_accuracy(predicted(3), labels.float(), NAMES)
    each = [one.value for one in balanced_accuracy(predicted(3), labels, NAMES).values()]
    assert found.value == pytest.approx(sum(each) / 4) and found.low < 0.85 < found.high
    assert mean_balanced_accuracy(predicted(3), labels, NAMES, ["Hat"]).value == 1
    values = [mean_balanced_accuracy(predicted(seed), labels, NAMES).value for seed in range(10, 110)]
    assert found.high - found.low == pytest.approx(3.92 * torch.tensor(values).std().item(), rel=0.35)
    cond = labels.clone()
    cond[:, 2] = 0
    assert mean_balanced_accuracy(predicted(3), cond, NAMES).value == pytest.approx(sum(each[:2] + each[3:]) / 3)
    with pytest.raises(ValueError, match="no attribute has both values"):
        mean_balanced_accuracy(predicted(3), cond, NAMES, ["Smiling"])


def test_predictions_are_of_saved_images_in_batches():
    conds = random_labels(50)
    images = images_of(conds)
    for given in (images, images.float() / 127.5 - 1, images.double() / 127.5 - 1):
        assert torch.equal(predict_attributes(Classifier(), given, batch_size=7), conds)
    with pytest.raises(ValueError, match="class_accuracy"):
        predict_attributes(type("Digits", (), {"attributes": DIGITS}), images)
    with pytest.raises(ValueError, match=r"\[-1, 1\]"):
        predict_attributes(Classifier(), images.float())


def test_a_table_as_json_and_text():
    cond = alone()
    cond[:, [1, 3]] = 0
    real = random_labels(500, (0.0, 0.1, 0.5, 0.3))
    found = table(images_of(cond), cond, real, ["Hat", "Smiling"])
    recorded = json.loads(json.dumps(found.to_json(), allow_nan=False))
    hat, smiling = recorded["rows"]
    assert list(recorded["about"]["mean"]) == ["all", "worn", "face"]
    assert hat["generated"]["value"] == 1 and hat["generated"]["true_positive_rate"]["n"] == 20
    assert hat["real_images"]["value"] is None and hat["gap"]["value"] is None
    assert smiling["gap"]["value"] == 0 and smiling["gap"]["low"] < 0 < smiling["gap"]["high"]
    head, first = str(found).splitlines()[1:3]
    assert head.split() == ["attribute", "generated", "real", "images", "gap"] and first.startswith("Hat  ")
    assert [row.attribute for row in table(images_of(cond), cond, real).rows] == ["Hat", "Smiling"]
    with pytest.raises(ValueError, match="other attributes than the classifier predicts"):
        accuracy.classifier_accuracy(Classifier(), dataset(real, Attributes(["Hat", "Glasses", "Smiling", "Female"])))


def test_class_accuracy():
    """Digit d is an image of brightness d / 9; the model has the first five of them."""

    class Digits:
        attributes = DIGITS

        def predict(self, images):
            return ((images.mean((1, 2, 3)) + 1) * 4.5).round().long()

    digits = torch.arange(10.0) / 4.5 - 1
    mean = lambda cond: (cond @ digits.clamp(max=digits[4]))[:, None, None, None]  # noqa: E731
    denoiser = GaussianDenoiser(mean, 0.1, rectified_flow())
    denoiser.shape, denoiser.attributes, denoiser.device = SHAPE, DIGITS, torch.device("cpu")
    found = accuracy.class_accuracy(denoiser, Digits(), 1.0, 6, steps=4)
    assert found.value == 0.5 and found.n == 60 and found.low < 0.5 < found.high
    images = digits[:, None, None, None].expand(-1, *SHAPE)
    assert accuracy.class_hits(images, torch.eye(10), Digits()).value == 1
    with pytest.raises(ValueError, match="exclusive classes"):
        accuracy.class_hits(images, torch.eye(10), Classifier())
