"""Lesson 03: the condition as embedding and as channels, condition dropout, balanced accuracy."""

import torch
from torch.nn import functional as F

from facelab.course.exercises import add, randn


@add(
    lambda: [(randn(3, 8), randn(3, 5, seed=1).sign(), randn(6, 5, seed=2), randn(8, 6, seed=3))],
    """Two linear layers without bias: a layer of weight W maps x to x @ W.T.
    torch.nn.functional.silu between them.
    Add the result to the timestep's embedding, which every block of the U-Net receives.""",
    ("it replaces the timestep's embedding: add the two.", lambda e, c, a, b: condition_embedding(0 * e, c, a, b)),
    ("the nonlinearity is missing: silu between the two layers.", lambda e, c, a, b: e + c @ a.T @ b.T),
    ("silu belongs between the two layers.", lambda e, c, a, b: e + F.silu(c @ a.T @ b.T)),
)
def condition_embedding(t_embedding, cond, W_1, W_2):
    hidden = torch.nn.functional.silu(cond @ W_1.T)
    return t_embedding + hidden @ W_2.T


@add(
    lambda: [
        (randn(6, 8).sign(), torch.tensor([0, 1, 3, 8, 2, 5]), randn(6, 8, seed=1)),
        (randn(4, 40, seed=2).sign(), torch.tensor([40, 0, 1, 17]), randn(4, 40, seed=3)),
    ],
    """How would you number the attributes of a row from the smallest `order`, 0, to the largest?
    `order.argsort(1).argsort(1)` is the rank of each attribute, from 0.
    Leave cond where the rank is below count[:, None], and write 0 elsewhere.""",
    (
        "one argsort sorts; the rank of each attribute needs a second argsort.",
        lambda c, n, o: drop_attributes(c, n, o.argsort(1)),
    ),
    (
        "always the first stay: rank them by `order`.",
        lambda c, n, o: drop_attributes(c, n, torch.arange(c.shape[1])[None]),
    ),
    ("dropped becomes -1, no: unspecified is 0.", lambda c, n, o: drop_attributes(c + 1, n, o) - 1),
)
def drop_attributes(cond, count, order):
    rank = order.argsort(1).argsort(1)
    return torch.where(rank < count[:, None], cond, 0)


@add(
    lambda: [(randn(2, 3, 4, 6), randn(2, 5, seed=1)), (randn(3, 1, 2, 2), randn(3, 5, seed=2))],
    """A number becomes a channel if every pixel has its value: add two dimensions, and expand them.
    numbers[:, :, None, None].expand(-1, -1, height, width)
    Then torch.cat along the channels, dimension 1, the image first.""",
    ("the image's channels come first.", lambda x, f: concat_condition(x, f).roll(f.shape[1], 1)),
    ("every image gets the numbers of the first one.", lambda x, f: concat_condition(x, f[:1].expand(len(x), -1))),
    (
        "the numbers are at one pixel only: repeat them over the whole image.",
        lambda x, f: torch.cat([x, F.pad(f[:, :, None, None], (0, x.shape[3] - 1, 0, x.shape[2] - 1))], 1),
    ),
)
def concat_condition(x_t, numbers):
    height, width = x_t.shape[2:]
    return torch.cat([x_t, numbers[:, :, None, None].expand(-1, -1, height, width)], 1)


@add(
    lambda: [
        (torch.tensor([1.0, 1, 1, -1, -1, -1, -1, -1, -1, 0]), torch.tensor([1, 1, -1, 1, 1, 1, -1, -1, -1, 1])),
        (torch.tensor([-1.0, 1, 1, 1, 0, 0]), torch.tensor([-1, 1, 1, -1, -1, 1])),
    ],
    """Two accuracies: of the images conditioned on yes, and of those conditioned on no.
    (predicted[cond > 0] > 0).float().mean() is the first.
    Return their mean. Where cond is 0 the attribute is unspecified, and counts in neither.""",
    (
        "where yes is rare, always predicting no would pass: balance the two.",
        lambda c, p: (p[c != 0] == c[c != 0]).float().mean(),
    ),
    ("unspecified counts as no: leave out cond 0.", lambda c, p: balanced_accuracy(torch.where(c > 0, 1, -1), p)),
    ("a model that always generates yes would get 1: count no too.", lambda c, p: (p[c > 0] > 0).float().mean()),
)
def balanced_accuracy(cond, predicted):
    yes, no = cond > 0, cond < 0
    return ((predicted[yes] > 0).float().mean() + (predicted[no] < 0).float().mean()) / 2
