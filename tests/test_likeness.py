"""What is measured of edits and walks: by hand, on drawn faces, and with a judge whose reading is known."""

import math

import pytest
import torch
from oracle import randn, refused
from torch.testing import assert_close

from facelab import data, drawn, likeness
from facelab.attributes import DRAWN, Attributes
from facelab.data import Pictures
from facelab.ideal import GaussianDenoiser
from facelab.likeness import (
    Counterfactuals,
    counterfactuals,
    edited,
    judged,
    mean_of,
    probabilities,
    psnr,
    rank_correlation,
    reconstructed,
    rise,
    rms,
)
from facelab.sample import DDIM, AdamsBashforth, noise
from facelab.schedule import straight

NAMES = Attributes(["Hat", "Glasses", "Smile"])


def test_a_mean_and_its_interval():
    found = mean_of(torch.tensor([1.0, 2.0, 3.0, 6.0]))
    error = math.sqrt((4 + 1 + 0 + 9) / 3 / 4)
    assert found.value == 3 and found.count == 4
    assert (found.low, found.high) == pytest.approx((3 - 1.96 * error, 3 + 1.96 * error))
    assert str(found) == f"3.000 [{found.low:.3f}, {found.high:.3f}]"
    with refused("at least 2 values"):
        mean_of(torch.ones(1))


def test_decibels_by_hand():
    a, b = torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 4)
    b[0] += 2 / 255  # one level everywhere
    b[1, 0, :2] += 20 / 255  # ten levels, in a third of half of all
    assert_close(rms(a, b), torch.tensor([1.0, 10 / math.sqrt(6)]).double())
    assert_close(psnr(a, b), torch.tensor([48.1308, 20 * math.log10(25.5 * math.sqrt(6))]).double(), rtol=0, atol=1e-3)
    assert psnr(a, a).tolist() == pytest.approx([58.92] * 2, abs=0.01)
    where = torch.zeros(2, 1, 4, 4, dtype=torch.bool)
    where[:, :, :2] = True
    assert_close(rms(a, b, where), torch.tensor([1.0, 10 / math.sqrt(3)]).double())
    assert rms(a, b, ~where)[1] == 0 and rms(a, b, where & False).isnan().all()


def test_rank_correlation_with_ties_and_without():
    places = torch.arange(5)
    rows = torch.tensor(
        [
            [0.1, 0.2, 0.3, 0.9, 1.0],
            [5.0, 4, 3, 2, 1],
            [0, 0, 0, 0, 0],
            [1, 2, 4, 3, 5],
            [0, 0, 1, 1, 1],
            [0, 0, 0, 1, 2],
        ]
    )
    # The last two: ranks 1.5 1.5 4 4 4 and 2 2 2 4 5 against 1 to 5.
    wanted = [1, -1, 0, 0.9, 7.5 / math.sqrt(7.5 * 10), 8 / math.sqrt(8 * 10)]
    assert_close(rank_correlation(rows, places), torch.tensor(wanted).double())


# drawn faces


@pytest.fixture(scope="module")
def pairs() -> Counterfactuals:
    return counterfactuals(6, ["Eyeglasses", "Smiling"])


def test_counterfactuals_are_the_same_people_with_one_answer_turned(pairs):
    conds, seeds = data.drawn_people(6, "test")
    assert torch.equal(pairs.was, conds.float())
    levels = ((pairs.before + 1) * 127.5).round().to(torch.uint8)
    assert torch.equal(levels, drawn.draw_many(conds.float(), seeds))
    for i, changed in enumerate(pairs.changed):
        name = ("Eyeglasses", "Smiling")[i % 2]
        at = DRAWN.index(name)
        assert pairs.was[i, at] == -pairs.wish[i, at] and changed == f"{'' if pairs.wish[i, at] > 0 else 'no '}{name}"
        again = drawn.draw(pairs.wish[i], int(seeds[i]))
        assert torch.equal(((pairs.after[i] + 1) * 127.5).round().to(torch.uint8), again)
    shares = pairs.where.double().mean((1, 2, 3))
    assert (shares > 0).all() and (shares < 0.3).all()
    # Somebody else: not a few pixels differ.
    assert (rms(pairs.others, pairs.after) > 20).all() and pairs.others.shape == pairs.before.shape


def test_what_the_data_say_of_their_people_is_true():
    faces = data.drawn_faces(3, "valid", together=False, seed=2)
    conds, seeds = data.drawn_people(3, "valid", together=False, seed=2)
    assert torch.equal(faces.images, drawn.draw_many(conds, seeds)) and torch.equal(faces.conds, conds)


def test_edits_of_known_quality(pairs):
    """The true picture, the given one, and one that is a level off outside: all is known."""
    mixed = torch.where(pairs.where, pairs.after, pairs.before + 2 / 255)
    found = judged(mixed, pairs.before + 1 / 255, pairs)
    assert found.inside["edit"].value == 0 and found.inside["unedited"].value > 5
    assert found.nearer["unedited"].value == pytest.approx(found.inside["unedited"].value)
    assert found.nearer["another"].value == pytest.approx(found.inside["another"].value)
    assert found.nearer["unedited"].low > 0 and found.nearer["another"].low > 0
    assert found.outside["edit"].value == pytest.approx(48.13, abs=0.01)
    assert found.outside["plain"].value == pytest.approx(54.15, abs=0.01)
    assert found.outside["cost"].value == pytest.approx(6.02, abs=0.01)
    nothing = judged(pairs.before, pairs.before + 1 / 255, pairs)
    assert nothing.nearer["unedited"] == (0, 0, 0, 6)


def test_an_edit_that_knows_the_answer_is_found_good(pairs):
    """A world of six people, each as likely as the other, who look as they are told: was before, wish after."""
    made = straight()

    def told(cond):
        return torch.stack([here(row) for row in cond])

    def here(row):
        after = (pairs.wish == row).all(1).nonzero()
        return pairs.after[after[0, 0]] if len(after) else pairs.before[(pairs.was == row).all(1).nonzero()[0, 0]]

    world = GaussianDenoiser(told, 0.1, made)
    found = edited(world, pairs, DDIM(made, clip=False), 10, rounds=4, batch=4)
    assert found.inside["edit"].value < 1 < found.nearer["unedited"].low
    backwards = pairs._replace(was=pairs.wish, wish=pairs.was)
    assert edited(world, backwards, DDIM(made, clip=False), 10, rounds=4).nearer["unedited"].value < 0


def test_faces_come_back_batch_by_batch():
    made = straight()
    images = (randn(5, 1, 4, 4) * 40 + 128).clamp(0, 255).to(torch.uint8)
    faces = Pictures(images, torch.tensor([[1], [-1], [1], [-1], [1]]), Attributes(["Hat"]), "")
    world = GaussianDenoiser(lambda cond: 0.3 * cond[:, :, None, None], 0.4, made)
    back = reconstructed(world, faces, DDIM(made, clip=False), 8, rounds=6, batch=2)
    assert_close(back, faces[:][0], rtol=0, atol=1e-3)
    assert psnr(back, faces[:][0]).min() > 58


# walks


class Reads:
    """A judge that reads attribute k from row k of a picture, by its brightness; `leak` of it counts for the next row too."""

    attributes = NAMES

    def __init__(self, leak=0.0):
        self.leak = leak

    def __call__(self, pictures):
        rows = pictures.mean((1, 3))[:, :3] * 4
        return rows + self.leak * rows.roll(1, 1)


def painter(strength=0.5):
    """Paints row k as bright as attribute k is told, a few shades of luck besides."""

    def mean(cond):
        return strength * cond[:, None, :, None].expand(-1, 1, -1, 4)

    return GaussianDenoiser(mean, 0.05, straight())


def real_faces(together: bool):
    luck = torch.Generator().manual_seed(0)
    conds = torch.randint(0, 2, (400, 3), generator=luck) * 2 - 1
    conds[:, 1] = conds[:, 0] if together else conds[:, 1]
    images = ((conds[:, None, :, None].expand(-1, 1, -1, 4) * 0.5 + 1) * 127.5).round().to(torch.uint8)
    return Pictures(images, conds, NAMES, "painted")


def walked(judge, real, denoise=None, **options):
    seen = probabilities(judge, real.images)
    solver = DDIM(straight(), clip=False)
    return rise(denoise or painter(), judge, "Hat", noise(3, (1, 3, 4)), solver, 6, real, seen, frames=5, **options)


def test_a_walk_that_moves_its_own_attribute_alone():
    found = walked(Reads(), real_faces(together=False))
    assert found.name == "Hat" and found.correlation.value == 1 and found.correlation.count == 3 and found.together == 1
    # Two units of brightness by four: from sigmoid(-2) to sigmoid(2).
    assert found.gained.value == pytest.approx(0.76, abs=0.06)
    assert found.others < 1e-6 and found.others_real < 0.06
    assert found.real == (200, 200) or min(found.real) > 150


def test_a_walk_that_drags_another_along_is_noticed():
    free, bound = (walked(Reads(leak), real_faces(together=False)) for leak in (0.0, 1.0))
    assert bound.others > 0.3 > 0.01 > free.others
    # Glasses come with hats in these faces: half of the two others moves by all.
    assert walked(Reads(), real_faces(together=True)).others_real == pytest.approx(0.38, abs=0.05)


def test_what_moves_either_way_by_luck_has_not_moved():
    """Whether glasses come or go with the hat hangs on the noise; half of these noises are the others' mirror images."""

    class Fickle(Reads):
        def __call__(self, pictures):
            rows = super().__call__(pictures)
            return rows + rows[:, :1] * rows[:, 2:].sign() * torch.tensor([0, 1, 0])

    real, solver, x_T = real_faces(together=False), DDIM(straight(), clip=False), noise(3, (1, 3, 4))
    seen = probabilities(Fickle(), real.images)
    found = rise(painter(), Fickle(), "Hat", torch.cat([x_T, -x_T]), solver, 6, real, seen, frames=3)
    assert found.others < 0.02 and found.gained.value > 0.7


def test_a_walk_the_wrong_way_falls():
    found = walked(Reads(), real_faces(together=False), painter(-0.5))
    assert found.correlation.value == found.together == -1 and found.gained.value < -0.6


def test_the_mean_can_rise_where_half_of_the_walks_fall():
    class Torn(Reads):
        def __call__(self, pictures):
            rows = super().__call__(pictures)
            rows[:, 0] *= torch.where(rows[:, 2] > 0, 1, -0.5)
            return rows

    x_T, solver = noise(2, (1, 3, 4)), DDIM(straight(), clip=False)
    real = real_faces(together=False)
    found = rise(
        painter(), Torn(), "Hat", torch.cat([x_T, -x_T]), solver, 6, real, probabilities(Reads(), real.images), frames=5
    )
    assert abs(found.correlation.value) < 0.1 and found.together == 1


def test_what_is_said_besides_stays_said():
    base = NAMES.encode(Smile=True, Hat=False)
    asked = []
    plain = painter()

    def listening(x_t, t, cond):
        asked.append(cond)
        return plain(x_t, t, cond)

    walked(Reads(), real_faces(together=False), listening, base=base, batch=15)
    assert asked[0].shape == (15, 3) and (asked[0][:, 2] == 1).all() and (asked[0][:, 1] == 0).all()
    assert_close(asked[0][:5, 0], torch.tensor([-1, -0.5, 0, 0.5, 1]))
    assert base[0] == -1, "the caller's own request is left alone"


def test_the_way_is_walked_on_few_noises_and_its_ends_drawn_on_all():
    asked, plain = [], painter()

    def listening(x_t, t, cond):
        asked.append((x_t, cond))
        return plain(x_t, t, cond)

    found = walked(Reads(), real_faces(together=False), listening, walked=2)
    assert (found.correlation.count, found.gained.count) == (2, 3)
    first = [(x, cond) for x, cond in asked[::6]]
    assert [len(x) for x, _ in first] == [10, 2]
    assert first[1][1][:, 0].tolist() == [-1, 1] and torch.equal(first[1][0], noise(3, (1, 3, 4))[[2, 2]])
    whole = walked(Reads(), real_faces(together=False))
    assert found.gained.value == pytest.approx(whole.gained.value, abs=1e-6)


def test_of_the_real_faces_the_first_of_each_kind_count():
    real = real_faces(together=False)
    hats, none = (real.take((real.conds[:, 0] == answer).nonzero()[:7, 0]) for answer in (1, -1))
    few = walked(Reads(), real, each=7)
    seen = [probabilities(Reads(), kind.images).mean(0)[1:] for kind in (hats, none)]
    assert few.real == (7, 7) and few.others_real == pytest.approx((seen[0] - seen[1]).abs().mean().item())


def test_a_kept_walk_is_neither_walked_again_nor_taken_for_another(tmp_path):
    real, calls, plain = real_faces(together=False), [], painter()
    seen = probabilities(Reads(), real.images)

    def counted(x_t, t, cond):
        calls.append(t)
        return plain(x_t, t, cond)

    def found(solver=DDIM, steps=6, seed=0):
        calls.clear()
        by = solver(straight(), clip=False), steps
        return rise(counted, Reads(), "Hat", noise(3, (1, 3, 4), seed), *by, real, seen, frames=5, keep=tmp_path)

    first = found()
    assert len(calls) == 6 and found() == first and calls == []
    for other in ({"solver": AdamsBashforth}, {"steps": 7}, {"seed": 1}):
        assert found(**other) != first and calls, other


def test_without_faces_of_both_kinds_nothing_can_be_compared():
    real = real_faces(together=False)
    with refused("of the real faces 0 have Hat"):
        walked(Reads(), real.where(Hat=False))
    with refused("did you mean"):
        rise(painter(), Reads(), "Hatt", noise(1, (1, 3, 4)), DDIM(straight()), 2, real, real.conds.double())


def test_probabilities_are_of_what_a_file_keeps():
    judge, pictures = Reads(), randn(4, 1, 3, 4).clamp(-1, 1).float()
    levels = ((pictures + 1) * 127.5).round().to(torch.uint8)
    assert torch.equal(probabilities(judge, pictures, batch=3), probabilities(judge, levels))
    assert_close(probabilities(judge, levels), judge(levels.float() / 127.5 - 1).double().sigmoid())


def test_no_interval_of_a_correlation_leaves_what_a_correlation_can_be():
    within = likeness._within_one(likeness.Mean(0.98, 0.93, 1.03, 20))
    assert within == likeness.Mean(0.98, 0.93, 1.0, 20)
    assert likeness._within_one(likeness.Mean(-0.9, -1.2, -0.6, 20)).low == -1.0
