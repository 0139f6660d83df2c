"""The exercises: what a learner writes by hand, how it is tried, and what it is when it goes wrong.

`lessons.check`, `hint` and `solution` speak of them.
"""

import dataclasses
import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclasses.dataclass(frozen=True)
class Exercise:
    """One thing to write by hand: how it is tried, what it should be, and what it is when it goes wrong.

    `mistakes` are whole wrong answers, each with the sentence that names the misconception.
    """

    reference: Callable
    inputs: Callable[[], list[tuple]]
    hints: tuple[str, ...]
    mistakes: dict[str, Callable]

    def verdict(self, answer: Callable) -> str:
        """ "" where the answer is right, else one sentence that says what is wrong."""
        for args in self.inputs():
            wanted = torch.as_tensor(self.reference(*_copy(args)))
            try:
                # A copy, for an answer may change what it is given.
                got = answer(*_copy(args))
            except Exception as failed:
                return " ".join(f"it stops with {type(failed).__name__}: {failed}".split())
            if got is None or got is ...:
                return "nothing comes back yet: write its lines, and end with return."
            try:
                got = torch.as_tensor(got)
            except (TypeError, ValueError, RuntimeError):
                return f"it should give a tensor, and gives a {type(got).__name__}."
            if got.is_complex():
                return "it gives complex numbers, and should give real ones."
            if got.shape != wanted.shape:
                return f"it gives shape {tuple(got.shape)}, and should give {tuple(wanted.shape)}."
            if not _same(got, wanted):
                return self._misconception(args, got, wanted)
        return ""

    def _misconception(self, args, got, wanted) -> str:
        for sentence, wrong in self.mistakes.items():
            try:
                if _same(torch.as_tensor(wrong(*_copy(args))), got):
                    return sentence
            except Exception:
                continue
        if unknown := int((~got.isfinite()).sum()):
            return (
                f"{unknown} of its {got.numel()} numbers are not finite: is something divided by 0, or a root below 0?"
            )
        worst = (got.double() - wanted.double()).abs().max()
        return f"the shape is right, the numbers are off by up to {worst:.3g}."


def _copy(args: tuple) -> tuple:
    return tuple(arg.clone() if isinstance(arg, Tensor) else arg for arg in args)


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a.double(), b.double(), 1e-4, 1e-5, equal_nan=True)


# The reference answers, as short as a learner would write them.


def add_noise(x_0, eps, alpha_bar):
    return alpha_bar**0.5 * x_0 + (1 - alpha_bar) ** 0.5 * eps


def linear_alpha_bar(ticks):
    betas = torch.linspace(1e-4, 0.02, ticks)
    return (1 - betas).cumprod(0)


def cosine_alpha_bar(ticks):
    u = torch.arange(1, ticks + 1) / ticks
    curve = torch.cos((u + 0.008) / 1.008 * torch.pi / 2) ** 2
    return curve / math.cos(0.008 / 1.008 * math.pi / 2) ** 2


def ideal_guess(x_t, pictures, signal, sigma):
    distance = (x_t[:, None] - signal * pictures).square().sum((2, 3, 4))
    weights = torch.softmax(-distance / (2 * sigma**2), dim=1)
    return torch.einsum("bn,nchw->bchw", weights, pictures)


def ddim_step(x_t, x_0_hat, now, then):
    (signal_t, sigma_t), (signal_s, sigma_s) = now, then
    eps_hat = (x_t - signal_t * x_0_hat) / sigma_t
    return signal_s * x_0_hat + sigma_s * eps_hat


def keep_said(cond, keep, order):
    rank = order.argsort(1).argsort(1)
    return torch.where(rank < keep[:, None], cond, 0)


def told_by_channels(x_t, five):
    height, width = x_t.shape[2:]
    return torch.cat([x_t, five[:, :, None, None].expand(-1, -1, height, width)], 1)


def balanced_share(asked, read):
    yes, no = asked > 0, asked < 0
    return ((read[yes] > 0).float().mean() + (read[no] < 0).float().mean()) / 2


def insist(told, other, scale):
    return other + scale * (told - other)


def sharpened(scale, told, silent):
    (mean, std), (other, spread) = told, silent
    precision = scale / std**2 + (1 - scale) / spread**2
    centre = (scale * mean / std**2 + (1 - scale) * other / spread**2) / precision
    return torch.tensor([centre, precision**-0.5])


def on_the_sphere(a, b, share):
    a_flat, b_flat = a.flatten(), b.flatten()
    angle = torch.arccos(a_flat @ b_flat / (a_flat.norm() * b_flat.norm()))
    return (torch.sin((1 - share) * angle) * a + torch.sin(share * angle) * b) / torch.sin(angle)


def half_way_on(now, before):
    return now + (now - before) / 2


def every_tick(u, ticks):
    return (u * ticks).long()


def gain(before, after):
    return (before - after) / before


def scaled_once(x):
    return (x + 1) / 2


def carried_on(x_0_hat, eps_hat, signal_s, sigma_s, fresh):
    return signal_s * x_0_hat + (sigma_s**2 - fresh**2) ** 0.5 * eps_hat


def forgotten_whole(cond, luck, p):
    return cond * (luck >= p)[:, None]


def zero_terminal(signal):
    return (signal - signal[-1]) * signal[0] / (signal[0] - signal[-1])


def moving_average(kept, new, decay):
    return decay * kept + (1 - decay) * new


def wilson(hits, count):
    share, z = hits / count, 1.96
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return torch.tensor([middle - half, middle + half])


def amplified(cond):
    said = cond.abs().sum(1, keepdim=True).clamp(min=1)
    return cond * (cond.shape[1] / said).sqrt()


def on_half_a_circle(value, low, high):
    angle = torch.pi * (value - low) / (high - low)
    return torch.stack([angle.cos(), angle.sin()], 1)


def never_together(hand, tool):
    return (hand > 15) & (tool > 20)


def frechet(mean_a, cov_a, mean_b, cov_b):
    shared = torch.linalg.eigvals(cov_a @ cov_b).real.clamp(min=0).sqrt().sum()
    return (mean_a - mean_b).square().sum() + torch.trace(cov_a + cov_b) - 2 * shared


def at_infinity(counts, distances):
    u = 1 / counts
    slope = ((u - u.mean()) * (distances - distances.mean())).sum() / (u - u.mean()).square().sum()
    return distances.mean() - slope * u.mean()


def decide(difference, replicates):
    half = 1.96 * replicates.std(1)
    return torch.where(difference.abs() > half, difference.sign(), 0)


def bits_of_step(x_0, x_0_hat, now, then):
    (signal_t, sigma_t), (signal_s, sigma_s) = now, then
    gained = (signal_s / sigma_s) ** 2 - (signal_t / sigma_t) ** 2
    return gained / 2 * (x_0 - x_0_hat).square().mean() / math.log(2)


def _pictures(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _signs(*shape, seed=0):
    return torch.where(_pictures(*shape, seed=seed) > 0, 1.0, -1.0)


def _turned(a, b, share, angle_of):
    """on_the_sphere with another angle, made from the cosine"""
    angle = angle_of(a.flatten() @ b.flatten() / (a.norm() * b.norm()))
    return (torch.sin((1 - share) * angle) * a + torch.sin(share * angle) * b) / torch.sin(angle)


def _chord(a, b, share):
    return (1 - share) * a + share * b


def _slope(x, y):
    return ((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum()


def _covariance(size, seed):
    root = _pictures(size + 2, size, seed=seed)
    return root.T @ root / size


def _pairs_of_models():
    """Differences of two distances, some sure and some not, and 200 bootstrap replicates of each, off by their bias."""
    difference = torch.tensor([0.3, -0.3, 1.5, -1.5, 2.5, -2.5, 0.05, 5.0, 0.0])
    widths = torch.tensor([0.1, 1, 1, 1, 1, 1, 1, 2, 1])
    replicates = difference[:, None] + 0.9 + widths[:, None] * _pictures(9, 200)
    difference[-1] = 1.98 * replicates[-1].std()
    return difference, replicates


def _u(ticks):
    return torch.arange(1, ticks + 1) / ticks


EXERCISES = {
    "add_noise": Exercise(
        add_noise,
        lambda: [(_pictures(2, 1, 4, 4), _pictures(2, 1, 4, 4, seed=1), torch.tensor(a)) for a in (0.7, 0.1, 1.0)],
        (
            "alpha_bar is a share of the variance; what does that make of the share of the picture itself?",
            "A picture scaled by c has c squared times the variance, so both shares need a root.",
            "(root of alpha_bar) x_0 + (root of 1 - alpha_bar) eps",
        ),
        {
            "the picture is scaled by alpha_bar: that is its share of the variance, the scale is the root of it.": lambda x, e, a: (
                a * x + (1 - a) ** 0.5 * e
            ),
            "the noise is scaled by 1 - alpha_bar: that is its variance, it must be scaled by the root.": lambda x, e, a: (
                a**0.5 * x + (1 - a) * e
            ),
            "both are scaled by their variances: each needs its root.": lambda x, e, a: a * x + (1 - a) * e,
            "picture and noise are swapped: alpha_bar is what is left of the picture.": lambda x, e, a: (
                (1 - a) ** 0.5 * x + a**0.5 * e
            ),
            "the noise is scaled by what the picture's scale leaves of 1: it is variances that add up to 1, not scales.": (
                lambda x, e, a: a**0.5 * x + (1 - a**0.5) * e
            ),
            "the noise is subtracted: it is added.": lambda x, e, a: a**0.5 * x - (1 - a) ** 0.5 * e,
        },
    ),
    "linear_alpha_bar": Exercise(
        linear_alpha_bar,
        lambda: [(1000,), (100,)],
        (
            "torch.linspace gives the betas; each tick keeps a share 1 - beta of the variance.",
            "What is left after many ticks is the product of what each one leaves: cumprod.",
        ),
        {
            "these are the betas: what each tick takes, not what is left.": lambda n: torch.linspace(1e-4, 0.02, n),
            "these are the shares that each tick keeps: multiply them up, with cumprod.": lambda n: (
                1 - torch.linspace(1e-4, 0.02, n)
            ),
            "the betas themselves are multiplied up: what is kept is 1 - beta.": lambda n: torch.linspace(
                1e-4, 0.02, n
            ).cumprod(0),
            "the betas are summed and taken away: each tick takes its share of what is left, so multiply.": lambda n: (
                1 - torch.linspace(1e-4, 0.02, n).cumsum(0)
            ),
            "this is the signal rate, the root of alpha_bar.": lambda n: (
                (1 - torch.linspace(1e-4, 0.02, n)).cumprod(0).sqrt()
            ),
        },
    ),
    "cosine_alpha_bar": Exercise(
        cosine_alpha_bar,
        lambda: [(1000,), (50,)],
        (
            "u runs from 1/ticks to 1: torch.arange(1, ticks + 1) / ticks.",
            "Square the cosine of (u + 0.008) / 1.008 times a quarter turn (pi / 2).",
            "Divide by the same at u = 0, so that the curve starts at one.",
        ),
        {
            "the cosine is not squared: at mid-time 0.70 of the variance would be left in place of 0.49.": lambda n: (
                torch.cos((_u(n) + 0.008) / 1.008 * torch.pi / 2) / math.cos(0.008 / 1.008 * math.pi / 2)
            ),
            "it is not divided by its value at u = 0, so it does not start at one.": lambda n: (
                torch.cos((_u(n) + 0.008) / 1.008 * torch.pi / 2) ** 2
            ),
            "the offset 0.008 is left out: the first ticks would add almost no noise.": lambda n: (
                torch.cos(_u(n) * torch.pi / 2) ** 2
            ),
            "the angle is a half turn, pi: it should be a quarter turn, pi / 2.": lambda n: (
                torch.cos((_u(n) + 0.008) / 1.008 * torch.pi) ** 2 / math.cos(0.008 / 1.008 * math.pi) ** 2
            ),
            "u starts at 0: after the first tick some noise has been added, so u starts at 1 / ticks.": lambda n: (
                torch.cos((torch.arange(n) / n + 0.008) / 1.008 * torch.pi / 2) ** 2
                / math.cos(0.008 / 1.008 * math.pi / 2) ** 2
            ),
            "u runs from 0 to 1 in steps of 1 / (ticks - 1): its first value is 1 / ticks, and so is each step.": lambda n: (
                torch.cos((torch.linspace(0, 1, n) + 0.008) / 1.008 * torch.pi / 2) ** 2
                / math.cos(0.008 / 1.008 * math.pi / 2) ** 2
            ),
        },
    ),
    "ideal_guess": Exercise(
        ideal_guess,
        lambda: [(_pictures(3, 1, 2, 2), _pictures(5, 1, 2, 2, seed=1), s, n) for s, n in ((0.8, 0.6), (0.3, 0.9))],
        (
            "How far is x_t from each picture, once that picture is dimmed to signal times itself?",
            "The squared distance over 2 sigma squared is how unlikely the noise would be; softmax turns minus that into weights.",
            "The guess is the weighted mean of the pictures: one einsum, or weights @ pictures.flatten(1).",
        ),
        {
            "the sign is missing: far pictures get the weight, near ones should.": lambda x, p, s, n: torch.einsum(
                "bn,nchw->bchw", ((x[:, None] - s * p).square().sum((2, 3, 4)) / (2 * n**2)).softmax(1), p
            ),
            "the pictures are compared undimmed: x_t holds signal times the picture.": lambda x, p, s, n: torch.einsum(
                "bn,nchw->bchw", (-(x[:, None] - p).square().sum((2, 3, 4)) / (2 * n**2)).softmax(1), p
            ),
            "the distance is divided by sigma, it should be by twice its square.": lambda x, p, s, n: torch.einsum(
                "bn,nchw->bchw", (-(x[:, None] - s * p).square().sum((2, 3, 4)) / n).softmax(1), p
            ),
            "the softmax runs over the batch: for each x_t the weights of all pictures sum to one.": lambda x, p, s, n: (
                torch.einsum(
                    "bn,nchw->bchw", (-(x[:, None] - s * p).square().sum((2, 3, 4)) / (2 * n**2)).softmax(0), p
                )
            ),
            "the squares are averaged over the pixels: unlikelihoods multiply, so add the squares up.": lambda x, p, s, n: (
                torch.einsum(
                    "bn,nchw->bchw", (-(x[:, None] - s * p).square().mean((2, 3, 4)) / (2 * n**2)).softmax(1), p
                )
            ),
            "the 2 is missing: a Gaussian's exponent is the squared distance over twice sigma squared.": lambda x, p, s, n: (
                torch.einsum("bn,nchw->bchw", (-(x[:, None] - s * p).square().sum((2, 3, 4)) / n**2).softmax(1), p)
            ),
            "this is the nearest picture alone: near ones share, by softmax.": lambda x, p, s, n: p[
                (x[:, None] - s * p).square().sum((2, 3, 4)).argmin(1)
            ],
        },
    ),
    "ddim_step": Exercise(
        ddim_step,
        lambda: [
            (_pictures(2, 1, 4, 4), _pictures(2, 1, 4, 4, seed=1), now, then)
            for now, then in (((0.6, 0.8), (0.7, 0.5)), ((0.0, 1.0), (0.1, 0.9)), ((0.9, 0.3), (1.0, 0.0)))
        ],
        (
            "First separate: if x_0_hat is the picture, which noise must x_t hold?",
            "eps_hat = (x_t - signal_t x_0_hat) / sigma_t",
            "Then mix the two anew, with the rates of the next tick.",
        ),
        {
            "the noise is taken as it was, x_t: take the picture out of it first.": lambda x, p, n, s: (
                s[0] * p + s[1] * x
            ),
            "it is mixed with the rates of now, so nothing moves: use those of the next tick.": lambda x, p, n, s: x,
            "the noise is not divided by sigma_t.": lambda x, p, n, s: s[0] * p + s[1] * (x - n[0] * p),
            "the picture is taken out unscaled: x_t holds signal_t times it.": lambda x, p, n, s: (
                s[0] * p + s[1] * (x - p) / n[1]
            ),
            "the two rates of the next tick are swapped.": lambda x, p, n, s: s[1] * p + s[0] * (x - n[0] * p) / n[1],
        },
    ),
    "keep_said": Exercise(
        keep_said,
        lambda: [
            (_signs(6, 8), torch.tensor([0, 1, 3, 8, 2, 5]), _pictures(6, 8, seed=1)),
            (_signs(4, 40, seed=2), torch.tensor([40, 0, 1, 17]), _pictures(4, 40, seed=3)),
        ],
        (
            "How would you number the answers of a row from the smallest `order`, 0, to the largest?",
            "`order.argsort(1).argsort(1)` is each answer's rank, from 0.",
            "Keep where the rank is below keep[:, None], and write 0 elsewhere.",
        ),
        {
            "one sort gives the answers in order; the rank of each needs a second argsort.": lambda c, k, o: (
                torch.where(o.argsort(1) < k[:, None], c, 0)
            ),
            "`order` holds random numbers, not ranks: those with the smallest stay, so rank them first.": lambda c, k, o: (
                torch.where(o < k[:, None], c, 0)
            ),
            "the first answers stay, always the same ones: rank them by `order`.": lambda c, k, o: torch.where(
                torch.arange(c.shape[1]) < k[:, None], c, 0
            ),
            "those that should be forgotten stay, and the others are gone: keep where the rank is below `keep`.": lambda c, k, o: (
                torch.where(o.argsort(1).argsort(1) < k[:, None], 0, c)
            ),
            "what is forgotten is answered no, -1: not said is 0.": lambda c, k, o: torch.where(
                o.argsort(1).argsort(1) < k[:, None], c, -1
            ),
            "one too many stays: ranks start at 0, so keep where the rank is below, not at most, `keep`.": lambda c, k, o: (
                torch.where(o.argsort(1).argsort(1) <= k[:, None], c, 0)
            ),
        },
    ),
    "told_by_channels": Exercise(
        told_by_channels,
        lambda: [(_pictures(2, 3, 4, 6), _pictures(2, 5, seed=1)), (_pictures(3, 1, 2, 2), _pictures(3, 5, seed=2))],
        (
            "A number becomes a map by standing at every pixel: give it two more dimensions, and expand them.",
            "five[:, :, None, None].expand(-1, -1, height, width)",
            "Then torch.cat along the channels, dimension 1, the picture first.",
        ),
        {
            "the numbers stand before the picture: the picture's channels come first.": lambda x, f: torch.cat(
                [f[:, :, None, None].expand(-1, -1, *x.shape[2:]), x], 1
            ),
            "every picture gets the first one's numbers: each has its own.": lambda x, f: torch.cat(
                [x, f[:1, :, None, None].expand(len(x), -1, *x.shape[2:])], 1
            ),
            "the numbers stand at one pixel only: repeat them over the whole picture.": lambda x, f: torch.cat(
                [x, F.pad(f[:, :, None, None], (0, x.shape[3] - 1, 0, x.shape[2] - 1))], 1
            ),
        },
    ),
    "balanced_share": Exercise(
        balanced_share,
        lambda: [
            (torch.tensor([1.0, 1, 1, -1, -1, -1, -1, -1, -1, 0]), torch.tensor([1, 1, -1, 1, 1, 1, -1, -1, -1, 1])),
            (torch.tensor([-1.0, 1, 1, 1, 0, 0]), torch.tensor([-1, 1, 1, -1, -1, 1])),
        ],
        (
            "Two shares: of those asked yes, how many are read yes; of those asked no, how many are read no.",
            "(read[asked > 0] > 0).float().mean() is the first.",
            "Their mean. What is 0 was not asked, and counts in neither.",
        ),
        {
            "this is the plain share: where yes is rare, a judge that always says no would pass. Balance the two.": lambda a, r: (
                (r[a != 0] == a[a != 0]).float().mean()
            ),
            "this is the plain share, and what was not said counts as no: where yes is rare, always no would pass.": lambda a, r: (
                ((a > 0) == (r > 0)).float().mean()
            ),
            "what was not said is counted as no: leave out where asked is 0.": lambda a, r: (
                ((r[a > 0] > 0).float().mean() + (r[a <= 0] < 0).float().mean()) / 2
            ),
            "only those asked yes count here: a model that always draws it would get 1.": lambda a, r: (
                (r[a > 0] > 0).float().mean()
            ),
            "the shares are taken of what was read, not of what was asked (precision in place of recall).": lambda a, r: (
                ((a[(r > 0) & (a != 0)] > 0).float().mean() + (a[(r < 0) & (a != 0)] < 0).float().mean()) / 2
            ),
        },
    ),
    "insist": Exercise(
        insist,
        lambda: [(_pictures(2, 1, 3, 3), _pictures(2, 1, 3, 3, seed=1), scale) for scale in (3.0, 1.0, 0.0, -2.0)],
        (
            "What does the request change? The difference of the two guesses.",
            "Start from the guess without it, and go `scale` times the difference. At scale 1 `told` must come out.",
        ),
        {
            "it starts from the wrong end: at scale 1 it should be `told`, and at scale 0 `other`.": lambda a, b, s: (
                a + s * (b - a)
            ),
            "here scale 0 is plain: that is the paper's w, which is our scale less 1.": lambda a, b, s: a + s * (a - b),
            "the other guess is added twice: subtract it from `told` before scaling.": lambda a, b, s: b + s * a,
            "scaling the guess itself makes it louder, not more as asked: scale the difference.": lambda a, b, s: s * a,
        },
    ),
    "sharpened": Exercise(
        sharpened,
        lambda: [
            (1.0, (0.5, 0.5), (0.0, 1.0)),
            (3.0, (0.5, 0.5), (0.0, 1.0)),
            (2.0, (0.3, 0.8), (-0.2, 1.1)),
            (0.0, (0.5, 0.5), (0.1, 1.0)),
        ],
        (
            "The logarithm of a Gaussian is a parabola; add `scale` times one and (1 - scale) times the other.",
            "Precisions, 1 / std**2, are what adds up, with these two weights. The mean is weighted by them as well.",
            "std is precision ** -0.5; the centre is the weighted sum of mean * precision, divided by the whole precision.",
        ),
        {
            "standard deviations multiply in guided sampling, not in the density: there precisions add up.": lambda s, t, o: (
                torch.tensor([float(sharpened(s, t, o)[0]), t[1] ** s * o[1] ** (1 - s)])
            ),
            "the means are mixed without their precisions: the narrower Gaussian pulls harder.": lambda s, t, o: (
                torch.tensor([s * t[0] + (1 - s) * o[0], float(sharpened(s, t, o)[1])])
            ),
            "that is the variance, where the standard deviation is wanted.": lambda s, t, o: torch.tensor(
                [float(sharpened(s, t, o)[0]), float(sharpened(s, t, o)[1]) ** 2]
            ),
            "variances do not add up in a product of densities: their inverses do.": lambda s, t, o: torch.tensor(
                [float(sharpened(s, t, o)[0]), abs(s * t[1] ** 2 + (1 - s) * o[1] ** 2) ** 0.5]
            ),
        },
    ),
    "on_the_sphere": Exercise(
        on_the_sphere,
        lambda: [
            (_pictures(1, 4, 4), _pictures(1, 4, 4, seed=1), 0.3),
            (_pictures(3, 8, 8), _pictures(3, 8, 8, seed=1), 0.5),
            (_pictures(1, 4, 4), _pictures(1, 4, 4, seed=2), 0.0),
        ],
        (
            "The angle between the two comes from their dot product, divided by both lengths.",
            "torch.arccos gives it; flatten first. The weights are sin((1 - share) angle) and sin(share angle).",
            "Both over sin(angle).",
        ),
        {
            "that is the straight line: half way it cuts through the sphere, where noise is too quiet.": lambda a, b, s: (
                (1 - s) * a + s * b
            ),
            "a and b are swapped: share 0 is a.": lambda a, b, s: on_the_sphere(b, a, s),
            "that is the straight line, only stretched to a's length: equal shares of a chord are no equal angles.": (
                lambda a, b, s: _chord(a, b, s) / _chord(a, b, s).norm() * a.norm()
            ),
            "that is the straight line, only stretched to the root of its size: equal shares of a chord are no equal angles.": (
                lambda a, b, s: _chord(a, b, s) / _chord(a, b, s).norm() * a.numel() ** 0.5
            ),
            "that is the cosine of the angle, not the angle: take torch.arccos.": lambda a, b, s: _turned(
                a, b, s, lambda cosine: cosine
            ),
            "the weights are too small: divide both by sin(angle).": lambda a, b, s: (
                on_the_sphere(a, b, s) * torch.sin(torch.arccos(a.flatten() @ b.flatten() / (a.norm() * b.norm())))
            ),
        },
    ),
    "half_way_on": Exercise(
        half_way_on,
        lambda: [
            (_pictures(2, 3, 4, 4), _pictures(2, 3, 4, 4, seed=1)),
            (_pictures(1, 1, 2, 2), _pictures(1, 1, 2, 2)),
        ],
        (
            "From `before` to `now` the guess moved by now - before, over one step.",
            "In half a step more it moves by half of that, from `now` on.",
        ),
        {
            "that is the middle of the step that lies behind: carry on from `now`.": lambda n, b: (n + b) / 2,
            "that is a whole step on: the middle of the next step is half of it.": lambda n, b: 2 * n - b,
            "that is the change alone: add it to `now`.": lambda n, b: (n - b) / 2,
            "the two are swapped: it starts from `now`, not from `before`.": lambda n, b: b + (b - n) / 2,
        },
    ),
    "every_tick": Exercise(
        every_tick,
        lambda: [
            (torch.tensor([0.0, 0.0004, 0.25, 0.5004, 0.9985, 0.9995, 0.99999]), 1000),
            (torch.tensor([0.0, 0.1, 0.3, 0.5, 0.74, 0.76, 1 - 2**-24]), 4),
        ],
        (
            "Ticks run from 0 to ticks - 1, each with the same chance: how wide is the piece of [0, 1) that each one gets?",
            "Each gets 1 / ticks, so u * ticks runs from 0 to just below ticks, and each tick is what stands before the point.",
            ".long() cuts off what stands behind it.",
        ),
        {
            "the last tick is never drawn: that is randint(0, ticks - 1), and sampling starts where nothing was trained.": (
                lambda u, n: (u * (n - 1)).long()
            ),
            "rounding gives the two ends half the chance of the others: cut off, .long().": lambda u, n: (
                (u * (n - 1)).round().long()
            ),
            "rounding gives the first tick half its chance, and sometimes there is one called `ticks`: cut off, .long().": (
                lambda u, n: (u * n).round().long()
            ),
            "these run from 1 to ticks: the first tick is 0, and there is none called `ticks`.": lambda u, n: (
                (u * n).long() + 1
            ),
            "a tick is a whole number: cut off what stands behind the point.": lambda u, n: u * n,
        },
    ),
    "gain": Exercise(
        gain,
        lambda: [(5.268, 4.356), (10.0, 5.0), (4.0, 5.0)],
        (
            "A distance is better when it is smaller, so what was gained is before less after.",
            "As a share of where one began: divided by `before`.",
        ),
        {
            "the sign says that larger is better: a distance gets better by falling.": lambda b, a: (a - b) / b,
            "it is a share of where one began, `before`, not of where one ended.": lambda b, a: (b - a) / a,
            "that is the difference, in the units of the distance: divide by `before`.": lambda b, a: b - a,
            "that is what is left, not what was gained.": lambda b, a: a / b,
            "a share, not per cent: 0.17, not 17.": lambda b, a: 100 * (b - a) / b,
        },
    ),
    "scaled_once": Exercise(
        scaled_once,
        lambda: [(torch.tensor([-3.0, -1.0, 0.0, 1.0]),), (_pictures(2, 1, 3, 3),)],
        (
            "They were right, and then came x * 2 - 1. Undo that, last step first.",
            "Add 1, then halve: -3 becomes -1, and 1 stays 1.",
        ),
        {
            "clipping keeps what was already there and turns all that was dark grey to black: undo the scaling.": lambda x: (
                x.clamp(-1, 1)
            ),
            "that scales them a third time: undo x * 2 - 1, do not repeat it.": lambda x: x * 2 - 1,
            "the steps are undone in the wrong order: first add 1, then halve.": lambda x: x / 2 + 1,
            "a third of it is the right width in the wrong place: black goes to -1, white to a third.": lambda x: x / 3,
        },
    ),
    "carried_on": Exercise(
        carried_on,
        lambda: [
            (_pictures(2, 1, 3, 3), _pictures(2, 1, 3, 3, seed=1), signal, sigma, fresh)
            for signal, sigma, fresh in ((0.6, 0.8, 0.0), (0.6, 0.8, 0.5), (0.8, 0.6, 0.6))
        ],
        (
            "At tick s the noise has variance sigma_s squared in all. Fresh noise of scale `fresh` will be added after this.",
            "So what is carried on may have the variance sigma_s**2 - fresh**2. Its scale is the root of that.",
        ),
        {
            "that is the fresh noise's own scale: where none is added, nothing is carried on, and the picture is bare.": (
                lambda x, e, a, s, f: a * x + f * e
            ),
            "all the old noise is carried on, and fresh noise comes on top: together they are too much.": lambda x, e, a, s, f: (
                a * x + s * e
            ),
            "scales are subtracted: it is variances that add up, so subtract their squares.": lambda x, e, a, s, f: (
                a * x + (s - f) * e
            ),
            "that is the variance of what is carried on: its scale is the root.": lambda x, e, a, s, f: (
                a * x + (s**2 - f**2) * e
            ),
        },
    ),
    "forgotten_whole": Exercise(
        forgotten_whole,
        lambda: (
            [(_signs(5, 4), torch.tensor([0.05, 0.2, 0.95, 0.1, 0.6]), p) for p in (0.1, 0.5)]
            + [(torch.eye(3), torch.tensor([0.05, 0.5, 0.95]), 0.1)]
        ),
        (
            "luck is a number in [0, 1) for each picture; with probability p it lies below p.",
            "Keep the condition where luck >= p. The mask is one number a picture: [:, None] makes it a column.",
        ),
        {
            "kept and forgotten are swapped: at p = 0.1 nine in ten are forgotten.": lambda c, l, p: (
                c * (l < p)[:, None]
            ),
            "what is kept has changed its sign: it says no to the digit that is shown.": lambda c, l, p: (
                c * (-1.0 * (l >= p))[:, None]
            ),
            "what is forgotten is answered no, -1: not said is 0.": lambda c, l, p: torch.where(
                (l >= p)[:, None], c, -1.0
            ),
            "what equals p is forgotten too: luck can be 0, and at p = 0 nobody should be. Keep where luck >= p.": lambda c, l, p: (
                c * (l > p)[:, None]
            ),
            "with probability p means luck below p; here only what equals it is forgotten.": lambda c, l, p: (
                c * (l != p)[:, None]
            ),
        },
    ),
    "zero_terminal": Exercise(
        zero_terminal,
        lambda: [(torch.tensor([0.99, 0.9, 0.75, 0.6]),), (torch.linspace(0.8, 0.1, 9),)],
        (
            "First shift: take the last rate away from all of them, so that the last one is 0.",
            "Now the first one is too small: stretch them all by what brings it back, first / (first - last).",
        ),
        {
            "it ends at 0, but the first tick has lost signal too: stretch, so that it keeps what it had.": lambda s: (
                s - s[-1]
            ),
            "the first tick should keep its rate, and not become 1.": lambda s: (s - s[-1]) / (s[0] - s[-1]),
            "only the last tick is changed: that is a cliff. Shift and stretch them all.": lambda s: torch.cat(
                [s[:-1], torch.zeros(1)]
            ),
            "that shifts and stretches the squares: it is the rate that Lin et al. take.": lambda s: (
                (s**2 - s[-1] ** 2) * s[0] ** 2 / (s[0] ** 2 - s[-1] ** 2)
            ).sqrt(),
        },
    ),
    "moving_average": Exercise(
        moving_average,
        lambda: [(_pictures(3, 4), _pictures(3, 4, seed=1), decay) for decay in (0.999, 0.9, 0.0)],
        (
            "The average changes slowly: of what was kept, the share `decay` stays.",
            "The two shares add up to one: decay and 1 - decay.",
        ),
        {
            "the shares are swapped: at decay 0.999 nearly all should be what was kept.": lambda k, n, d: (
                (1 - d) * k + d * n
            ),
            "the new weights come on top in full: the average would grow without end. Their share is 1 - decay.": lambda k, n, d: (
                d * k + n
            ),
            "that is the mean of the two, whatever the decay: it would forget in a few steps.": lambda k, n, d: (
                (k + n) / 2
            ),
            "nothing is added: it fades away.": lambda k, n, d: d * k,
        },
    ),
    "wilson": Exercise(
        wilson,
        lambda: [(45, 50), (0, 20), (20, 20), (430, 500)],
        (
            "Square both sides: (p - share)**2 = z**2 p (1 - p) / n. That is a quadratic in p.",
            "Sorted: (1 + z**2 / n) p**2 - (2 share + z**2 / n) p + share**2 = 0.",
            "With a p**2 - b p + c = 0 the ends are (b - root) / (2 a) and (b + root) / (2 a), root the root of b**2 - 4 a c.",
        ),
        {
            "that is the textbook interval around the share: at 0 or at `count` hits it has no width at all.": lambda h, n: (
                torch.tensor(
                    [
                        h / n - 1.96 * math.sqrt(h / n * (1 - h / n) / n),
                        h / n + 1.96 * math.sqrt(h / n * (1 - h / n) / n),
                    ]
                )
            ),
            "that holds two times in three: for 95 % z is 1.96, not 1.": lambda h, n: torch.tensor(
                [
                    ((h / n + 1 / (2 * n)) + side * math.sqrt(h / n * (1 - h / n) / n + 1 / (4 * n**2))) / (1 + 1 / n)
                    for side in (-1, 1)
                ]
            ),
            "upper and lower end are swapped.": lambda h, n: wilson(h, n).flip(0),
            "these are counts, and should be shares: divide hits by count first.": lambda h, n: wilson(h, n) * n,
        },
    ),
    "amplified": Exercise(
        amplified,
        lambda: [
            (torch.tensor([[1.0, 0, 0, 0], [1, -1, 0, 0], [-1, 1, 1, -1], [0, 0, 0, 0]]),),
            (_signs(3, 40) * (_pictures(3, 40, seed=4) > 0.5),),
            (torch.tensor([[0.5, -0.5, 1, 0], [0.25, 0, 0, 0], [-0.5, 1, 0.75, -1], [0, 0, 0, 0]]),),
        ],
        (
            "How much is said in each row? cond.abs().sum(1, keepdim=True): a half is said half.",
            "A row of yes and no is as long as the root of that, and should be as long as the root of K.",
            "Where nothing is said one would divide by 0: .clamp(min=1) first.",
        ),
        {
            "where nothing is said it divides by 0: what is not said must stay 0.": lambda c: (
                c * (c.shape[1] / (c != 0).sum(1, keepdim=True)).sqrt()
            ),
            "without the root a single answer is shouted, forty times as loud.": lambda c: (
                c * c.shape[1] / (c != 0).sum(1, keepdim=True).clamp(min=1)
            ),
            "few answers become quieter still: it is K over said, not said over K.": lambda c: (
                c * ((c != 0).sum(1, keepdim=True) / c.shape[1]).sqrt()
            ),
            "each row's count must stay with its row: .sum(1, keepdim=True), else it is spread over the columns.": lambda c: (
                c * (c.shape[1] / c.abs().sum(1).clamp(min=1)).sqrt()
            ),
            "yes and no cancel: count what is said, not what is answered yes.": lambda c: (
                c * (c.shape[1] / c.sum(1, keepdim=True).clamp(min=1)).sqrt()
            ),
            "a half is said half: add up the sizes, cond.abs(), do not count what is not 0.": lambda c: (
                c * (c.shape[1] / (c != 0).sum(1, keepdim=True).clamp(min=1)).sqrt()
            ),
            "said is counted over the whole batch: each row has its own.": lambda c: (
                c * (c.shape[1] / (c != 0).sum().clamp(min=1)).sqrt()
            ),
        },
    ),
    "on_half_a_circle": Exercise(
        on_half_a_circle,
        lambda: [
            (torch.tensor([-60.0, -15.0, 0.0, 60.0]), -60.0, 60.0),
            (torch.tensor([1.0, 2.5, 3.0]), 1.0, 5.0),
        ],
        (
            "Where does the value stand between low and high, from 0 to 1?",
            "That share of half a turn, torch.pi, is the angle.",
            "Its cosine and its sine, side by side: torch.stack([...], 1).",
        ),
        {
            "stretched over -1 to 1, the one in the middle is 0 in both places, which means not said.": lambda v, lo, hi: (
                torch.stack([2 * (v - lo) / (hi - lo) - 1] * 2, 1)
            ),
            "on a whole circle the lowest and the highest value are the same point: half a turn, pi.": lambda v, lo, hi: (
                torch.stack(
                    [(2 * torch.pi * (v - lo) / (hi - lo)).cos(), (2 * torch.pi * (v - lo) / (hi - lo)).sin()], 1
                )
            ),
            "the value itself is taken for an angle: bring it from low .. high to 0 .. pi first.": lambda v, lo, hi: (
                torch.stack([v.cos(), v.sin()], 1)
            ),
            "cosine and sine are swapped.": lambda v, lo, hi: on_half_a_circle(v, lo, hi).flip(1),
        },
    ),
    "never_together": Exercise(
        never_together,
        lambda: [
            (torch.tensor([20.0, 20.0, 0.0, 0.0, 15.0, -20.0]), torch.tensor([30.0, 0.0, 30.0, 0.0, 20.0, -30.0])),
            (torch.tensor([15.0, 20.0, 15.0]), torch.tensor([30.0, 20.0, 20.0])),
        ],
        (
            "Each of the two conditions holds often by itself; what is never shown is both at once.",
            "Of two tables of booleans & is true where both are; put each comparison in brackets.",
        ),
        {
            "that holds out every hand beyond 15 and every tool beyond 20: then neither is ever seen. Hold out both at once.": (
                lambda h, t: (h > 15) | (t > 20)
            ),
            "those are the ones to keep.": lambda h, t: ~never_together(h, t),
            "only the clockwise side: -20 is not beyond +15.": lambda h, t: (h.abs() > 15) & (t.abs() > 20),
            "the limits themselves still belong to what is seen: beyond means >.": lambda h, t: (h >= 15) & (t >= 20),
            "a hand at 15 degrees still belongs to what is seen: beyond means >.": lambda h, t: (h >= 15) & (t > 20),
            "a tool at 20 degrees still belongs to what is seen: beyond means >.": lambda h, t: (h > 15) & (t >= 20),
            "hand and tool are swapped.": lambda h, t: (t > 15) & (h > 20),
        },
    ),
    "frechet": Exercise(
        frechet,
        lambda: [
            (_pictures(2), _covariance(2, 1), _pictures(2, seed=2), _covariance(2, 3)),
            (_pictures(3), _covariance(3, 4), _pictures(3), _covariance(3, 5)),
        ],
        (
            "Two parts: how far apart the means are, squared, and how different the shapes are. In the second part, "
            "begin with the two traces.",
            "What the shapes share is the trace of the root of a matrix: the sum of the roots of its eigenvalues. Those of "
            "sqrt(A) B sqrt(A) are those of A @ B.",
            "torch.linalg.eigvals gives complex numbers: take .real, clamp(min=0), then the roots. What is shared counts twice.",
        ),
        {
            "the root is taken number by number: a matrix has another. Take roots of eigenvalues.": lambda m, a, n, b: (
                (m - n).square().sum() + torch.trace(a + b) - 2 * torch.trace((a @ b).abs().sqrt())
            ),
            "that is the root of the trace: take the root of each eigenvalue of A @ B, then add them up.": lambda m, a, n, b: (
                (m - n).square().sum() + torch.trace(a + b) - 2 * torch.trace(a @ b).clamp(min=0).sqrt()
            ),
            "the means' distance enters squared.": lambda m, a, n, b: (
                frechet(m, a, n, b) + (m - n).norm() - (m - n).square().sum()
            ),
            "what they share must count twice: for two equal sets this is not 0.": lambda m, a, n, b: (
                ((m - n).square().sum() + torch.trace(a + b) + frechet(m, a, n, b)) / 2
            ),
            "the root is missing: eigenvalues of A @ B are squares of widths.": lambda m, a, n, b: (
                (m - n).square().sum() + torch.trace(a + b) - 2 * torch.trace(a @ b)
            ),
            "only the diagonals are compared: two clouds may be as wide along both axes and lie crosswise.": lambda m, a, n, b: (
                (m - n).square().sum() + (a.diagonal().sqrt() - b.diagonal().sqrt()).square().sum()
            ),
            "the covariances are subtracted number by number: that is a distance of tables, not of clouds.": lambda m, a, n, b: (
                (m - n).square().sum() + (a - b).square().sum()
            ),
        },
    ),
    "at_infinity": Exercise(
        at_infinity,
        lambda: [
            (torch.tensor([100.0, 200, 400, 800]), torch.tensor([12.1, 7.0, 4.6, 3.2])),
            (torch.tensor([50.0, 60, 1000]), torch.tensor([3.0, 2.9, 2.0])),
        ],
        (
            "Against u = 1 / count the distances lie nearly on a straight line. Where is u when the count is infinite?",
            "At 0: so it is the line's height there. The slope of a line through points is the sum of the products of both "
            "deviations from their means, over the sum of the squared deviations of u.",
            "The line goes through the point of both means: walk from there back to u = 0, by u.mean(), along the slope.",
        ),
        {
            "the line is drawn against the count: draw it against 1 / count.": lambda n, d: at_infinity(1 / n, d),
            "that is the slope: the height at u = 0 is wanted.": lambda n, d: _slope(1 / n, d),
            "that is the distance at the largest count: some bias is left in it.": lambda n, d: d[n.argmax()],
            "that is the mean over the counts: all of their bias is in it.": lambda n, d: d.mean(),
            "the line is read at u = 1, which is a single picture: at infinity u is 0.": lambda n, d: (
                at_infinity(n, d) + _slope(1 / n, d)
            ),
        },
    ),
    "decide": Exercise(
        decide,
        lambda: [_pairs_of_models(), tuple(part[[2, 4, 0]] for part in _pairs_of_models())],
        (
            "How far may a difference be from zero by luck? Nearly always less than 1.96 standard deviations.",
            "replicates.std(1) is the standard deviation. Where the difference is larger, its sign is the verdict; else 0.",
        ),
        {
            "the sign alone is no verdict: it may be luck. Ask for 1.96 standard deviations.": lambda d, r: d.sign(),
            "more replicates do not make more pictures: do not divide by the root of their number.": lambda d, r: (
                torch.where(d.abs() > 1.96 * r.std(1) / r.shape[1] ** 0.5, d.sign(), 0)
            ),
            "one standard deviation is passed by luck one time in three: take 1.96.": lambda d, r: torch.where(
                d.abs() > r.std(1), d.sign(), 0
            ),
            "2 is near, and a little too many: the middle 95 % lie within 1.96 standard deviations.": lambda d, r: (
                torch.where(d.abs() > 2 * r.std(1), d.sign(), 0)
            ),
            "replicates have a bias of their own: not their percentiles or mean count, only their spread.": lambda d, r: (
                (r.quantile(0.025, 1) > 0).int() - (r.quantile(0.975, 1) < 0).int()
            ),
            "the two are swapped: a difference below zero says that A is nearer, and is -1.": lambda d, r: (
                -decide(d, r)
            ),
            "that is the variance: the standard deviation is its root.": lambda d, r: torch.where(
                d.abs() > 1.96 * r.var(1), d.sign(), 0
            ),
            "one deviation for all pairs: each has its own, .std(1).": lambda d, r: torch.where(
                d.abs() > 1.96 * r.std(), d.sign(), 0
            ),
        },
    ),
    "bits_of_step": Exercise(
        bits_of_step,
        lambda: [
            (_pictures(1, 4, 4), _pictures(1, 4, 4, seed=1), now, then)
            for now, then in (((0.5, 0.5), (0.6, 0.4)), ((0.0, 1.0), (0.1, 0.9)), ((0.6, 0.8), (0.8, 0.6)))
        ],
        (
            "A signal-to-noise ratio is (signal / sigma) squared; the step gains that of then, less that of now.",
            "Half of what is gained, times the mean squared error of the guess, in nats. How many nats is a bit?",
            "log 2 of them: divide by math.log(2).",
        ),
        {
            "these are nats: a bit is log 2 of them, so divide by math.log(2).": lambda x, p, n, s: (
                bits_of_step(x, p, n, s) * math.log(2)
            ),
            "the half is missing: it is the half in a Gaussian's exponent.": lambda x, p, n, s: (
                2 * bits_of_step(x, p, n, s)
            ),
            "it is below zero: what is gained is the ratio of then, less that of now.": lambda x, p, n, s: (
                -bits_of_step(x, p, n, s)
            ),
            "the ratio is of variances: square signal / sigma.": lambda x, p, n, s: (
                (s[0] / s[1] - n[0] / n[1]) / 2 * (x - p).square().mean() / math.log(2)
            ),
            "that is for the whole picture: per number it is the mean, not the sum.": lambda x, p, n, s: (
                bits_of_step(x, p, n, s) * x.numel()
            ),
        },
    ),
}
