"""The synthetic hand and tool: the pose is visible, `predict_poses` finds it, the folder is what `from_csv` reads."""

import hashlib

import pytest
import torch
from torch.testing import assert_close

from facelab.data import synthetic_hands as hands
from facelab.data.csv_dataset import from_csv


def test_poses_fill_their_ranges_independently():
    degrees = hands.poses(4000, seed=1)
    for column, (low, high) in zip(degrees.T, (hands.HAND, hands.TOOL), strict=True):
        assert low <= column.min() < low + 1 and high - 1 < column.max() <= high
    assert abs(torch.corrcoef(degrees.T)[0, 1]) < 0.06
    assert torch.equal(hands.poses(4000, 1), degrees) and not torch.equal(hands.poses(4000, 2), degrees)


def test_an_image_is_a_function_of_pose_and_seed():
    image = hands.render(20.0, -40.0, seed=3)
    assert image.shape == (1, 48, 48) and image.dtype == torch.uint8
    assert torch.equal(image, hands.render_many(torch.tensor([[1.0, 2.0], [20.0, -40.0]]), first_seed=2)[1])
    assert not torch.equal(image, hands.render(20.0, -40.0, seed=4))
    assert not torch.equal(image, hands.render(25.0, -40.0, seed=3))
    for pose, says in (((61, 0), "hand must be from -60 to 60 degrees, got 61"), ((0, -81), "tool must be from -80")):
        with pytest.raises(ValueError, match=says):
            hands.render(*pose)


def test_images_are_the_same_in_every_release_and_on_every_machine():
    images = hands.render_many(hands.poses(50, seed=3), 7)
    assert hashlib.sha256(images.numpy()).hexdigest()[:16] == "8663cab55b4b2a6b"


def test_poses_of_new_images_are_predicted_within_a_few_degrees():
    degrees = hands.poses(1500, seed=1)
    references = hands.render_many(degrees, first_seed=1000)
    new = hands.poses(60, seed=2)
    images = hands.render_many(new, first_seed=10_000).float() / 127.5 - 1
    error = (hands.predict_poses(images, references, degrees) - new).abs().mean(0)
    assert error[0] < 2.5 and error[1] < 6
    darker = hands.predict_poses(images * 0.5 + 0.2, references, degrees)
    assert_close(darker, hands.predict_poses(images, references, degrees), atol=1e-2, rtol=0)
    with pytest.raises(ValueError, match="at least 12 references with a pose each"):
        hands.predict_poses(images, references, degrees[:3])
    with pytest.raises(ValueError, match=r"images must be \(N, 1, 48, 48\) in \[-1, 1\], got"):
        hands.predict_poses(references[:2], references, degrees)


def test_the_written_folder_is_read_by_from_csv(tmp_path):
    degrees = hands.poses(12, seed=3)
    dataset, columns = from_csv(hands.write(degrees, tmp_path, first_seed=7), tmp_path, side=48, grey=True)
    assert list(columns.ranges) == ["hand", "tool"] and dataset.shape == (1, 48, 48)
    assert torch.equal(dataset.images, hands.render_many(degrees, first_seed=7))
    assert_close(dataset[:][1], columns.encode_many(degrees.double().mul(100).round() / 100), atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match=r"poses must be \(N, 2\), N > 0"):
        hands.render_many(torch.zeros(2, 3))


def test_clockwise_is_to_the_right():
    def lean(pose):
        """How much further right the upper half is than the lower half."""
        light = sum(hands.render(*pose, seed).float() for seed in range(8))[0]
        light = light - light.min()
        middle = [(half.sum(0) * torch.arange(48)).sum() / half.sum() for half in (light[:21], light[27:])]
        return (middle[0] - middle[1]).item()

    assert lean((40, 0)) > 2 > -2 > lean((-40, 0))
    assert lean((0, 70)) > lean((0, -70)) + 0.5


def test_hand_and_tool_rotate_separately():
    still, tool, both = (hands.render(*pose, seed=5).float() for pose in ((0, 0), (0, 60), (60, 60)))
    assert (still - tool)[0, 33:].abs().max() == 0, "the arm, below, does not move with the tool"
    assert (tool - both)[0, 33:].abs().max() > 50
