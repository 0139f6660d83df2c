"""The conditional U-Net: denoise(x_t, t, cond) -> x_0_hat (lessons 02 and 03).

The U-Net is diffusers'; this module adds the condition, preconditioned Haar bands, and the conversion of predictions to x_0_hat.
"""

import contextlib
import math
from typing import ClassVar

import torch
from diffusers import ConfigMixin, ModelMixin, UNet2DModel
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn import functional as F

from facelab.attributes import expand_cond, known_attributes
from facelab.schedules import PREDICTION_TYPES, SCHEDULES


@contextlib.contextmanager
def seeded(seed: int, device="cpu"):
    """Inside the block random numbers of the CPU, and of a CUDA `device`, are seeded; afterwards the generators are as before."""
    cuda = [torch.device(device)] if torch.device(device).type == "cuda" else []
    with torch.random.fork_rng(cuda):
        # torch.manual_seed would also seed the generators of other devices.
        torch.default_generator.manual_seed(seed)
        for gpu in cuda:
            with torch.cuda.device(gpu):
                torch.cuda.manual_seed(seed)
        yield


def haar(x: Tensor) -> Tensor:
    """One level of the orthonormal Haar transform: (B, C, H, W) -> (B, 4C, H/2, W/2).

    Channel 4c is twice the mean of each 2x2 block of channel c (LL), and the next three are its horizontal, vertical and diagonal
    differences (LH, HL, HH).
    """
    return _mix_bands(F.pixel_unshuffle(x, 2))


def inverse_haar(bands: Tensor) -> Tensor:
    """The images whose `haar` is `bands`: (B, 4C, H, W) -> (B, C, 2H, 2W)."""
    return F.pixel_shuffle(_mix_bands(bands), 2)


def _mix_bands(x: Tensor) -> Tensor:
    # The 4x4 matrix is symmetric and orthonormal, so its own inverse. Autocast would round a matrix product, but not these sums.
    a, b, c, d = x.unflatten(1, (-1, 4)).unbind(2)
    return torch.stack([a + b + c + d, a - b + c - d, a + b - c - d, a - b - c + d], 2).flatten(1, 2) / 2


class Network(ModelMixin, ConfigMixin):
    """What the denoiser and the classifier share."""

    renamed: ClassVar[dict[str, str]] = {}

    def __init__(self, attributes, exclusive, frequencies):
        super().__init__()
        if frequencies is not None and (len(frequencies) != len(attributes) or not all(0 < f < 1 for f in frequencies)):
            raise ValueError(f"frequencies must be {len(attributes)} numbers between 0 and 1, got {frequencies}.")
        self.attributes = known_attributes(attributes, exclusive)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image."""
        return tuple(self.config.shape)

    def settings(self) -> dict:
        """The arguments of the constructor."""
        return {name: value for name, value in self.config.items() if not name.startswith("_")}

    @classmethod
    def from_config(cls, config, **kwargs):
        """The untrained network of a config; one of another class or of facelab 0.1 is an error that says what to do."""
        if (name := config.get("_class_name", cls.__name__)) != cls.__name__:
            raise ValueError(f"these weights are of the class {name}: load them with {name}.from_pretrained.")
        if old := sorted(cls.renamed.keys() & config.keys()):
            raise ValueError(f"this config is of facelab 0.1, where {cls.renamed[old[0]]!r} was called {old[0]!r}.")
        return super().from_config(config, **kwargs)


class Denoiser(Network):
    """A conditional U-Net: denoise(x_t, t, cond) -> x_0_hat.

    Args:
        shape: (C, H, W) of an image.
        attributes, exclusive: as in `Attributes`, in the order of cond.
        timestep_shift: the schedule's `shift`; it does not change the network.
        prediction_type: what the U-Net predicts: "eps" (Ho et al. 2020), "v" (Salimans and Ho 2022) or "x_0".
        conditioning: "embedding" adds an embedding of cond to the timestep's, "channels" appends a linear layer of cond as five
            constant input channels, "none" ignores cond.
        mid_attention: self-attention in the middle, if the last level has it. With "scale_shift" diffusers does not normalize its
            input: in a long training its logits grew until the gradients exploded.
        patch_size: 1, 2 or 4: the U-Net works at 1/patch_size of the resolution, on Haar bands with `sigma_data`, else on pixels.
        sigma_data: root mean square of the training images in each of the patch_size^2 Haar bands, for `_precondition`. Without it
            GroupNorm removes the mean of each sub-grid of pixels, and the noise's mean stays as a checkerboard artifact.
        normalize_cond: scale cond to the size of a complete condition, by sqrt(K / sum_k |cond_k|).
        frequencies: how often each attribute is "yes" in the training data, f: yes becomes sqrt((1 - f) / f) and no
            -sqrt(f / (1 - f)), of mean 0 and variance 1 over the data.
    """

    renamed = {"names": "attributes", "ticks": "num_timesteps", "predicts": "prediction_type"}  # noqa: RUF012
    renamed |= {"condition": "conditioning", "channels": "block_out_channels", "layers": "layers_per_block"}
    renamed |= {"head_width": "attention_head_dim", "middle": "mid_attention", "patch": "patch_size"}
    renamed |= {"time_shift": "resnet_time_scale_shift", "amplify": "normalize_cond", "rates": "frequencies"}

    @register_to_config
    def __init__(
        self,
        shape: tuple[int, int, int] = (1, 28, 28),
        attributes: tuple[str, ...] = tuple("0123456789"),
        exclusive: bool = False,
        schedule: str = "rectified_flow",
        num_timesteps: int = 1000,
        timestep_shift: float = 1.0,
        prediction_type: str = "v",
        conditioning: str = "embedding",
        block_out_channels: tuple[int, ...] = (64, 128),
        layers_per_block: int = 1,
        attention: tuple[bool, ...] = (False, True),
        attention_head_dim: int = 32,
        mid_attention: bool = True,
        patch_size: int = 1,
        sigma_data: tuple[float, ...] | None = None,
        dropout: float = 0.0,
        resnet_time_scale_shift: str = "scale_shift",
        normalize_cond: bool = False,
        frequencies: tuple[float, ...] | None = None,
        seed: int = 0,
    ):
        super().__init__(attributes, exclusive, frequencies)
        self._check()
        self.schedule = SCHEDULES[schedule](num_timesteps)
        self.schedule.shift = timestep_shift
        if prediction_type == "eps" and self.schedule.signal[-2] == 0:
            raise ValueError(f"{schedule} ends in pure noise, where eps gives no x_0: predict v.")
        with seeded(seed):
            self._build(self.config, len(attributes), 5 if conditioning == "channels" else 0)

    def _build(self, c, K: int, extra: int) -> None:
        self.unet = UNet2DModel(
            in_channels=c.shape[0] * c.patch_size**2 + extra,
            out_channels=c.shape[0] * c.patch_size**2,
            block_out_channels=tuple(c.block_out_channels),
            layers_per_block=c.layers_per_block,
            down_block_types=["AttnDownBlock2D" if attend else "DownBlock2D" for attend in c.attention],
            up_block_types=["AttnUpBlock2D" if attend else "UpBlock2D" for attend in reversed(c.attention)],
            attention_head_dim=c.attention_head_dim,
            add_attention=bool(c.attention[-1]) and c.mid_attention,
            norm_num_groups=math.gcd(32, *c.block_out_channels),
            dropout=c.dropout,
            resnet_time_scale_shift=c.resnet_time_scale_shift,
            class_embed_type="identity" if c.conditioning == "embedding" else None,
        )
        if c.conditioning == "embedding":
            width = 4 * c.block_out_channels[0]
            self.embed = nn.Sequential(nn.Linear(K, width), nn.SiLU(), nn.Linear(width, width))
            # A complete condition reaches the SiLU with variance one, whatever the number of attributes.
            nn.init.normal_(self.embed[0].weight, std=1 if c.exclusive else K**-0.5)
        elif c.conditioning == "channels":
            self.embed = nn.Linear(K, extra)

    def _check(self) -> None:
        c, bands = self.config, self.config.patch_size**2
        choices = {"prediction_type": PREDICTION_TYPES, "schedule": SCHEDULES, "patch_size": (1, 2, 4)}
        for key, values in (choices | {"conditioning": ("embedding", "channels", "none")}).items():
            if c[key] not in values:
                raise ValueError(f"{key} must be one of {', '.join(map(str, values))}, got {c[key]!r}.")
        if not 1 <= c.timestep_shift <= 100:
            raise ValueError(f"timestep_shift must be from 1 (even spacing) to 100, got {c.timestep_shift!r}.")
        if len(c.block_out_channels) != len(c.attention):
            raise ValueError(f"block_out_channels and attention must be of one length, got attention={c.attention}.")
        factor = c.patch_size * 2 ** (len(c.attention) - 1)
        if len(c.shape) != 3 or any(side % factor for side in c.shape[1:]):
            raise ValueError(f"shape must be (C, H, W) with sides divisible by {factor}, got {tuple(c.shape)}.")
        if c.sigma_data is not None and (len(c.sigma_data) != bands or not all(sd > 0 for sd in c.sigma_data)):
            raise ValueError(f"sigma_data must be {bands} numbers above 0, one for each Haar band, got {c.sigma_data}.")

    def forward(self, x_t: Tensor, t, cond: Tensor, return_prediction: bool = False) -> Tensor:
        """x_0_hat, or with `return_prediction` what the loss is on (eps, v or x_0), on the device of x_t and in float32 at least.

        x_t is (B, C, H, W), t an int or (B,), and cond (B, K), (1, K) or (K,) in [-1, 1], where 0 is unspecified.
        """
        if x_t.shape[1:] != self.shape:
            raise ValueError(f"x_t must be (B, {', '.join(map(str, self.shape))}), got {tuple(x_t.shape)}.")
        if (cond := expand_cond(cond, len(x_t))).shape[1] != len(self.attributes):
            raise ValueError(f"a condition has {len(self.attributes)} values here, got {cond.shape[1]}.")
        weight = next(self.parameters())
        cond = cond.to(weight.device, weight.dtype)
        if self.config.sigma_data is not None:
            return self._precondition(x_t, t, cond, return_prediction)
        x = self._fold(x_t.to(weight.device, weight.dtype))
        prediction = self._unfold(self._network(x, t, cond)).to(x_t.device)
        if return_prediction:
            return prediction
        return self.schedule.to_x_0(x_t, prediction, t, self.config.prediction_type)

    def _precondition(self, x_t, t, cond, return_prediction):
        """Preconditioning as in EDM (Karras et al. 2022, table 1), in each Haar band with its own sd = sigma_data.

        V = signal^2 sd^2 + sigma^2                          variance of the band of x_t
        F = U-Net(x / sqrt(V))                               input and output of variance about one
        x_0_hat = signal sd^2 / V x + sigma sd / sqrt(V) F   EDM's c_skip and c_out
        eps_hat = sigma / V x - signal sd / sqrt(V) F        so that x = signal x_0_hat + sigma eps_hat
        """
        weight, wide = next(self.parameters()), torch.promote_types(x_t.dtype, torch.float32)
        x = self._fold(x_t.to(weight.device, wide))
        signal, sigma = self.schedule.rates(t, like=x)
        sd = x.new_tensor(self.config.sigma_data).repeat(self.shape[0])[:, None, None]
        v = signal**2 * sd**2 + sigma**2
        network = self._network((x / v.sqrt()).to(weight.dtype), t, cond).to(wide)
        x_0_hat = self._unfold(signal * sd**2 / v * x + sigma * sd / v.sqrt() * network).to(x_t.device)
        if not return_prediction:
            return x_0_hat
        eps_hat = self._unfold(sigma / v * x - signal * sd / v.sqrt() * network).to(x_t.device)
        return self.schedule.target(x_0_hat, eps_hat, t, self.config.prediction_type)

    def _fold(self, x):
        for _ in range(self.config.patch_size // 2):
            x = F.pixel_unshuffle(x, 2) if self.config.sigma_data is None else haar(x)
        return x

    def _unfold(self, x):
        for _ in range(self.config.patch_size // 2):
            x = F.pixel_shuffle(x, 2) if self.config.sigma_data is None else inverse_haar(x)
        return x

    def _network(self, x, t, cond):
        # The sinusoidal embedding is made for 1,000 timesteps, so another number of them is scaled to that.
        time = torch.as_tensor(t, device=x.device).expand(len(x)) * (1000 / self.config.num_timesteps)
        cond = self._scale_cond(cond)
        if self.config.conditioning == "channels":
            x = torch.cat([x, self.embed(cond)[:, :, None, None].expand(-1, -1, *x.shape[2:])], 1)
        labels = self.embed(cond) if self.config.conditioning == "embedding" else None
        return self.unet(x, time, class_labels=labels).sample

    def _scale_cond(self, cond):
        weight = torch.ones_like(cond)
        if self.config.frequencies is not None:
            odds = torch.logit(cond.new_tensor(self.config.frequencies)).exp()
            weight = torch.where(cond > 0, 1 / odds, odds)
        total = (cond.abs() * weight).sum(1, keepdim=True).clamp(min=1)
        return cond * weight.sqrt() * ((cond.shape[1] / total).sqrt() if self.config.normalize_cond else 1)
