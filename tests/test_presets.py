"""Presets: the table, and that every network of it fits its data."""

import pytest
import torch
from diffusers import UNet2DModel
from oracle import refused

from facelab import CELEBA, SYNTHETIC, Denoiser, haar, presets, synthetic_faces
from facelab.presets import PRESETS, REPORT_CONFIG, REPORT_NET, REPORT_UNCONDITIONAL_NET, preset

FACE = (3, 64, 64)


@pytest.mark.parametrize("sizes", PRESETS.values(), ids=PRESETS)
def test_every_small_network_fits_its_images(sizes):
    """tests/test_train_weights.py builds the others."""
    for names in (CELEBA.names, SYNTHETIC.names):
        assert Denoiser(FACE, names, **sizes.small_net).config.sigma_data


def test_larger_presets_train_longer_and_shipped_networks_are_small():
    for field in ("mnist", "mnist_ddpm", "mnist_classifier", "small", "celeba", "attribute_classifier"):
        totals = [getattr(sizes, field).total_images for sizes in PRESETS.values()]
        assert totals == sorted(set(totals)), field
    full = PRESETS["full"]
    assert 2 * sum(p.numel() for p in Denoiser(FACE, CELEBA.names, **full.celeba_net).parameters()) < 15e6
    assert 2 * sum(p.numel() for p in Denoiser(FACE, SYNTHETIC.names, **full.synthetic_net).parameters()) < 6e6


def test_the_preset_follows_name_environment_and_machine(monkeypatch):
    monkeypatch.setenv("FACELAB_PRESET", "full")
    assert preset() is PRESETS["full"] and preset("ci") is PRESETS["ci"]
    monkeypatch.delenv("FACELAB_PRESET")
    for kind, name in (("cpu", "laptop"), ("cuda", "colab")):
        monkeypatch.setattr(presets, "device", lambda kind=kind: torch.device(kind))
        assert preset().name == name
    with refused("no preset 'huge': FACELAB_PRESET is one of ci, laptop, colab, full"):
        preset("huge")
    monkeypatch.setenv("FACELAB_PLAN", "ci")
    with refused("FACELAB_PLAN was renamed: set FACELAB_PRESET"):
        preset()


def test_bands_are_the_root_mean_square_of_the_images():
    bands = haar(synthetic_faces(200)[:][0]).unflatten(1, (-1, 4)).square().mean((0, 1, 3, 4)).sqrt()
    assert torch.allclose(bands, torch.tensor(presets.SYNTHETIC_BANDS), rtol=0.1)


def test_the_reports_network_has_its_number_of_parameters():
    report = Denoiser(FACE, CELEBA.names, **REPORT_NET)
    assert sum(p.numel() for p in report.unet.parameters()) == 1_811_139
    assert sum(p.numel() for p in report.embed.parameters()) == 205
    # The report's listing, with the block that it leaves out and the layers that its count needs.
    listing = UNet2DModel(
        in_channels=8,
        out_channels=3,
        layers_per_block=3,
        block_out_channels=(32, 32, 32, 64),
        down_block_types=("DownBlock2D", *["AttnDownBlock2D"] * 3),
        up_block_types=(*["AttnUpBlock2D"] * 3, "UpBlock2D"),
    )
    report.unet.load_state_dict(listing.state_dict())
    x, cond = torch.randn(1, *FACE), torch.randn(1, 40)
    with torch.no_grad():
        maps = report.embed(cond)[:, :, None, None].expand(-1, -1, 64, 64)
        expected = listing(torch.cat([x, maps], 1), 400).sample
        assert torch.equal(report(x, 400, cond, return_prediction=True), expected)
        unconditional = Denoiser(FACE, CELEBA.names, **REPORT_UNCONDITIONAL_NET)
        assert torch.equal(unconditional(x, 5, cond), unconditional(x, 5, -cond))
    assert REPORT_CONFIG.optimizer == "adam" and REPORT_CONFIG.cond_dropout == "none" and REPORT_CONFIG.warmup == 0
