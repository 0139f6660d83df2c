"""data/make/migrate.py brings weights of facelab 0.1 to the names of 0.2; the shipped ones have been through it."""

import json
import re

import migrate
import pytest
import torch
from oracle import tiny

from facelab import pretrained
from facelab.pretrained import WEIGHTS, load, save

CARD = {
    "what": "faces: Denoiser, trained by facelab 0.1.0",
    "data": "12,000 drawn faces, train, attributes together as in CelebA (as asked)",
    "licence": "MIT",
    "command": "python -m facelab train faces --data drawn --net ours --plan laptop --pictures 64 --seed 6 --lr 0.001 "
    "--evenly 0.5 --start drawn --out DIR",
    "recipe": {"pictures": 64, "batch": 16, "lr": 1e-3, "optimiser": "adamw", "decay": "cosine", "ema": 0.999, "clip": 1.0,
               "ticks": "logit-normal", "flip": True, "forget": "some", "evenly": 0.5, "start": "5571c9535afb2809"},
    "steps": 4,
    "legs": [{"command": "python -m facelab train faces --data drawn --plan laptop --pictures 32 --out DIR", "steps": 2,
              "recipe": {"pictures": 32, "batch": 16, "forget": True, "ema": 0.9}}],
    "last loss": 0.05,
    "scores": {
        "counted on": "2,044 faces of CelebA, valid for want of test pictures",
        "distance, floor": 24.4,
        "asked = read, balanced, mean over the attributes, plain, 200 faces, 20 DDIM calls": 0.91,
        "distance in EfficientNet-Lite0 features, guided at 2, 200 faces, 20 DDIM calls": 120.7,
    },
}  # fmt: skip


@pytest.fixture
def old(tmp_path):
    """A folder of weights as facelab 0.1 wrote it."""
    folder = save(tiny(seed=4), tmp_path / "drawn", {})
    config = json.loads((folder / "config.json").read_text())
    names = {new: name for name, new in pretrained.NETWORKS["Denoiser"].renamed.items()}
    config = {names.get(key, key): value for key, value in config.items()}
    config |= {"predicts": "velocity", "schedule": "straight", "refine": 0}
    (folder / "config.json").write_text(json.dumps(config))
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps(CARD | card))
    return folder


def test_old_weights_load_after_the_migration_and_not_before(old, tmp_path):
    with pytest.raises(ValueError, match=r"facelab 0\.1"):
        load(old)
    weights = (old / WEIGHTS).read_bytes()
    new = migrate.migrate(old)
    assert new == tmp_path / "synthetic" and not old.exists() and (new / WEIGHTS).read_bytes() == weights
    x, t, cond = torch.randn(2, 1, 8, 8), 300, torch.ones(2, 3)
    expected = tiny(seed=4).half().float()
    assert torch.equal(load(new).denoiser(x, t, cond), expected(x, t, cond))
    before = (new / "card.json").read_bytes()
    assert migrate.migrate(new) == new and (new / "card.json").read_bytes() == before, "a second time changes nothing"


def test_every_fact_of_a_card_is_kept_under_its_new_name():
    card = migrate.migrate_card(CARD | {"sha256": "abc"}, "synthetic")
    assert card["what"] == "synthetic: Denoiser, trained by facelab 0.1.0" and card["license"] == "MIT"
    assert card["data"] == "12,000 synthetic faces, train, attributes correlated as in CelebA"
    assert card["command"] == (
        "python data/make/train_weights.py synthetic --preset laptop --images 64 --seed 6 --lr 0.001 --rare-fraction 0.5 "
        "--init-from synthetic --out DIR"
    )
    assert card["config"] == {
        "total_images": 64, "batch_size": 16, "lr": 1e-3, "optimizer": "adamw", "lr_schedule": "cosine", "ema_decays": [0.999],
        "max_grad_norm": 1.0, "timestep_sampling": "logit-normal", "flip": True, "cond_dropout": "partial",
        "rare_fraction": 0.5, "init_from": "5571c9535afb2809",
    }  # fmt: skip
    (stage,) = card["stages"]
    assert stage["steps"] == 2
    assert stage["config"]["cond_dropout"] == "partial" and stage["config"]["ema_decays"] == [0.9]
    assert card["scores"] == {
        "evaluated_on": "2,044 images of CelebA, valid, because there are no test images",
        "frechet_distance_of_two_real_sets": 24.4,
        "images": 200,
        "steps": 20,
        "sampler": "DDIM",
        "features": "EfficientNet-Lite0",
        "guidance_scale_1": {"attribute_accuracy": 0.91},
        "guidance_scale_2": {"frechet_distance": 120.7},
    }
    assert card["sha256"] == "abc" and card["last_loss"] == 0.05 and "0.1" in card["note"]


@pytest.mark.parametrize("name", pretrained.names())
def test_shipped_weights_have_been_migrated(name):
    folder = pretrained.shipped_dir() / name
    config, card = ((folder / f"{part}.json").read_text("utf-8") for part in ("config", "card"))
    assert migrate.migrate(folder) == folder
    private = r"\b(pictures?|told|ticks?|judge|drawn|asked|legs?|recipe|plain|forget|evenly|obey\w*|straight|calls)\b"
    assert not re.search(private, card + config)
    command = json.loads(card)["command"]
    assert re.match(rf"python data/make/train_weights\.py {name} --preset \w+ .*--out DIR$", command)
