"""What the answers alone tell, before any picture is looked at: how often, what goes together, what cannot be (lesson 03)."""

from typing import NamedTuple

import torch
from torch import Tensor

from facelab.attributes import Attributes

# Pairs of answers that cannot both be true of one face; who finds them in a list has found wrong answers.
CONTRADICTIONS = (
    ("Bald", "Bangs"),
    ("Bald", "Wavy_Hair"),
    ("Straight_Hair", "Wavy_Hair"),
    ("Black_Hair", "Blond_Hair"),
    ("Blond_Hair", "Brown_Hair"),
    ("Black_Hair", "Gray_Hair"),
    ("Goatee", "No_Beard"),
)


class Survey(NamedTuple):
    """Of `count` rows of answers: the share of yes (K,), the correlations (K, K), and contradicting pairs with counts."""

    names: tuple[str, ...]
    count: int
    rates: Tensor
    correlations: Tensor
    contradictions: dict[str, int]

    def to_json(self) -> dict:
        """As JSON holds it, rounded to four digits."""
        lists = {name: getattr(self, name).mul(1e4).round().div(1e4).tolist() for name in ("rates", "correlations")}
        return self._asdict() | lists


def survey(conds: Tensor, attributes: Attributes) -> Survey:
    """Rates, correlations and contradictions of answers (N, K) in {-1, +1}.

    A correlation with an attribute that is always answered alike is 0.

    Raises:
        ValueError: for no rows, or another number of columns than names.
    """
    if conds.ndim != 2 or len(conds) == 0 or conds.shape[1] != len(attributes):
        raise ValueError(f"survey takes answers (N, {len(attributes)}), N above 0, got {tuple(conds.shape)}.")
    yes = (conds > 0).double()
    centred = yes - yes.mean(0)
    scale = centred.square().mean(0).sqrt()
    scale = torch.where(scale > 0, scale, torch.inf)
    correlations = centred.T @ centred / len(yes) / scale[:, None] / scale
    both = {
        f"{a} and {b}": int((yes[:, attributes.index(a)] * yes[:, attributes.index(b)]).sum())
        for a, b in CONTRADICTIONS
        if a in attributes.names and b in attributes.names
    }
    return Survey(attributes.names, len(yes), yes.mean(0), correlations, both)
