"""Synthetic faces: one change changes one thing, frequencies are CelebA's, splits are disjoint, images are as ever to the bit."""

import hashlib

import numpy as np
import pytest
import torch
from oracle import refused

from facelab import default_face_name, default_faces, synthetic_faces
from facelab.attributes import SYNTHETIC
from facelab.data import face_renderer
from facelab.data import synthetic_faces as module
from facelab.data.synthetic_faces import complete, consistent, counterfactual, render, render_many, sample_attributes

# (top, bottom, left, right): outside of it a local attribute must not change a single pixel.
REGIONS = {
    "Big_Nose": (25, 44, 19, 45),
    "Bushy_Eyebrows": (15, 30, 13, 51),
    "Eyeglasses": (20, 39, 9, 54),
    "Goatee": (24, 60, 9, 54),
    "Heavy_Makeup": (20, 37, 12, 52),
    "Mouth_Slightly_Open": (36, 53, 19, 45),
    "Mustache": (34, 48, 18, 46),
    "Rosy_Cheeks": (26, 47, 9, 54),
    "Smiling": (15, 53, 13, 51),
    "Wearing_Earrings": (28, 49, 6, 57),
    "Wearing_Hat": (0, 30, 0, 64),
    "Wearing_Lipstick": (36, 53, 19, 45),
    "Wearing_Necklace": (47, 64, 14, 49),
    "Wearing_Necktie": (46, 64, 13, 50),
    "Young": (11, 49, 11, 53),
}


def test_an_image_is_a_function_of_condition_and_seed():
    conds = sample_attributes(6, seed=1).float()
    images = render_many(conds, range(6))
    assert images.shape == (6, 3, 64, 64) and images.dtype == torch.uint8
    assert torch.equal(images[4], render(conds[4], 4)) and torch.equal(images, render_many(conds, torch.arange(6)))
    assert (images[0] != render(conds[0], 6)).any()
    assert render_many(torch.zeros(0, len(SYNTHETIC)), []).shape == (0, 3, 64, 64)


@pytest.mark.parametrize("name", SYNTHETIC)
def test_one_change_changes_one_thing(name):
    k, conds = SYNTHETIC.index(name), sample_attributes(6, seed=4, correlated=False).float()
    for seed, cond in enumerate(conds):
        before, after, changed = counterfactual(cond, seed, **{name: bool(cond[k] < 0)})
        assert torch.equal(before, render(cond, seed)) and torch.equal(after, render(changed, seed))
        assert changed[k] == -cond[k] and torch.equal(changed, consistent(changed)) and changed.abs().min() == 1
        differs = (before != after).any(0)
        assert ((before.int() - after.int()).abs().amax(0) > 12).sum() >= 10
        assert not differs[:3, :3].any() and not differs[:3, -3:].any()
        if name in REGIONS:
            top, bottom, left, right = REGIONS[name]
            differs[top:bottom, left:right] = False
            assert not differs.any(), differs.nonzero()
        moved = {one for i, one in enumerate(SYNTHETIC) if cond[i] != changed[i]}
        implied = {"Bald": {*module.COLOURS, "Bangs", "Wavy_Hair"}, "Goatee": {"No_Beard"}, "No_Beard": {"Goatee"}}
        implied |= {one: {"Bald", *module.COLOURS} for one in (*module.COLOURS, "Bangs", "Wavy_Hair")}
        assert moved <= {name} | implied.get(name, set())


def test_what_values_imply():
    def implied(**values):
        return SYNTHETIC.describe(consistent(SYNTHETIC.encode(**values)))

    hair = [name for name in SYNTHETIC if name in ("Bangs", "Wavy_Hair", *module.COLOURS)]
    assert implied(Bald=True) == implied(Bald=True, Bangs=True) == "Bald, " + ", ".join(f"no {name}" for name in hair)
    assert implied(Bangs=True) == "no Bald, Bangs"
    blond = "no Bald, no Black_Hair, no Blond_Hair, no Brown_Hair, Gray_Hair 0.6"
    assert implied(Blond_Hair=0.4, Gray_Hair=0.6) == blond, "the largest hair colour holds"
    assert implied(Goatee=True, No_Beard=True) == "Goatee, no No_Beard"
    assert implied(No_Beard=True) == "no Goatee, No_Beard"
    assert implied(Goatee=False) == "no Goatee" and implied() == "unconditional" and implied(Bald=False) == "no Bald"
    conds = torch.randint(-1, 2, (400, len(SYNTHETIC)), generator=torch.Generator().manual_seed(0))
    once = consistent(conds)
    assert torch.equal(consistent(once), once) and once.dtype == conds.dtype
    assert torch.equal(once[7], consistent(conds[7]))


def test_unspecified_attributes_are_sampled_by_the_seed_given_the_specified_ones():
    cond = SYNTHETIC.encode(Mustache=True, Smiling=False)
    conds = complete(cond.repeat(400, 1), range(400))
    assert conds.abs().min() == 1 and torch.equal(complete(cond[None], [5])[0], conds[5])
    assert torch.equal(render(cond, 5), render(conds[5], 5))
    rate = dict(zip(SYNTHETIC, (conds > 0).float().mean(0).tolist(), strict=True))
    assert rate["Mustache"] == 1 and rate["Smiling"] == 0 and rate["Male"] > 0.97 and rate["Wearing_Lipstick"] < 0.05
    # CelebA: .483 of all, .233 of those who do not smile; .235 of all have a big nose, half of those with a mustache.
    assert rate["Mouth_Slightly_Open"] < 0.3 and rate["No_Beard"] < 0.12 and rate["Big_Nose"] > 0.35
    old = complete(SYNTHETIC.encode(Gray_Hair=True).repeat(300, 1), range(300))
    assert (old[:, SYNTHETIC.index("Young")] < 0).float().mean() > 0.9
    bangs = complete(SYNTHETIC.encode(Bangs=True, Male=True, Young=False).repeat(300, 1), range(300))
    assert (bangs[:, SYNTHETIC.index("Bald")] < 0).all()


def test_correlated_attributes_have_celebas_frequencies_and_correlations():
    conds = sample_attributes(20_000, seed=2)
    assert conds.dtype == torch.int8 and torch.equal(conds, consistent(conds))
    assert torch.equal(conds, sample_attributes(20_000, 2)) and (conds != sample_attributes(20_000, 3)).any()
    yes = (conds > 0).double()
    rate = dict(zip(SYNTHETIC, yes.mean(0).tolist(), strict=True))
    published = {"Male": 0.417, "Young": 0.774, "Smiling": 0.482, "Eyeglasses": 0.065, "Wearing_Hat": 0.048}  # the list
    published |= {"Mouth_Slightly_Open": 0.483, "No_Beard": 0.835, "Wearing_Lipstick": 0.472, "Bangs": 0.152}
    published |= {"Wearing_Necktie": 0.073, "Goatee": 0.063, "Mustache": 0.042, "Big_Nose": 0.235, "Rosy_Cheeks": 0.066}
    for name, share in {**published, "Bald": 0.022}.items():
        assert abs(rate[name] - share) < 0.013, name
    assert sum(rate[name] for name in module.COLOURS) == pytest.approx(1 - rate["Bald"] - 0.08, abs=0.01)
    table = dict(zip(SYNTHETIC, np.corrcoef(yes.T), strict=True))
    for one, other, published in (
        ("Wearing_Lipstick", "Male", -0.79),
        ("Mouth_Slightly_Open", "Smiling", 0.53),
        ("Heavy_Makeup", "Wearing_Lipstick", 0.80),
        ("Goatee", "No_Beard", -0.57),
        ("Chubby", "Big_Nose", 0.31),
        ("Wearing_Earrings", "Male", -0.37),
    ):
        assert table[one][SYNTHETIC.index(other)] == pytest.approx(published, abs=0.09), (one, other)


def test_bad_input_is_refused():
    cond = sample_attributes(1)[0].float()
    for bad in (cond[:-1], torch.where(torch.arange(len(SYNTHETIC)) == 3, 2.0, cond), cond * float("nan")):
        with refused("26 values between -1 and 1"):
            render(bad, 0)
    with refused("one seed from 0 on"):
        render(cond, -1)
    with refused("one condition and one seed"):
        render_many(cond.repeat(3, 1), [1, 2])
    for wrong in ({"split": "Train"}, {"count": 0}, {"count": 1_000_001}, {"count": 5, "seed": -1}):
        with refused("synthetic faces take split train, valid, test or score"):
            synthetic_faces(**wrong)


@pytest.fixture
def rendered(monkeypatch, no_data):
    """A fast renderer, one colour for each seed; the list of the seeds that were rendered, in order."""
    seeds = []

    def fast(cond, seed):
        seeds.append(int(seed))
        colour = torch.tensor([seed // 1_000_000, seed % 1_000_000 // 256, seed % 256], dtype=torch.uint8)
        return colour[:, None, None].expand(3, 64, 64)

    monkeypatch.setattr(module, "render", fast)
    return seeds


def test_faces_are_rendered_once_and_no_two_splits_share_one(rendered):
    train, valid, test = (synthetic_faces(50, split) for split in ("train", "valid", "test"))
    assert len(set(rendered)) == len(rendered) == 150
    assert (train.shape, train.attributes, len(train), train.name) == ((3, 64, 64), SYNTHETIC, 50, "synthetic")
    assert train.images[49, :, 5, 5].tolist() == [0, 0, 49] and "50 synthetic faces, train, correlated" in train.source
    conds, seeds = module.people(50, "valid")
    assert torch.equal(valid.conds, conds) and seeds[0] == 1_000_000 and not torch.equal(conds, test.conds)
    assert synthetic_faces(50).key == train.key != valid.key and synthetic_faces(50, "score").key == test.key
    assert len(rendered) == 150


def test_every_option_gives_other_faces(rendered, monkeypatch):
    options = ({"count": 20}, {"count": 20, "correlated": False}, {"count": 20, "seed": 1}, {"count": 21})
    faces = [synthetic_faces(**option) for option in options]
    assert len({one.key for one in faces}) == 4 and "independent attributes" in faces[1].source
    monkeypatch.setattr(module, "VERSION", 99)
    synthetic_faces(20)
    assert len(rendered) == 101, "another version of the renderer renders again"
    monkeypatch.setattr(module, "SPLIT_SIZES", {"train": 7, "valid": 3, "test": 2})
    assert [len(synthetic_faces(split=split)) for split in ("train", "valid", "score")] == [7, 3, 2]


def test_default_faces_without_celeba_are_synthetic_and_say_why(rendered):
    assert default_face_name() == "synthetic"
    faces = default_faces("score", count=4)
    assert len(faces) == 4 and faces.source.startswith("4 synthetic faces, test")
    assert faces.source.endswith("(no CelebA in FACELAB_DATA or the cache)")
    named = default_faces("valid", "synthetic", 4, correlated=False)
    assert named.source.endswith("independent attributes (chosen by name)")
    with refused("no images of CelebA"):
        default_faces("valid", "celeba")
    with refused("'celeba' or 'synthetic', got 'real'"):
        default_faces("valid", "real")


def sha256(array):
    return hashlib.sha256(np.ascontiguousarray(array)).hexdigest()[:16]


@pytest.mark.parametrize(
    ("correlated", "labels", "images"),
    [(True, "c72256d9ee71156d", "9188778065b897b2"), (False, "0212eb16668cf0e1", "e4f3ab0b64bcad19")],
)
def test_images_and_labels_are_those_of_earlier_releases(correlated, labels, images):
    conds = sample_attributes(300, 5, correlated)
    assert sha256(conds) == labels
    # A Pillow that rasterises differently needs new hashes here, and a new `synthetic_faces.VERSION`.
    assert sha256(render_many(conds.float(), range(7000, 7300))) == images


def test_degrees_and_unspecified_attributes_are_those_of_earlier_releases():
    generator = torch.Generator().manual_seed(3)
    degrees = torch.rand(150, len(SYNTHETIC), generator=generator) * 2 - 1
    assert sha256(render_many(degrees, range(150))) == "7bf7243445675b61"
    partial = torch.randint(-1, 2, (150, len(SYNTHETIC)), generator=generator).float()
    assert sha256(render_many(partial, range(150))) == "8ae50f2866799ae9"


def test_counterfactuals_are_those_of_earlier_releases():
    rows = []
    for seed, name in enumerate(SYNTHETIC):
        for value in (True, False, 0.3):
            before, after, cond = counterfactual(torch.zeros(len(SYNTHETIC)), seed, **{name: value})
            values = (cond.numpy() * 100 + 100).astype(np.uint8)
            rows.append(np.concatenate([before.numpy().ravel(), after.numpy().ravel(), values]))
    assert sha256(np.stack(rows)) == "6f67301f0eaf8fd3"


@pytest.mark.parametrize("number", [0.0, 0.5, 0.999999])
@pytest.mark.parametrize("shown", [0.0, 1.0])
def test_every_extreme_can_be_rendered(number, shown):
    image = face_renderer.render(dict.fromkeys(SYNTHETIC, shown), dict.fromkeys(face_renderer.SEEDED, number))
    assert image.shape == (3, 64, 64) and image.dtype == np.uint8 and image.std() > 10
