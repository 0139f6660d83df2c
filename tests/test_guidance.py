"""Guidance mixes two guesses, in one batch, and by the right weights."""

import math

import oracle
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracle import NAMES, SHAPE, Fake, TwoGaussians, randn, refused, tiny
from torch.testing import assert_close

from facelab import guidance as module
from facelab.guidance import classifier_free
from facelab.ideal import GaussianDenoiser
from facelab.sample import DDIM, sample
from facelab.schedule import SCHEDULES, cosine, straight

X_T, COND = randn(4, 1, 4, 4), torch.tensor([[1.0, 0, 0], [0, -1, 0], [1, 1, 1], [0, 0, 0.5]])


def test_guidance_is_exact():
    oracle.guidance_is_exact(module)


def test_scale_0_ignores_and_1_is_plain():
    fake = Fake()
    assert_close(classifier_free(fake, 0)(X_T, 5, COND), fake(X_T, 5, torch.zeros(4, 3)))
    assert_close(classifier_free(fake, 1)(X_T, 5, COND), fake(X_T, 5, COND))
    assert_close(classifier_free(fake, 1.0, away_from=-COND)(X_T, 5, COND), fake(X_T, 5, COND))


@given(st.floats(-8, 8), st.floats(-8, 8), st.floats(0, 1))
def test_linear_in_scale(one, two, share):
    def at(scale):
        return classifier_free(Fake(), scale)(X_T, 5, COND)

    assert_close(at(share * one + (1 - share) * two), share * at(one) + (1 - share) * at(two), rtol=0, atol=1e-9)


def test_a_negative_scale_goes_the_other_way():
    fake = Fake()
    without = fake(X_T, 5, torch.zeros(1, 3))
    ahead, back = (classifier_free(fake, scale)(X_T, 5, COND) - without for scale in (2, -2))
    assert_close(back, -ahead)
    assert (ahead * COND.sum(1)[:, None, None, None] >= 0).all() and ahead.abs().max() > 0.1


@pytest.mark.parametrize("away", [torch.tensor([0.0, 1.0, 0.0]), -COND], ids=["(K,)", "(B, K)"])
def test_away_from_another_condition(away):
    fake = Fake()
    told, other = fake(X_T, 5, COND), fake(X_T, 5, away.expand(4, 3))
    assert_close(classifier_free(fake, 3, away_from=away)(X_T, 5, COND), other + 3 * (told - other))


def test_away_from_itself_is_plain():
    assert_close(classifier_free(Fake(), 5, away_from=COND)(X_T, 5, COND), Fake()(X_T, 5, COND))


def test_both_halves_go_in_one_batch():
    fake = Fake()
    classifier_free(fake, 3)(X_T, torch.tensor([1, 2, 3, 4]), COND)
    ((x_t, t, cond),) = fake.calls
    assert_close(x_t, torch.cat([X_T, X_T]))
    assert t.tolist() == [1, 2, 3, 4, 1, 2, 3, 4]
    assert sorted(cond.abs().sum(1).tolist()) == [0, 0, 0, 0, 0.5, 1, 1, 3]


def test_one_tick_stays_one_tick():
    for tick in (7, torch.tensor(7)):
        fake = Fake()
        classifier_free(fake, 3)(X_T, tick, COND)
        assert fake.calls[0][1] is tick


@pytest.mark.parametrize("made", [make() for make in SCHEDULES.values()], ids=SCHEDULES)
def test_mixing_pictures_is_mixing_noise(made):
    fake, t = Fake(), torch.tensor([0, 300, 700, 999])
    told, other = (made.eps_from(X_T, fake(X_T, t, cond), t) for cond in (COND, torch.zeros(4, 3)))
    mixed = made.eps_from(X_T, classifier_free(fake, 3)(X_T, t, COND), t)
    assert_close(mixed, other + 3 * (told - other), rtol=0, atol=1e-10)


@pytest.mark.parametrize("t", [400, torch.tensor([0, 100, 500, 999])], ids=["int", "(B,)"])
@pytest.mark.parametrize("scale", [0, 1, 3.5])
def test_shapes_of_ticks_and_conditions(t, scale):
    net, x_t = tiny(), randn(4, *SHAPE, dtype=torch.float32)
    one = torch.tensor([1.0, 0.0, -1.0])
    with torch.no_grad():
        guesses = [classifier_free(net, scale)(x_t, t, cond) for cond in (one, one[None], one.repeat(4, 1))]
    assert guesses[0].shape == x_t.shape and guesses[0].dtype == torch.float32 and len(NAMES) == len(one)
    for guess in guesses[1:]:
        assert_close(guess, guesses[0])


@pytest.mark.parametrize("scale", ["two", "2", math.nan, math.inf, -math.inf, True, None, [2]])
def test_a_scale_that_is_no_number_is_refused(scale):
    with refused("scale must be"):
        classifier_free(Fake(), scale)


def test_wrappers_nest():
    fake = Fake()
    twice = classifier_free(classifier_free(fake, 2), 3)(X_T, 5, COND)
    assert_close(twice, classifier_free(fake, 6)(X_T, 5, COND))


@pytest.mark.parametrize("made", [cosine(), straight()], ids=repr)
def test_guided_sampling_draws_the_density_it_should(made):
    """Where the condition only moves the mean, scale 3 samples the Gaussian whose mean is moved three times as far."""
    denoise = GaussianDenoiser(lambda c: 0.1 + 0.2 * c[:, :, None, None], 0.3, made)
    x_T = randn(400, 1, 4, 4)
    drawn = sample(classifier_free(denoise, 3), x_T, torch.ones(1), DDIM(made, clip=False), 250)
    error = 4.5 * 0.3 / x_T.numel() ** 0.5
    assert abs(drawn.mean() - 0.7) < error + 0.002
    assert abs(drawn.std() - 0.3) < error / 2**0.5 + 0.005


def test_the_two_gaussians_guided_density_is_known_by_its_score():
    """The oracle's own closed form: at scale 1 and 0 it is each half's guess."""
    made, t = cosine(), torch.tensor([0, 200, 500, 990])
    world = TwoGaussians(made)
    for scale in (0, 1):
        assert_close(world(X_T, t, torch.full((4, 1), float(scale))), world.guided(X_T, t, scale), rtol=0, atol=1e-10)
