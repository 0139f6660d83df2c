"""Attributes: from names to the condition vector and back (lessons 02 and 03).

Each attribute is one number: +1 yes, -1 no, 0 unspecified, values between for degrees. So the null condition of classifier-free
guidance is the zero vector.
"""

import dataclasses
import difflib
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Attributes:
    """The attribute names of a model, in the order of its condition vector.

    `groups` sorts the names for display. With `exclusive`, exactly one attribute is true of each image, as with the ten digits.
    """

    names: Sequence[str]
    groups: dict[str, Sequence[str]] | None = dataclasses.field(default=None, compare=False, repr=False)
    exclusive: bool = False

    def __post_init__(self):
        names = tuple(map(str, self.names))
        groups = {group: tuple(members) for group, members in (self.groups or {"all": names}).items()}
        self.__dict__.update(names=names, groups=groups)
        if len(set(names)) != len(names):
            raise ValueError("attribute names must be unique.")
        if sorted(name for members in groups.values() for name in members) != sorted(names):
            raise ValueError("the groups must contain every name exactly once.")

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self):
        return iter(self.names)

    def index(self, name: str) -> int:
        """The position of `name` in the condition vector; the error for an unknown name suggests the nearest one."""
        if name in self.names:
            return self.names.index(name)
        near = difflib.get_close_matches(str(name), self.names, n=1, cutoff=0.0 if len(self) > 10 else 0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"the names are {', '.join(self.names)}."
        if self == SYNTHETIC and name in CELEBA.names:
            hint = f"synthetic faces have only {len(self)} of CelebA's attributes, see list(SYNTHETIC)."
        raise ValueError(f"there is no attribute {name!r}: {hint}")

    def encode(self, **values) -> Tensor:
        """The condition (K,), float32: True is 1, False is -1, a number in [-1, 1] is itself; 0 for all other names."""
        cond = torch.zeros(len(self))
        for name, value in values.items():
            cond[self.index(name)] = _number(name, value)
        return cond

    def encode_many(self, rows: Iterable[dict]) -> Tensor:
        """(B, K): the condition of each dictionary of values."""
        return torch.stack([self.encode(**row) for row in rows])

    def describe(self, cond: Tensor) -> str:
        """A condition (K,) in words: "Smiling, no Eyeglasses, Young 0.5"; "unconditional" for the null condition."""
        if tuple(cond.shape) != (len(self),):
            raise ValueError(f"describe takes one condition of shape ({len(self)},), got {tuple(cond.shape)}.")
        words = {1.0: "{}", -1.0: "no {}"}
        specified = [(name, value) for name, value in zip(self.names, cond.tolist(), strict=True) if value]
        text = ", ".join(words.get(value, "{} {:.2g}").format(name, value) for name, value in specified)
        return text or "unconditional"


def expand_cond(cond: Tensor, batch: int) -> Tensor:
    """(batch, K): one condition for each image from (batch, K), or from one for all, (1, K) or (K,)."""
    if cond.ndim not in (1, 2) or (cond.ndim == 2 and len(cond) not in (1, batch)):
        raise ValueError(f"{batch} images need {batch} conditions, or one for all, got shape {tuple(cond.shape)}.")
    return cond.expand(batch, -1)


def _number(name: str, value) -> float:
    number = value.item() if hasattr(value, "item") and value.ndim == 0 else value
    number = 2 * number - 1 if isinstance(number, bool) else number
    if not isinstance(number, (int, float)) or not -1 <= number <= 1:
        raise ValueError(f"{name} must be True, False or a number from -1 (no) to 1 (yes), got {value!r}.")
    return number


def known_attributes(names: Sequence[str], exclusive: bool = False) -> Attributes:
    """`Attributes` with the groups of DIGITS, CELEBA or SYNTHETIC where names and `exclusive` equal theirs."""
    made = Attributes(names, exclusive=exclusive)
    return next((known for known in (DIGITS, CELEBA, SYNTHETIC) if known == made), made)


def _from_groups(**groups: str) -> Attributes:
    members = {group: names.split() for group, names in groups.items()}
    # Sorted by name, CelebA's attributes are in the official order of list_attr_celeba.txt.
    return Attributes(sorted(name for names in members.values() for name in names), members)


DIGITS = Attributes([str(digit) for digit in range(10)], exclusive=True)

CELEBA = _from_groups(
    hair="Bald Bangs Black_Hair Blond_Hair Brown_Hair Gray_Hair Receding_Hairline Straight_Hair Wavy_Hair",
    beard="5_o_Clock_Shadow Goatee Mustache No_Beard Sideburns",
    eyes="Arched_Eyebrows Bags_Under_Eyes Bushy_Eyebrows Narrow_Eyes",
    face="Attractive Big_Lips Big_Nose Chubby Double_Chin High_Cheekbones Male Oval_Face Pale_Skin Pointy_Nose "
    "Rosy_Cheeks Young",
    expression="Mouth_Slightly_Open Smiling",
    wearing="Eyeglasses Heavy_Makeup Wearing_Earrings Wearing_Hat Wearing_Lipstick Wearing_Necklace Wearing_Necktie",
    image="Blurry",
)

# The attributes of CelebA that are visible in a synthetic face.
SYNTHETIC = _from_groups(
    hair="Bald Bangs Black_Hair Blond_Hair Brown_Hair Gray_Hair Wavy_Hair",
    beard="Goatee Mustache No_Beard",
    eyes="Bushy_Eyebrows",
    face="Big_Nose Chubby Male Pale_Skin Rosy_Cheeks Young",
    expression="Mouth_Slightly_Open Smiling",
    wearing=" ".join(CELEBA.groups["wearing"]),
)
