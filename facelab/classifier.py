"""The attribute classifier: which attributes an image shows. It measures whether generated images match their condition.

It is trained on real images only, and never sees the condition of a generated one.
"""

import itertools
import math

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn import functional as F

from facelab.denoiser import Network, seeded


class _ResidualBlock(nn.Module):
    """The input plus two convolutions of it: He et al. 2016, figure 2."""

    def __init__(self, width: int):
        super().__init__()
        first, last = (nn.Conv2d(width, width, 3, 1, 1, bias=False) for _ in range(2))
        self.layers = nn.Sequential(first, nn.BatchNorm2d(width), nn.ReLU(), last, nn.BatchNorm2d(width))

    def forward(self, x):
        return F.relu(x + self.layers(x))


class AttributeClassifier(Network):
    """A small convolutional network: images (B, C, H, W) in [-1, 1] -> logits (B, K).

    Args:
        attributes, exclusive: the names; exclusive ones share one softmax, others have a sigmoid each.
        channels: width of each level; each level halves the resolution.
        blocks_per_level: residual blocks after each halving, none for levels left out.
        frequencies: how often each attribute is "yes" in the training data. The loss then adds their log-odds to the logits (logit
            adjustment, Menon et al. 2021, eq. 10), so that the threshold 0 gives the best balanced accuracy.
    """

    renamed = {"names": "attributes", "blocks": "blocks_per_level", "rates": "frequencies"}  # noqa: RUF012

    @register_to_config
    def __init__(
        self,
        shape: tuple[int, int, int] = (1, 28, 28),
        attributes: tuple[str, ...] = tuple("0123456789"),
        exclusive: bool = False,
        channels: tuple[int, ...] = (32, 64, 128),
        dropout: float = 0.1,
        seed: int = 0,
        blocks_per_level: tuple[int, ...] = (),
        frequencies: tuple[float, ...] | None = None,
    ):
        super().__init__(attributes, exclusive, frequencies)
        blocks, levels = (*blocks_per_level, *[0] * len(channels)), []
        with seeded(seed):
            for (before, after), count in zip(itertools.pairwise((shape[0], *channels)), blocks, strict=False):
                halve = nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()
                levels.append(nn.Sequential(*halve, *(_ResidualBlock(after) for _ in range(count))))
            height, width = (math.ceil(side / 2 ** len(channels)) for side in shape[1:])
            head = nn.Linear(channels[-1] * height * width, len(attributes))
            self.layers = nn.Sequential(*levels, nn.Flatten(), nn.Dropout(dropout), head)

    def forward(self, images: Tensor) -> Tensor:
        """(B, K) logits; above 0 is yes, or the largest where attributes are exclusive."""
        if tuple(images.shape[1:]) != self.shape:
            raise ValueError(f"images must be (B, {', '.join(map(str, self.shape))}), got {tuple(images.shape)}.")
        return self.layers(images.to(next(self.parameters()).dtype))

    def predict(self, images: Tensor, batch_size: int = 500) -> Tensor:
        """(B,) index of the attribute where they are exclusive, else (B, K) of -1 and +1; on the CPU."""
        logits = self._logits(images, batch_size)
        return logits.argmax(1) if self.attributes.exclusive else torch.where(logits > 0, 1, -1)

    def predict_proba(self, images: Tensor, batch_size: int = 500) -> Tensor:
        """(B, K) probability of each attribute, on the CPU; rows sum to 1 where attributes are exclusive."""
        logits = self._logits(images, batch_size)
        return logits.softmax(1) if self.attributes.exclusive else logits.sigmoid()

    @torch.no_grad()
    def _logits(self, images, batch_size):
        if len(images) and images.abs().max() > 2:  # generated images may exceed the range a little
            raise ValueError(f"images must be in [-1, 1], got values up to {images.abs().max():.3g}.")
        return torch.cat([self(part.to(self.device)) for part in images.split(batch_size)]).float().cpu()

    def loss(self, images: Tensor, conds: Tensor) -> Tensor:
        """(B,) cross-entropy of the prediction against conds (B, K), mean over the specified attributes."""
        logits = self(images)
        if self.attributes.exclusive:
            return F.cross_entropy(logits, conds.argmax(1), reduction="none")
        specified = conds != 0
        if self.config.frequencies is not None:
            logits = logits + torch.logit(logits.new_tensor(self.config.frequencies))
        each = F.binary_cross_entropy_with_logits(logits, (conds > 0).to(logits.dtype), reduction="none")
        return (each * specified).sum(1) / specified.sum(1).clamp(min=1)
