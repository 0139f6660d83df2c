"""data/make/train_weights.py: every set of weights can be trained, resumed, stopped after minutes, continued, and scored."""

import json
import math

import pytest
import torch
import train_weights as make
from safetensors.torch import load_file

from facelab import SYNTHETIC, AttributeClassifier, Denoiser
from facelab.data import synthetic_faces as faces
from facelab.presets import PRESETS
from facelab.pretrained import Pretrained, load

CI = PRESETS["ci"]


@pytest.fixture(autouse=True)
def embedded_data(monkeypatch):
    monkeypatch.delenv("FACELAB_DATA", raising=False)


@pytest.fixture(scope="module")
def few():
    """Synthetic faces in the place of any."""
    return faces.synthetic_faces(60, "test")


def parsed(*words):
    return make.arguments().parse_args([*words, "--out", "x"])


def command(*words) -> int:
    return make.main(["--preset", "ci", *map(str, words)])


@pytest.mark.parametrize("name", make.RECIPES)
@pytest.mark.parametrize("sizes", PRESETS.values(), ids=PRESETS)
def test_every_network_fits_its_data(name, sizes, few, monkeypatch):
    recipe = make.RECIPES[name]
    data = make.mnist("test") if "mnist" in name else few
    net = make.build(recipe, data, sizes, seed=3)
    assert type(net) is recipe.network and net.shape == data.shape and net.attributes == data.attributes
    assert (recipe.license == make.RESEARCH) == (name.startswith(("celeba", "report")))
    frequencies = data is few and not name.startswith("report")
    assert net.config.frequencies == (few.frequencies if frequencies else None) and net.config.seed == 3
    bands = isinstance(net, Denoiser) and not name.startswith("report")
    assert bool(net.config.get("sigma_data")) == bands
    dropout = "none" if not bands else "whole" if name == "mnist-ddpm" else "partial"
    assert recipe.config(sizes).cond_dropout == dropout


def test_mnist_ddpm_is_the_model_of_ho_et_al():
    recipe = make.RECIPES["mnist-ddpm"]
    config = make.build(recipe, make.mnist("test"), CI).config
    assert config.prediction_type == "eps" and config.schedule == "linear"
    assert recipe.config(CI).timestep_sampling == "uniform" and recipe.config(CI).loss_weighting == "none"


def test_options_reach_config_and_network():
    words = "mnist --preset ci --images 64 --batch-size 8 --lr 0.01 --seed 5 --ema 0.9 0.99 --schedule cosine"
    args = parsed(*words.split(), "--loss-weighting", "min-snr", "--net", '{"layers_per_block": 2}')
    net, _, config, _, stages = make.prepare(args)
    assert (config.total_images, config.batch_size, config.lr, config.seed) == (64, 8, 0.01, 5)
    assert (config.loss_weighting, config.timestep_sampling) == ("min-snr", "logit-normal")
    assert config.ema_decays == (0.9, 0.99) and stages == []
    assert (net.config.schedule, net.config.layers_per_block, net.config.seed) == ("cosine", 2, 5)
    assert make.command(args, CI) == (
        "python data/make/train_weights.py mnist --preset ci --images 64 --batch-size 8 --lr 0.01 --seed 5 --ema 0.9 0.99 "
        "--schedule cosine --loss-weighting min-snr --net '{\"layers_per_block\": 2}' --out DIR"
    )


def test_weights_card_and_checkpoints_are_written_and_a_finished_training_is_loaded(tmp_path, capsys):
    words = ("mnist-classifier", "--images", 128, "--ema", 0.1, 0.9, "--out", tmp_path)
    assert command(*words) == 0
    out = capsys.readouterr().out
    assert "1 process\n" in out and "embedded MNIST digits" in out and f"written to {tmp_path}" in out
    model = load(tmp_path)
    assert model.card["steps"] == 2 and set(model.card["scores"]) == {"evaluated_on", "accuracy"}
    assert model.card["command"].endswith("mnist-classifier --preset ci --images 128 --ema 0.1 0.9 --out DIR")
    assert {"data", "license", "config", "machine", "minutes", "date", "last_loss", "sha256"} <= set(model.card)
    slower = load_file(tmp_path / "ema_0.9.safetensors")["layers.0.0.weight"]
    assert not torch.equal(slower.float(), model.classifier.layers[0][0].weight)
    assert (tmp_path / "checkpoints/checkpoint.pt").is_file()
    assert command(*words) == 0 and "finished earlier" in capsys.readouterr().err
    assert command("mnist-classifier", "--images", 192, "--out", tmp_path) == 2
    assert "another run, config total_images differs" in capsys.readouterr().err


def test_after_max_minutes_it_stops_with_its_ema_and_resumes(tmp_path, capsys):
    words = ("mnist", "--images", 64, "--out", tmp_path)
    assert command(*words, "--max-minutes", 0) == 0
    assert "stopped after step 1 of 4; the same command continues" in capsys.readouterr().out
    weights = load_file(tmp_path / "progress.safetensors")
    assert {t.dtype for t in weights.values()} == {torch.float16} and not (tmp_path / "card.json").exists()
    assert command(*words) == 0 and "resumed at step 1" in capsys.readouterr().err
    scores = load(tmp_path).card["scores"]
    assert scores["images"] == 100 and set(scores["guidance_scale_2"]) == {"class_accuracy", "spectrum"}


def test_another_stage_continues_from_the_weights_of_the_first(tmp_path, monkeypatch):
    assert command("mnist-classifier", "--images", 64, "--out", tmp_path / "one") == 0
    one, started = load(tmp_path / "one"), {}
    train = make.train
    monkeypatch.setattr(make, "train", lambda net, *a, **k: started.update(net.state_dict()) or train(net, *a, **k))
    first = {name: value.clone() for name, value in one.classifier.state_dict().items()}
    words = "mnist-classifier --images 64 --lr 0.0005 --init-from".split()
    words += [tmp_path / "one", "--out", tmp_path / "two"]
    args = make.arguments().parse_args(["--preset", "ci", *map(str, words)])
    net, _, config, _, (stage,) = make.prepare(args)
    assert all(torch.equal(first[name], value) for name, value in net.state_dict().items())
    assert all(p.requires_grad for p in net.parameters()) and config.init_from == one.card["sha256"][:16]
    assert stage["sha256"] == one.card["sha256"] and stage["config"]["init_from"] == ""
    assert command(*words) == 0
    two = load(tmp_path / "two").card
    assert two["stages"] == [stage] and two["command"].endswith("--lr 0.0005 --init-from one --out DIR")


def test_a_network_on_haar_bands_starts_from_weights_on_sub_grids_of_pixels():
    sizes = {"block_out_channels": (8, 16), "attention": (False, False), "patch_size": 2}
    old, sd = Denoiser((3, 16, 16), SYNTHETIC.names, **sizes, seed=1), (1.2, 0.2, 0.15, 0.1)
    new = make.warm_start(old, {"sigma_data": sd})
    assert new.config.sigma_data == sd and new.config.block_out_channels == old.config.block_out_channels
    same = [n for n, v in new.state_dict().items() if torch.equal(v, old.state_dict()[n])]
    changed = set(old.state_dict()) - set(same)
    assert changed == {"unet.conv_in.weight", "unet.conv_out.weight", "unet.conv_out.bias"}
    # The first convolution sees the same image, and the last one says the same velocity, both at the mean rates.
    signal, sigma = (torch.tensor([getattr(new.schedule, rate).tolist()]) for rate in ("signal", "sigma"))
    band_sd = torch.tensor(sd).repeat(3)[:, None]
    size = (signal**2 * band_sd**2 + sigma**2).sqrt()
    x, hidden = torch.randn(2, 3, 16, 16), torch.randn(2, 8, 8, 8)
    scaled = make.haar(x) / size.mean(1)[:, None, None]
    unshuffled = torch.nn.functional.pixel_unshuffle(x, 2)
    torch.testing.assert_close(new.unet.conv_in(scaled), old.unet.conv_in(unshuffled), atol=1e-5, rtol=0)
    velocity = torch.nn.functional.pixel_shuffle(old.unet.conv_out(hidden), 2)
    expected = -make.haar(velocity) * (size / band_sd).mean(1)[:, None, None]
    torch.testing.assert_close(new.unet.conv_out(hidden), expected, atol=1e-4, rtol=1e-4)


def test_layers_of_another_shape_start_untrained():
    old = Denoiser(block_out_channels=(8, 16), attention=(False, False), seed=1)
    new, wide = (make.warm_start(old, {"block_out_channels": width}) for width in ((8, 16), (8, 24)))
    for name, value in new.state_dict().items():
        assert torch.equal(value, old.state_dict()[name])
    fresh = Denoiser(**wide.settings()).state_dict()
    for name, value in wide.state_dict().items():
        before = old.state_dict().get(name)
        assert torch.equal(value, before if before is not None and before.shape == value.shape else fresh[name])


@pytest.fixture
def with_classifier(few, monkeypatch):
    net = AttributeClassifier(few.shape, SYNTHETIC.names, channels=(8,)).eval()
    monkeypatch.setattr(make, "load", lambda name: Pretrained(name, SYNTHETIC, few.shape, {}, classifier=net))
    return net


def test_faces_are_scored_on_conditions_of_other_images_than_the_reference(few, with_classifier, monkeypatch):
    """Bug 4: conditioned on the reference's own labels, generated images come nearer to it than other real images."""
    conditions, references, generate, features = [], [], make.generate, make.efficientnet_features
    monkeypatch.setattr(make, "generate", lambda net, cond, **k: conditions.append(cond) or generate(net, cond, **k))
    monkeypatch.setattr(make, "efficientnet_features", lambda images: references.append(images) or features(images))
    net = make.build(make.RECIPES["synthetic"], few, CI)
    scores = make.score_faces(net, few, CI, steps=1)
    assert scores["images"] == 20 and {"guidance_scale_1", "guidance_scale_2", "spectrum_of_real_images"} <= set(scores)
    assert set(scores["guidance_scale_2"]) == {"attribute_accuracy", "frechet_distance", "spectrum"}
    rows = lambda images: {row.numpy().tobytes() for row in images}  # noqa: E731
    used = [few.images[i] for i in range(60) if any(torch.equal(few.conds[i].float(), c) for c in conditions[0])]
    near, far = map(rows, references[:2])
    assert len(near) == len(far) == 20 and not near & far
    assert len(rows(used) - near - far) >= 20
    unconditional = make.build(make.RECIPES["report-unconditional"], few, CI)
    assert "guidance_scale_2" not in make.score_faces(unconditional, few, CI, steps=1)
    json.dumps(scores, allow_nan=False)


def test_a_classifier_is_scored_attribute_by_attribute(few, with_classifier):
    scores = make.score_classifier(with_classifier, few, CI)
    for name in ("balanced_accuracy", "accuracy", "majority_class_accuracy"):
        assert set(scores[name]) == set(SYNTHETIC)
    assert all(0.5 <= share <= 1 for share in scores["majority_class_accuracy"].values())


def test_a_score_that_fails_does_not_cost_the_training(tmp_path, monkeypatch):
    def failing(*args):
        raise ValueError("no score today")

    monkeypatch.setitem(make.RECIPES, "mnist", make.dataclasses.replace(make.RECIPES["mnist"], score=failing))
    assert command("mnist", "--images", 32, "--out", tmp_path) == 2
    assert load(tmp_path).card["scores"] == {} and load(tmp_path).denoiser is not None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("mnist", "--images", "0"), "total_images"),
        (("mnist", "--rare-fraction", "2"), "rare_fraction must be in"),
        (("mnist", "--init-from", "cats"), "no weights 'cats'"),
        (("celeba",), "CelebA"),
    ],
)
def test_wrong_input_is_one_line(words, message, tmp_path, capsys):
    assert command(*words, "--out", tmp_path) == 2
    err = capsys.readouterr().err.strip()
    assert message in err.splitlines()[-1] and "Traceback" not in err


def test_ctrl_c_is_one_line(tmp_path, monkeypatch, capsys):
    def ctrl_c(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(make, "train", ctrl_c)
    assert command("mnist", "--out", tmp_path) == 130
    assert capsys.readouterr().err.strip().splitlines()[-1] == "stopped; the same command continues"
    assert math.isinf(parsed("mnist").max_minutes)
