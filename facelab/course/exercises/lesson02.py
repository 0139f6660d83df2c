"""Lesson 02: the ideal denoiser, the noise-prediction loss, the steps of DDPM and DDIM."""

import torch

from facelab.course.exercises import add, randn


@add(
    lambda: [(randn(3, 1, 2, 2), randn(5, 1, 2, 2, seed=1), s, n) for s, n in ((0.8, 0.6), (0.3, 0.9))],
    """How far is x_t from each image, once that image is scaled by signal?
    The squared distance over 2 sigma squared is minus the log-likelihood; softmax turns its negative into weights.
    The denoised estimate is the weighted mean of the images: one einsum, or weights @ images.flatten(1).""",
    ("the images are not scaled: x_t contains signal times one.", lambda x, p, s, n: ideal_denoiser(x, p, 1, n)),
    # Four pixels: a mean in place of the sum is a sigma twice as large.
    ("squares are averaged over the pixels: sum them.", lambda x, p, s, n: ideal_denoiser(x, p, s, 2 * n)),
    (
        "this is the nearest image alone: weight all of them, with softmax.",
        lambda x, p, s, n: ideal_denoiser(x, p, s, 0.001),
    ),
)
def ideal_denoiser(x_t, images, signal, sigma):
    distance = (x_t[:, None] - signal * images).square().sum((2, 3, 4))
    weights = torch.softmax(-distance / (2 * sigma**2), dim=1)
    return torch.einsum("bn,nchw->bchw", weights, images)


def _toy(x_t, t):
    return 0.4 * x_t + 0.1 * t[:, None, None, None]


@add(
    lambda: [(_toy, *randn(2, 4, 1, 4, 4).unbind(), torch.tensor([0, 3, 5, 9]), torch.linspace(0.99, 0.1, 10))],
    """alpha_bar[t] has one number for each image; [:, None, None, None] makes it match (B, C, H, W).
    Add the noise as in lesson 01, and let the network predict the noise in x_t.
    The loss is the mean of the squared difference between prediction and eps, over images and pixels.""",
    ("the network sees the clean image: it should see x_t.", lambda f, x, e, t, a: (f(x, t) - e).square().mean()),
    (
        "the prediction is compared with x_0: this network predicts the noise.",
        lambda f, x, e, t, a: eps_loss(lambda x_t, t: f(x_t, t) - x + e, x, e, t, a),
    ),
    ("the squares are summed: take their mean.", lambda f, x, e, t, a: x.numel() * eps_loss(f, x, e, t, a)),
)
def eps_loss(predict_eps, x_0, eps, t, alpha_bar):
    a = alpha_bar[t][:, None, None, None]
    x_t = a**0.5 * x_0 + (1 - a) ** 0.5 * eps
    return (predict_eps(x_t, t) - eps).square().mean()


@add(
    lambda: [(*randn(3, 2, 1, 4, 4)[:2], *rates, randn(2, 1, 4, 4, seed=2)) for rates in ((0.02, 0.3), (0.1, 0.8))],
    """The mean first (Ho et al. 2020, eq. 11): subtract beta / sqrt(1 - alpha_bar) times the predicted noise.
    Divide by sqrt(1 - beta), the rate at which this timestep shrank the image.
    Then fresh noise z of variance beta: sqrt(beta) z.""",
    ("the noise has variance beta: scale z by its root.", lambda x, e, b, a, z: ddpm_step(x, e, b, a, b**0.5 * z)),
    ("the fresh noise is missing: that is the mean.", lambda x, e, b, a, z: ddpm_step(x, e, b, a, 0 * z)),
    (
        "one step removes only beta / sqrt(1 - alpha_bar) of the noise.",
        lambda x, e, b, a, z: ddpm_step(x, e * (1 - a) / b, b, a, z),
    ),
)
def ddpm_step(x_t, eps_hat, beta, alpha_bar, z):
    mean = (x_t - beta / (1 - alpha_bar) ** 0.5 * eps_hat) / (1 - beta) ** 0.5
    return mean + beta**0.5 * z


_RATES = (((0.6, 0.8), (0.7, 0.5)), ((0.0, 1.0), (0.1, 0.9)), ((0.9, 0.3), (1.0, 0.0)))


@add(
    lambda: [(randn(2, 1, 4, 4), randn(2, 1, 4, 4, seed=1), *rates) for rates in _RATES],
    """First separate: if x_0_hat is the image, which noise must x_t contain?
    eps_hat = (x_t - signal_t x_0_hat) / sigma_t
    Then combine the two again, with the rates of the next timestep.""",
    ("x_t itself is used as the noise: subtract the image first.", lambda x, p, t, s: s[0] * p + s[1] * x),
    ("it is combined with the rates of t, so nothing moves: use those of s.", lambda x, p, t, s: x),
    ("the noise is not divided by sigma_t.", lambda x, p, t, s: s[0] * p + s[1] * (x - t[0] * p)),
)
def ddim_step(x_t, x_0_hat, rates_t, rates_s):
    (signal_t, sigma_t), (signal_s, sigma_s) = rates_t, rates_s
    eps_hat = (x_t - signal_t * x_0_hat) / sigma_t
    return signal_s * x_0_hat + sigma_s * eps_hat
