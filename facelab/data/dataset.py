"""A dataset of images with attributes: one uint8 tensor of images, one condition vector for each (lessons 02 and 03)."""

import copy
import functools
import hashlib

import torch
from torch import Tensor
from torch.utils.data import Dataset

from facelab.attributes import Attributes


class AttributeDataset(Dataset):
    """Images (N, C, H, W) uint8 and conditions (N, K) in [-1, 1], indexed one by one or by whole batches.

    Of memory-mapped images only the batch is read. Conditions that are whole numbers are stored as int8.

    Args:
        attributes: the K names.
        source: one line for people: which data these are, and why these.
        name: one word for programs: "mnist", "mnist-5000", "celeba", "synthetic" or "csv".
        key: identifies exactly these images and conditions, where that is known already.
        columns: (K,) ints, the column to which each entry of a condition belongs: a number has two, cosine and sine (see
            `csv_dataset`). By default each entry is a column of its own.
    """

    def __init__(
        self, images: Tensor, conds: Tensor, attributes: Attributes, source: str, name: str, key: str = "", columns=None
    ):
        if images.dtype != torch.uint8 or images.ndim != 4:
            raise ValueError(f"images must be uint8 (N, C, H, W), got {images.dtype} {tuple(images.shape)}.")
        if tuple(conds.shape) != (len(images), len(attributes)):
            raise ValueError(f"conds must be ({len(images)}, {len(attributes)}), got {tuple(conds.shape)}.")
        self.conds = conds if (conds != conds.round()).any() else conds.to(torch.int8)
        self.attributes, self.source, self.name = attributes, source, name
        self.column_groups = torch.arange(len(attributes)) if columns is None else torch.tensor(columns)
        self.continuous = self.column_groups.bincount()[self.column_groups] > 1  # (K,): a number, not yes or no
        self.shape = tuple(images.shape[1:])
        self._all_images, self._rows, self._known_key = images, None, key

    def __len__(self) -> int:
        return len(self.conds)

    def __getitem__(self, i) -> tuple[Tensor, Tensor]:
        """(x_0 in [-1, 1], cond), float32: (C, H, W) and (K,) for an int, (B, C, H, W) and (B, K) for a slice or list."""
        images = self._all_images[i if self._rows is None else self._rows[i]]
        return images.float() / 127.5 - 1, self.conds[i].float()

    def __repr__(self) -> str:
        return f"AttributeDataset({len(self):,} of {self.shape}: {self.source})"

    @property
    def images(self) -> Tensor:
        """(N, C, H, W) uint8; a subset of memory-mapped images is read into memory as a whole."""
        return self._all_images if self._rows is None else self._all_images[self._rows]

    @property
    def frequencies(self) -> tuple[float, ...]:
        """The share of images with each attribute, limited to [0.001, 0.999]; 0.5 for the entries of a number."""
        share = (self.conds > 0).float().mean(0).clamp(0.001, 0.999)
        return tuple(torch.where(self.continuous, 0.5, share).tolist())

    @functools.cached_property
    def minority_indices(self) -> list[Tensor]:
        """For each attribute that occurs with both values: the indices of the images with the rarer one."""
        yes, no = self.conds > 0, self.conds < 0
        rarer = torch.where(yes.sum(0) <= no.sum(0), yes, no)
        both = yes.any(0) & no.any(0) & ~self.continuous
        return [column.nonzero()[:, 0] for column in rarer.T[both]]

    @functools.cached_property
    def key(self) -> str:
        """Identifies exactly these images and conditions: 16 hexadecimal digits of a sha256."""
        if self._known_key and self._rows is None:
            return self._known_key
        if self._known_key:  # without a look at the images, which may be many
            parts = [self._known_key.encode(), self._rows.numpy()]
        else:
            parts = [repr((self.images.shape, self.attributes.names)).encode(), self.images.numpy(), self.conds.numpy()]
        return hashlib.sha256(b"".join(map(bytes, parts))).hexdigest()[:16]

    def subset(self, indices) -> "AttributeDataset":
        """The images at `indices` (slice, list, or tensor of indices or of N booleans), in that order; nothing is copied."""
        rows = torch.arange(len(self))[torch.as_tensor(indices) if isinstance(indices, range) else indices].reshape(-1)
        part = copy.copy(self)
        for cached in ("key", "minority_indices"):
            part.__dict__.pop(cached, None)
        part.conds = self.conds[rows]
        part._rows = rows if self._rows is None else self._rows[rows]
        return part

    def filter(self, **values) -> "AttributeDataset":
        """The images with these attributes: `digits.filter(**{"7": True})`."""
        cond = self.attributes.encode(**values)
        if (self.continuous & (cond != 0)).any():
            raise ValueError("filter takes yes/no attributes; a number is selected by subset, with a mask of your own.")
        return self.subset(((self.conds == cond) | (cond == 0)).all(1))

    def classes(self) -> Tensor:
        """(N,) the index of the one attribute that holds, where attributes exclude each other, as digits do."""
        return self.conds.argmax(1)
