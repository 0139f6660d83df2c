"""What is undone comes back, what is changed is changed by as much as was wished, and the ways between go evenly."""

import math
import types

import pytest
import torch
from oracle import NAMES, SHAPE, Fake, ideal_set, randn, refused, tiny
from torch.testing import assert_close

from facelab import sample as solvers
from facelab.attributes import Attributes
from facelab.edit import crossed, edit, invert, read_request, sdedit, slerp, smoothness, walk
from facelab.ideal import GaussianDenoiser, IdealDenoiser
from facelab.sample import DDIM, DDPM, noise, sample, trajectory
from facelab.schedule import cosine, linear, straight

SCHEDULES = [straight(), cosine(), linear()]
NO_COND = torch.zeros(1)
X_0 = randn(4, 1, 3, 3).clamp(-1, 1)


def ddim(made):
    return DDIM(made, clip=False)


def second_order(made) -> list:
    return [solvers.AdamsBashforth(made, clip=False), solvers.Heun(made, clip=False)]


def gaussian(made, std=0.4):
    """A world whose mean is a tenth of the first answer, one twentieth of the second."""
    return GaussianDenoiser(
        lambda c: (c[:, 0] / 10 + (c[:, 1] / 20 if c.shape[1] > 1 else 0))[:, None, None, None], std, made
    )


def exact_noise(made, x_0, mean, std):
    """Where the exact ODE leads from x_0: the place within the Gaussian stays, in standard deviations."""
    signal, sigma = made(len(made) - 1)
    return signal * mean + math.hypot(signal * std, sigma) * (x_0 - mean) / std


def second(made):
    """Whatever is not DDIM is undone by the mean of both ends; only its ticks are asked for."""
    return types.SimpleNamespace(schedule=made, start=made.ticks)


# inversion


@pytest.mark.parametrize("made", SCHEDULES, ids=repr)
@pytest.mark.parametrize("steps", [4, 8])
def test_ddim_is_undone_exactly(made, steps):
    """Multiplied out: in a Gaussian world a step is a x + b, so its inverse is (x - b) / a."""
    world, want = gaussian(made), X_0.clone()
    ticks = made.ticks(steps)
    for t, s in reversed(list(zip(ticks, [*ticks[1:], -1], strict=True))):
        ends = [
            ddim(made).step(x, world(x, t, NO_COND[None]), t, s) for x in (torch.zeros_like(X_0), torch.ones_like(X_0))
        ]
        want = (want - ends[0]) / (ends[1] - ends[0])
    got = invert(world, X_0, NO_COND, ddim(made), steps, rounds=120)
    assert_close(got, want, rtol=0, atol=1e-9)
    assert_close(sample(world, got, NO_COND, ddim(made), steps), X_0, rtol=0, atol=1e-9)


@pytest.mark.parametrize("made", [straight(), cosine()], ids=repr)
def test_many_steps_reach_the_exact_noise(made):
    world, want = gaussian(made), exact_noise(made, X_0, 0.1, 0.4)
    errors = {}
    for name, solver, rounds in (("naive", ddim(made), 0), ("ddim", ddim(made), 3), ("second", second(made), 3)):
        errors[name] = [
            (invert(world, X_0, torch.ones(1), solver, steps, rounds) - want).abs().max().item()
            for steps in (50, 100, 200)
        ]
    assert errors["ddim"][-1] < 0.03 and errors["naive"][-1] < 0.03 and errors["second"][-1] < 3e-3, errors
    for name in ("naive", "ddim"):
        assert 1.7 < errors[name][0] / errors[name][1] < 2.6 and 1.7 < errors[name][1] / errors[name][2] < 2.6, errors
    assert errors["second"][0] / errors["second"][2] > 6, errors


@pytest.mark.parametrize("made", SCHEDULES, ids=repr)
def test_there_and_back_is_the_picture(made):
    """The usual inversion is far off at few steps, one round is nearer, and each further one nearer still."""
    world = gaussian(made)
    off = []
    for rounds in (0, 1, 2, 4):
        back = sample(world, invert(world, X_0, NO_COND, ddim(made), 10, rounds), NO_COND, ddim(made), 10)
        off.append((back - X_0).abs().max().item())
    assert off == sorted(off, reverse=True) and off[0] > 0.02 and off[3] < off[0] / 8, off


@pytest.mark.parametrize("made", SCHEDULES, ids=repr)
def test_second_order_there_and_back(made):
    world = gaussian(made)
    usual = sample(world, invert(world, X_0, NO_COND, ddim(made), 50, 0), NO_COND, ddim(made), 50)
    for solver in second_order(made):
        # Of an even number of calls Heun would make the first step DDIM's.
        back = sample(world, invert(world, X_0, NO_COND, solver, 51, 3), NO_COND, solver, 51)
        assert (back - X_0).abs().max() < (usual - X_0).abs().max() / 4, type(solver).__name__


def test_the_calls_are_the_ticks_from_clean_to_noisy():
    made = straight()
    for rounds, times in ((0, 1), (1, 1), (3, 3)):
        fake = Fake()
        invert(fake, X_0, torch.zeros(4, 1), ddim(made), 5, rounds)
        ticks = [t for _, t, _ in fake.calls]
        # At the clean picture nobody is asked; the usual way asks at the clean end of each step.
        assert ticks == (
            [199, 399, 599, 799] if not rounds else [t for t in (199, 399, 599, 799, 999) for _ in range(times)]
        )
    x_t, t, _ = fake.calls[0]
    assert_close(x_t, made(199)[0] * X_0, rtol=0, atol=1e-12)  # less picture, and no noise yet


def test_pictures_are_inverted_as_what_they_are():
    made, conds = straight(), torch.tensor([[1.0], [-1.0], [0.0], [0.5]])
    world = gaussian(made)
    want = torch.cat([exact_noise(made, X_0[i : i + 1], conds[i] / 10, 0.4) for i in range(4)])
    assert_close(invert(world, X_0, conds, second(made), 200, 3), want, rtol=0, atol=3e-3)
    one = invert(world, X_0, conds[0], ddim(made), 5)
    assert_close(one, invert(world, X_0, conds[:1].expand(4, -1), ddim(made), 5))


def test_nothing_is_clipped_and_the_type_stays():
    made = cosine()
    bright = X_0 * 3
    world = gaussian(made)
    back = sample(world, invert(world, bright, NO_COND, DDIM(made), 10, 50), NO_COND, ddim(made), 10)
    assert_close(back, bright, rtol=0, atol=1e-6)
    for kind in (torch.float16, torch.float32, torch.float64):
        assert invert(world, X_0.to(kind), NO_COND, ddim(made), 3).dtype == kind
    net, x_0 = tiny(), torch.zeros(2, *SHAPE)
    assert not invert(net, x_0, torch.zeros(3), ddim(net.schedule), 3).requires_grad


def test_an_ideal_set_gives_its_own_picture_back():
    made = straight()
    denoise = ideal_set(made)
    back = sample(denoise, invert(denoise, denoise.x_0[:3], NO_COND, ddim(made), 50), NO_COND, ddim(made), 50)
    assert_close(back, denoise.x_0[:3], rtol=0, atol=1e-3)


@pytest.mark.parametrize("rounds", [-1, 1.5, True, None])
def test_rounds_that_are_none(rounds):
    with refused("rounds must be a whole number"):
        invert(Fake(), X_0, NO_COND, ddim(straight()), 5, rounds)


def test_what_draws_fresh_noise_cannot_be_undone():
    for solver in (DDPM(cosine()), DDIM(cosine(), eta=0.5)):
        with refused("fresh noise, which cannot be undone"):
            invert(Fake(), X_0, NO_COND, solver, 5)
    with refused("steps must be a whole number"):
        invert(Fake(), X_0, NO_COND, ddim(straight()), 0)


# editing


@pytest.mark.parametrize("made", [straight(), cosine()], ids=repr)
def test_an_edit_moves_by_what_was_wished(made):
    """Where answers move the mean alone, the edit moves the picture by exactly that, and `scale` multiplies it."""
    world, was, wish = gaussian(made), torch.tensor([1.0, 1.0]), torch.tensor([-1.0, 1.0])
    for scale in (0.0, 1.0, 2.5):
        got = edit(world, X_0 / 2, was, wish, ddim(made), 10, scale, rounds=60)
        assert_close(got - X_0 / 2, torch.full_like(X_0, -0.2 * scale * reach(made)), rtol=0, atol=1e-6)
    assert_close(edit(world, X_0 / 2, was, was, ddim(made), 10, 3.0, rounds=60), X_0 / 2, rtol=0, atol=1e-6)


def reach(made):
    """How far a picture follows a mean moved by one in 10 DDIM steps; all the way where the schedule ends in pure noise."""
    world = GaussianDenoiser(lambda c: c[:, 0].reshape(-1, 1, 1, 1), 0.4, made)
    ends = [sample(world, torch.zeros(1, 1, 1, 1).double(), torch.tensor([c]), ddim(made), 10) for c in (0.0, 1.0)]
    return (ends[1] - ends[0]).item()


def test_an_edit_keeps_each_pictures_own_answers():
    made = straight()
    was, wish = torch.tensor([[1.0, 0], [-1.0, 0]]), torch.tensor([[1.0, 1.0], [-1.0, 1.0]])
    got = edit(gaussian(made), X_0[:2] / 2, was, wish, ddim(made), 10, rounds=60) - X_0[:2] / 2
    assert got.std() < 1e-6 and 0.03 < got.mean() < 0.07


def left_half(made):
    """A world of 8 x 8 in which the answer is painted on the left three columns, faintly on the right ones too."""
    shape = torch.ones(1, 8, 8).double() * 0.02
    shape[..., :3] = 0.4
    return GaussianDenoiser(lambda c: c[:, 0].reshape(-1, 1, 1, 1) * shape, 0.3, made)


@pytest.mark.parametrize("made", [straight(), cosine()], ids=repr)
def test_what_hardly_differs_goes_the_way_it_came(made):
    x_0, was, wish = randn(3, 1, 8, 8) * 0.3, torch.tensor([-1.0]), torch.tensor([1.0])
    for solver in (ddim(made), *second_order(made)):
        loose, held = (edit(left_half(made), x_0, was, wish, solver, 11, 2.0, 20, keep) - x_0 for keep in (0.0, 0.3))
        assert loose[..., 6:].mean() > 0.04
        assert (held[..., 6:] == 0).all(), "what may not change is the picture itself"
        assert_close(held[..., :3], loose[..., :3])
        assert held[..., :3].mean() > 0.8
    assert torch.equal(edit(left_half(made), x_0, was, was, ddim(made), 11, keep=0.3), x_0), "where nothing differs"
    # Each picture by its own largest difference, however much another one changes.
    wish = torch.tensor([[1.0], [-0.8], [0.0]])
    many = edit(left_half(made), x_0, was, wish, ddim(made), 11, keep=0.3)
    alone = [edit(left_half(made), x_0[i : i + 1], was, wish[i], ddim(made), 11, keep=0.3) for i in range(3)]
    assert_close(many, torch.cat(alone))


def test_a_lone_pixel_that_differs_is_no_change():
    made, shape = straight(), torch.zeros(1, 8, 8).double()
    shape[..., :3] = shape[..., 5, 6] = 0.4
    world = GaussianDenoiser(lambda c: c[:, 0].reshape(-1, 1, 1, 1) * shape, 0.3, made)
    x_0, (was, wish) = randn(1, 1, 8, 8) * 0.3, torch.tensor([[-1.0], [1.0]])
    loose, held = (edit(world, x_0, was, wish, ddim(made), 5, keep=keep) - x_0 for keep in (0.0, 0.3))
    assert loose[0, 0, 5, 6] > 0.5 and (held[..., 6:] == 0).all() and held[..., :3].mean() > 0.5


def test_what_is_held_is_as_noisy_as_its_tick_all_the_way():
    """A network sees the picture as a whole: clean pixels among noisy ones would tell it what no training did."""
    made, x_0, calls = straight(), randn(3, 1, 8, 8) * 0.3, []
    world = left_half(made)

    def listening(x_t, t, cond):
        calls.append((t, x_t[:3]))
        return world(x_t, t, cond)

    edit(listening, x_0, torch.tensor([-1.0]), torch.tensor([1.0]), ddim(made), 5, 2.0, 20, 0.3)
    there, back = dict(calls[:-11]), dict(calls[-4:])
    assert list(back) == [799, 599, 399, 199]
    for t, x_t in back.items():
        assert_close(x_t[..., 6:], there[t][..., 6:], rtol=0, atol=1e-6)
        assert (x_t[..., :3] - there[t][..., :3]).abs().min() > 0.01


def test_keeping_asks_six_times_more_and_no_more():
    calls = []
    for keep in (0.0, 0.5):
        fake = Fake()
        edit(fake, X_0, torch.ones(1), -torch.ones(1), ddim(straight()), 10, keep=keep)
        calls.append(fake.calls)
    assert [len(made) for made in calls] == [20, 26]
    assert sorted(t for _, t, _ in calls[1][10:16]) == [399, 399, 599, 599, 799, 799]


@pytest.mark.parametrize("keep", [-0.1, 1, 1.5, math.nan, True, None])
def test_shares_to_keep_that_are_none(keep):
    with refused("keep must be from 0"):
        edit(Fake(), X_0, NO_COND, NO_COND, ddim(straight()), 5, keep=keep)


def test_sdedit_keeps_what_is_not_drowned():
    made = straight()
    flat = IdealDenoiser(torch.stack([torch.full(SHAPE, v) for v in (-0.8, 0.8)]).double(), torch.ones(2, 1), made)
    near = torch.full((6, *SHAPE), 0.7).double()
    luck = torch.Generator().manual_seed(0)
    kept = sdedit(flat, near, NO_COND, 0.3, ddim(made), 20, luck)
    assert_close(kept, torch.full_like(near, 0.8), rtol=0, atol=1e-3)
    # At strength 1 the straight schedule leaves nothing of the picture: what it was makes no difference.
    one, other = (
        sdedit(flat, x, NO_COND, 1.0, ddim(made), 20, torch.Generator().manual_seed(1)) for x in (near, -near)
    )
    assert_close(one, other)
    again = [sdedit(Fake(), near, NO_COND, 0.3, ddim(made), 20, luck) for _ in range(2)]
    assert not torch.equal(*again), "another noise each time"


def test_sdedit_at_full_strength_is_sampling():
    made, x_0 = straight(), X_0 * 0
    drawn = sdedit(gaussian(made), x_0, torch.ones(1), 1.0, DDIM(made), 10, torch.Generator().manual_seed(3))
    x_T = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(3), dtype=x_0.dtype)
    assert_close(drawn, sample(gaussian(made), x_T, torch.ones(1), DDIM(made), 10))


@pytest.mark.parametrize("strength", [0.1, 0.5, 0.55, 1.0])
def test_sdedit_calls_its_share_of_the_steps(strength):
    made, x_0 = linear(), randn(4, 1, 16, 16).clamp(-1, 1)
    for solver in (ddim(made), *second_order(made)):
        fake = Fake()
        got = sdedit(fake, x_0, NO_COND, strength, solver, 20, torch.Generator().manual_seed(0))
        ticks = [t for _, t, _ in fake.calls]
        assert max(ticks) + 1 <= strength * 1000 < max(ticks) + 1 + 120 and ticks == sorted(ticks, reverse=True)
        if isinstance(solver, DDIM):
            assert len(ticks) == int(strength * 20)
        assert ticks[:1] != ticks[1:2] and got.isfinite().all()
        drowned = fake.calls[0][0] - made(ticks[0])[0] * x_0
        assert drowned.std() == pytest.approx(made(ticks[0])[1], rel=0.1), "its tick's own share of noise"


@pytest.mark.parametrize("strength", [0, -0.1, 0.04, 1.1, math.nan, True, "half"])
def test_strengths_that_are_none(strength):
    with refused(r"strength must be from 0.05 \(the cleanest of 20 steps\) to 1"):
        sdedit(Fake(), X_0, NO_COND, strength, ddim(straight()), 20)


class Seen:
    def __init__(self, logits, exclusive=False):
        self.logits, self.attributes = logits, Attributes(NAMES, exclusive=exclusive)

    def __call__(self, pictures):
        return self.logits.expand(len(pictures), -1)


def test_what_a_judge_sees_becomes_a_request():
    judge = Seen(torch.tensor([100.0, 0.0, -math.log(3)]))
    assert_close(read_request(judge, torch.zeros(*SHAPE)), torch.tensor([1.0, 0.0, -0.5]))
    assert read_request(judge, torch.zeros(2, *SHAPE)).shape == (2, 3)
    one_of = Seen(torch.tensor([math.log(6), math.log(3), 0.0]), exclusive=True)
    assert_close(read_request(one_of, torch.zeros(*SHAPE)), torch.tensor([0.6, 0.3, 0.1]))


# interpolation


def test_a_walk_has_both_ends_and_even_steps():
    a, b = torch.tensor([-1.0, 0.0, 1.0]), torch.tensor([1.0, 0.0, 0.5])
    way = walk(a, b, 5)
    assert torch.equal(way[0], a) and torch.equal(way[-1], b)
    assert_close(way.diff(dim=0), (b - a)[None].expand(4, -1) / 4)


def test_noise_keeps_its_length_and_turns_evenly():
    a, b = noise(2, (3, 16, 16), seed=1)
    way = slerp(a, b, 9)
    assert_close(way[0], a)
    assert_close(way[-1], b)
    lengths = way.flatten(1).norm(dim=1)
    assert_close(lengths, torch.lerp(a.norm(), b.norm(), torch.linspace(0, 1, 9)))
    assert (torch.lerp(a, b, 0.5).norm() / lengths[4]) < 0.8, "half and half would be too quiet"
    unit = way.flatten(1) / lengths[:, None]
    turns = (unit[1:] * unit[:-1]).sum(1).clamp(-1, 1).acos()
    assert_close(turns, turns.mean().expand(8), rtol=0, atol=1e-3)
    assert turns.sum() == pytest.approx(math.acos(float((a * b).sum() / a.norm() / b.norm())), abs=1e-3)


def test_equal_noise_stays_and_nearly_equal_or_opposite_is_defined():
    a = noise(1, (1, 8, 8))[0]
    assert_close(slerp(a, a, 4), a.expand(4, -1, -1, -1))
    assert_close(slerp(a, 2 * a, 3), torch.stack([a, 1.5 * a, 2 * a]))
    other = noise(1, (1, 8, 8), seed=1)[0]
    for b in (a + 1e-4 * other, -a + 1e-3 * other):
        way = slerp(a, b, 5)
        assert way.isfinite().all()
        assert_close(way.flatten(1).norm(dim=1), a.norm().expand(5), rtol=1e-3, atol=0)
        assert_close(way[-1], b)
    with refused("opposite"):
        slerp(a, -2 * a, 4)
    with refused("length zero"):
        slerp(a, 0 * a, 4)


@pytest.mark.parametrize("way", ["invert", "edit", "sdedit"])
@pytest.mark.parametrize(
    "given, conds, says",
    [
        (((X_0 + 1) * 127.5).byte(), 1, "got uint8: divide bytes by 127.5"),
        ((X_0 + 1) * 127.5, 1, "values up to .*: divide by 127.5"),
        (X_0[0], 1, r"got \(1, 3, 3\): one picture goes as picture\[None\]"),
        (X_0[0, 0], 1, "given pictures are"),
        (X_0, 3, "4 pictures need 4 conditions"),
    ],
    ids=["bytes", "bytes as floats", "one picture", "one channel", "conditions"],
)
def test_what_cannot_be_edited_gets_one_sentence(way, given, conds, says):
    cond, solver = torch.zeros(conds, 1), ddim(straight())
    with refused(says):
        if way == "invert":
            invert(Fake(), given, cond, solver, 5)
        elif way == "edit":
            edit(Fake(), given, torch.zeros(1), cond, solver, 5)
        else:
            sdedit(Fake(), given, cond, 0.5, solver, 5)


def test_a_walk_takes_whole_numbers_and_a_turn_no_batches():
    assert_close(walk(torch.tensor([0, 1]), torch.tensor([1, -1]), 3), torch.tensor([[0, 1], [0.5, 0], [1, -1]]))
    with refused("one noise each"):
        slerp(*noise(2, (2, 1, 4, 4)), 3)


@pytest.mark.parametrize("frames", [1, 0, -3, 2.0, True])
def test_a_way_needs_two_frames(frames):
    for way in (walk, slerp):
        with refused("at least 2 frames"):
            way(torch.ones(3), torch.zeros(3), frames)


def test_ends_of_different_shapes_are_refused():
    for way in (walk, slerp):
        with refused("both ends need one shape"):
            way(torch.ones(3), torch.ones(1), 3)


def test_both_at_once_is_a_grid_of_rows_and_columns():
    noises, conds = noise(2, (1, 4, 4)), walk(torch.zeros(3), torch.ones(3), 5)
    x_T, cond = crossed(noises, conds)
    assert x_T.shape == (10, 1, 4, 4) and cond.shape == (10, 3)
    for row in range(2):
        for column in range(5):
            assert torch.equal(x_T[5 * row + column], noises[row])
            assert torch.equal(cond[5 * row + column], conds[column])


# smoothness


def flat(pictures):
    return pictures.flatten(1)


def test_even_steps_are_even_and_a_jump_is_not():
    even = torch.linspace(0, 1, 6)[:, None, None, None] * torch.ones(3, 16, 16) + 0.01 * randn(1, 3, 16, 16).float()
    found = smoothness(even, flat)
    assert found.uneven == pytest.approx(1, abs=1e-4) and found.steps.shape == (5,)
    assert_close(found.steps, torch.full((5,), 0.2 * math.sqrt(768)).double(), rtol=1e-4, atol=0)
    jump = torch.cat([even[:1]] * 3 + [even[-1:]] * 3)
    assert smoothness(jump, flat).uneven == pytest.approx(5)
    assert smoothness(even[:1].expand(4, -1, -1, -1), flat).uneven == 1


def test_what_stays_of_the_first_frame():
    face, other = randn(3, 16, 16).float(), randn(3, 16, 16, seed=5).float()
    found = smoothness(torch.stack([face, 0.5 * face + 0.2, -face, other]), flat)
    assert_close(found.coarse[:3], torch.tensor([1.0, 1.0, -1.0]).double(), rtol=0, atol=1e-5)
    assert abs(found.coarse[3]) < 0.4
    assert found.features[0] == pytest.approx(1) and found.features[2] == pytest.approx(-1)
    fine = torch.stack([face, face + 0.5 * (torch.arange(16) % 2 * 2 - 1)])
    assert smoothness(fine, flat).coarse[1] == pytest.approx(1, abs=1e-4), (
        "what is finer than the patches does not count"
    )


@pytest.mark.parametrize("shape", [(1, 3, 8, 8), (3, 8, 8)])
def test_smoothness_needs_frames(shape):
    with refused("at least 2 frames"):
        smoothness(torch.zeros(shape), flat)


def test_frames_of_a_trajectory_are_no_way_between_faces():
    """The lesson's picture: the way through noise jumps, the way through conditions does not."""
    made = straight()
    world = gaussian(made)
    through_time = torch.cat(list(trajectory(world, randn(1, 1, 8, 8), NO_COND, ddim(made), 8)))
    conds = walk(torch.tensor([-1.0]), torch.tensor([1.0]), 9)
    across = sample(world, randn(1, 1, 8, 8).expand(9, -1, -1, -1), conds, ddim(made), 8)
    assert smoothness(across, flat).uneven < 1.01 < smoothness(through_time, flat).uneven
