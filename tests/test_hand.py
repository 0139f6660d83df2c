"""The drawn hand and tool: its pose shows, its reader reads, its folder is what `from_csv` takes."""

import pytest
import torch
from torch.testing import assert_close

from facelab import hand
from facelab.own import from_csv


def test_poses_fill_their_ranges_independently():
    turned = hand.poses(4000, seed=1)
    for column, (low, high) in zip(turned.T, (hand.HAND, hand.TOOL), strict=True):
        assert low <= column.min() < low + 1 and high - 1 < column.max() <= high
    assert abs(torch.corrcoef(turned.T)[0, 1]) < 0.06
    assert torch.equal(hand.poses(4000, 1), turned) and not torch.equal(hand.poses(4000, 2), turned)


def test_a_drawing_is_a_function_of_pose_and_seed():
    one = hand.draw(20.0, -40.0, seed=3)
    assert one.shape == (1, 32, 32) and one.dtype == torch.uint8 and torch.equal(one, hand.draw(20.0, -40.0, seed=3))
    assert not torch.equal(one, hand.draw(20.0, -40.0, seed=4)) and not torch.equal(one, hand.draw(25.0, -40.0, seed=3))
    assert torch.equal(hand.draw_many(torch.tensor([[1.0, 2.0], [20.0, -40.0]]), first_seed=2)[1], one)
    for pose, says in (((61, 0), "hand is turned by -60 to 60 degrees, got 61"), ((0, -81), "tool is turned by -80")):
        with pytest.raises(ValueError, match=says):
            hand.draw(*pose)


def test_clockwise_is_to_the_right():
    # What leans to the right has its upper half further right than its lower half.
    def lean(pose):
        light = sum(hand.draw(*pose, seed).float() for seed in range(8))[0]
        light = light - light.min()
        middle = [(half.sum(0) * torch.arange(32)).sum() / half.sum() for half in (light[:14], light[18:])]
        return (middle[0] - middle[1]).item()

    assert lean((40, 0)) > 2 > -2 > lean((-40, 0))
    assert lean((0, 70)) > lean((0, -70)) + 0.5


def test_hand_and_tool_turn_by_themselves():
    still, tool, both = (hand.draw(*pose, seed=5).float() for pose in ((0, 0), (0, 60), (60, 60)))
    assert (still - tool)[0, 22:].abs().max() == 0  # the arm, below, does not move with the tool
    assert (tool - both)[0, 22:].abs().max() > 50


def test_the_reader_reads_what_it_never_saw_within_a_few_degrees():
    turned = hand.poses(1500, seed=1)
    drawings = hand.draw_many(turned, first_seed=1000)
    fresh = hand.poses(60, seed=2)
    seen = hand.draw_many(fresh, first_seed=10_000).float() / 127.5 - 1
    off = (hand.read(seen, drawings, turned) - fresh).abs().mean(0)
    assert off[0] < 2.5 and off[1] < 6
    # Brightness and contrast do not count.
    assert_close(hand.read(seen * 0.5 + 0.2, drawings, turned), hand.read(seen, drawings, turned), atol=1e-2, rtol=0)
    with pytest.raises(ValueError, match="at least 12 drawings and as many poses, got 1500 and 3"):
        hand.read(seen, drawings, turned[:3])


def test_what_is_written_comes_back_through_the_table(tmp_path):
    turned = hand.poses(12, seed=3)
    pictures, columns = from_csv(hand.write(turned, tmp_path, first_seed=7), tmp_path, grey=True)
    assert list(columns.ranges) == ["hand", "tool"] and pictures.shape == (1, 32, 32)
    assert torch.equal(pictures.images, hand.draw_many(turned, first_seed=7))
    assert_close(pictures[:][1], columns.encode_many(turned.double().mul(100).round() / 100), atol=1e-5, rtol=0)


def test_what_cannot_be_drawn_or_read_is_refused_in_one_sentence():
    for turned in (torch.zeros(0, 2), torch.zeros(2, 3), torch.zeros(2)):
        with pytest.raises(ValueError, match=r"poses must be \(N, 2\), one at least"):
            hand.draw_many(turned)
    turned = hand.poses(12, seed=1)
    drawings = hand.draw_many(turned)
    for pictures in (drawings, torch.zeros(2, 1, 28, 28), torch.zeros(1, 32, 32)):
        with pytest.raises(ValueError, match=r"pictures must be \(N, 1, 32, 32\) in \[-1, 1\], got"):
            hand.read(pictures, drawings, turned)
