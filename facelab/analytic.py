"""The exact denoisers of a finite set of images and of a Gaussian, without a network (lesson 02, and many tests).

    x_0_hat = sum_i w_i x_i,   w = softmax_i( -|x_t - signal_t x_i|^2 / (2 sigma_t^2) )         (Karras et al. 2022, eq. 57)

The first can only generate the images of its set: it is the optimum of the training loss, complete memorization.
"""

import torch
from torch import Tensor

from facelab.schedules import Schedule


class IdealDenoiser:
    """The mean of a set of images x_0 (N, C, H, W), each weighted by its likelihood given x_t.

    Only images count whose `conds` (N, K) equal all specified (nonzero) values of the condition.
    """

    def __init__(self, x_0: Tensor, conds: Tensor, schedule: Schedule):
        if len(x_0) == 0 or len(x_0) != len(conds):
            raise ValueError(f"the set needs images and as many conditions, got {len(x_0)} and {len(conds)}.")
        self.x_0, self.conds, self.schedule = x_0, conds, schedule

    def weights(self, x_t: Tensor, t, cond: Tensor) -> Tensor:
        """(B, N): the weight of each image of the set for each x_t; rows sum to one."""
        # The logits are large numbers with small differences, so float64 on every device that has it.
        wide = torch.float32 if x_t.device.type == "mps" else torch.float64
        x, x_0 = x_t.flatten(1).to(wide), self.x_0.flatten(1).to(x_t.device, wide)
        signal, sigma = (rate.flatten(1) for rate in self.schedule.rates(t, like=x))
        logits = (signal * x @ x_0.T - signal**2 * x_0.square().sum(1) / 2) / sigma**2
        cond, known = cond.to(x).expand(len(x_t), -1), self.conds.to(x)
        # The squared difference over the specified attributes is 0 where all values are equal.
        difference = cond.square().sum(1, keepdim=True) - 2 * cond @ known.T + (cond != 0).to(x) @ known.square().T
        if not (equal := difference.abs() < 1e-6).any(1).all():
            raise ValueError("no image of this set has the attributes of the condition.")
        return logits.masked_fill(~equal, -torch.inf).softmax(1)

    def __call__(self, x_t: Tensor, t, cond: Tensor) -> Tensor:
        """x_0_hat (B, C, H, W) for x_t (B, C, H, W), t an int or (B,), cond (K,) or (B, K)."""
        weights = self.weights(x_t, t, cond)
        return (weights @ self.x_0.flatten(1).to(weights)).to(x_t.dtype).reshape(x_t.shape)


class GaussianDenoiser:
    """E[x_0 | x_t] of a diagonal Gaussian; `mean` and `std` broadcast to (C, H, W), and `mean` may be a function of cond (B, K)."""

    def __init__(self, mean, std, schedule: Schedule):
        self.mean, self.std, self.schedule = mean, std, schedule

    def __call__(self, x_t: Tensor, t, cond: Tensor) -> Tensor:
        mean = torch.as_tensor(self.mean(cond) if callable(self.mean) else self.mean).to(x_t)
        signal, sigma = self.schedule.rates(t, like=x_t)
        variance = torch.as_tensor(self.std, dtype=x_t.dtype, device=x_t.device) ** 2
        return mean + signal * variance / (signal**2 * variance + sigma**2) * (x_t - signal * mean)
