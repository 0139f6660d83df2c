"""Attributes: from names to the condition vector and back (lessons 02 and 03).

Each attribute is one number: +1 yes, -1 no, 0 not said, anything between for "half". The null condition, of which
classifier-free guidance speaks, is then simply the zero vector.
"""

import difflib
import math
import numbers
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor


class Attributes:
    """The names a model knows, in the order of its condition vector.

    Args:
        names: one word each, as the data spells them.
        groups: the same names sorted for people, group -> names; one group "all" where none is given.
        exclusive: True where exactly one of them holds for a picture, as with the ten digits.
    """

    def __init__(self, names: Sequence[str], groups: dict[str, Sequence[str]] | None = None, exclusive: bool = False):
        self.names = tuple(str(name) for name in names)
        self.groups = {group: tuple(inside) for group, inside in (groups or {"all": self.names}).items()}
        self.exclusive = exclusive
        if len(set(self.names)) != len(self.names):
            raise ValueError("every attribute needs a name of its own.")
        if sorted(name for inside in self.groups.values() for name in inside) != sorted(self.names):
            raise ValueError("the groups must hold every name exactly once.")

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self):
        return iter(self.names)

    def __eq__(self, other) -> bool:
        return isinstance(other, Attributes) and self.names == other.names and self.exclusive == other.exclusive

    def __hash__(self) -> int:
        return hash((self.names, self.exclusive))

    def __repr__(self) -> str:
        return f"Attributes({len(self)}: {', '.join(self.names[:3])}, ...)"

    def index(self, name: str) -> int:
        """Where `name` stands in the vector; a ValueError suggests the nearest name."""
        if name in self.names:
            return self.names.index(name)
        if self == DRAWN and name in CELEBA.names:
            raise ValueError(f"{name} cannot be drawn: list(DRAWN) holds the {len(self)} of CelebA's names that can.")
        near = difflib.get_close_matches(str(name), self.names, n=1, cutoff=0.0 if len(self) > 10 else 0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"the names are {', '.join(self.names)}."
        raise ValueError(f"there is no attribute {name!r}: {hint}")

    def encode(self, **wishes) -> Tensor:
        """The condition (K,), float32, of what is wished: True or 1 yes, False or -1 no, 0 or left out not said.

        Raises:
            ValueError: for an unknown name (the nearest is suggested) or a value outside [-1, 1].
        """
        cond = torch.zeros(len(self))
        for name, wish in wishes.items():
            cond[self.index(name)] = value_of(name, wish)
        return cond

    def encode_many(self, wishes: Iterable[dict]) -> Tensor:
        """(B, K): one row for each dictionary of wishes."""
        return torch.stack([self.encode(**wish) for wish in wishes])

    def describe(self, cond: Tensor) -> str:
        """The condition (K,) in words: "Smiling, no Eyeglasses, Young 0.5"; "anything" for the null condition."""
        if tuple(cond.shape) != (len(self),):
            raise ValueError(f"describe takes one condition of shape ({len(self)},), got {tuple(cond.shape)}.")
        words = {1.0: "{}", -1.0: "no {}"}
        said = [(name, value) for name, value in zip(self.names, cond.tolist(), strict=True) if value]
        return ", ".join(words.get(value, "{} {:.2g}").format(name, value) for name, value in said) or "anything"


def number(value) -> float:
    """A single number, of Python's, numpy's or torch's, as a float; nan for anything else, True and False too."""
    value = value.item() if isinstance(value, Tensor) and value.ndim == 0 else value
    return float(value) if isinstance(value, numbers.Real) and not isinstance(value, bool) else math.nan


def one_each(cond: Tensor, pictures: int) -> Tensor:
    """(pictures, K): the condition of each picture, of one for each (B, K) or one for all, (1, K) or (K,).

    Raises:
        ValueError: for any other number of them.
    """
    if cond.ndim not in (1, 2) or (cond.ndim == 2 and len(cond) not in (1, pictures)):
        raise ValueError(f"{pictures} pictures need {pictures} conditions, or one for all, got {tuple(cond.shape)}.")
    return cond.expand(pictures, -1)


def value_of(name: str, wish) -> float:
    """A wish as the condition holds it: True is 1, False is -1, a number from -1 to 1 is itself.

    Raises:
        ValueError: for anything else.
    """
    value = (1.0 if wish else -1.0) if isinstance(wish, bool) else number(wish)
    if not -1 <= value <= 1:
        raise ValueError(f"{name} must be True, False or a number from -1 (no) to 1 (yes), got {wish!r}.")
    return value


DIGITS = Attributes([str(digit) for digit in range(10)], exclusive=True)

CELEBA_GROUPS = {
    "hair": "Bald Bangs Black_Hair Blond_Hair Brown_Hair Gray_Hair Receding_Hairline Straight_Hair Wavy_Hair",
    "beard": "5_o_Clock_Shadow Goatee Mustache No_Beard Sideburns",
    "eyes": "Arched_Eyebrows Bags_Under_Eyes Bushy_Eyebrows Narrow_Eyes",
    "face": "Attractive Big_Lips Big_Nose Chubby Double_Chin High_Cheekbones Male Oval_Face Pale_Skin Pointy_Nose "
    "Rosy_Cheeks Young",
    "expression": "Mouth_Slightly_Open Smiling",
    "wearing": "Eyeglasses Heavy_Makeup Wearing_Earrings Wearing_Hat Wearing_Lipstick Wearing_Necklace Wearing_Necktie",
    "picture": "Blurry",
}
# The official order of list_attr_celeba.txt.
CELEBA = Attributes(
    sorted((name for names in CELEBA_GROUPS.values() for name in names.split()), key=str),
    {group: names.split() for group, names in CELEBA_GROUPS.items()},
)

# Those of CelebA's attributes that a person sees in a drawn face.
DRAWN_GROUPS = {
    "hair": "Bald Bangs Black_Hair Blond_Hair Brown_Hair Gray_Hair Wavy_Hair",
    "beard": "Goatee Mustache No_Beard",
    "eyes": "Bushy_Eyebrows",
    "face": "Big_Nose Chubby Male Pale_Skin Rosy_Cheeks Young",
    "expression": "Mouth_Slightly_Open Smiling",
    "wearing": CELEBA_GROUPS["wearing"],
}
DRAWN = Attributes(
    [name for name in CELEBA if any(name in names.split() for names in DRAWN_GROUPS.values())],
    {group: names.split() for group, names in DRAWN_GROUPS.items()},
)
