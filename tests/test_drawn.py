"""A drawn face shows what it was asked for, is the same every time, and one changed answer changes one thing."""

import itertools

import numpy as np
import pytest
import torch
from oracle import refused

from facelab.attributes import CELEBA, CELEBA_GROUPS, DRAWN
from facelab.drawn import COLOURS, RATES, answers, complete, consistent, counterfactual, draw, draw_many

NO = dict.fromkeys(DRAWN, False) | {"No_Beard": True, "Young": True}
# Rows and columns outside of which a local attribute must not change a single pixel.
PLACES = {
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


def person(**wishes):
    """A condition in which everything is said."""
    return consistent(DRAWN.encode(**NO | wishes))


def mean(pictures, rows, columns):
    """(3,) mean colour of a part of the pictures (N, 3, 64, 64)."""
    return pictures[:, :, slice(*rows), slice(*columns)].float().mean((0, 2, 3))


def both(name, **wishes):
    """Eight people without and with an attribute, all else the same."""
    seeds = range(8)
    pictures = [draw_many(person(**wishes | {name: wish}).repeat(8, 1), seeds) for wish in (False, True)]
    assert all((a != b).any() for a, b in zip(*pictures, strict=True))
    return pictures


def test_names_are_celebas():
    assert 22 <= len(DRAWN) <= 26 and list(DRAWN) == [name for name in CELEBA if name in DRAWN.names]
    for group, names in DRAWN.groups.items():
        assert list(names) == [name for name in CELEBA_GROUPS[group].split() if name in DRAWN.names]
    with refused("Attractive cannot be drawn: .* 26 of CelebA"):
        DRAWN.encode(Attractive=True)
    with refused("did you mean 'Smiling'"):
        DRAWN.encode(Smilling=True)
    assert set(RATES) | {"Bald", *COLOURS, "Male", "Young"} == set(DRAWN)


def test_a_picture_is_known_by_its_condition_and_seed():
    conds = answers(6, seed=1).float()
    pictures = draw_many(conds, range(6))
    assert pictures.shape == (6, 3, 64, 64) and pictures.dtype == torch.uint8
    assert torch.equal(pictures[4], draw(conds[4], 4)) and torch.equal(pictures, draw_many(conds, torch.arange(6)))
    assert (pictures[0] != draw(conds[0], 6)).any()
    assert torch.equal(draw(DRAWN.encode(), 3), draw(DRAWN.encode(), 3))
    assert pictures.float().std((2, 3)).min() > 10
    assert draw_many(torch.zeros(0, len(DRAWN)), []).shape == (0, 3, 64, 64)


def test_seeds_draw_different_people():
    pictures = draw_many(person().repeat(24, 1), range(24)).float()
    skin, ground = pictures[:, :, 38:40, 26:38].mean((2, 3)), pictures[:, :, :4, :4].mean((2, 3))
    assert skin.std(0).min() > 20 and ground.std(0).min() > 10
    assert skin[:, 0].max() > 200 and skin[:, 0].min() < 120  # of all tones


def test_what_is_asked_is_seen():
    hair = (12, 14), (28, 36)
    black, blond, gray = (mean(both(f"{name}_Hair")[1], *hair) for name in ("Black", "Blond", "Gray"))
    brown, other = (mean(picture, *hair) for picture in both("Brown_Hair")[::-1])
    assert black.max() < brown.max() < blond.min() + 80 and blond[2] + 60 < blond[0] > 170
    assert gray.max() - gray.min() < 15 and 120 < gray.mean() < 210 and other[0] > brown[0] + 30

    haired, bald = both("Bald", Black_Hair=True)
    assert mean(bald, *hair).mean() > mean(haired, *hair).mean() + 60
    open_, fringed = both("Bangs", Black_Hair=True)
    assert mean(fringed, (19, 21), (28, 36)).mean() < mean(open_, (19, 21), (28, 36)).mean() - 40
    tan, pale = both("Pale_Skin")
    assert mean(pale, (19, 22), (28, 36)).min() > 190 > mean(tan, (19, 22), (28, 36))[1]
    cheeks = [mean(picture, (35, 38), (21, 25)) for picture in both("Rosy_Cheeks")]
    assert cheeks[1][0] - cheeks[1][1] > cheeks[0][0] - cheeks[0][1] + 40
    lips = [mean(picture, (43, 45), (29, 35)) for picture in both("Wearing_Lipstick")]
    assert lips[1][0] - lips[1][1] > lips[0][0] - lips[0][1] + 25
    shaved, bearded = both("No_Beard", Male=True, Black_Hair=True)[::-1]
    assert mean(bearded, (48, 51), (28, 36)).mean() < mean(shaved, (48, 51), (28, 36)).mean() - 40
    plain, lip = both("Mustache", Male=True, Black_Hair=True)
    assert mean(lip, (40, 42), (27, 37)).mean() < mean(plain, (40, 42), (27, 37)).mean() - 15
    thin, full = both("Chubby")
    # The cheeks reach further out: beside the jaw there is less of the (lighter) neck and ground, more of the face.
    assert (thin != full)[:, :, 40:46].any((0, 1, 2)).nonzero().max() > 45


@pytest.mark.parametrize("name", DRAWN)
def test_one_answer_changes_one_thing(name):
    k, conds = DRAWN.index(name), answers(6, seed=4, together=False).float()
    for seed, cond in enumerate(conds):
        before, after, changed = counterfactual(cond, seed, **{name: bool(cond[k] < 0)})
        assert torch.equal(before, draw(cond, seed)) and torch.equal(after, draw(changed, seed))
        assert changed[k] == -cond[k] and torch.equal(changed, consistent(changed)) and changed.abs().min() == 1
        differs = (before != after).any(0)
        assert ((before.int() - after.int()).abs().amax(0) > 12).sum() >= 10
        assert not differs[:3, :3].any() and not differs[:3, -3:].any()
        if name in PLACES:
            top, bottom, left, right = PLACES[name]
            differs[top:bottom, left:right] = False
            assert not differs.any(), differs.nonzero()
        moved = {one for i, one in enumerate(DRAWN) if cond[i] != changed[i]}
        implied = {"Bald": {*COLOURS, "Bangs", "Wavy_Hair"}, "Goatee": {"No_Beard"}, "No_Beard": {"Goatee"}}
        implied |= {one: {"Bald", *COLOURS} for one in (*COLOURS, "Bangs", "Wavy_Hair")}
        assert moved <= {name} | implied.get(name, set())


def test_what_answers_imply():
    def said(**wishes):
        return DRAWN.describe(consistent(DRAWN.encode(**wishes)))

    assert said(Bald=True) == "Bald, " + ", ".join(
        f"no {name}" for name in DRAWN if name in ("Bangs", "Wavy_Hair", *COLOURS)
    )
    assert said(Bangs=True) == "no Bald, Bangs"
    assert said(Bald=True, Bangs=True) == said(Bald=True)
    assert said(Blond_Hair=0.4, Gray_Hair=0.6) == "no Bald, no Black_Hair, no Blond_Hair, no Brown_Hair, Gray_Hair 0.6"
    assert said(Goatee=True, No_Beard=True) == "Goatee, no No_Beard" and said(No_Beard=True) == "no Goatee, No_Beard"
    assert said(Goatee=False) == "no Goatee" and said() == "anything" and said(Bald=False) == "no Bald"
    conds = torch.randint(-1, 2, (400, len(DRAWN)))
    once = consistent(conds)
    assert torch.equal(consistent(once), once) and once.dtype == conds.dtype
    assert torch.equal(once[7], consistent(conds[7]))


def test_what_is_not_said_is_drawn_by_the_seed():
    wish = DRAWN.encode(Mustache=True, Smiling=False)
    conds = complete(wish.repeat(400, 1), range(400))
    assert conds.abs().min() == 1 and torch.equal(conds, complete(wish.repeat(400, 1), range(400)))
    rate = dict(zip(DRAWN, (conds > 0).float().mean(0).tolist(), strict=True))
    assert rate["Mustache"] == 1 and rate["Smiling"] == 0 and rate["Male"] > 0.97 and rate["Wearing_Lipstick"] < 0.05
    # CelebA: .483 of all, .233 of those who do not smile; .235 of all have a big nose, half of those with a moustache.
    assert rate["Mouth_Slightly_Open"] < 0.3 and rate["No_Beard"] < 0.12 and rate["Big_Nose"] > 0.35
    assert torch.equal(draw(wish, 5), draw(conds[5], 5))
    lone = complete(wish[None], [5])
    assert torch.equal(lone[0], conds[5])
    old = complete(DRAWN.encode(Gray_Hair=True).repeat(300, 1), range(300))
    assert (old[:, DRAWN.index("Young")] < 0).float().mean() > 0.9
    fringed = complete(DRAWN.encode(Bangs=True, Male=True, Young=False).repeat(300, 1), range(300))
    assert (fringed[:, DRAWN.index("Bald")] < 0).all()


def test_answers_come_together_as_in_celeba():
    people = answers(20_000, seed=2)
    assert people.dtype == torch.int8 and torch.equal(people, answers(20_000, seed=2))
    assert not torch.equal(people, answers(20_000, seed=3)) and torch.equal(people, consistent(people))
    yes = (people > 0).double()
    rate = dict(zip(DRAWN, yes.mean(0).tolist(), strict=True))
    # The published rates, from list_attr_celeba.txt.
    published = {
        "Male": 0.417,
        "Young": 0.774,
        "Smiling": 0.482,
        "Eyeglasses": 0.065,
        "Wearing_Hat": 0.048,
        "Bald": 0.022,
    }
    published |= {"Mouth_Slightly_Open": 0.483, "No_Beard": 0.835, "Wearing_Lipstick": 0.472, "Bangs": 0.152}
    published |= {"Wearing_Necktie": 0.073, "Goatee": 0.063, "Mustache": 0.042, "Big_Nose": 0.235, "Rosy_Cheeks": 0.066}
    for name, share in published.items():
        assert abs(rate[name] - share) < 0.013, name
    assert sum(rate[name] for name in COLOURS) == pytest.approx(1 - rate["Bald"] - 0.08, abs=0.01)
    table = dict(zip(DRAWN, np.corrcoef(yes.T), strict=True))
    for one, other, published in (
        ("Wearing_Lipstick", "Male", -0.79),
        ("Mouth_Slightly_Open", "Smiling", 0.53),
        ("Heavy_Makeup", "Wearing_Lipstick", 0.80),
        ("Goatee", "No_Beard", -0.57),
        ("Chubby", "Big_Nose", 0.31),
        ("Wearing_Earrings", "Male", -0.37),
    ):
        assert table[one][DRAWN.index(other)] == pytest.approx(published, abs=0.09), (one, other)


def test_answers_are_independent_on_request():
    people = answers(20_000, seed=2, together=False)
    assert torch.equal(people, consistent(people)) and torch.equal(people, answers(20_000, 2, False))
    yes = (people > 0).double()
    bound = {"Bald", *COLOURS, "Bangs", "Wavy_Hair", "Goatee", "No_Beard"}
    free = [i for i, name in enumerate(DRAWN) if name not in bound]
    apart = np.corrcoef(yes[:, free].T) - np.eye(len(free))
    assert abs(apart).max() < 0.03 and abs(yes[:, free].mean(0) - 0.5).max() < 0.02
    rate = dict(zip(DRAWN, yes.mean(0).tolist(), strict=True))
    assert all(rate[name] == pytest.approx(1 / 6, abs=0.01) for name in ("Bald", *COLOURS))
    assert rate["No_Beard"] == pytest.approx(0.5, abs=0.02) and rate["Goatee"] == pytest.approx(0.25, abs=0.02)
    assert rate["Bangs"] == pytest.approx(5 / 12, abs=0.02)


@pytest.mark.parametrize("name", ["Smiling", "Chubby", "Big_Nose", "Pale_Skin", "Rosy_Cheeks", "Male", "Young"])
def test_degrees(name):
    ends = [draw(person(**{name: value}), 3).float() for value in (-1, -0.5, 0.5, 1)]
    far = (ends[3] - ends[0]).abs().mean()
    assert all(0 < (b - a).abs().mean() < far for a, b in itertools.pairwise(ends))


def test_what_has_no_degrees_is_there_above_zero():
    low, none, some, full = (draw(person(Eyeglasses=value), 3) for value in (-1, -0.2, 0.2, 1))
    assert torch.equal(low, none) and torch.equal(some, full) and (low != full).any()


def test_nonsense_is_refused():
    cond = person()
    with refused("26 attributes"):
        draw(cond[:-1], 0)
    for bad in (2.0, float("nan")):
        with refused("between -1"):
            draw(torch.where(torch.arange(len(DRAWN)) == 3, bad, cond), 0)
    with refused("whole number"):
        draw(cond, -1)
    with refused("one condition and one seed"):
        draw_many(cond.repeat(3, 1), [1, 2])
    with refused("did you mean"):
        counterfactual(cond, 0, Eyeglases=True)
