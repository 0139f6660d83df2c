"""What a training step sees: forgotten answers, all ticks, every picture once a pass, and all of it from the seed."""

import dataclasses
import math

import oracle
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracle import is_share, pictures, randn
from torch.testing import assert_close

from facelab import train as module
from facelab.attributes import Attributes
from facelab.data import Pictures
from facelab.plan import Recipe
from facelab.train import Batch, forget_some, forget_whole


def luck(seed=0):
    return torch.Generator().manual_seed(seed)


def numbered(count, shape=(1, 1, 2)) -> Pictures:
    """Pictures that can be told apart: the left pixel counts, the right one is white."""
    images = torch.full((count, *shape), 255, dtype=torch.uint8)
    images[..., 0] = torch.arange(count)[:, None, None]
    return Pictures(images, torch.ones(count, 1), Attributes(["Hat"]), "numbered")


def numbers(x_0):
    return ((x_0[..., 0] + 1) * 127.5).round().long().flatten().tolist()


def test_some_answers_are_forgotten():
    oracle.some_answers_are_forgotten(module)


def test_of_two_answers_either_may_stay():
    count = 20_000
    left = forget_some(torch.ones(count, 2), luck())
    both, first, second = (left.sum(1) == 2), *((left == torch.tensor(row)).all(1) for row in ([1, 0], [0, 1]))
    for got, share in ((both, 0.3), (first, 0.3), (second, 0.3)):
        is_share(got.double().mean(), share, count)


def test_every_answer_is_kept_equally_often():
    count = 20_000
    said = forget_some(torch.ones(count, 5), luck()).mean(0)
    # 0.3 for all, and of the 0.6 between on average half stay: 0.6 each.
    for share in said:
        is_share(share, 0.6, count)


@given(st.integers(1, 30), st.integers(1, 12), st.integers(0, 2**31))
def test_what_stays_is_what_was_said(rows, names, seed):
    cond = randn(rows, names, seed=seed, dtype=torch.float32).round().clamp(-1, 1)
    before, left = cond.clone(), forget_some(cond, luck(seed))
    assert left.shape == cond.shape and left.dtype == cond.dtype
    assert ((left == cond) | (left == 0)).all()
    assert torch.equal(cond, before)
    assert torch.equal(left, forget_some(cond, luck(seed)))


def test_nothing_said_stays_nothing_said():
    assert not forget_some(torch.zeros(100, 4), luck()).any()


def test_every_tick_is_trained():
    oracle.every_tick_is_trained(module)


def test_all_of_a_thousand_ticks_are_drawn():
    batch = Batch.draw(pictures(500, (1, 1, 1)), Recipe(1, 20_000), 0)
    assert set(batch.t.tolist()) == set(range(1000))


def test_logit_normal_ticks_come_more_from_the_middle():
    count = 20_000
    u = Batch.draw(pictures(500, (1, 1, 1)), Recipe(1, count, ticks="logit-normal"), 0).t / 1000
    # By definition the logit is standard normal, so a share Phi(1) - Phi(-1) lies between its +1 and -1.
    middle = (u > 1 / (1 + math.e)) & (u < 1 / (1 + math.exp(-1)))
    assert abs(middle.double().mean() - math.erf(0.5**0.5)) < 4.5 * (0.68 * 0.32 / count) ** 0.5 + 0.001
    assert abs(u.median() - 0.5) < 0.02


def test_a_pass_sees_every_picture_once_and_batches_run_across_its_end():
    recipe = Recipe(100, 4)
    seen = [n for step in range(5) for n in numbers(Batch.draw(numbered(10), recipe, step).x_0)]
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
    assert seen[:10] != seen[10:] and seen[:10] != list(range(10))


def test_a_batch_may_be_larger_than_the_data():
    seen = numbers(Batch.draw(numbered(3), Recipe(100, 8), 0).x_0)
    assert sorted(seen[:3]) == sorted(seen[3:6]) == [0, 1, 2] and len(set(seen[6:])) == 2


def test_pictures_keep_their_answers():
    data = pictures(50, (1, 2, 2))
    batch = Batch.draw(data, Recipe(1, 50, forget="never"), 0)
    for x_0, cond in zip(batch.x_0, batch.cond, strict=True):
        i = (data[:][0] == x_0).all((1, 2, 3)).nonzero().item()
        assert_close(cond, data[i][1])


def people(count):
    """Of the answers two are rare, the one a yes and the other a no, one is even, and one is always yes."""
    rates = torch.tensor([0.02, 0.9, 0.5, 1.0])
    conds = torch.where(torch.rand(count, 4, generator=luck()) < rates, 1, -1).to(torch.int8)
    return Pictures(
        torch.zeros(count, 1, 1, 1, dtype=torch.uint8), conds, Attributes(["Hat", "Beardless", "Smile", "Face"]), ""
    )


def test_evenly_rare_answers_come_as_often_as_any_and_are_told_whole():
    faces, plain = people(5_000), Recipe(1, 12_000)
    batch = Batch.draw(faces, dataclasses.replace(plain, evenly=0.5), 0)
    even, rest = batch.cond[:6_000], batch.cond[6_000:]
    assert (even != 0).all(), "told whole"
    # A third each is chosen for a hat, for a beard, for what is rarer of smiles; what was not chosen comes at its rate.
    wanted = {0: 1 / 3 + 2 / 3 * 0.02, 1: 2 / 3 * 0.9, 2: 1 / 3 + 2 / 3 * 0.5 if faces.rates[2] <= 0.5 else 2 / 3 * 0.5}
    for column, share in wanted.items():
        assert (even[:, column] > 0).float().mean() == pytest.approx(share, abs=0.03)
    assert len(even[even[:, 0] > 0]) > 1_500 and len(faces.rarer) == 3, "who has no other answer is not rare"
    # The others are as they were, forgotten as they were.
    assert torch.equal(rest, Batch.draw(faces, plain, 0).cond[6_000:]) and (rest == 0).any()


def test_an_even_step_is_a_function_of_seed_and_number_and_its_rows_are_spread():
    faces = numbered(100, (1, 1, 2))
    faces = Pictures(faces.images, torch.where(torch.arange(100) < 10, 1, -1)[:, None], faces.attributes, "")
    draw = lambda seed, step: numbers(Batch.draw(faces, Recipe(1, 200, evenly=1, seed=seed), step).x_0)  # noqa: E731
    assert draw(0, 0) == draw(0, 0) and draw(0, 0) != draw(0, 1) and draw(0, 0) != draw(1, 0)
    assert set(draw(0, 0)) == set(range(10))
    assert [one.tolist() for one in faces.take(range(5, 100)).rarer] == [list(range(5))]


def test_evenly_is_refused_where_nothing_is_rare():
    with pytest.raises(ValueError, match="no attribute of these pictures has both answers"):
        Batch.draw(numbered(10), Recipe(1, 4, evenly=0.5), 0)
    for share in (-0.1, 1.5, math.nan):
        with pytest.raises(ValueError, match="evenly must be a share from 0 to 1"):
            Recipe(1, evenly=share)


def test_a_step_is_a_function_of_seed_and_number():
    data, recipe, world = pictures(), Recipe(64, 8, flip=True), torch.get_rng_state()
    parts = lambda *at: vars(Batch.draw(data, *at))  # noqa: E731
    one, again, later, other = parts(recipe, 3), parts(recipe, 3), parts(recipe, 4), parts(Recipe(64, 8, seed=1), 3)
    for name in one:
        assert torch.equal(one[name], again[name])
        assert not torch.equal(one[name], later[name]) and not torch.equal(one[name], other[name]), name
    assert torch.equal(world, torch.get_rng_state())


def test_neighbouring_seeds_do_not_share_their_noise():
    seen = [Batch.draw(pictures(), Recipe(64, 2, seed=seed), step).eps.sum() for seed in range(4) for step in range(50)]
    assert len(set(map(float, seen))) == 200


def test_noise_is_standard_normal():
    eps = torch.stack([Batch.draw(pictures(), Recipe(64, 8), step).eps for step in range(40)])
    assert abs(eps.mean()) < 4.5 / eps.numel() ** 0.5
    assert abs(eps.var() - 1) < 4.5 * (2 / eps.numel()) ** 0.5


@pytest.mark.parametrize("flip, share", [(True, 0.5), (False, 0)])
def test_half_of_the_pictures_are_mirrored(flip, share):
    white = Batch.draw(numbered(100), Recipe(1, 4_000, flip=flip), 0).x_0[..., 1] == 1
    assert abs(white.double().mean() - (1 - share)) <= 4.5 * 0.5 / 4_000**0.5 * flip


@pytest.mark.parametrize("forget", ["some", "whole", "never"])
def test_answers_are_forgotten_only_where_asked(forget):
    kept = Batch.draw(pictures(), Recipe(1, 200, forget=forget), 0).cond != 0
    assert kept.all() == (forget == "never")


@pytest.mark.parametrize("world", [1, 2, 3])
def test_processes_share_a_batch_without_rest(world):
    batch = Batch.draw(pictures(), Recipe(1, 8), 0)
    shares = [batch.share(rank, world, "cpu") for rank in range(world)]
    for name, whole in vars(batch).items():
        parts = torch.cat([getattr(share, name) for share in shares])
        order = torch.cat([torch.arange(8)[rank::world] for rank in range(world)])
        assert torch.equal(parts, whole[order])


def test_a_whole_condition_is_forgotten_one_time_in_ten():
    count = 20_000
    left = forget_whole(torch.ones(count, 5), luck()).sum(1)
    assert set(left.tolist()) == {0.0, 5.0}
    is_share((left == 0).double().mean(), 0.1, count)


def dot(at=4, side=9, count=400) -> Pictures:
    images = torch.zeros(count, 1, side, side, dtype=torch.uint8)
    images[:, :, at, at] = 255
    return Pictures(images, torch.ones(count, 1), Attributes(["Hat"]), "a dot each")


def test_shifted_pictures_lie_up_to_so_many_pixels_off_either_way():
    where = (Batch.draw(dot(), Recipe(400, 400, shift=2, forget="never"), 0).x_0 > 0).nonzero()[:, 2:] - 4
    assert len(where) == 400
    for axis in (0, 1):
        assert set(where[:, axis].tolist()) == {-2, -1, 0, 1, 2}


def test_a_shift_repeats_the_edge_and_mixes_no_pictures():
    pictures = torch.arange(2 * 3 * 16.0).reshape(2, 3, 4, 4)
    down, left = module._moved(pictures, torch.tensor([[1, 0], [0, -2]]))
    assert_close(down, pictures[0][:, [0, 0, 1, 2]])
    assert_close(left, pictures[1][:, :, [2, 3, 3, 3]])


def test_without_a_shift_nothing_moves_and_luck_is_the_same():
    plain, shifted = (Batch.draw(dot(), Recipe(400, 8, shift=by), 0) for by in (0, 3))
    assert torch.equal(plain.eps, shifted.eps) and torch.equal(plain.t, shifted.t)
    assert (plain.x_0[:, 0, 4, 4] == 1).all()
