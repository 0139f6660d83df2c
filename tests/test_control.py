"""Control: worlds in which it is known exactly what is drawn and what is read."""

import json
import math
import warnings

import pytest
import torch
from torch.testing import assert_close

from facelab.attributes import CELEBA, DIGITS, Attributes
from facelab.control import (
    Balanced,
    ask,
    balanced_accuracy,
    ceiling,
    control,
    counted,
    covering,
    mean_obeyed,
    read,
    requests,
    unsaid,
)
from facelab.data import Pictures
from facelab.guidance import classifier_free
from facelab.ideal import GaussianDenoiser, IdealDenoiser
from facelab.metrics import difference, proportion
from facelab.sample import DDIM, noise, sample
from facelab.schedule import straight

NAMES = Attributes(["Hat", "Glasses", "Smile", "Beard"])
SHAPE = (1, 2, 2)  # one pixel for each attribute: bright is yes, dark is no


def luck(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def answers(count, rates=(0.05, 0.1, 0.5, 0.3), seed=0):
    """(N, 4) of -1 and +1, independent, at these rates of yes."""
    return torch.where(luck(count, 4, seed=seed) < torch.tensor(rates), 1, -1).to(torch.int8)


def drawn_as(conds):
    """The pictures that show exactly these answers."""
    return torch.where(conds > 0, 230, 25).to(torch.uint8).reshape(-1, *SHAPE)


def faces(conds):
    return Pictures(drawn_as(conds), conds, NAMES, "made for this test")


class Judge:
    """Reads a pixel; where it should say yes (no) it does so with probability `yes` (`no`)."""

    attributes = NAMES

    def __init__(self, yes=1.0, no=1.0):
        self.yes, self.no, self.generator = yes, no, torch.Generator().manual_seed(5)

    def read(self, pictures):
        assert pictures.is_floating_point() and pictures.abs().max() <= 1
        shown = pictures.flatten(1).sign()
        right = torch.rand(shown.shape, generator=self.generator) < torch.where(shown > 0, self.yes, self.no)
        return torch.where(right, shown, -shown).long()


def painter(told=lambda cond: cond, std=0.1):
    """A denoiser whose pictures are as bright as they are told; what is not said is anything."""
    return GaussianDenoiser(lambda cond: 0.8 * told(cond).reshape(-1, *SHAPE), std, straight())


def table(denoise, cond, judge=None, scale=1.0):
    judge = judge or Judge()
    return control(judge, ask(denoise, cond, 5, scale, shape=SHAPE), cond, faces(answers(500)))


# worlds


@pytest.mark.parametrize("said", ["all", 1, 3])
def test_a_world_that_obeys_and_one_that_does_the_opposite(said):
    cond = requests(answers(500), NAMES, 20, said)
    for row in table(painter(), cond).rows:
        assert row.obeyed.share == row.ceiling.share == 1 and row.below.value == 0
        assert row.obeyed.high == 1 and 0.85 < row.obeyed.low < 1 and row.below.high > 0
    opposite = table(painter(lambda cond: -cond), cond)
    assert [row.obeyed.share for row in opposite.rows] == [0] * 4
    assert [row.below.value for row in opposite.rows] == [1] * 4
    assert opposite.further_below(99) == list(NAMES) and opposite.further_below(100) == []


@pytest.mark.parametrize("deaf", ["scale 0", "cond ignored"])
def test_a_world_that_does_not_listen_is_at_chance(deaf):
    cond = answers(600, (0.3, 0.2, 0.5, 0.7)).float()
    denoise = painter(std=0.5) if deaf == "scale 0" else painter(torch.zeros_like, std=0.5)
    for row in table(denoise, cond, scale=0.0 if deaf == "scale 0" else 1.0).rows:
        assert row.obeyed.low < 0.5 < row.obeyed.high
        assert row.below.low > 0.3


def test_the_judges_own_errors_stand_in_both_columns():
    cond = answers(2000, (0.3, 0.2, 0.5, 0.7)).float()
    found = control(Judge(0.9, 0.7), drawn_as(cond), cond, faces(answers(3000, (0.5, 0.5, 0.5, 0.1))))
    for row in found.rows:
        assert (row.obeyed.yes.share, row.obeyed.no.share) == pytest.approx((0.9, 0.7), abs=0.04)
        assert (row.obeyed.share, row.ceiling.share) == pytest.approx((0.8, 0.8), abs=0.04)
        assert abs(row.below.value) < 0.05 and row.below.high - row.below.low < 0.15


def test_one_attribute_that_fails_is_found():
    def hatless(cond):
        return torch.cat([-torch.ones_like(cond[:, :1]), cond[:, 1:]], 1)

    found = table(painter(hatless), requests(answers(500), NAMES, 30, 1))
    assert [row.obeyed.share for row in found.rows] == [0.5, 1, 1, 1]
    hat = found.rows[0].obeyed
    assert (hat.yes.share, hat.no.share) == (0, 1) and found.further_below(5) == ["Hat"]


# balanced accuracy and its interval


def test_only_what_is_said_counts_and_yes_weighs_as_much_as_no():
    told = torch.tensor([[1, 0, 0.5, 1]] * 2 + [[-1, 0, -1, 1]] * 8)
    seen = torch.tensor([[1, 1, 1, 1], [-1, 1, 1, -1]] + [[-1, -1, 1, 1]] * 8)
    found = balanced_accuracy(seen, told, NAMES)
    assert (found["Hat"].yes.share, found["Hat"].no.share, found["Hat"].share) == (0.5, 1, 0.75)
    assert (found["Hat"].yes.count, found["Hat"].no.count) == (2, 8)
    assert found["Glasses"] == Balanced(None, None) and math.isnan(found["Glasses"].low)
    assert found["Smile"].share == 0.5 and str(found["Smile"]).startswith("0.500 [")
    assert found["Beard"].yes.share == 0.9 and found["Beard"].no is None and math.isnan(found["Beard"].share)
    assert str(found["Beard"]) == "nothing to compare"
    with pytest.raises(ValueError, match=r"both must be \(B, 4\), got \(10, 4\) and \(9, 4\)"):
        balanced_accuracy(seen, told[1:], NAMES)


@pytest.mark.parametrize(
    ("yes", "no", "m", "n"), [(0.95, 0.7, 30, 200), (0.99, 0.99, 200, 200), (0.5, 0.5, 40, 40), (1, 0.9, 20, 60)]
)
def test_the_intervals_hold_the_truth(yes, no, m, n):
    """95 % intervals of a balanced accuracy, and of the difference of two, in 1,000 experiments."""
    generator, holds, differs = torch.Generator().manual_seed(0), 0, 0

    def experiment():
        hits = [int((torch.rand(k, generator=generator) < p).sum()) for p, k in ((yes, m), (no, n))]
        return Balanced(proportion(hits[0], m), proportion(hits[1], n))

    for _ in range(1000):
        one, two = experiment(), experiment()
        holds += one.low <= (yes + no) / 2 <= one.high
        differs += difference(one, two).low <= 0 <= difference(one, two).high
    assert 930 <= holds <= 990 and 930 <= differs


def test_a_balanced_interval_by_hand():
    found = Balanced(proportion(56, 70), proportion(48, 80))
    assert found.share == pytest.approx(0.7)
    a, b = found.yes, found.no
    assert found.low == pytest.approx(0.7 - math.hypot(0.8 - a.low, 0.6 - b.low) / 2)
    assert found.high == pytest.approx(0.7 + math.hypot(a.high - 0.8, b.high - 0.6) / 2)


# ceiling


def test_ceiling_beside_the_majority():
    conds = answers(2000, (0.02, 0.4, 0.5, 1.0))
    conds[:1000, 1] = 0
    found = ceiling(Judge(yes=0.5), faces(conds))
    hat, rate = found["Hat"], (conds[:, 0] > 0).double().mean().item()
    # Reading few of the hats is no better than never reading any, which the plain accuracy hides.
    assert hat.majority == pytest.approx(1 - rate) and hat.plain.share == pytest.approx(1 - rate / 2, abs=0.01)
    assert 0.6 < hat.balanced.share < 0.9 and hat.balanced.no.share == 1
    assert found["Glasses"].plain.count == 1000 and found["Smile"].plain.count == 2000
    assert found["Beard"].majority == 1 and found["Beard"].balanced.no is None
    nothing = ceiling(Judge(), faces(conds * 0))["Hat"]
    assert nothing.plain is None and math.isnan(nothing.majority)


def test_the_judge_reads_in_batches_what_was_saved():
    conds = answers(50)
    pictures = drawn_as(conds)
    for given in (pictures, pictures.float() / 127.5 - 1, pictures.double() / 127.5 - 1):
        assert torch.equal(read(Judge(), given, batch=7), conds)
    with pytest.raises(ValueError, match="for digits take asked_is_read"):
        read(type("Digits", (), {"attributes": DIGITS}), pictures)
    with pytest.raises(ValueError, match=r"finite in \[-1, 1\]"):
        read(Judge(), pictures.float())


# requests


def counts(cond, names=NAMES):
    columns = [NAMES.index(name) for name in names]
    return (cond[:, columns] > 0).sum(0).tolist(), (cond[:, columns] < 0).sum(0).tolist()


def test_covering_takes_enough_of_each_answer_and_few_rows():
    rows = covering(given := answers(5000), NAMES, 100)
    yes, no = counts(given[rows])
    assert min(yes) >= 100 and min(no) >= 100 and len(rows) == len(rows.unique())
    # 100 hats, and 100 pairs of glasses that hardly ever come with them; about 200 rows have 100 smiles, and all else.
    assert 350 <= len(rows) <= 430 and yes[0] < 130
    assert torch.equal(rows, covering(given, NAMES, 100)) and not torch.equal(rows, covering(given, NAMES, 100, seed=1))
    smiles = covering(given, NAMES, 100, ["Smile"])
    assert min(*counts(given[smiles], ["Smile"])) == [100] and len(smiles) < 250


def test_so_many_of_each_answer_are_counted_and_each_is_a_fair_sample():
    given = answers(20_000)
    given[:, 3] = torch.where((given[:, 0] > 0) & (luck(20_000, seed=9) < 0.6), 1, given[:, 3])
    given = given[given[:, 3].argsort()]  # a list may well be sorted
    rate = {(i, s): (given[given[:, i] == s, 3] > 0).float().mean().item() for i in range(3) for s in (-1, 1)}
    found = {cell: [] for cell in rate}
    for seed in range(20):
        cond = given[covering(given, NAMES, 100, seed=seed)].float()
        told = counted(cond, NAMES, 100)
        assert counts(told) == ([100] * 4, [100] * 4) and ((told == cond) | (told == 0)).all()
        for (i, sign), shares in found.items():
            shares.append((cond[told[:, i] == sign, 3] > 0).float().mean().item())
    for cell, shares in found.items():
        # 2,000 rows: four standard deviations are .045. Among all rows that say "no glasses" beards are a tenth too many.
        assert sum(shares) / 20 == pytest.approx(rate[cell], abs=0.045), cell
    assert (cond[cond[:, 1] < 0, 3] > 0).float().mean() > rate[1, -1] + 0.06


def test_a_perfect_painter_reaches_the_ceiling_of_a_judge_who_errs_on_some_people():
    class Hatless(Judge):
        def read(self, pictures):  # a hat's shadow looks like glasses
            seen = super().read(pictures)
            return torch.where((seen[:, :1] > 0) & (torch.arange(4) == 1), 1, seen)

    given = answers(20_000)
    cond = requests(given, NAMES, 400)
    top = ceiling(Hatless(), faces(given))
    below = {
        word: control(Hatless(), drawn_as(cond), told, top, ["Glasses"]).rows[0].below
        for word, told in (("counted", counted(cond, NAMES, 400)), ("all", cond))
    }
    assert abs(below["counted"].value) < 0.02 and below["counted"].low < 0 < below["counted"].high
    assert below["all"].value > 0.08, "the same faces, and the painter would be blamed"


def test_counted_leaves_the_first_of_each_answer():
    cond, two = torch.tensor([[1, 0.5], [-1, 1], [1, 0], [1, -1], [-1, -0.5]]), Attributes(["Hat", "Beard"])
    assert counted(cond, two, 1).tolist() == [[1, 0.5], [-1, 0], [0, 0], [0, -1], [0, 0]]
    assert torch.equal(counted(cond, two, 3), cond)
    assert counted(cond, two, 1, ["Beard"]).tolist() == [[0, 0.5], [0, 0], [0, 0], [0, -1], [0, 0]]


def test_too_few_rows_come_again_and_this_is_said():
    given = answers(400)
    few = int((given[:, 0] > 0).sum())
    assert few < 50
    with pytest.warns(UserWarning, match=rf"more than once to reach 50 of Hat \({few} rows\)"):
        rows = covering(given, NAMES, 50)
    assert min(counts(given[rows])[0]) >= 50
    with pytest.warns(UserWarning, match="Hat"):
        assert counts(given[covering(given, NAMES, 50, ["Hat"])], ["Hat"])[0] == [50]
    times = rows.bincount(minlength=400)[given[:, 0] > 0]
    assert times.max() - times.min() <= 1 and len(rows) < 250
    with pytest.warns(UserWarning, match=rf"Hat \({few} rows\)"):
        requests(given, NAMES, 50, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # where only one is said, the row does not matter
        assert len(requests(given, NAMES, 50, 1)) == 400


def test_requests_of_whole_rows():
    given = answers(2000)
    cond = requests(given, NAMES, 50)
    assert cond.dtype == torch.float32 and torch.equal(cond, given[covering(given, NAMES, 50)].float())


def test_requests_of_one_attribute_alone():
    cond = requests(answers(2000), NAMES, 25, 1, ["Hat", "Beard"])
    assert counts(cond) == ([25, 0, 0, 25], [25, 0, 0, 25])
    assert ((cond != 0).sum(1) == 1).all() and cond.abs().max() == 1


@pytest.mark.parametrize("names", [None, ["Hat", "Smile", "Beard"]])
def test_requests_of_three_are_answered_as_some_row_answers(names):
    given = answers(3000)
    given[:, 2] = -given[:, 3]  # who smiles has no beard
    cond = requests(given, NAMES, 40, 3, names)
    assert ((cond != 0).sum(1) == 3).all() and not (cond[:, 2] * cond[:, 3] > 0).any()
    yes, no = counts(cond, names or NAMES)
    assert min(yes + no) >= 40 and yes[0] < 50
    assert torch.equal(cond, requests(given, NAMES, 40, 3, names))
    assert not torch.equal(cond, requests(given, NAMES, 40, 3, names, seed=1))


def test_the_other_two_are_not_always_the_same():
    cond = requests(answers(3000), NAMES, 40, 3)
    hats = cond[cond[:, 0] > 0]
    assert ((hats != 0).sum(0)[1:] > 5).all()


@pytest.mark.parametrize(
    ("ask_for", "says"),
    [
        ({"each": 0}, "at least once, got each=0"),
        ({"said": 5}, "from 1 to 4 attributes, got 5"),
        ({"said": 0}, "from 1 to 4 attributes, got 0"),
        ({"said": "some"}, "'all' or from 1 to 4"),
        ({"said": 3, "names": ["Hat", "Beard"]}, "from 1 to 2 attributes"),
        ({"names": ["Hatt"]}, "did you mean 'Hat'"),
    ],
)
def test_requests_that_cannot_be_made(ask_for, says):
    with pytest.raises(ValueError, match=says):
        requests(answers(500), NAMES, **{"each": 5} | ask_for)


def test_answers_that_nobody_gives_are_named():
    given = answers(500)
    given[:, 0], given[:, 2] = -1, 1
    for said in ("all", 1, 3):
        with pytest.raises(ValueError, match="no row of these answers says Hat, no Smile: take more rows"):
            requests(given, NAMES, 5, said)
    with pytest.raises(ValueError, match=r"answers must be \(N, 4\), got \(500, 3\)"):
        covering(given[:, :3], NAMES, 5)
    assert counts(requests(given, NAMES, 5, 1, ["Beard"])) == ([0, 0, 0, 5], [0, 0, 0, 5])


def test_forty_attributes_are_covered_by_few_rows():
    rates = torch.linspace(0.02, 0.8, 40)
    given = torch.where(luck(10_000, 40) < rates, 1, -1)
    rows = covering(given, CELEBA, 100)
    assert min((given[rows] > 0).sum(0).min(), (given[rows] < 0).sum(0).min()) >= 100
    assert len(rows) < 1500, "a fifth of what asking for each alone would take"
    # 40 attributes, 20 times yes and no each, three at once: 534 at the very least.
    assert len(requests(given, CELEBA, 20, 3)) < 600


# asking


def test_asking_draws_what_sampling_draws_whatever_the_batch():
    denoise, cond = painter(), requests(answers(500), NAMES, 10, 1)
    drawn = ask(denoise, cond, 4, 2.5, seed=3, batch=64, shape=SHAPE)
    assert drawn.dtype == torch.uint8 and drawn.shape == (80, *SHAPE)
    by_hand = sample(classifier_free(denoise, 2.5), noise(80, SHAPE, 3), cond, DDIM(denoise.schedule), 4)
    assert torch.equal(drawn, ((by_hand + 1) * 127.5).round().to(torch.uint8))
    assert torch.equal(drawn, ask(denoise, cond, 4, 2.5, seed=3, batch=7, shape=SHAPE))
    assert not torch.equal(drawn, ask(denoise, cond, 4, 2.5, seed=4, shape=SHAPE))
    assert not torch.equal(drawn, ask(denoise, cond, 4, 1.0, seed=3, shape=SHAPE))


def test_asking_knows_the_shape_of_a_denoiser_that_has_one():
    denoise = painter()
    denoise.shape = SHAPE
    assert ask(denoise, NAMES.encode(Hat=True)[None], 2).shape == (1, *SHAPE)


def test_what_is_kept_is_drawn_once_and_belongs_to_its_request(tmp_path):
    calls, inner = [], painter()

    def denoise(x_t, t, cond):
        calls.append(len(x_t))
        return inner(x_t, t, cond)

    denoise.schedule = inner.schedule
    cond = requests(answers(500), NAMES, 10, 1)
    told = {"steps": 2, "scale": 1.0, "seed": 3, "shape": SHAPE, "batch": 32}
    drawn = ask(denoise, cond, **told)
    assert torch.equal(ask(denoise, cond, keep=tmp_path, **told), drawn) and sum(calls) == 2 * 160
    assert torch.equal(ask(denoise, cond, keep=tmp_path, **told), drawn) and sum(calls) == 2 * 160
    # The first batch is the same request, whatever comes behind it; everything else makes another.
    assert torch.equal(ask(denoise, cond[:32], keep=tmp_path, **told), drawn[:32]) and sum(calls) == 2 * 160
    for other in ({"seed": 4}, {"scale": 0.5}, {"steps": 3}):
        calls.clear()
        assert not torch.equal(ask(denoise, cond, keep=tmp_path, **told | other), drawn) and sum(calls) >= 160
    calls.clear()
    assert not torch.equal(ask(denoise, -cond, keep=tmp_path, **told), drawn) and sum(calls) == 160


# what was not said


def correlated(count=1000):
    """Half have a beard; of these half have a hat, of the others none; one in five smiles."""
    conds = answers(count, (0.5, 0.1, 0.2, 0.5), seed=7)
    conds[:, 0] = torch.where(conds[:, 3] > 0, conds[:, 0], -1)
    return conds


def test_unsaid_attributes_come_at_their_rates_among_those_who_agree():
    conds = correlated()
    real = faces(conds)
    # The ideal denoiser draws from the set itself, so that everything comes as often as among those who agree.
    denoise = IdealDenoiser(real[:][0], conds, straight())
    cond = NAMES.encode(Beard=True).repeat(300, 1)
    drawn = ask(denoise, cond, 20, 1.0, shape=SHAPE)
    rows = unsaid(read(Judge(), drawn), cond, read(Judge(), real.images), real)
    assert [row.name for row in rows] == ["Hat", "Glasses", "Smile"]
    for row in rows:
        assert row.more.low < 0 < row.more.high and row.drawn.count == 300
    # Not 0.25, its rate among all.
    assert rows[0].real.share == pytest.approx(0.5, abs=0.05) and rows[0].real.count == int((conds[:, 3] > 0).sum())


def test_unsaid_attributes_that_are_dragged_along_are_noticed():
    conds = correlated()
    cond = torch.cat([NAMES.encode(Beard=1).repeat(100, 1), NAMES.encode(Beard=-1, Glasses=1).repeat(100, 1)])
    drawn = drawn_as(torch.where(cond != 0, cond, cond[:, 3:]))  # whatever is not said follows the beard
    rows = {row.name: row for row in unsaid(read(Judge(), drawn), cond, conds, faces(conds))}
    assert rows["Glasses"].drawn.count == 100 and rows["Glasses"].drawn.share == 1
    assert rows["Glasses"].more.value == pytest.approx(0.9, abs=0.05) and rows["Glasses"].more.low > 0.8
    assert rows["Hat"].drawn.share == 0.5 and rows["Hat"].real.share == pytest.approx(0.25, abs=0.03)
    assert rows["Smile"].drawn.share == 0.5 and rows["Smile"].real.share == pytest.approx(0.2, abs=0.03)
    assert "Beard" not in rows


def test_requests_that_nobody_agrees_with_are_left_out():
    conds = correlated()
    impossible, possible = NAMES.encode(Hat=True, Beard=False), NAMES.encode(Beard=True)
    cond = torch.stack([impossible] * 5 + [possible] * 10)
    rows = unsaid(read(Judge(), drawn_as(cond)), cond, conds, faces(conds))
    assert {row.name: row.drawn.count for row in rows} == {"Hat": 10, "Glasses": 10, "Smile": 10}
    with pytest.raises(ValueError, match="no real picture agrees with any"):
        unsaid(read(Judge(), drawn_as(cond[:5])), cond[:5], conds, faces(conds))
    assert unsaid(conds, conds.float(), conds, faces(conds)) == []


# the table


def test_the_table_can_be_written_shown_and_read():
    cond = requests(answers(500), NAMES, 20, 1, ["Hat", "Smile"])
    real = faces(answers(500, (0.0, 0.1, 0.5, 0.3)))
    found = control(Judge(), drawn_as(cond), cond, real, scale=2.0, request="one said")
    assert [row.name for row in found.rows] == ["Hat", "Smile"] and found.about == {"scale": 2.0, "request": "one said"}
    told = json.loads(json.dumps(found.to_json(), allow_nan=False))
    hat, smile = told["rows"]
    assert told["about"] == found.about
    assert hat["obeyed"]["share"] == 1 and hat["obeyed"]["yes"]["count"] == 20
    assert hat["ceiling"]["share"] is None and hat["ceiling"]["yes"] is None and hat["below"]["value"] is None
    assert smile["below"] == {"value": 0, "low": pytest.approx(-0.02, abs=0.02), "high": pytest.approx(0.1, abs=0.03)}
    # What is not known is no success.
    assert found.further_below(5) == ["Hat"]
    lines = str(found).splitlines()
    assert lines[0].split() == [
        "attribute",
        "asked",
        "=",
        "read",
        "ceiling",
        "below",
        "it",
        "asked",
        "yes",
        "asked",
        "no",
    ]
    assert lines[2].startswith("Smile") and "1.000 [" in lines[2] and lines[2].endswith("20         20")
    assert found._repr_html_().count("<tr>") == 3 and found._repr_html_().count("<th>") == 6


def test_rows_can_be_chosen_and_the_ceiling_kept():
    conds = requests(given := answers(500), NAMES, 20, "all")
    top = ceiling(Judge(), faces(given))
    found = control(Judge(), drawn_as(conds), conds, top, names=["Beard"])
    assert [row.name for row in found.rows] == ["Beard"] and found.rows[0].ceiling == top["Beard"].balanced
    other = Pictures(drawn_as(given), given, Attributes(["Hat", "Glasses", "Smile", "Bread"]), "")
    with pytest.raises(ValueError, match="other attributes than those the judge reads"):
        control(Judge(), drawn_as(conds), conds, other)


def test_seen_and_asked_are_not_confused():
    seen, told = torch.tensor([[1], [1], [1], [-1]]), torch.tensor([[1], [-1], [-1], [-1]])
    found = balanced_accuracy(seen, told, Attributes(["Hat"]))["Hat"]
    assert (found.yes.share, found.no.share) == (1, pytest.approx(1 / 3))
    assert_close(torch.tensor(found.share), torch.tensor(2 / 3))


def test_no_request_no_batch_and_unlike_shapes_are_refused_in_one_sentence():
    denoise = GaussianDenoiser(torch.zeros(SHAPE), 1.0, straight())
    for cond, batch, says in (
        (torch.zeros(0, 4), 64, r"requests must be \(B, K\), one at least, got \(0, 4\)"),
        (torch.zeros(4), 64, r"one at least, got \(4,\)"),
        (torch.zeros(1, 4), 0, "batch must be at least 1 picture, got 0"),
    ):
        with pytest.raises(ValueError, match=says):
            ask(denoise, cond, batch=batch, shape=SHAPE)
    for seen, cond in ((answers(8), answers(9)), (answers(8)[:, :3], answers(8)[:, :3])):
        with pytest.raises(ValueError, match=r"both must be \(B, 4\), got \(8, [34]\) and"):
            mean_obeyed(seen, cond, ["Smile"], NAMES)
