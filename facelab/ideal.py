"""The best possible denoisers, with no network: of a set of pictures, and of a Gaussian (lesson 02, and many tests).

    x_0_hat = sum_i w_i x_i,   w = softmax_i( -|x_t - signal_t x_i|^2 / (2 sigma_t^2) )         (Karras et al. 2022, eq. 57)

The first can only ever draw the set itself: it is what a network would be that had learned everything by heart.
"""

import torch
from torch import Tensor

from facelab.schedule import Schedule


class IdealDenoiser:
    """The mean of a set of pictures, each weighted by how well it explains x_t; has THE call.

    Args:
        x_0: (N, C, H, W) the set, in [-1, 1].
        conds: (N, K) what is known of each; a request is answered from the pictures that agree with all that it says.
        schedule: how noise was added.
    """

    def __init__(self, x_0: Tensor, conds: Tensor, schedule: Schedule):
        if len(x_0) == 0 or len(x_0) != len(conds):
            raise ValueError(f"the set needs pictures and as many conditions, got {len(x_0)} and {len(conds)}.")
        self.x_0, self.conds, self.schedule = x_0, conds, schedule

    def weights(self, x_t: Tensor, t, cond: Tensor) -> Tensor:
        """(B, N): how much each picture of the set explains each x_t; rows sum to one."""
        # Logits are large numbers whose small differences count, so float64 wherever the device has it.
        wide = torch.float32 if x_t.device.type == "mps" else torch.float64
        x, everything = x_t.flatten(1).to(wide), self.x_0.flatten(1).to(x_t.device, wide)
        signal, sigma = (rate.flatten(1) for rate in self.schedule.rates(t, like=x))
        logits = (signal * x @ everything.T - signal**2 * everything.square().sum(1) / 2) / sigma**2
        said, known = cond.to(x).expand(len(x_t), -1).sign(), self.conds.to(x).sign()
        # Every said attribute that a picture has adds one, every other one does not, so agreeing is reaching their number.
        agrees = said @ known.T == said.abs().sum(1, keepdim=True)
        if not agrees.any(1).all():
            raise ValueError("no picture of this set is what was asked for.")
        return logits.masked_fill(~agrees, -torch.inf).softmax(1)

    def __call__(self, x_t: Tensor, t, cond: Tensor) -> Tensor:
        """x_0_hat (B, C, H, W) for x_t (B, C, H, W), t an int or (B,), cond (K,) or (B, K)."""
        weights = self.weights(x_t, t, cond)
        guess = weights @ self.x_0.flatten(1).to(weights)
        return guess.to(x_t.dtype).reshape(x_t.shape)


class GaussianDenoiser:
    """The exact denoiser of a diagonal Gaussian whose mean may depend on the condition; has THE call.

    Args:
        mean: (C, H, W), or a function of cond (B, K) that gives (B, C, H, W).
        std: its standard deviation, a number or (C, H, W).
        schedule: how noise was added.
    """

    def __init__(self, mean, std, schedule: Schedule):
        self.mean, self.std, self.schedule = mean, std, schedule

    def __call__(self, x_t: Tensor, t, cond: Tensor) -> Tensor:
        """x_0_hat = E[x_0 | x_t]: the mean, moved towards x_t as far as the noise allows."""
        mean = torch.as_tensor(self.mean(cond) if callable(self.mean) else self.mean).to(x_t)
        signal, sigma = self.schedule.rates(t, like=x_t)
        variance = torch.as_tensor(self.std, dtype=x_t.dtype, device=x_t.device) ** 2
        return mean + signal * variance / (signal**2 * variance + sigma**2) * (x_t - signal * mean)
