"""Sizes: how much a lesson trains, generates and compares on this machine. `PRESETS` is the one table of them."""

import dataclasses
import os

from facelab.device import device
from facelab.training import TrainConfig

# Root mean square of the training images in the Haar bands LL, LH, HL, HH; with _4 after two levels (`Denoiser.sigma_data`).
MNIST_BANDS = (1.854, 0.345, 0.345, 0.158)
CELEBA_BANDS = (1.181, 0.163, 0.146, 0.066)
SYNTHETIC_BANDS = (1.033, 0.154, 0.145, 0.079)
CELEBA_BANDS_4 = (
    2.283, 0.437, 0.379, 0.184, 0.201, 0.207, 0.09, 0.122, 0.176, 0.089, 0.18, 0.116, 0.047, 0.062, 0.062, 0.087,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Preset:
    """Every size that a lesson uses.

    Networks are keyword arguments of `Denoiser` and `AttributeClassifier`, trained by the config of the same name: `small` is
    what lesson 03 trains, on either kind of faces, `celeba` the published face model, `attribute_classifier` either classifier
    of faces. `per_class` digits of each class and `scored_images` faces are generated for a score, from `synthetic_images`
    faces of the program; figures have `columns`; `monte_carlo` samples estimate a mean; samplers are compared at each of
    `steps_grid`.
    """

    name: str
    mnist: TrainConfig
    mnist_net: dict
    mnist_ddpm: TrainConfig
    mnist_classifier: TrainConfig
    per_class: int
    columns: int
    monte_carlo: int
    steps_grid: tuple[int, ...]
    celeba: TrainConfig
    celeba_net: dict
    synthetic_net: dict
    small: TrainConfig
    small_net: dict
    attribute_classifier: TrainConfig
    celeba_classifier_net: dict
    synthetic_classifier_net: dict
    synthetic_images: int
    scored_images: int


MNIST_NET = {"block_out_channels": (32, 64), "attention": (False, False), "patch_size": 2, "sigma_data": MNIST_BANDS}
# Most of the work is done at 16x16 and below, where an image has the fewest pixels.
FACE_NET = {"attention": (False, False, True), "mid_attention": False, "patch_size": 2, "normalize_cond": True}
FACE_NET |= {"timestep_shift": 3.0}
CELEBA_NET = FACE_NET | {"block_out_channels": (32, 96, 192), "sigma_data": CELEBA_BANDS}
SYNTHETIC_NET = FACE_NET | {"block_out_channels": (32, 64, 128), "sigma_data": SYNTHETIC_BANDS}
SMALL_NET = FACE_NET | {"block_out_channels": (32, 64, 96), "sigma_data": CELEBA_BANDS}
TINY_NET = SMALL_NET | {"block_out_channels": (32, 32), "attention": (False, False)}
TINY_NET |= {"patch_size": 4, "sigma_data": CELEBA_BANDS_4}
CELEBA_CLASSIFIER = {"channels": (32, 64, 96, 144), "blocks_per_level": (0, 1, 1, 1), "dropout": 0.3}
# Attributes of synthetic faces are small details at varying places, so finer feature maps classify them better.
SYNTHETIC_CLASSIFIER = {"channels": (32, 64, 96), "blocks_per_level": (0, 1, 1), "dropout": 0.1}
TINY_CLASSIFIER = {"channels": (16, 32, 32), "dropout": 0.0}

MNIST = TrainConfig(30_000, 16, lr=2e-3, timestep_sampling="logit-normal")
# As in Ho et al. 2020: uniform timesteps; condition dropout as in Ho and Salimans 2022.
DDPM = dataclasses.replace(MNIST, timestep_sampling="uniform", cond_dropout="whole", ema_decays=(0.995,))
FACES = dataclasses.replace(MNIST, flip=True)
CLASSIFIER = TrainConfig(60_000, cond_dropout="none")
FACE_CLASSIFIER = TrainConfig(160_000, flip=True, shift=3, cond_dropout="none", weight_decay=0.05)

# The report's own network, corrected where diffusers refuses it; three layers per block give its 1.8 million parameters.
REPORT_NET = {"block_out_channels": (32, 32, 32, 64), "layers_per_block": 3, "attention": (False, True, True, True)}
REPORT_NET |= {"attention_head_dim": 8, "resnet_time_scale_shift": "default", "schedule": "cosine"}
REPORT_NET |= {"prediction_type": "eps", "conditioning": "channels"}
REPORT_UNCONDITIONAL_NET = REPORT_NET | {"conditioning": "none"}
# Its Adam with a constant learning rate and no condition dropout; EMA, flips and batches are ours, for equal chances.
REPORT_CONFIG = TrainConfig(
    8_400, 16, 1e-3, "adam", 0.0, warmup=0.0, lr_schedule="constant", max_grad_norm=0.0, flip=True, cond_dropout="none"
)


def _sized(config: TrainConfig, total_images: int, batch_size: int) -> TrainConfig:
    return dataclasses.replace(config, total_images=total_images, batch_size=batch_size)


LAPTOP = Preset(
    name="laptop", mnist=MNIST, mnist_net=MNIST_NET, mnist_ddpm=DDPM, mnist_classifier=CLASSIFIER,
    per_class=50, columns=10, monte_carlo=20_000, steps_grid=(5, 10, 20, 40), celeba=_sized(FACES, 46_000, 16),
    celeba_net=CELEBA_NET, synthetic_net=SYNTHETIC_NET, small=_sized(FACES, 8_000, 8), small_net=SMALL_NET,
    attribute_classifier=FACE_CLASSIFIER, celeba_classifier_net=CELEBA_CLASSIFIER,
    synthetic_classifier_net=SYNTHETIC_CLASSIFIER, synthetic_images=12_000, scored_images=200,
)  # fmt: skip
CI = dataclasses.replace(
    LAPTOP, name="ci", mnist=_sized(MNIST, 4_000, 16), mnist_net=MNIST_NET | {"block_out_channels": (32, 32)},
    mnist_ddpm=_sized(DDPM, 4_000, 16), mnist_classifier=_sized(CLASSIFIER, 4_000, 64), per_class=10, columns=5,
    monte_carlo=2_000, steps_grid=(3, 6, 12), celeba=_sized(FACES, 320, 16), celeba_net=TINY_NET,
    synthetic_net=TINY_NET, small=_sized(FACES, 1_600, 16), small_net=TINY_NET,
    attribute_classifier=_sized(FACE_CLASSIFIER, 1_600, 32), celeba_classifier_net=TINY_CLASSIFIER,
    synthetic_classifier_net=TINY_CLASSIFIER, synthetic_images=800, scored_images=40,
)  # fmt: skip
COLAB = dataclasses.replace(
    LAPTOP, name="colab", mnist=_sized(MNIST, 120_000, 32), mnist_ddpm=_sized(DDPM, 120_000, 32),
    mnist_classifier=_sized(CLASSIFIER, 180_000, 64), per_class=100, monte_carlo=50_000, steps_grid=(5, 10, 20, 50),
    celeba=_sized(FACES, 800_000, 32), small=_sized(FACES, 100_000, 32),
    attribute_classifier=_sized(FACE_CLASSIFIER, 640_000, 64), synthetic_images=20_000, scored_images=600,
)  # fmt: skip
FULL = dataclasses.replace(
    COLAB, name="full", mnist=_sized(MNIST, 400_000, 32), mnist_net=MNIST_NET | {"attention": (False, True)},
    mnist_ddpm=_sized(DDPM, 400_000, 32), mnist_classifier=_sized(CLASSIFIER, 300_000, 64), per_class=200,
    steps_grid=(5, 10, 20, 50, 100),
    # Twelve epochs of the 162,770 images of CelebA's train split, as in the report.
    celeba=_sized(FACES, 1_953_240, 64), small=_sized(FACES, 400_000, 32),
    attribute_classifier=_sized(FACE_CLASSIFIER, 1_600_000, 64),
)  # fmt: skip
PRESETS = {chosen.name: chosen for chosen in (CI, LAPTOP, COLAB, FULL)}


def preset(name: str | None = None) -> Preset:
    """The preset of this name, else of FACELAB_PRESET, else "laptop" on a CPU and "colab" on a GPU."""
    name = name or os.environ.get("FACELAB_PRESET") or ("laptop" if device().type == "cpu" else "colab")
    if "FACELAB_PLAN" in os.environ and "FACELAB_PRESET" not in os.environ:
        raise ValueError("FACELAB_PLAN was renamed: set FACELAB_PRESET.")
    if name not in PRESETS:
        raise ValueError(f"there is no preset {name!r}: FACELAB_PRESET is one of {', '.join(PRESETS)}.")
    return PRESETS[name]
