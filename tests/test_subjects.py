"""What can be trained: each row builds a net that fits its pictures, and the report's is the report's."""

import pytest
import torch
from diffusers import UNet2DModel

from facelab import data, evaluate, subjects
from facelab.attributes import CELEBA, DRAWN
from facelab.model import AttributeClassifier, Denoiser
from facelab.plan import FACES, NETS, PLANS, REPORT, REPORT_RECIPE, Recipe
from facelab.pretrained import Pretrained
from facelab.train import arguments


def told(*words):
    return arguments().parse_args([*words, "--out", "x"])


@pytest.fixture
def few(monkeypatch):
    """A few drawn faces stand for all."""
    faces = data.drawn_faces(8, "test")
    monkeypatch.setattr(data, "faces", lambda split, which=None, drawn=None, together=True, download=False: faces)
    return faces


def test_the_reports_net_has_the_parameters_that_it_tells():
    report = Denoiser((3, 64, 64), CELEBA.names, **REPORT)
    assert sum(p.numel() for p in report.unet.parameters()) == 1_811_139
    assert sum(p.numel() for p in report.embed.parameters()) == 205
    # The listing, with the block that it forgets and the layers that its count needs.
    listing = UNet2DModel(
        in_channels=8,
        out_channels=3,
        layers_per_block=3,
        block_out_channels=(32, 32, 32, 64),
        down_block_types=("DownBlock2D", *["AttnDownBlock2D"] * 3),
        up_block_types=(*["AttnUpBlock2D"] * 3, "UpBlock2D"),
    )
    report.unet.load_state_dict(listing.state_dict())
    x, cond = torch.randn(1, 3, 64, 64), torch.randn(1, 40)
    with torch.no_grad():
        maps = report.embed(cond)[:, :, None, None].expand(-1, -1, 64, 64)
        assert torch.equal(report(x, 400, cond, raw=True), listing(torch.cat([x, maps], 1), 400).sample)


def test_the_unconditional_net_is_told_nothing():
    net = Denoiser((3, 64, 64), CELEBA.names, **NETS["unconditional"])
    assert net.unet.conv_in.in_channels == 3
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(net(x, 5, torch.ones(1, 40)), net(x, 5, -torch.ones(1, 40)))


def test_ours_is_small_enough_to_ship():
    assert 2 * sum(p.numel() for p in Denoiser((3, 64, 64), CELEBA.names, **FACES).parameters()) < 15e6
    drawn = Denoiser((3, 64, 64), DRAWN.names, **PLANS["full"].drawn_net)
    assert 2 * sum(p.numel() for p in drawn.parameters()) < 6e6


@pytest.mark.parametrize("net", subjects.KINDS_OF_NET)
def test_each_kind_of_net_fits_the_faces(few, net):
    row = PLANS["ci"]
    subject = subjects.faces(row, told("faces", "--data", "drawn", "--net", net))
    built = subject.net()
    assert built.shape == few.shape and built.attributes.names == few.attributes.names
    report = Recipe(row.faces.pictures, row.faces.batch, flip=True, **REPORT_RECIPE)
    assert subject.recipe == (report if net in NETS else row.small if net == "small" else row.faces)
    assert subject.licence == "MIT" and len(subject.shown) == 10
    assert (subject.shown != 0).sum(1).tolist() == 5 * [len(DRAWN)] + 5 * [1]


def test_the_licence_of_celebas_weights_says_what_they_may_be_used_for(few):
    assert "non-commercial" in subjects.faces(PLANS["ci"], told("faces", "--data", "celeba")).licence
    assert "non-commercial" in subjects.faces_judge(PLANS["ci"], told("faces-judge", "--data", "celeba")).licence


def test_a_judge_knows_how_often_its_data_say_yes(few):
    judge = subjects.faces_judge(PLANS["ci"], told("faces-judge", "--data", "drawn")).net()
    shares = (few.conds > 0).float().mean(0).clamp(0.001, 0.999)
    assert torch.allclose(torch.tensor(judge.config.rates), shares, atol=1e-6)


@pytest.mark.parametrize(
    ("net", "loud"), [("ours", True), ("small", True), ("report", False), ("unconditional", False)]
)
def test_only_our_networks_are_told_the_rare_louder(net, loud, few):
    built = subjects.faces(PLANS["ci"], told("faces", "--data", "drawn", "--net", net)).net()
    assert built.config.rates == (few.rates if loud else None) and built.config.amplify == loud


@pytest.mark.parametrize("walk", subjects.WALKS)
def test_every_row_of_a_walk_is_a_net_and_a_recipe(walk, few):
    for change, how in subjects.WALKS[walk].values():
        if walk == "faces-recipes":
            settings = PLANS["ci"].small_net | change
            assert Denoiser(few.shape, few.attributes.names, **settings)
        Recipe(1, **how)


@pytest.fixture
def judged(few, monkeypatch):
    judge = AttributeClassifier(few.shape, DRAWN.names, channels=(8,))
    monkeypatch.setattr(evaluate, "load", lambda name: Pretrained(name, DRAWN, few.shape, {}, classifier=judge.eval()))
    return judge


def test_scores_tell_control_and_distance_at_both_scales(few, judged):
    net = Denoiser(few.shape, DRAWN.names, **PLANS["ci"].small_net)
    scores = evaluate.score_faces(net, "drawn", 4, steps=1)
    words = " ".join(scores)
    assert words.count("asked = read") == 2 and words.count("EfficientNet-Lite0") == 2 and "floor" in words
    told = evaluate.compare_faces(net, "drawn", 4, steps=1)
    assert {"floor", "all said, scale 1", "all said, scale 2", "one said, scale 2", "distance, scale 2"} <= told.keys()
    assert all(0 <= t["low"] <= t["value"] <= t["high"] <= 1 for name, t in told.items() if "said" in name)


def test_a_judges_card_tells_every_attribute_beside_the_majority(few, judged):
    scores = evaluate.score_judge(judged, few)
    assert scores["balanced accuracy"].keys() == set(DRAWN.names) == scores["the majority's plain accuracy"].keys()
