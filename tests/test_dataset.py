"""AttributeDataset: indexing, subsets without copies, keys, label frequencies, and numbers that take two entries."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from facelab.attributes import DIGITS, Attributes
from facelab.data.dataset import AttributeDataset


def numbered(count=12, key=None):
    """Images whose one pixel is their number, with its binary digits as attributes."""
    numbers = torch.arange(count)
    conds = ((numbers[:, None] >> torch.arange(4)) & 1) * 2 - 1
    images = numbers.to(torch.uint8).reshape(-1, 1, 1, 1)
    return AttributeDataset(images, conds, Attributes("abcd"), "numbered", "numbered", key)


def numbers_of(dataset):
    return ((dataset[:][0].flatten() + 1) * 127.5).round().int().tolist()


def test_indexing_one_by_one_and_by_batches():
    images = torch.arange(5 * 4, dtype=torch.uint8).reshape(5, 1, 2, 2)
    dataset = AttributeDataset(images, torch.eye(10)[:5], DIGITS, "five", "mnist")
    x_0, cond = dataset[3]
    assert x_0.shape == (1, 2, 2) and cond.shape == (10,) and x_0.dtype == cond.dtype == torch.float32
    assert torch.equal(dataset[[3, 0]][0][0], x_0) and torch.equal(dataset[[3, 0]][1][0], cond)
    assert dataset.name == "mnist" and dataset.classes().tolist() == [0, 1, 2, 3, 4]
    ends = AttributeDataset(torch.tensor([[[[0, 255]]]], dtype=torch.uint8), torch.eye(10)[:1], DIGITS, "", "mnist")
    assert ends[0][0].tolist() == [[[-1.0, 1.0]]]


@pytest.mark.parametrize(
    ("indices", "chosen"),
    [([3, 0, 3], [3, 0, 3]), (torch.tensor([11, -1, -12]), [11, 11, 0]), (slice(2, 9, 3), [2, 5, 8]), (5, [5])]
    + [(range(4, 6), [4, 5]), (np.array([7, 1]), [7, 1]), (torch.arange(12) % 4 == 2, [2, 6, 10]), ([], [])],
)
def test_a_subset_copies_no_pixel(indices, chosen):
    dataset = numbered()
    some = dataset.subset(indices)
    assert numbers_of(some) == some.images.flatten().tolist() == chosen and len(some) == len(chosen)
    assert torch.equal(some.conds, dataset.conds[chosen]) and (some.source, some.name) == ("numbered", "numbered")
    assert some._all_images.data_ptr() == dataset._all_images.data_ptr() and numbers_of(dataset) == list(range(12))


def test_subsets_of_subsets():
    odd = numbered().filter(a=True)
    assert numbers_of(odd) == [1, 3, 5, 7, 9, 11] and len([x for x, _ in odd]) == 6, "iteration ends"
    assert numbers_of(odd.filter(b=False).subset([2, 0])) == [9, 1]
    x_0, cond = odd.subset([4])[0]
    assert x_0.item() == pytest.approx(9 / 127.5 - 1) and cond.tolist() == [1, -1, -1, 1]
    with pytest.raises(IndexError):
        odd.subset([6])


@pytest.mark.parametrize("key", [None, "0123456789abcdef"])
def test_different_contents_have_different_keys(key):
    dataset = numbered(key=key)
    choices = [[0, 1], [1, 0], [0], [0, 1, 1], [2, 3], list(range(12))[::-1]]
    keys = {dataset.subset(choice).key for choice in choices} | {dataset.key}
    assert len(keys) == 7 and all(len(one) == 16 for one in keys)
    assert dataset.subset([5, 6, 7]).subset([2, 0]).key == dataset.subset([7, 5]).key


def test_the_key_depends_on_images_and_labels_and_not_on_the_source():
    images, conds = torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.eye(10)[:3]
    key = AttributeDataset(images, conds, DIGITS, "here", "x").key
    assert key == AttributeDataset(images.clone(), conds, DIGITS, "elsewhere", "x").key
    assert key != AttributeDataset(images + (torch.arange(3) == 2).reshape(3, 1, 1, 1), conds, DIGITS, "here", "x").key
    assert key != AttributeDataset(images, conds.flip(0), DIGITS, "here", "x").key


def test_memory_mapped_images_are_not_copied(tmp_path):
    file = np.lib.format.open_memmap(tmp_path / "pixels.npy", "w+", np.uint8, (5, 3, 4, 4))
    dataset = AttributeDataset(torch.from_numpy(file), torch.ones(5, 4), Attributes("abcd"), "mapped", "x")
    file[3] = 255
    assert dataset.subset([3])[0][0].min() == 1 and dataset.filter(a=True)[:3][0].max() == -1


def test_frequencies_and_minorities():
    conds = torch.tensor([[1, -1, 1], [-1, -1, 1], [0, -1, 1], [-1, -1, 1]])
    dataset = AttributeDataset(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), conds, Attributes("abc"), "four", "x")
    assert dataset.frequencies == pytest.approx((0.25, 0.001, 0.999)), "room for what few images do not show"
    assert [indices.tolist() for indices in dataset.minority_indices] == [[0]]
    assert dataset.column_groups.tolist() == [0, 1, 2]


def test_the_two_entries_of_a_number_are_one_column_and_have_no_yes_and_no():
    angle = torch.tensor([0.1, 1.0, 2.0, 3.0])
    conds = torch.stack([angle.cos(), angle.sin(), torch.tensor([1.0, 1, 1, -1])], 1)
    images = torch.zeros(4, 1, 2, 2, dtype=torch.uint8)
    dataset = AttributeDataset(images, conds, Attributes(["v", "v'", "b"]), "csv", "csv", columns=[0, 0, 1])
    assert dataset.column_groups.tolist() == [0, 0, 1] and dataset.subset([1]).column_groups.tolist() == [0, 0, 1]
    assert dataset.frequencies == pytest.approx((0.5, 0.5, 0.75))
    assert [indices.tolist() for indices in dataset.minority_indices] == [[3]]
    assert len(dataset.filter(b=True)) == 3
    with pytest.raises(ValueError, match="filter takes yes/no attributes"):
        dataset.filter(v=True)


def test_values_in_between_stay_as_they_are():
    between = torch.tensor([[0.5, -0.25], [1, 0], [-1, 0.125]])
    images, names = torch.zeros(3, 1, 4, 4, dtype=torch.uint8), Attributes("ab")
    dataset = AttributeDataset(images, between, names, "", "x")
    assert_close(dataset[:][1], between)
    whole = AttributeDataset(images, between.sign(), names, "", "x")
    assert dataset.conds.dtype == torch.float32 and whole.conds.dtype == torch.int8 and whole.key != dataset.key


@pytest.mark.parametrize(
    ("images", "conds"),
    [(torch.zeros(3, 1, 2, 2), torch.eye(10)[:3]), (torch.zeros(3, 2, 2, dtype=torch.uint8), torch.eye(10)[:3])]
    + [(torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.eye(10)[:2])],
)
def test_other_shapes_and_types_are_refused(images, conds):
    with pytest.raises(ValueError, match="must be"):
        AttributeDataset(images, conds, DIGITS, "", "x")
