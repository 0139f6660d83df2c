"""What answers alone tell: rates, correlations, contradictions."""

import json

import pytest
import torch
from torch.testing import assert_close

from facelab.attributes import CELEBA, Attributes
from facelab.survey import CONTRADICTIONS, survey

NAMES = Attributes(["Bald", "Bangs", "Smiling"])
ANSWERS = torch.tensor([[1, 1, 1], [1, -1, 1], [-1, -1, 1], [-1, -1, 1]], dtype=torch.int8)


def test_rates_are_shares_of_yes():
    assert_close(survey(ANSWERS, NAMES).rates, torch.tensor([0.5, 0.25, 1.0], dtype=torch.float64))


def test_correlations_are_numpys():
    answers = torch.where(torch.randn(200, 40, generator=torch.Generator().manual_seed(0)) > 0.5, 1, -1)
    answers[:, 1] = answers[:, 0]
    got = survey(answers, CELEBA).correlations
    assert_close(got, torch.corrcoef(answers.T.double()), atol=1e-12, rtol=0)
    assert_close(got[0, 1].item(), 1.0)


def test_what_is_always_answered_alike_goes_with_nothing():
    assert survey(ANSWERS, NAMES).correlations[2].tolist() == [0, 0, 0]


def test_contradictions_are_counted_where_both_names_are_known():
    assert survey(ANSWERS, NAMES).contradictions == {"Bald and Bangs": 1}
    assert all(name in CELEBA.names for pair in CONTRADICTIONS for name in pair)


def test_it_fits_into_json():
    found = json.loads(json.dumps(survey(ANSWERS, NAMES).to_json()))
    assert found["rates"] == [0.5, 0.25, 1.0] and found["count"] == 4 and found["names"] == list(NAMES.names)


@pytest.mark.parametrize("answers", [torch.ones(0, 3), torch.ones(4, 2), torch.ones(3)])
def test_what_fits_not_is_refused(answers):
    with pytest.raises(ValueError, match="survey takes answers"):
        survey(answers, NAMES)
