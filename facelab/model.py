"""The two networks: one that guesses the clean picture, one that says which attributes a picture shows.

    denoise(x_t, t, cond) -> x_0_hat                                  THE call (lessons 02 and 03)

The U-Net itself is diffusers'. What is ours: where the condition enters, and that every prediction ends as x_0_hat.
"""

import contextlib
import itertools
import math
from collections.abc import Sequence

import torch
from diffusers import ConfigMixin, ModelMixin, UNet2DModel
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn import functional as F

from facelab.attributes import Attributes
from facelab.schedule import PREDICTIONS, SCHEDULES, Schedule


@contextlib.contextmanager
def seeded(seed: int):
    """Random numbers inside are a function of `seed`; the world outside does not notice."""
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would reach the GPUs' generators too, which are not put back.
        torch.default_generator.manual_seed(seed)
        yield


def haar(x: Tensor) -> Tensor:
    """One level of the orthonormal Haar transform: (B, C, H, W) -> (B, 4C, H/2, W/2).

    Channel 4c + k is band k of channel c: 0 the mean of each 2x2 block times two (LL), 1 to 3 the horizontal, vertical and
    diagonal differences (LH, HL, HH).
    """
    return _mix_bands(F.pixel_unshuffle(x, 2))


def inverse_haar(bands: Tensor) -> Tensor:
    """The image whose `haar` is `bands`: (B, 4C, H, W) -> (B, C, 2H, 2W)."""
    return F.pixel_shuffle(_mix_bands(bands), 2)


def _mix_bands(x: Tensor) -> Tensor:
    # The 4x4 matrix is symmetric and orthonormal, so it is its own inverse. Sums and not a product: autocast leaves them alone.
    a, b, c, d = x.unflatten(1, (-1, 4)).unbind(2)
    return torch.stack([a + b + c + d, a - b + c - d, a + b - c - d, a - b - c + d], 2).flatten(1, 2) / 2


class Denoiser(ModelMixin, ConfigMixin):
    """A conditional U-Net: denoise(x_t, t, cond) -> x_0_hat.

    Args:
        shape: (C, H, W) of a picture; H and W divisible by patch * 2^(levels - 1).
        names: the attributes it is told, in the order of cond; exclusive as in `Attributes`.
        schedule, ticks: the schedule it is trained on, by name.
        predicts: "eps" (Ho et al. 2020), "velocity" (Salimans and Ho 2022) or "x_0": what the network itself says.
        condition: "embedding" adds a two-layer embedding of cond to that of the tick, which reaches every block;
            "channels" is the report's: a linear layer to five numbers, repeated over the picture as input channels;
            "none" ignores cond.
        channels, layers, attention: width of each level, ResNet blocks a level, self-attention yes or no a level.
        head_width: channels of one attention head.
        middle: self-attention between the two halves too, where the last level has it. diffusers leaves its input
            unnormalised if time_shift is "scale_shift": in a long training its logits grew until the gradients exploded.
        patch: 1, 2 or 4: the U-Net works at 1/patch of the resolution, on patch^2 channels for each channel of an image.
            With `sigma_data` these are Haar bands, without it the pixels of a patch.
        sigma_data: the root mean square of the training images in each of the patch^2 Haar bands. With it the part of x_0_hat
            that is linear in x_t is computed, and the U-Net adds the rest (`_combine`; Karras et al. 2022, section 5).
            Otherwise group normalization removes the mean of a sub-grid before the U-Net can use it, and the initial noise's
            own mean stays in the image, as a checkerboard artifact.
        refine: width of two convolutions at full resolution behind the inverse transform (0: none); needs `sigma_data`.
        amplify: make few answers as loud as many: cond times sqrt(K / said), where said is the sum of its sizes, at least 1.
            Without it a request of one attribute in forty reaches the first layer at a sixth of a whole description's size.
        rates: the share of yes of each attribute in the training data. With it the rarer an answer, the louder: yes counts
            sqrt((1 - rate) / rate) and no sqrt(rate / (1 - rate)), which over the data makes each attribute's mean zero and
            its variance one.
        time_shift: "scale_shift" lets the embedding scale and shift every block's features, "default" only adds.
        seed: the initial weights are a function of it.

    Raises:
        ValueError: for a size that does not fit, or an unknown word.
    """

    @register_to_config
    def __init__(
        self,
        shape: tuple[int, int, int] = (1, 28, 28),
        names: tuple[str, ...] = tuple("0123456789"),
        exclusive: bool = False,
        schedule: str = "straight",
        ticks: int = 1000,
        predicts: str = "velocity",
        condition: str = "embedding",
        channels: tuple[int, ...] = (64, 128),
        layers: int = 1,
        attention: tuple[bool, ...] = (False, True),
        head_width: int = 32,
        patch: int = 1,
        dropout: float = 0.0,
        time_shift: str = "scale_shift",
        seed: int = 0,
        amplify: bool = False,
        rates: tuple[float, ...] | None = None,
        middle: bool = True,
        sigma_data: tuple[float, ...] | None = None,
        refine: int = 0,
    ):
        super().__init__()
        for word, known in ((predicts, PREDICTIONS), (condition, CONDITIONS), (schedule, SCHEDULES)):
            if word not in known:
                raise ValueError(f"{word!r} is none of {', '.join(known)}.")
        if len(channels) != len(attention):
            raise ValueError(f"{len(channels)} levels of channels need as many of attention, got {len(attention)}.")
        _check_rates(rates, names)
        whole = patch * 2 ** (len(channels) - 1)
        if len(shape) != 3 or shape[1] % whole or shape[2] % whole:
            raise ValueError(
                f"a picture of shape {tuple(shape)} cannot be folded into patches of {patch} and halved "
                f"{len(channels) - 1} times: its sides must be divisible by {whole}."
            )
        if patch not in (1, 2, 4):
            raise ValueError(f"patch must be 1, 2 or 4, got {patch!r}.")
        if sigma_data is not None and (len(sigma_data) != patch**2 or not all(sd > 0 for sd in sigma_data)):
            raise ValueError(
                f"sigma_data must be {patch**2} numbers above 0, one for each Haar band, got {sigma_data}."
            )
        if refine and sigma_data is None:
            raise ValueError("refine works on the output of a preconditioned network: give sigma_data too.")
        self.schedule: Schedule = SCHEDULES[schedule](ticks)
        self.attributes = Attributes(names, exclusive=exclusive)
        if predicts == "eps" and self.schedule.signal[-2] == 0:
            raise ValueError(f"the {schedule} schedule ends in pure noise, from where eps says nothing: use velocity.")
        folded, extra = shape[0] * patch**2, 5 if condition == "channels" else 0
        with seeded(seed):
            self.unet = UNet2DModel(
                in_channels=folded + extra,
                out_channels=folded,
                block_out_channels=tuple(channels),
                layers_per_block=layers,
                down_block_types=["AttnDownBlock2D" if attend else "DownBlock2D" for attend in attention],
                up_block_types=["AttnUpBlock2D" if attend else "UpBlock2D" for attend in reversed(attention)],
                attention_head_dim=head_width,
                add_attention=bool(attention[-1]) and middle,
                norm_num_groups=math.gcd(32, *channels),
                dropout=dropout,
                resnet_time_scale_shift=time_shift,
                class_embed_type="identity" if condition == "embedding" else None,
            )
            width = 4 * channels[0]
            if condition == "embedding":
                self.embed = nn.Sequential(nn.Linear(len(names), width), nn.SiLU(), nn.Linear(width, width))
                # A full condition should reach the SiLU with variance one, however many attributes it says.
                nn.init.normal_(self.embed[0].weight, std=1 if exclusive else len(names) ** -0.5)
            elif condition == "channels":
                self.embed = nn.Linear(len(names), extra)
            if refine:
                first, last = nn.Conv2d(2 * shape[0], refine, 3, 1, 1), nn.Conv2d(refine, shape[0], 3, 1, 1)
                nn.init.zeros_(last.weight)
                nn.init.zeros_(last.bias)
                self.refinement = nn.Sequential(first, nn.SiLU(), last)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of a picture"""
        return tuple(self.config.shape)

    def forward(self, x_t: Tensor, t, cond: Tensor, raw: bool = False) -> Tensor:
        """The clean picture it believes in.

        Args:
            x_t: (B, C, H, W) noisy pictures.
            t: the tick, an int for all or (B,).
            cond: (B, K), (1, K) or (K,) in [-1, 1]; zero is "not said".
            raw: what the network predicts (eps, velocity or x_0) in place of x_0_hat: training's loss is on this.

        Returns:
            x_0_hat (B, C, H, W), float32 (float64 for float64 pictures).

        Raises:
            ValueError: for pictures or conditions of another shape than it was built for.
        """
        if tuple(x_t.shape[1:]) != self.shape or x_t.ndim != 4:
            raise ValueError(
                f"this network takes pictures (B, {', '.join(map(str, self.shape))}), got {tuple(x_t.shape)}."
            )
        if (
            cond.shape[-1] != len(self.attributes)
            or cond.ndim > 2
            or (cond.ndim == 2 and len(cond) not in (1, len(x_t)))
        ):
            raise ValueError(f"cond must be ({len(x_t)}, {len(self.attributes)}), got {tuple(cond.shape)}.")
        weight = next(self.parameters())
        cond = cond.to(weight.device, weight.dtype).expand(len(x_t), -1)
        if self.config.sigma_data is not None:
            return self._combine(x_t, t, cond, raw)
        # Images may lie elsewhere than the weights, such as noise made on the CPU: the answer comes back to them.
        output = self._predict(x_t.to(weight.device, weight.dtype), t, cond).to(x_t.device)
        return output if raw else self.schedule.x_0_from(x_t, output, t, self.config.predicts)

    def _combine(self, x_t, t, cond, raw):
        """x_0_hat or, with `raw`, the prediction that the loss is on. In each Haar band, with sd its sigma_data:

        V = signal^2 sd^2 + sigma^2                          variance of the band of x_t
        F = U-Net(x / sqrt(V))                               input and output of variance about one
        x_0_hat = signal sd^2 / V x + sigma sd / sqrt(V) F   EDM's c_skip and c_out (Karras et al. 2022, table 1)
        eps_hat = sigma / V x - signal sd / sqrt(V) F        so that x = signal x_0_hat + sigma eps_hat
        """
        weight, wide = next(self.parameters()), torch.promote_types(x_t.dtype, torch.float32)
        x = self._fold(x_t.to(weight.device, wide))
        signal, sigma = self.schedule.rates(t, like=x)
        sd = x.new_tensor(self.config.sigma_data).repeat(self.shape[0])[:, None, None]
        v = signal**2 * sd**2 + sigma**2
        scaled = x / v.sqrt()
        network = self._network(scaled.to(weight.dtype), t, cond).to(wide)
        if self.config.refine:
            full = torch.cat([self._unfold(scaled), self._unfold(network)], 1).to(weight.dtype)
            network = network + self._fold(self.refinement(full).to(wide))
        x_0_hat = self._unfold(signal * sd**2 / v * x + sigma * sd / v.sqrt() * network).to(x_t.device)
        if not raw:
            return x_0_hat
        eps_hat = self._unfold(sigma / v * x - signal * sd / v.sqrt() * network).to(x_t.device)
        return self.schedule.target(x_0_hat, eps_hat, t, self.config.predicts)

    def _predict(self, x, t, cond):
        return self._unfold(self._network(self._fold(x), t, cond))

    def _fold(self, x):
        for _ in range(self.config.patch.bit_length() - 1):
            x = F.pixel_unshuffle(x, 2) if self.config.sigma_data is None else haar(x)
        return x

    def _unfold(self, x):
        for _ in range(self.config.patch.bit_length() - 1):
            x = F.pixel_shuffle(x, 2) if self.config.sigma_data is None else inverse_haar(x)
        return x

    def _network(self, x, t, cond):
        # The timestep's sinusoids were made for a thousand timesteps, so another number is stretched to that.
        now = torch.as_tensor(t, device=x.device).expand(len(x)) * (1000 / self.config.ticks)
        cond = self._loud(cond)
        if self.config.condition == "channels":
            x = torch.cat([x, self.embed(cond)[:, :, None, None].expand(-1, -1, *x.shape[2:])], 1)
        labels = self.embed(cond) if self.config.condition == "embedding" else None
        return self.unet(x, now, class_labels=labels).sample

    def _loud(self, cond):
        surprise = torch.ones_like(cond)
        if self.config.rates is not None:
            odds = torch.logit(cond.new_tensor(self.config.rates)).exp()
            surprise = torch.where(cond > 0, 1 / odds, odds)
        said = (cond.abs() * surprise).sum(1, keepdim=True).clamp(min=1)
        return cond * surprise.sqrt() * ((cond.shape[1] / said).sqrt() if self.config.amplify else 1)

    @torch.no_grad()
    def hear(self, rates: Sequence[float]) -> dict[str, Tensor]:
        """Its weights as a network with these `rates` needs them: a whole description moves it as it did without."""
        yes = torch.tensor(rates, dtype=torch.float64)
        weights, into = self.state_dict(), self.embed[0].weight.double()
        weights["embed.0.bias"] = (self.embed[0].bias.double() + into @ (2 * yes - 1)).float()
        weights["embed.0.weight"] = (into * 2 * (yes * (1 - yes)).sqrt()).float()
        return weights

    def settings(self) -> dict:
        """Its arguments, as JSON holds them."""
        return {name: value for name, value in self.config.items() if not name.startswith("_")}


CONDITIONS = ("embedding", "channels", "none")


def _check_rates(rates, names):
    if rates is not None and (len(rates) != len(names) or not all(0 < rate < 1 for rate in rates)):
        raise ValueError(f"rates must be {len(names)} shares between 0 and 1, one for each attribute, got {rates}.")


class _Residual(nn.Module):
    """What is there, plus what two convolutions add to it: He et al. 2016, figure 2."""

    def __init__(self, width: int):
        super().__init__()
        conv = lambda: nn.Conv2d(width, width, 3, 1, 1, bias=False)  # noqa: E731
        self.layers = nn.Sequential(conv(), nn.BatchNorm2d(width), nn.ReLU(), conv(), nn.BatchNorm2d(width))

    def forward(self, x):
        return F.relu(x + self.layers(x))


class AttributeClassifier(ModelMixin, ConfigMixin):
    """Says which attributes a picture shows: the judge that reads back what was asked.

    Args:
        shape: (C, H, W) of a picture.
        names, exclusive: the attributes; exclusive ones share one softmax, others get a sigmoid each.
        channels: width after each halving.
        blocks: how many residual blocks follow each halving, level by level; none where left out.
        rates: the share of yes of each attribute in the training data. With it, training learns evidence beyond that
            share (logit adjustment, Menon et al. 2021, eq. 10), so that a rare attribute is read as willingly as a
            common one: above 0 is the reading with the best balanced accuracy, not the best plain one.
        seed: the initial weights are a function of it.
    """

    @register_to_config
    def __init__(
        self,
        shape: tuple[int, int, int] = (1, 28, 28),
        names: tuple[str, ...] = tuple("0123456789"),
        exclusive: bool = False,
        channels: tuple[int, ...] = (32, 64, 128),
        dropout: float = 0.1,
        seed: int = 0,
        blocks: tuple[int, ...] = (),
        rates: tuple[float, ...] | None = None,
    ):
        super().__init__()
        self.attributes = Attributes(names, exclusive=exclusive)
        _check_rates(rates, names)
        widths = (shape[0], *channels)
        with seeded(seed):
            levels = []
            for level, (before, after) in enumerate(itertools.pairwise(widths)):
                halve = nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()
                deeper = [_Residual(after) for _ in range(blocks[level] if level < len(blocks) else 0)]
                levels.append(nn.Sequential(*halve, *deeper))
            left = [math.ceil(side / 2 ** len(channels)) for side in shape[1:]]
            head = nn.Linear(channels[-1] * left[0] * left[1], len(names))
            self.layers = nn.Sequential(*levels, nn.Flatten(), nn.Dropout(dropout), head)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of a picture"""
        return tuple(self.config.shape)

    def forward(self, pictures: Tensor) -> Tensor:
        """(B, K) logits for pictures (B, C, H, W) in [-1, 1]; above 0 is yes, or the largest where they exclude."""
        if tuple(pictures.shape[1:]) != self.shape:
            raise ValueError(f"this judge reads (B, {', '.join(map(str, self.shape))}), got {tuple(pictures.shape)}.")
        return self.layers(pictures.to(next(self.parameters()).dtype))

    @torch.no_grad()
    def read(self, pictures: Tensor, batch: int = 500) -> Tensor:
        """What it sees: (B,) the index of the attribute where they exclude each other, else (B, K) of -1 and +1.

        Raises:
            ValueError: for pictures of another size, or in another range than [-1, 1] (a little beyond is let pass).
        """
        if len(pictures) and pictures.abs().max() > 2:
            raise ValueError(f"pictures lie in [-1, 1], got values up to {pictures.abs().max():.3g}.")
        device = next(self.parameters()).device
        logits = torch.cat([self(part.to(device)) for part in pictures.split(batch)]).cpu()
        return logits.argmax(1) if self.attributes.exclusive else torch.where(logits > 0, 1, -1)

    def loss(self, pictures: Tensor, conds: Tensor) -> Tensor:
        """(B,) cross-entropy of its reading against conds (B, K); an attribute that is not said does not count."""
        logits = self(pictures)
        if self.attributes.exclusive:
            return F.cross_entropy(logits, conds.argmax(1), reduction="none")
        said = conds != 0
        if self.config.rates is not None:
            logits = logits + torch.logit(logits.new_tensor(self.config.rates))
        each = F.binary_cross_entropy_with_logits(logits, (conds > 0).to(logits.dtype), reduction="none")
        return (each * said).sum(1) / said.sum(1).clamp(min=1)

    settings = Denoiser.settings
