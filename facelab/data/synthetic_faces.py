"""Synthetic faces: a 64x64 image from an attribute vector and a seed, available without any download (lesson 03).

The attributes say what the image must show; the seed decides the person: skin, shape, pose, light, background, clothes. All
that the seed decides is sampled before the attributes are used, so one attribute can change while the person stays the same.
Skin and hair colour are independent of each other and of all else; nobody is portrayed.
"""

import numpy as np
import torch
from torch import Tensor

from facelab.attributes import SYNTHETIC
from facelab.data.cache import cached_images
from facelab.data.celeba import celeba, celeba_available
from facelab.data.dataset import AttributeDataset
from facelab.data.face_renderer import SEEDED, SIDE
from facelab.data.face_renderer import render as render_face

VERSION = 1  # of the rendered images: raise it when `face_renderer` or the tables below change what is rendered
SPLIT_SIZES = {"train": 20_000, "valid": 2_000, "test": 2_000}

# CelebA's frequencies in percent (list_attr_celeba.txt, all 202,599 rows), each for old women, young women, old men, young
# men; where a parent attribute is named, four without the parent, then four with it. Parents come first.
PERSON = "7.3 51 15 26.7"
FREQUENCIES = {
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
# Bald, or which colour. A third of CelebA's heads have no colour label, because it is hard to see; here every head has a
# visible one, so the colours share out what is left when 8 % have a colour without a name.
HAIR = {
    "Bald": "0 0 11 1.9",
    "Black_Hair": "11 21 16 38",
    "Blond_Hair": "31 23 1.9 2.2",
    "Brown_Hair": "21 25 8.8 19",
    "Gray_Hair": "7.5 0.1 23 0.4",
}
COLOURS, UNNAMED = tuple(HAIR)[1:], 0.08
INDEX = {name: i for i, name in enumerate(SYNTHETIC.names)}
NEED_HAIR = (*COLOURS, "Bangs", "Wavy_Hair")


def _shares(percent: str) -> np.ndarray:
    return np.array(percent.split(), float) / 100


_BALD, *_COLOURS = map(_shares, HAIR.values())
_NAMED = [(1 - _BALD - UNNAMED) * colour / sum(_COLOURS) for colour in _COLOURS]
# (4 kinds of people, 6): bald, the four colours, none of them.
_HAIR = np.maximum(np.stack([_BALD, *_NAMED, 0 * _BALD + UNNAMED], 1), 1e-4)
_TABLE = {name: (parent, _shares(row).reshape(-1, 4)) for name, (parent, row) in FREQUENCIES.items()}


def _likelihood(value: np.ndarray, share) -> np.ndarray:
    """The probability of `value` where "yes" has probability `share`; 1 where it is 0, unspecified."""
    share = np.clip(share, 1e-4, 1 - 1e-4)
    return np.where(value > 0, share, np.where(value < 0, 1 - share, 1.0))


def _categorical(weight: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """(N,) a column index for each row, with probabilities proportional to `weight`."""
    total = np.cumsum(weight, 1)
    return (uniform[:, None] * total[:, -1:] >= total).sum(1).clip(0, weight.shape[1] - 1)


def _person_weights(value: dict[str, np.ndarray], hair: np.ndarray) -> np.ndarray:
    """(N, 4): how likely the specified attributes make old women, young women, old men and young men."""
    weight = _shares(PERSON) * (hair @ _HAIR.T)
    for name, sign in (("Male", [-1, -1, 1, 1]), ("Young", [-1, 1, -1, 1])):
        weight = weight * np.where(value[name][:, None] * sign < 0, 1e-12, 1.0)
    for name, (parent, share) in _TABLE.items():
        if parent:
            usual = _TABLE[parent][1][0] if parent in _TABLE else _HAIR[:, 1 + COLOURS.index(parent)]
            given = value[parent][:, None]
            share = share[0] + np.where(given != 0, given > 0, usual) * (share[1] - share[0])
        weight = weight * _likelihood(value[name][:, None], share)
    return weight


def _fill(cond: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """(N, K) with every unspecified entry sampled from CelebA's frequencies given the specified ones; `uniform` is (N, K).

    First the person (old or young, woman or man), then the hair, then each attribute given the person and its parent, and
    by Bayes' rule its specified children.
    """
    cond, u = cond.copy(), dict(zip(INDEX, uniform.T, strict=True))
    value = dict(zip(INDEX, cond.T, strict=True))  # views

    def fill(name, yes):
        np.copyto(value[name], np.where(yes, 1.0, -1.0), where=value[name] == 0)

    possible = np.ones((len(cond), 6))  # 1 for the kinds of hair that the specified attributes allow, else almost 0
    for i, name in enumerate(HAIR):
        possible[value[name] < 0, i] = 1e-9
        possible[value[name] > 0] *= np.where(np.arange(6) == i, 1, 1e-9)
    possible[(value["Bangs"] > 0) | (value["Wavy_Hair"] > 0), 0] *= 1e-9
    person = _categorical(_person_weights(value, possible), u["Male"])
    fill("Male", person >= 2)
    fill("Young", person % 2 == 1)
    hair = _categorical(_HAIR[person] * possible, u["Bald"])
    for i, name in enumerate(HAIR):
        fill(name, hair == i)
    for name, (parent, share) in _TABLE.items():
        yes = share[(value[parent] > 0).astype(int) if parent else 0, person]
        no = 1 - yes
        for child, (above, below) in _TABLE.items():
            if above == name:
                yes = yes * _likelihood(value[child], below[1, person])
                no = no * _likelihood(value[child], below[0, person])
        if name in NEED_HAIR:
            yes = np.where(value["Bald"] > 0, 0, yes)
        fill(name, u[name] * (yes + no) < yes)
    return cond


def consistent(cond: Tensor) -> Tensor:
    """The condition (K,) or (N, K) with what its values imply; what is neither specified nor implied stays 0.

    At most one hair colour holds (the largest). A bald head has none, nor bangs nor waves; whoever has hair is not bald. A
    goatee is a beard, so not No_Beard.
    """
    if cond.shape[-1:] != (len(SYNTHETIC),) or not bool(((cond >= -1) & (cond <= 1)).all()):
        got = f"got {tuple(cond.shape)} from {cond.min():g} to {cond.max():g}" if cond.numel() else tuple(cond.shape)
        raise ValueError(f"a condition of synthetic faces has {len(SYNTHETIC)} values between -1 and 1, {got}.")
    out = cond.clone()
    value = {name: out[..., i] for name, i in INDEX.items()}  # views
    largest = torch.stack([value[name] for name in COLOURS]).max(0)
    for i, name in enumerate(COLOURS):
        value[name][(largest.values > 0) & (largest.indices != i)] = -1
    bald = value["Bald"] > 0
    for name in NEED_HAIR:
        value["Bald"][(value[name] > 0) & ~bald] = -1
        value[name][bald] = -1
    value["No_Beard"][value["Goatee"] > 0] = -1
    value["Goatee"][value["No_Beard"] > 0] = -1
    return out


def sample_attributes(count: int, seed: int = 0, correlated: bool = True) -> Tensor:
    """(count, K) int8 in {-1, +1}: the attributes of `count` people.

    With `correlated` they occur together as in CelebA. Otherwise they are independent, each with probability 1/2, except that
    hair is one of six kinds (bald, four colours, none of them), and that bangs and waves need hair, a goatee needs a beard.
    """
    uniform = np.random.default_rng((seed, 2)).random((count, len(SYNTHETIC)))
    if correlated:
        cond = torch.from_numpy(_fill(np.zeros((count, len(SYNTHETIC))), uniform))
    else:
        cond = torch.from_numpy(np.where(uniform < 0.5, 1, -1))
        hair = torch.from_numpy((uniform[:, INDEX["Bald"]] * 6).astype(int))
        for i, name in enumerate(HAIR):
            cond[:, INDEX[name]] = torch.where(hair == i, 1, -1)
        cond[cond[:, INDEX["No_Beard"]] > 0, INDEX["Goatee"]] = -1
    return consistent(cond.to(torch.int8))


def complete(cond: Tensor, seeds) -> Tensor:
    """(N, K): the conditions that `render` shows for (N, K): `consistent`, and what is unspecified sampled by the seeds."""
    out = consistent(cond).double().numpy()
    open_rows = np.flatnonzero((out == 0).any(1))
    if len(open_rows):
        uniform = np.stack([np.random.default_rng((int(seeds[i]), 1)).random(len(SYNTHETIC)) for i in open_rows])
        out[open_rows] = _fill(out[open_rows], uniform)
    return torch.from_numpy(out).float()


def render(cond: Tensor, seed: int) -> Tensor:
    """(3, 64, 64) uint8: the face of the person `seed` with the attributes `cond` (K,).

    +1 is yes, -1 no; 0 (unspecified) is sampled by the seed. In between, attributes with degrees are rendered by degree
    (expression, age, sex, nose, cheeks, skin, make-up, eyebrows); the others are present above 0.
    """
    return render_many(torch.as_tensor(cond)[None], [seed])[0]


def render_many(conds: Tensor, seeds) -> Tensor:
    """(N, 3, 64, 64) uint8: `render` of conditions (N, K) and N seeds."""
    if conds.ndim != 2 or len(conds) != len(seeds) or any(seed < 0 for seed in seeds):
        raise ValueError(f"one condition and one seed from 0 on for each image, got {tuple(conds.shape)} and {seeds}.")
    images = torch.empty(len(seeds), 3, SIDE, SIDE, dtype=torch.uint8)
    for image, row, seed in zip(images, ((complete(conds, seeds) + 1) / 2).tolist(), seeds, strict=True):
        person = np.random.default_rng((int(seed), 0)).random(len(SEEDED)).tolist()
        face = render_face(dict(zip(SYNTHETIC, row, strict=True)), dict(zip(SEEDED, person, strict=True)))
        image.copy_(torch.from_numpy(face))
    return images


def counterfactual(cond: Tensor, seed: int, **change) -> tuple[Tensor, Tensor, Tensor]:
    """The same person before and after a change, such as Eyeglasses=True, and the condition (K,) after it.

    What the change implies changes with it (a goatee ends No_Beard, hair grows on a bald head), all else stays: far from the
    attribute no pixel differs.
    """
    before = complete(torch.as_tensor(cond)[None].float(), [seed])[0]
    wanted = consistent(SYNTHETIC.encode(**change))
    after, colours = torch.where(wanted != 0, wanted, before), [INDEX[name] for name in COLOURS]
    if before[INDEX["Bald"]] > 0 > after[INDEX["Bald"]]:  # where the change names no colour, the seed decides
        after[INDEX["Bald"]], after[colours] = -1, wanted[colours]
    after = complete(after[None], [seed])[0]
    images = render_many(torch.stack([before, after]), [seed, seed])
    return images[0], images[1], after


def people(count: int, split: str = "train", correlated: bool = True, seed: int = 0) -> tuple[Tensor, np.ndarray]:
    """(conditions (count, K), seeds (count,)) of the first of `synthetic_faces`; `render_many` renders them again."""
    split = "test" if split == "score" else split
    if split not in SPLIT_SIZES or not 1 <= count <= 1_000_000 or not 0 <= seed < 1_000_000:
        valid = "split train, valid, test or score, count from 1 to 1,000,000, seed from 0 to 999,999"
        raise ValueError(f"synthetic faces take {valid}; got {split!r}, {count}, {seed}.")
    stream = 3 * seed + list(SPLIT_SIZES).index(split)  # every split of every seed has its own million of seeds
    return sample_attributes(count, stream, correlated), stream * 1_000_000 + np.arange(count)


def synthetic_faces(
    count: int | None = None, split: str = "train", correlated: bool = True, seed: int = 0
) -> AttributeDataset:
    """Synthetic faces (3, 64, 64) with known attributes; rendered once (20,000 in about a minute), then read from the cache.

    Splits ("train", "valid", "test" or "score", which is "test") share no face. Without `count` 20,000 for training, else
    2,000. `correlated`: see `sample_attributes`.
    """
    split = "test" if split == "score" else split
    count = SPLIT_SIZES.get(split, 1) if count is None else count
    everyone = zip(*people(count, split, correlated, seed), strict=True)
    rows = ((render(cond, person).numpy(), cond) for cond, person in everyone)
    how = "correlated" if correlated else "independent"
    name = f"synthetic-v{VERSION}-{split}-{count}-{how}-{seed}"
    images, conds, key = cached_images(name, (3, SIDE, SIDE), lambda: (count, rows))
    source = f"{count:,} synthetic faces, {split}, {how} attributes"
    return AttributeDataset(images, conds, SYNTHETIC, source, "synthetic", key)


def default_face_name() -> str:
    """ "celeba" where images of it are in FACELAB_DATA or the cache, else "synthetic"."""
    return "celeba" if celeba_available() else "synthetic"


def default_faces(
    split: str = "train", name: str | None = None, count: int | None = None, correlated=True, download=False
) -> AttributeDataset:
    """CelebA's faces where they are available, else synthetic ones; `.source` says which and why.

    `name` ("celeba" or "synthetic") chooses one of them; `split` "score" is test where there are test images, else valid; `count`
    and `correlated` are for synthetic faces; `download` fetches CelebA where it is not available.
    """
    if name not in (None, "celeba", "synthetic"):
        raise ValueError(f"name must be 'celeba' or 'synthetic', got {name!r}.")
    if (name or ("celeba" if download else default_face_name())) == "celeba":
        return celeba(split, download)
    faces = synthetic_faces(count, split, correlated)
    faces.source += " (chosen by name)" if name else " (no CelebA in FACELAB_DATA or the cache)"
    return faces
