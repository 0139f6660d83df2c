"""What else moves: worlds in which it is known exactly what is dragged along, and by how much."""

import json
import math

import pytest
import torch

from facelab.attributes import Attributes
from facelab.control import mean_obeyed, obeyed_by, plain
from facelab.data import Pictures
from facelab.leakage import Amplified, Leak, Leakage, amplification, leakage, mean_amplification
from facelab.metrics import Difference, Proportion

NAMES = Attributes(["Hat", "Glasses", "Smiling", "Male"])


def luck(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def people(count=4000, seed=0):
    """Half are men; of these a third wear hats, of the women a tenth; glasses and smiles go with nothing."""
    answers = torch.where(luck(count, 4, seed=seed) < torch.tensor([0.1, 0.3, 0.5, 0.5]), 1, -1)
    hats = luck(count, seed=seed + 1) < torch.where(answers[:, 3] > 0, 1 / 3, 0.1)
    answers[:, 0] = torch.where(hats, 1, -1)
    return answers.to(torch.int8)


def faces(answers):
    return Pictures(torch.zeros(len(answers), 1, 1, 1, dtype=torch.uint8), answers, NAMES, "made for this test")


def alone(each=400):
    """Each attribute alone, `each` times yes and no."""
    signs = torch.tensor([1.0, -1.0]).repeat_interleave(each)
    return torch.cat([torch.eye(4)[i] * signs[:, None] for i in range(4)])


def drawn(cond, seed=5):
    """Whoever agrees with the request, as often as in the data."""
    rows, seen = people(20_000, seed), []
    for i, wish in enumerate(cond):
        agree = rows[((rows == wish) | (wish == 0)).all(1)]
        seen.append(agree[i % len(agree)])
    return torch.stack(seen)


COND = alone()
FAIR = drawn(COND)


def test_a_model_that_draws_from_the_data_leaks_nothing():
    answers = people()
    found = leakage(FAIR, COND, answers, faces(answers))
    assert found.strongest() == [] and found.asked == found.names == NAMES.names
    drawn, real, more = (found.matrix(part) for part in ("drawn", "real", "more"))
    # Asking for men brings hats, as men do: a third less a tenth.
    assert real[3, 0].item() == pytest.approx(1 / 3 - 0.1, abs=0.04) and drawn[3, 0].item() == pytest.approx(
        0.23, abs=0.07
    )
    assert more.abs().max() < 0.12 and torch.allclose(more, drawn - real)
    assert torch.equal(drawn.diagonal(), torch.ones(4).double())


def test_what_is_dragged_along_is_found_with_its_sign():
    answers, seen = people(), FAIR.clone()
    glasses, smiles = (COND[:, i] != 0 for i in (1, 2))
    seen[glasses, 3] = COND[glasses, 1].to(torch.int8)  # glasses bring men, no glasses bring women
    seen[smiles, 1] = -1  # and whoever is asked about smiles wears none, either way: that is no leak
    found = leakage(seen, COND, answers, faces(answers))
    first, *others = found.strongest()
    assert (first.asked, first.moved) == ("Glasses", "Male") and first.more.value == pytest.approx(1, abs=0.06)
    assert first.drawn.value == 1 and abs(first.real.value) < 0.06 and first.more.low > 0.85
    assert all({"asked": one.asked, "moved": one.moved} != {"asked": "Smiling", "moved": "Glasses"} for one in others)
    seen[glasses, 3] = -seen[glasses, 3]
    assert leakage(seen, COND, answers, faces(answers)).strongest()[0].more.value == pytest.approx(-1, abs=0.06)
    told = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert (
        told["more"][1][3] == pytest.approx(first.more.value, abs=1e-4) and told["strongest"][0]["asked"] == "Glasses"
    )
    assert told["more, low"][1][3] == pytest.approx(first.more.low, abs=1e-4)
    assert "Glasses" in str(found) and found._repr_html_().count("<tr>") == 1 + len(found.strongest())


def test_of_many_cells_hardly_any_is_sure_by_luck():
    count = 40
    names = Attributes([f"A{i}" for i in range(count)])
    signs = torch.tensor([1.0, -1.0]).repeat_interleave(50)
    cond = torch.cat([torch.eye(count)[i] * signs[:, None] for i in range(count)])
    seen, answers = (torch.where(luck(n, count, seed=n) < 0.4, 1, -1) for n in (len(cond), 2000))
    real = Pictures(torch.zeros(2000, 1, 1, 1, dtype=torch.uint8), answers, names, "made for this test")
    found = leakage(seen, cond, answers, real)
    off = [cell for cell in found.cells if cell.asked != cell.moved]
    assert len(off) == 1560 and len(found.strongest()) <= 1
    assert 30 < sum(cell.more.low > 0 or cell.more.high < 0 for cell in off) < 120, "95 % intervals miss one in twenty"


def test_beside_few_real_faces_a_leak_is_not_sure():
    """Eight of ten with a hat are men, two of ten without: one look would not call that luck, one of twelve may."""
    answers = torch.ones(20, 4, dtype=torch.int8)
    answers[10:, 0], answers[8:18, 3], answers[::2, 1:3] = -1, -1, -1
    seen = FAIR.clone()
    seen[COND[:, 0] != 0, 3] = torch.tensor([1, -1], dtype=torch.int8).repeat(400)  # drawn, half are men either way
    (cell,) = (c for c in leakage(seen, COND, answers, faces(answers)).cells if (c.asked, c.moved) == ("Hat", "Male"))
    assert cell.real.value == pytest.approx(0.6) and cell.drawn.value == 0
    assert cell.more.high < -0.1 and not cell.sure


def test_the_strongest_leaks_are_the_farthest_either_way():
    told = [("Hat", "Male", 0.5), ("Hat", "Hat", 0.9), ("Male", "Hat", -0.7), ("Male", "Smiling", 0.2)]
    nothing, sizes = Difference(0.0, 0.0, 0.0), [Difference(value, value - 0.1, value + 0.1) for *_, value in told]
    cells = [Leak(i, j, nothing, nothing, more, True) for (i, j, _), more in zip(told, sizes, strict=True)]
    found = Leakage((*cells, cells[0]._replace(moved="Glasses", sure=False)), ("Hat", "Male"), NAMES.names)
    assert [cell.more.value for cell in found.strongest()] == [-0.7, 0.5, 0.2]
    assert [cell.more.value for cell in found.strongest(1)] == [-0.7]


def test_only_requests_of_one_attribute_count():
    answers = people()
    more = torch.tensor([[1.0, 1, 0, 0]]).repeat(50, 1)
    both = leakage(torch.cat([FAIR, -torch.ones(50, 4)]), torch.cat([COND, more]), answers, faces(answers))
    assert both.cells == leakage(FAIR, COND, answers, faces(answers)).cells
    with pytest.raises(ValueError, match="one attribute alone, and none of these does"):
        leakage(torch.ones(50, 4), more, answers, faces(answers))
    with pytest.raises(ValueError, match=r"\(B, 4\)"):
        leakage(FAIR[:, :3], COND, answers, faces(answers))
    some = COND[:, 0] != 0
    found = leakage(FAIR[some], COND[some], answers, faces(answers))
    assert found.asked == ("Hat",) and found.matrix().shape == (1, 4)


def test_real_faces_are_told_apart_by_their_answers_and_not_by_the_judge():
    answers = people()
    blind = answers.clone()
    blind[:, 0] = -1  # a judge that never sees a hat, and yet it sees who wears one
    found, sees = (leakage(FAIR, COND, seen, faces(answers)).matrix("real") for seen in (blind, answers))
    assert found[0].tolist() == [0.0, *sees[0, 1:].tolist()] and sees[0, 3] > 0.2
    rows = [amplification(FAIR, COND, seen, faces(answers), ["Male"])[0] for seen in (blind, answers)]
    assert rows[0] == rows[1] and rows[0].asked == "Hat"
    # One who overlooks most men sees few with hats, and yet more than without.
    few, seen = answers.clone(), FAIR.clone()
    few[luck(len(few)) < 0.6, 3], seen[COND[:, 0] > 0, 3] = -1, 1
    (hats, *_) = amplification(seen, COND, few, faces(answers), ["Male"])
    assert hats.real.share < 0.4 and hats.beyond.value == pytest.approx(1 - hats.real.share)


def test_an_answer_that_was_never_asked_or_given_is_not_known():
    answers = people()
    yes = COND.min(1).values >= 0
    found = leakage(FAIR[yes], COND[yes], answers, faces(answers))
    assert found.matrix("drawn").isnan().all() and found.strongest() == []
    assert json.dumps(found.to_json(), allow_nan=False)


def test_amplification_is_beyond_the_data_on_the_side_to_which_they_lean():
    answers, seen = people(), FAIR.clone()
    fair = {row.asked: row for row in amplification(seen, COND, answers, faces(answers), ["Male"])}
    assert set(fair) == {f"{no}{name}" for name in ("Hat", "Glasses", "Smiling") for no in ("", "no ")}
    assert fair["Hat"].real.share == pytest.approx(1 / 3 / (1 / 3 + 0.1), abs=0.04)
    assert all(row.beyond.low < 0 < row.beyond.high for row in fair.values())
    asked, not_asked = ((COND[:, 0] == sign) for sign in (1, -1))
    seen[asked, 3], seen[not_asked, 3] = 1, -1
    found = {row.asked: row for row in amplification(seen, COND, answers, faces(answers), ["Male"])}
    # Most who wear a hat are men, and now all are; a little more than half without one are women, and now all are.
    assert found["Hat"].beyond.value == pytest.approx(1 - 0.77, abs=0.04) and found["Hat"].beyond.low > 0.15
    assert (
        found["no Hat"].beyond.value == pytest.approx(found["no Hat"].real.share) and found["no Hat"].beyond.low > 0.3
    )
    seen[asked, 3] = -1
    turned = amplification(seen, COND, answers, faces(answers), ["Male"])[0]
    assert turned.asked == "Hat" and turned.beyond.value == pytest.approx(-0.77, abs=0.04)


def test_the_mean_amplification_and_its_interval():
    answers = people()
    rows = amplification(FAIR, COND, answers, faces(answers), ["Male", "Smiling", "Pale_Skin"])
    found = mean_amplification(rows)
    assert list(found) == ["Male", "Smiling"] and len(rows) == 12
    for people_, mean in found.items():
        some = [row.beyond for row in rows if row.people == people_]
        assert mean.value == pytest.approx(sum(one.value for one in some) / 6)
        assert mean.low < 0 < mean.high and mean.high - mean.low < min(one.high - one.low for one in some)
    assert json.dumps([plain(row) for row in rows])


def test_each_end_of_the_mean_is_of_the_same_ends():
    share, ends = Proportion(0.5, 0.4, 0.6, 80), ((0.5, 0.4, 0.9), (0.3, 0.2, 0.8))
    rows = [Amplified("Hat", "Male", share, share, Difference(*end)) for end in ends]
    wanted = 0.4, 0.4 - math.hypot(0.1, 0.1) / 2, 0.4 + math.hypot(0.4, 0.5) / 2
    assert mean_amplification(rows)["Male"] == pytest.approx(wanted)


# control by people, and its mean


def test_control_is_split_by_who_is_asked_for():
    cond = people(2000).float()
    seen = cond.clone()
    women = cond[:, 3] < 0
    seen[women, 1] = -1  # glasses are never drawn on women
    found = obeyed_by(seen, cond, NAMES, ["Male"])
    assert list(found) == ["Male", "no Male"]
    assert found["Male"]["Glasses"].share == 1 and found["no Male"]["Glasses"].share == 0.5
    told = cond.clone()
    told[1000:, :] = 0  # who is asked for is still told by all that was asked
    half = obeyed_by(seen, cond, NAMES, ["Male"], told)
    assert half["no Male"]["Glasses"] == obeyed_by(seen[:1000], cond[:1000], NAMES, ["Male"])["no Male"]["Glasses"]
    told[:, 3] = 0
    assert obeyed_by(seen, cond, NAMES, ["Male"], told)["Male"]["Hat"] == half["Male"]["Hat"]
    assert found["no Male"]["Hat"].share == 1 and found["Male"]["Male"].no is None


def test_the_mean_of_control_and_its_interval():
    answers = people(300)
    cond = answers.float()
    right = luck(300, 4, seed=3) < torch.tensor([1.0, 0.9, 0.8, 0.7])
    seen = torch.where(right, answers, -answers)
    found = mean_obeyed(seen, cond, NAMES, NAMES)
    each = [one["share"] for one in map(plain, obeyed_all(seen, cond).values())]
    assert found.value == pytest.approx(sum(each) / 4) and found.low < 0.85 < found.high
    assert mean_obeyed(seen, cond, ["Hat"], NAMES).value == 1
    values = []
    for seed in range(100):
        right = luck(300, 4, seed=seed + 10) < torch.tensor([1.0, 0.9, 0.8, 0.7])
        values.append(mean_obeyed(torch.where(right, answers, -answers), cond, NAMES, NAMES).value)
    assert found.high - found.low == pytest.approx(3.92 * torch.tensor(values).std().item(), rel=0.35)
    cond[:, 2] = 0
    assert mean_obeyed(seen, cond, NAMES, NAMES).value == pytest.approx(sum(each[:2] + each[3:]) / 3)
    with pytest.raises(ValueError, match="of no attribute both answers were asked"):
        mean_obeyed(seen, cond, ["Smiling"], NAMES)


def obeyed_all(seen, cond):
    from facelab.control import balanced_accuracy

    return balanced_accuracy(seen, cond, NAMES)
