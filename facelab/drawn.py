"""Drawn faces: a 64x64 portrait from an attribute vector and a seed; the data set that is always at hand (lesson 03).

The attributes say what the picture must show, the seed says who it is: skin, shape, pose, light, background, clothes.
All that the seed decides is drawn before the attributes are looked at, so one attribute can change while the person
stays. Nobody is portrayed; skin and hair colour are independent of each other and of all else.
"""

import numpy as np
import torch
from torch import Tensor

from facelab.attributes import DRAWN
from facelab.portrait import SEEDED, SIDE, Portrait

# CelebA's own rates in percent (list_attr_celeba.txt, all 202,599 rows), each for old women, young women, old men and
# young men; where a parent is named, four where the parent is no, then four where it is yes. Parents come first.
WHO = "7.3 51 15 26.7"
RATES = {
    "No_Beard": ("", "99.7 99.9 64 59"),
    "Heavy_Makeup": ("", "52 68 0.1 0.4"),
    "Chubby": ("", "4.6 0.7 25 4.6"),
    "Smiling": ("", "68 52 43 38"),
    "Bangs": ("", "37 18 3.5 11"),
    "Eyeglasses": ("", "6.7 1.7 22 7.1"),
    "Pale_Skin": ("", "5 5.7 1.6 2.9"),
    "Wearing_Hat": ("", "2.2 2.5 8.2 8.1"),
    "Wearing_Necklace": ("", "33 18 1.2 2.1"),
    "Wearing_Necktie": ("", "0.1 0 29 11"),
    "Big_Nose": ("Chubby", "20 8.3 50 31 56 58 81 79"),
    "Bushy_Eyebrows": ("Black_Hair", "1 5.5 9.2 21 7.3 16 27 48"),
    "Goatee": ("No_Beard", "9.5 9.3 44 34 0 0 0 0"),
    "Mustache": ("No_Beard", "2.4 0 36 19 0 0 0.6 0.3"),
    "Mouth_Slightly_Open": ("Smiling", "29 23 22 20 79 77 71 77"),
    "Rosy_Cheeks": ("Heavy_Makeup", "3.4 0.8 0.5 0.2 23 15 0 2.3"),
    "Wavy_Hair": ("Heavy_Makeup", "44 30 13 16 58 50 17 19"),
    "Wearing_Earrings": ("Heavy_Makeup", "37 18 1 1.9 61 34 17 17"),
    "Wearing_Lipstick": ("Heavy_Makeup", "48 47 0.1 0.7 98 98 56 60"),
}
# Bald, or which colour. CelebA leaves a third of all heads without a colour, being hard to see; a drawing has no such
# heads, so the colours keep their proportions and share out what is left when one head in twelve has a colour of its own.
HAIRS = {
    "Bald": "0 0 11 1.9",
    "Black_Hair": "11 21 16 38",
    "Blond_Hair": "31 23 1.9 2.2",
    "Brown_Hair": "21 25 8.8 19",
    "Gray_Hair": "7.5 0.1 23 0.4",
}
OTHER = 8.0
COLOURS = tuple(HAIRS)[1:]


def _shares(percent: str) -> np.ndarray:
    return np.array(percent.split(), float) / 100


def _hair_shares() -> np.ndarray:
    """(4 kinds of people, 6): bald, the four colours, and none of them."""
    bald, *colours = (_shares(row) for row in HAIRS.values())
    room = 1 - bald - OTHER / 100
    return np.stack([bald, *(room * colour / sum(colours) for colour in colours), 0 * bald + OTHER / 100], 1)


def _complete(cond: np.ndarray, chance: np.ndarray) -> np.ndarray:
    """(N, K) with every 0 (not said) drawn at CelebA's rates given what is said; chance is uniform (N, K).

    First who it is (old or young, woman or man), as likely as the said attributes make them; then the hair; then each
    attribute given the person and its parent, and by Bayes its said children.
    """
    cond, at = cond.copy(), {name: i for i, name in enumerate(DRAWN)}
    said, names = cond != 0, list(HAIRS)
    p = {name: (parent, _shares(row).reshape(-1, 4)) for name, (parent, row) in RATES.items()}

    def likely(name, share):
        """What the answer to `name` says for a share of yes; 1 where nothing is said."""
        told = cond[:, at[name]].reshape(-1, *[1] * (np.ndim(share) - 1))
        share = np.clip(share, 1e-4, 1 - 1e-4)
        return np.where(told > 0, share, np.where(told < 0, 1 - share, 1.0))

    # Which of the six kinds of hair are still possible.
    possible = np.ones((len(cond), 6))
    for i, name in enumerate(names):
        possible[cond[:, at[name]] < 0, i] = 1e-9
        possible[cond[:, at[name]] > 0] *= np.where(np.arange(6) == i, 1, 1e-9)
    possible[(cond[:, at["Bangs"]] > 0) | (cond[:, at["Wavy_Hair"]] > 0), 0] *= 1e-9
    hair = np.maximum(_hair_shares(), 1e-4)

    who = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    weight = _shares(WHO) * (possible @ hair.T)
    for k, name in enumerate(("Male", "Young")):
        told = cond[:, at[name], None]
        weight = weight * np.where((told != 0) & ((told > 0) != who[:, k]), 1e-12, 1.0)
    for name, (parent, share) in p.items():
        if parent:
            usual = p[parent][1][0] if parent in p else hair[:, 1 + COLOURS.index(parent)]
            yes = np.where(said[:, at[parent], None], cond[:, at[parent], None] > 0, usual)
            share = share[0] + yes * (share[1] - share[0])
        weight = weight * likely(name, share)

    def draw(weight, number):
        """(N,) which column, where each is as likely as its weight."""
        up = np.cumsum(weight, 1)
        return (number[:, None] * up[:, -1:] >= up).sum(1).clip(0, weight.shape[1] - 1)

    def answer(name, yes):
        cond[:, at[name]] = np.where(said[:, at[name]], cond[:, at[name]], np.where(yes, 1.0, -1.0))

    kind = draw(weight, chance[:, at["Male"]])
    answer("Male", who[kind, 0])
    answer("Young", who[kind, 1])
    kinds = draw(hair[kind] * possible, chance[:, at["Bald"]])
    for i, name in enumerate(names):
        answer(name, kinds == i)
    for name, (parent, share) in p.items():
        yes = share[(cond[:, at[parent]] > 0).astype(int) if parent else 0, kind]
        no = 1 - yes
        for child, (above, below) in p.items():
            if above == name:
                yes, no = yes * likely(child, below[1, kind]), no * likely(child, below[0, kind])
        if name in ("Bangs", "Wavy_Hair"):
            yes = np.where(cond[:, at["Bald"]] > 0, 0, yes)
        answer(name, chance[:, at[name]] * (yes + no) < yes)
    return cond


def consistent(cond: Tensor) -> Tensor:
    """The condition (K,) or (N, K) with what its answers imply, so that it is true of its picture.

    At most one hair colour holds (the largest). A bald head has none, nor bangs nor waves; what is said to have hair is
    not bald. A goatee is a beard, so not No_Beard. What is not said and not implied stays 0.
    """
    _refuse(cond)
    out = cond.clone()
    column = {name: out[..., i] for i, name in enumerate(DRAWN)}  # views
    colours = torch.stack([column[name] for name in COLOURS])
    top = colours.max(0)
    for i, name in enumerate(COLOURS):
        column[name][(top.values > 0) & (top.indices != i)] = -1
    bald = column["Bald"] > 0
    for name in (*COLOURS, "Bangs", "Wavy_Hair"):
        column["Bald"][(column[name] > 0) & ~bald] = -1
        column[name][bald] = -1
    column["No_Beard"][column["Goatee"] > 0] = -1
    column["Goatee"][column["No_Beard"] > 0] = -1
    return out


def answers(count: int, seed: int = 0, together: bool = True) -> Tensor:
    """(count, K) int8 in {-1, +1}: the attributes of `count` people.

    Args:
        seed: draws them.
        together: True for attributes that come together as they do in CelebA: `RATES` and `HAIRS`. False for independent
            ones: each a fair coin, except that hair is one of six kinds with equal chance (bald, four colours, none of
            them), only who has hair has bangs or waves, and only the bearded half has goatees.
    """
    chance = np.random.default_rng((seed, 2)).random((count, len(DRAWN)))
    if together:
        cond = torch.from_numpy(_complete(np.zeros((count, len(DRAWN))), chance))
    else:
        cond = torch.from_numpy(np.where(chance < 0.5, 1, -1))
        kinds = torch.from_numpy((chance[:, DRAWN.index("Bald")] * 6).astype(int))
        for i, name in enumerate(HAIRS):
            cond[:, DRAWN.index(name)] = torch.where(kinds == i, 1, -1)
        cond[cond[:, DRAWN.index("No_Beard")] > 0, DRAWN.index("Goatee")] = -1
    return consistent(cond.to(torch.int8))


def complete(cond: Tensor, seeds) -> Tensor:
    """(N, K): `draw`'s reading of the conditions (N, K): what they imply, and what they leave unsaid drawn by the seeds."""
    out = consistent(cond).double().numpy()
    left = np.flatnonzero((out == 0).any(1))
    if len(left):
        chance = np.stack([np.random.default_rng((int(seeds[i]), 1)).random(len(DRAWN)) for i in left])
        out[left] = _complete(out[left], chance)
    return torch.from_numpy(out).float()


def draw(cond: Tensor, seed: int) -> Tensor:
    """(3, 64, 64) uint8: the face of the person `seed` with the attributes `cond` (K,) over `DRAWN`.

    +1 is yes and -1 no; 0 (not said) is drawn by the seed at CelebA's rate among such people. Between, what has degrees
    is drawn by degree (expression, age, sex, size of nose and cheeks, skin, make-up, eyebrows), the rest is there above 0.
    The same condition and seed give the same bytes with the same Pillow.
    """
    return draw_many(torch.as_tensor(cond)[None], [seed])[0]


def draw_many(conds: Tensor, seeds) -> Tensor:
    """(N, 3, 64, 64) uint8: `draw` of conditions (N, K) and N seeds."""
    if conds.ndim != 2 or len(conds) != len(seeds):
        raise ValueError(f"one condition and one seed a picture: got {tuple(conds.shape)} and {len(seeds)} seeds.")
    seeds = [int(seed) for seed in seeds]
    if min(seeds, default=0) < 0:
        raise ValueError(f"a seed is a whole number from 0 on, got {min(seeds)}.")
    shown = (complete(conds, seeds) + 1) / 2
    pictures = torch.empty(len(seeds), 3, SIDE, SIDE, dtype=torch.uint8)
    for picture, row, seed in zip(pictures, shown.tolist(), seeds, strict=True):
        who = np.random.default_rng((seed, 0)).random(len(SEEDED)).tolist()
        portrait = Portrait(dict(zip(DRAWN, row, strict=True)), dict(zip(SEEDED, who, strict=True)))
        picture.copy_(torch.from_numpy(portrait.draw()))
    return pictures


def counterfactual(cond: Tensor, seed: int, **change) -> tuple[Tensor, Tensor, Tensor]:
    """The same person before and after a change, such as Eyeglasses=True, and the condition (K,) after it.

    What the change implies changes with it (a goatee ends No_Beard, hair grows on a bald head), all else stays: far from
    the attribute not a pixel differs.
    """
    before = complete(torch.as_tensor(cond)[None].float(), [seed])[0]
    wish, after = DRAWN.encode(**change), before.clone()
    after[wish != 0] = wish[wish != 0]
    colours = [DRAWN.index(name) for name in COLOURS]
    if (wish[colours] > 0).any():
        after[colours] = torch.where(wish[colours] > 0, wish[colours], -1.0)
    if (wish[DRAWN.index("No_Beard")] > 0).item():
        after[DRAWN.index("Goatee")] = -1
    grown = [*colours, DRAWN.index("Bangs"), DRAWN.index("Wavy_Hair")]
    if before[DRAWN.index("Bald")] > 0 and (wish[DRAWN.index("Bald")] < 0 or (wish[grown] > 0).any()):
        after[DRAWN.index("Bald")] = -1
        if not (wish[colours] > 0).any():
            after[colours] = wish[colours]  # 0: which colour, the seed says
    after = complete(after[None], [seed])[0]
    pictures = draw_many(torch.stack([before, after]), [seed, seed])
    return pictures[0], pictures[1], after


def _refuse(cond: Tensor):
    if cond.shape[-1:] != (len(DRAWN),):
        raise ValueError(f"a drawn face takes {len(DRAWN)} attributes, got a condition of shape {tuple(cond.shape)}.")
    if not bool(((cond >= -1) & (cond <= 1)).all()):
        raise ValueError("a condition's values lie between -1 (no) and 1 (yes).")
