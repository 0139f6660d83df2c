"""Lesson 09: one term of the variational bound."""

import math

from facelab.course.exercises import add, randn

_RATES = (((0.5, 0.5), (0.6, 0.4)), ((0.0, 1.0), (0.1, 0.9)), ((0.6, 0.8), (0.8, 0.6)))


@add(
    lambda: [(randn(1, 4, 4), randn(1, 4, 4, seed=1), *rates) for rates in _RATES],
    """A signal-to-noise ratio is (signal / sigma) squared; take the one at s minus the one at t.
    Half of the difference, times the mean squared error of x_0_hat, in nats. How many nats is a bit?
    log 2 of them: divide by math.log(2).""",
    ("these are nats: divide by math.log(2) for bits.", lambda x, p, t, s: elbo_term(x, p, t, s) * math.log(2)),
    ("the factor 1/2 of a Gaussian's exponent is missing.", lambda x, p, t, s: 2 * elbo_term(x, p, t, s)),
    ("it is below zero: take the ratio at s minus the one at t.", lambda x, p, t, s: -elbo_term(x, p, t, s)),
)
def elbo_term(x_0, x_0_hat, rates_t, rates_s):
    (signal_t, sigma_t), (signal_s, sigma_s) = rates_t, rates_s
    snr_difference = (signal_s / sigma_s) ** 2 - (signal_t / sigma_t) ** 2
    return snr_difference / 2 * (x_0 - x_0_hat).square().mean() / math.log(2)
