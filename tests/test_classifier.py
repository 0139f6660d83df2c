"""The attribute classifier: predictions, probabilities, and a loss over the specified attributes only."""

import math

import pytest
import torch
from oracle import NAMES, SHAPE, randn, refused
from torch.nn import functional as F
from torch.testing import assert_close

from facelab.attributes import DIGITS
from facelab.classifier import AttributeClassifier

pytestmark = pytest.mark.usefixtures("without_gradients")


def classifier(exclusive=False, **settings):
    return AttributeClassifier(SHAPE, NAMES, exclusive, channels=(8, 16), **settings).eval()


def test_predictions_and_probabilities():
    x = randn(7, *SHAPE).clamp(-1, 1)
    logits = classifier()(x)
    assert logits.shape == (7, 3)
    assert torch.equal(classifier().predict(x, batch_size=2), torch.where(logits > 0, 1, -1))
    assert_close(classifier().predict_proba(x, batch_size=2), logits.sigmoid())
    one = classifier(exclusive=True)
    assert torch.equal(one.predict(x, batch_size=3), logits.argmax(1))
    assert_close(one.predict_proba(x), logits.softmax(1))
    assert_close(one.predict_proba(x).sum(1), torch.ones(7))


def test_images_that_do_not_fit_are_refused():
    with refused(r"images must be \(B, 1, 8, 8\)"):
        classifier()(torch.zeros(1, 1, 8, 9))
    for method in (classifier().predict, classifier().predict_proba):
        with refused("values up to 255"):
            method(torch.full((1, *SHAPE), 255.0))


def test_unspecified_attributes_do_not_count_in_the_loss():
    x, cond = randn(3, *SHAPE), torch.tensor([[1.0, 0, -1], [0, 0, 0], [1, 1, 1]])
    right = F.logsigmoid(classifier()(x) * cond)
    expected = torch.stack([-(right[0, 0] + right[0, 2]) / 2, torch.zeros(()), -right[2].mean()])
    assert_close(classifier().loss(x, cond), expected)


def test_exclusive_attributes_share_one_softmax():
    x, cond = randn(3, *SHAPE), torch.eye(3)
    expected = -classifier(exclusive=True)(x).log_softmax(1).diag()
    assert_close(classifier(exclusive=True).loss(x, cond), expected)
    assert expected.mean() == pytest.approx(math.log(3), abs=0.5)


def test_frequencies_adjust_the_logits_of_the_loss_only():
    frequencies = (0.02, 0.7, 0.5)
    plain, adjusted = classifier(), classifier(frequencies=frequencies)
    x = randn(6, *SHAPE).clamp(-1, 1)
    conds = torch.tensor([[1.0, -1, 1], [-1, 1, 1], [0, 1, 0], [1, 0, -1], [-1, -1, 1], [1, 1, 0]])
    logits = plain(x)
    assert torch.equal(logits, adjusted(x))
    shifted = logits + torch.tensor([math.log(f / (1 - f)) for f in frequencies])
    each = F.binary_cross_entropy_with_logits(shifted, (conds > 0).float(), reduction="none") * (conds != 0)
    assert_close(adjusted.loss(x, conds), each.sum(1) / (conds != 0).sum(1))
    for wrong in ((0.5,), (0.0, 0.5, 0.5), (0.5, 0.5, 1.0)):
        with refused("3 numbers between 0 and 1"):
            classifier(frequencies=wrong)


def test_residual_blocks_follow_their_level():
    small, deep = (
        AttributeClassifier((3, 16, 16), ("a",), channels=(8, 16), blocks_per_level=blocks) for blocks in ((), (0, 2))
    )
    more = sum(p.numel() for p in deep.parameters()) - sum(p.numel() for p in small.parameters())
    assert more == 2 * (2 * 9 * 16 * 16 + 2 * 2 * 16) and deep(torch.zeros(1, 3, 16, 16)).shape == (1, 1)
    assert any(name.startswith("layers.1.4.layers.") for name in deep.state_dict())


def test_a_classifier_is_loaded_as_it_was_saved(tmp_path):
    net = AttributeClassifier((1, 28, 28), DIGITS.names, exclusive=True, channels=(8, 16))
    net.train()(randn(16, 1, 28, 28))
    net.half().save_pretrained(tmp_path)
    back = AttributeClassifier.from_pretrained(tmp_path)
    assert not back.training and {p.dtype for p in back.parameters()} == {torch.float32}
    assert back.attributes is DIGITS and back.shape == (1, 28, 28)
    x = randn(5, 1, 28, 28).clamp(-1, 1).float()
    assert_close(back(x), net.float().eval()(x))
