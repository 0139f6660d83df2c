"""The shipped weights do what their cards say."""

import pytest

from facelab import pretrained
from facelab.data import mnist
from facelab.metrics import asked_is_read, read_back


@pytest.fixture(scope="module")
def judge():
    return pretrained.load("digits-judge").classifier


def test_the_judge_reads_real_digits(judge):
    assert asked_is_read(*mnist("test")[:1000], judge).share > 0.985


def test_the_shipped_digits_obey(judge):
    net = pretrained.load("digits").denoiser
    assert read_back(net, judge, scale=2, each=10).share >= 0.95


def test_they_obey_nothing_at_scale_0(judge):
    assert read_back(pretrained.load("digits").denoiser, judge, scale=0, each=10, steps=5).share < 0.3


@pytest.mark.slow
def test_the_shipped_digits_reach_their_bars_on_2000_pictures(judge):
    net = pretrained.load("digits").denoiser
    assert read_back(net, judge, scale=2, each=200).share >= 0.99
    assert read_back(net, judge, scale=1, each=200).share >= 0.97
