"""Attribute accuracy: does an independent classifier predict the attributes that images were conditioned on?

    balanced accuracy = (true positive rate + true negative rate) / 2

Chance is 0.5, however rare the attribute. Only specified attributes (not 0) count. The classifier errs on real images too, so
its balanced accuracy there stands beside every value.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from facelab.attributes import Attributes
from facelab.data.dataset import AttributeDataset
from facelab.evaluation.statistics import NOT_AVAILABLE, Interval, Table, as_cell, average, difference, wilson
from facelab.images import to_uint8
from facelab.samplers import generate

# Twelve attributes that stand for CelebA's forty where each costs hundreds of images: common and rare, hair, face, worn.
TWELVE = (
    "Smiling Male Blond_Hair Black_Hair Bangs Eyeglasses Wearing_Hat Heavy_Makeup Wearing_Lipstick No_Beard Bald Gray_Hair"
).split()
# By the name of the dataset whose images they classify.
CLASSIFIERS = {name: f"{name}-classifier" for name in ("celeba", "synthetic", "mnist")} | {
    "mnist-5000": "mnist-classifier"
}


class BalancedAccuracy(NamedTuple):
    """Balanced accuracy with its interval, and both rates; NaN where one of the rates is None, for want of images."""

    value: float
    low: float
    high: float
    true_positive_rate: Interval | None
    true_negative_rate: Interval | None

    __str__ = as_cell


def predict_attributes(classifier, images: Tensor, batch_size: int = 500) -> Tensor:
    """(B, K) int8 of -1 and +1: predictions on images (B, C, H, W), uint8 or in [-1, 1], rounded to 256 levels."""
    if classifier.attributes.exclusive:
        raise ValueError("this classifier predicts one class of an image: take `class_hits` or `class_accuracy`.")
    parts = (to_uint8(part).float() / 127.5 - 1 for part in images.split(batch_size))
    return torch.cat([classifier.predict(part).to(torch.int8) for part in parts])


def balanced_accuracy(predicted: Tensor, cond: Tensor, attributes: Attributes) -> dict[str, BalancedAccuracy]:
    """{name: agreement of predictions (B, K) with the conditions or labels (B, K)}; 0 in `cond` does not count."""
    _check_shapes(predicted, cond, attributes)

    def rate(column, sign):
        rows = cond[:, column].sign() == sign
        return wilson(int((predicted[rows, column] == sign).sum()), int(rows.sum())) if rows.any() else None

    found = {}
    for i, name in enumerate(attributes):
        rates = rate(i, 1), rate(i, -1)
        found[name] = BalancedAccuracy(*(average(rates) if all(rates) else NOT_AVAILABLE)[:3], *rates)
    return found


def mean_balanced_accuracy(predicted: Tensor, cond: Tensor, attributes: Attributes, names=None) -> Interval:
    """The mean over all `names` (by default all attributes) of which both values are specified somewhere.

    All attributes are predicted on the same images, so the interval is value plus or minus 1.96 standard deviations of 200
    bootstrap replicates of the images.
    """
    _check_shapes(predicted, cond, attributes)
    columns = torch.tensor([attributes.index(name) for name in (attributes if names is None else names)])
    columns = columns[((cond[:, columns] > 0).any(0) & (cond[:, columns] < 0).any(0))]
    if len(columns) == 0:
        raise ValueError("no attribute has both values among these conditions, so no accuracy can be balanced.")
    specified = torch.stack([cond[:, columns] > 0, cond[:, columns] < 0]).double()
    hits = specified * torch.stack([predicted[:, columns] > 0, predicted[:, columns] < 0])
    rows = torch.randint(len(cond), (200, len(cond)), generator=torch.Generator().manual_seed(0))
    weights = torch.stack([torch.ones(len(cond)), *(row.bincount(minlength=len(cond)) for row in rows)]).double()
    means = (weights @ hits / (weights @ specified)).mean(0).nanmean(1)  # leaves out a value that a replicate lacks
    value, half = means[0].item(), 1.96 * means[1:].std().item()
    return Interval(value, max(0.0, value - half), min(1.0, value + half), len(cond))


def classifier_accuracy(classifier, dataset: AttributeDataset) -> dict[str, BalancedAccuracy]:
    """{name: how well the classifier predicts the labels of real images}; 0 is an unknown label."""
    if dataset.attributes != classifier.attributes:
        raise ValueError("the real images have other attributes than the classifier predicts.")
    return balanced_accuracy(predict_attributes(classifier, dataset.images), dataset.conds, dataset.attributes)


class AttributeRow(NamedTuple):
    """One attribute: balanced accuracy of generated images, of the classifier on real ones, and the second minus the first."""

    attribute: str
    generated: BalancedAccuracy
    real_images: BalancedAccuracy
    gap: Interval


def attribute_table(
    classifier, generated: Tensor, cond: Tensor, on_real: dict, names: list[str] | None = None
) -> Table:
    """How accurately images (B, C, H, W) show their conditions (B, K), by attribute; `about["mean"]` by group of attributes.

    `on_real`: `classifier_accuracy` of real images. `names`: the rows, by default all of which both values are specified.
    """
    attributes, predicted = classifier.attributes, predict_attributes(classifier, generated)
    found = balanced_accuracy(predicted, cond, attributes)
    complete = [name for name, accuracy in found.items() if not math.isnan(accuracy.value)]
    names = complete if names is None else names
    groups = {"all": attributes.names} | (attributes.groups if len(attributes.groups) > 1 else {})
    groups = {group: [name for name in some if name in names and name in complete] for group, some in groups.items()}
    means = {group: mean_balanced_accuracy(predicted, cond, attributes, some) for group, some in groups.items() if some}
    rows = [AttributeRow(name, found[name], on_real[name], difference(on_real[name], found[name])) for name in names]
    caption = f"balanced accuracy, chance 0.500; mean of generated images: {means.get('all', '-')}"
    return Table(tuple(rows), {"caption": caption, "mean": means})


def class_hits(images: Tensor, cond: Tensor, classifier) -> Interval:
    """The share of images (B, C, H, W) in [-1, 1] that are classified as the one class which `cond` (B, K) specifies."""
    if not classifier.attributes.exclusive:
        raise ValueError("class_hits takes a classifier of exclusive classes, such as MNIST's digits.")
    return wilson(int((classifier.predict(images) == cond.argmax(1)).sum()), len(images))


def class_accuracy(model, classifier, guidance_scale, per_class: int, steps=10, sampler=None, seed=1) -> Interval:
    """The share of generated images that are classified as their class, `per_class` images of every class."""
    cond = torch.eye(len(classifier.attributes)).repeat(per_class, 1)
    x = generate(model, cond, guidance_scale=guidance_scale, steps=steps, sampler=sampler, seed=seed, batch_size=100)
    return class_hits(x, cond, classifier)


def _check_shapes(predicted: Tensor, cond: Tensor, attributes: Attributes) -> None:
    if predicted.shape != cond.shape or predicted.ndim != 2 or predicted.shape[1] != len(attributes):
        shapes = f"{tuple(predicted.shape)} and {tuple(cond.shape)}"
        raise ValueError(f"predictions and conditions must both be (B, {len(attributes)}), got {shapes}.")
