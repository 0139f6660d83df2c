"""Guidance mixes two guesses, in one batch, and by the right weights."""

import math

import numpy as np
import oracle
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracle import NAMES, SHAPE, Fake, Gaussians, TwoGaussians, randn, refused, tiny
from torch.testing import assert_close

from facelab import guidance as module
from facelab.attributes import Attributes
from facelab.guidance import autoguidance, classifier_free, compositional, interval, rescaled
from facelab.ideal import GaussianDenoiser
from facelab.sample import DDIM, AdamsBashforth, Heun, sample
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


@pytest.mark.parametrize("three", [np.int64(3), np.float32(3), torch.tensor(3.0), torch.tensor(3)], ids=str)
def test_any_single_number_is_a_scale(three):
    want = classifier_free(Fake(), 3)(X_T, 5, COND)
    assert_close(classifier_free(Fake(), three)(X_T, 5, COND), want)
    assert_close(
        autoguidance(Fake(), Fake(push=0.1), three)(X_T, 5, COND), autoguidance(Fake(), Fake(push=0.1), 3)(X_T, 5, COND)
    )
    fake = Fake()
    assert classifier_free(fake, three / 3) is fake


@pytest.mark.parametrize("away", [torch.zeros(2), torch.zeros(3, 3), torch.zeros(4, 2), torch.zeros(1, 4, 3)])
def test_another_condition_that_does_not_fit_is_refused(away):
    guided = classifier_free(Fake(), 2, away_from=away)
    with refused("away_from must say 3 answers|4 conditions"):
        guided(X_T, 5, COND)


def test_conditions_of_another_number_are_refused():
    with refused("4 pictures need 4 conditions"):
        classifier_free(Fake(), 2)(X_T, 5, COND[:3])


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


# A world of Gaussians: every kind of guidance is a weighted sum of scores, known in closed form.

TWO = Attributes(["Hat", "Smile"])
SCALES = (-1.0, 0.0, 1.0, 3.0, 8.0)


def guided_worlds(made):
    """(name, the guided call, the request, the weight of each score)"""
    for w in SCALES:
        world = Gaussians(made)
        yield f"single, {w:g}", classifier_free(world, w), (1.0, 0.0), {(1.0, 0.0): w, (0.0, 0.0): 1 - w}
        away = classifier_free(world, w, away_from=torch.tensor([0.0, 1.0]))
        yield f"away, {w:g}", away, (1.0, 0.0), {(1.0, 0.0): w, (0.0, 1.0): 1 - w}
        both = compositional(world, TWO, {"Hat": w, "Smile": 0.5})
        yield f"both, {w:g}", both, (1.0, -1.0), {(1.0, 0.0): w, (0.0, -1.0): 0.5, (0.0, 0.0): 0.5 - w}
        one = compositional(world, TWO, {"Hat": w}, rest=2.0)
        yield f"and the rest, {w:g}", one, (1.0, 1.0), {(1.0, 0.0): w, (0.0, 1.0): 2.0, (0.0, 0.0): -1 - w}


@pytest.mark.parametrize("made", [cosine(), straight()], ids=repr)
def test_every_guided_call_is_its_closed_form(made):
    t = torch.tensor([0, 200, 500, 998])
    for name, guided, request, weights in guided_worlds(made):
        got = guided(X_T, t, torch.tensor(request))
        assert_close(got, Gaussians(made).guess(X_T, t, weights), rtol=0, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("solver, calls, kinds", [(Heun, 1999, "single"), (AdamsBashforth, 1000, "")])
def test_second_order_reaches_the_guided_ode_s_end(solver, calls, kinds):
    made = straight()
    for name, guided, request, weights in guided_worlds(made):
        if not name.startswith(kinds):
            continue
        x_T, wanted = randn(2, 1, 2, 2), Gaussians(made).end(randn(2, 1, 2, 2), weights)
        got = sample(guided, x_T, torch.tensor(request), solver(made, clip=False), calls)
        assert (got - wanted).abs().max() < 1e-4, name


def test_ddim_is_its_recursion_multiplied_out():
    """A Gaussian's guess is a x_t + b, so a trajectory is one number times x_T and one added."""
    made = cosine()
    for name, guided, request, weights in guided_worlds(made):
        x_T, times, plus = randn(2, 1, 2, 2), 1.0, 0.0
        ticks = made.ticks(50)
        for t, s in zip(ticks, [*ticks[1:], -1], strict=True):
            (signal_t, sigma_t), (signal_s, sigma_s) = made(t), made(s)
            b, ab = (float(Gaussians(made).guess(torch.full((1, 1, 1, 1), x).double(), t, weights)) for x in (0.0, 1.0))
            a, on = ab - b, sigma_s / sigma_t
            gain = (signal_s - on * signal_t) * a + on
            times, plus = gain * times, gain * plus + (signal_s - on * signal_t) * b
        got = sample(guided, x_T, torch.tensor(request), DDIM(made, clip=False), 50)
        assert_close(got, times * x_T + plus, rtol=1e-9, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")


def test_guided_sampling_is_not_the_sharpened_density():
    """Told N(0, 1/4) and silent N(0, 1), scale 3: the product of powers has precision 10, guidance leaves 0.5^3."""
    made = straight()
    told, silent = (GaussianDenoiser(torch.zeros(1, 1, 1), std, made) for std in (0.5, 1.0))

    def world(x_t, t, cond):
        return torch.where(cond[:, :, None, None] > 0, told(x_t, t, cond), silent(x_t, t, cond))

    drawn = sample(classifier_free(world, 3), randn(1, 1, 50, 50), torch.ones(1), Heun(made, clip=False), 399)
    assert_close(drawn / randn(1, 1, 50, 50), torch.full_like(drawn, 0.5**3), rtol=1e-3, atol=0)
    assert 0.5**3 < 10**-0.5 / 2


# Compositions.

HATS = Attributes(["Hat", "Smile", "Beard"])


def test_a_scale_for_each_attribute():
    fake = Fake()
    nothing, hat, smile, rest = (
        fake(X_T, 5, cond) for cond in (COND * 0, *(COND * torch.eye(3)[i] for i in (0, 1, 2)))
    )
    got = compositional(fake, HATS, {"Smile": 0.5, "Hat": 4})(X_T, 5, COND)
    assert_close(got, nothing + 4 * (hat - nothing) + 0.5 * (smile - nothing) + (rest - nothing))


def test_half_an_answer_is_half_an_answer_in_a_composition():
    fake = Fake()
    compositional(fake, HATS, {"Smile": 3, "Hat": 1})(X_T[:1], 5, torch.tensor([0.5, -0.2, 1.0]))
    ((_, _, conds),) = fake.calls
    assert sorted(conds.abs().sum(1).tolist()) == pytest.approx([0, 0.2, 0.5, 1.0])


def test_one_attribute_named_and_asked_alone_is_classifier_free():
    cond, fake = torch.tensor([0.0, 1.0, 0.0]), Fake()
    assert_close(compositional(fake, HATS, {"Smile": 3})(X_T, 5, cond), classifier_free(fake, 3)(X_T, 5, cond))


@pytest.mark.parametrize("cond, rows", [([1.0, 1.0, 0.0], 3), ([1.0, 1.0, -1.0], 4), ([0.0, 0.0, 0.0], 3)])
def test_the_work_of_a_composition_is_as_told(cond, rows):
    fake = Fake()
    compositional(fake, HATS, {"Smile": 3, "Hat": 1})(X_T, torch.tensor([1, 2, 3, 4]), torch.tensor(cond))
    ((x_t, t, _),) = fake.calls
    assert len(x_t) == rows * len(X_T) and t.tolist() == [1, 2, 3, 4] * rows


def test_a_composition_leaves_the_request_as_it_was():
    cond = COND.clone()
    compositional(Fake(), HATS, {"Smile": 3}, rest=2)(X_T, 5, cond)
    assert_close(cond, COND)


@pytest.mark.parametrize("scales", [{"Hat": math.nan}, {"Hat": "3"}, {"Hat": True}, {"Hats": 1.0}, {}])
def test_wrong_compositions_are_refused(scales):
    with refused("scale|Hat"):
        compositional(Fake(), HATS, scales)
    with refused("rest must be"):
        compositional(Fake(), HATS, {"Hat": 1.0}, rest=math.inf)


@pytest.mark.parametrize("tick, guides", [(199, False), (200, True), (500, True), (800, True), (801, False)])
def test_an_interval_guides_inside_and_not_outside(tick, guides):
    fake, plain = Fake(), Fake(push=0.1)
    sometimes = interval(classifier_free(fake, 3), plain, 200, 800)
    for t in (tick, torch.tensor(tick), torch.full((4,), tick)):
        wanted = (classifier_free(Fake(), 3) if guides else Fake(push=0.1))(X_T, t, COND)
        assert_close(sometimes(X_T, t, COND), wanted)
    # What is not needed is not called.
    assert (len(fake.calls), len(plain.calls)) == ((3, 0) if guides else (0, 3))


def test_an_interval_asks_each_picture_s_own_tick():
    t = torch.tensor([100, 200, 800, 900])
    got = interval(classifier_free(Fake(), 3), Fake(), 200, 800)(X_T, t, COND)
    guided, plain = classifier_free(Fake(), 3)(X_T, t, COND), Fake()(X_T, t, COND)
    assert_close(got, torch.cat([plain[:1], guided[1:3], plain[3:]]))


@pytest.mark.parametrize("first, last", [(-1, 5), (6, 5), (0.2, 0.8), (0, True), ("a", 5), (None, None), (0, 5.0)])
def test_a_wrong_interval_is_refused(first, last):
    with refused("first <= last"):
        interval(Fake(), Fake(), first, last)


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_rescaling_brings_back_the_plain_contrast(share):
    """All of it at share 1, and between the two on a straight line; each picture by itself."""
    guided, plain = classifier_free(Fake(), 6), Fake()
    loud, quiet = guided(X_T, 5, COND), plain(X_T, 5, COND)
    got = rescaled(guided, plain, share)(X_T, 5, COND)
    spreads = [guess.flatten(1).std(1) for guess in (got, loud, quiet)]
    assert_close(spreads[0], share * spreads[2] + (1 - share) * spreads[1])
    assert_close(
        got / got.flatten(1).norm(dim=1)[:, None, None, None], loud / loud.flatten(1).norm(dim=1)[:, None, None, None]
    )


def test_rescaling_takes_a_guess_of_one_colour():
    flat = rescaled(lambda x_t, t, cond: torch.full_like(x_t, 0.5), Fake(), 1.0)(X_T, 5, COND)
    assert_close(flat, torch.full_like(X_T, 0.5))
    with refused("share must be"):
        rescaled(Fake(), Fake(), 1.5)


def test_autoguidance_moves_away_from_the_weak():
    strong, weak = Fake(), Fake(push=0.1)
    told, poor = strong(X_T, 5, COND), weak(X_T, 5, COND)
    assert_close(autoguidance(strong, weak, 2.5)(X_T, 5, COND), poor + 2.5 * (told - poor))
    assert autoguidance(strong, weak, 1) is strong
    with refused("scale must be"):
        autoguidance(strong, weak, math.nan)
