"""The bugs: each is one line, changes what it says it changes, and is gone again afterwards."""

import json
import math

import pytest
import torch
from torch.testing import assert_close

from facelab import bugs, guidance, sample, schedule, train
from facelab.attributes import DIGITS
from facelab.bugs import AGAIN, BUGS, RUNS, SOUND, Bug, harm
from facelab.data import Pictures, mnist
from facelab.model import Denoiser
from facelab.pretrained import load
from facelab.schedule import cosine, straight

EPS = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(1))
X_0 = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(2)).clamp(-1, 1)


def changed(bug: str, call):
    """What a call gives without the bug, with it, and without it again."""
    sound = call()
    with BUGS[bug].put_in():
        spoilt = call()
    assert_close(call(), sound, rtol=0, atol=0)
    return sound, spoilt


def tiny(**settings):
    return Denoiser((1, 4, 4), DIGITS.names, exclusive=True, channels=(8,), attention=(False,), **settings).eval()


def digits(count=64):
    images = torch.arange(256, dtype=torch.uint8).reshape(16, 1, 4, 4).repeat(count // 16, 1, 1, 1)
    return Pictures(images, torch.eye(10)[torch.arange(count) % 10], DIGITS, "test")


def test_there_are_eight_and_each_tells_its_source():
    assert len(BUGS) == 8 and all(len(bug.source) > 30 and bug.line != bug.published for bug in BUGS.values())
    assert RUNS[0] == SOUND and RUNS[-1] == AGAIN and len(RUNS) == 10


def test_each_is_one_patient_of_lesson_06():
    assert sorted(bugs.PATIENTS.values()) == sorted(BUGS) and bugs.patient("C").name == "pictures scaled twice"
    assert not bugs.patient("A").trains and not bugs.patient("B").trains and bugs.patient("H").trains
    with pytest.raises(ValueError, match=r"A, B, C, D, E, F, G, H, got 'I'"):
        bugs.patient("I")


@pytest.mark.parametrize("bug", BUGS.values(), ids=lambda bug: bug.name)
def test_each_is_one_line_of_the_sound_source_and_its_diff_shows_it(bug):
    before, after = bug.sound.splitlines(), bug.spoilt.splitlines()
    assert len(before) == len(after) and sum(a != b for a, b in zip(before, after, strict=True)) == 1
    lines = bug.diff().splitlines()
    gone, come = (next(line for line in lines[2:] if line.startswith(sign)) for sign in "-+")
    assert bug.line in gone and bug.published in come
    assert sum(line[:1] in "-+" for line in lines[2:]) == 2
    assert bug.of.__module__.replace(".", "/") + ".py" in lines[0]


@pytest.mark.parametrize("bug", BUGS.values(), ids=lambda bug: bug.name)
def test_the_sound_code_is_the_default_and_comes_back_even_after_an_error(bug):
    sound = bug.of.__code__
    assert "as published" not in sound.co_filename
    with pytest.raises(RuntimeError), bug.put_in():
        assert "as published" in bug.of.__code__.co_filename and bug.diff()
        raise RuntimeError
    assert bug.of.__code__ is sound


def test_a_line_that_is_not_there_once_is_refused():
    with pytest.raises(ValueError, match="stands 0 times in linear, and should once"):
        Bug("none", "nowhere", schedule.linear, "return nothing", "return")
    with pytest.raises(ValueError, match="two: its line stands [2-9]"):
        Bug("two", "nowhere", schedule.cosine, "curve", "x")


def test_the_last_tick_is_left_out_of_training_only_by_the_bug():
    recipe = train.Recipe(4_000, batch=1_000)

    def ticks():
        return torch.cat([train.Batch.draw(digits(), recipe, step, ticks=20).t for step in range(4)])

    sound, spoilt = changed("the last tick left out", ticks)
    assert sound.unique().tolist() == list(range(20)) and spoilt.unique().tolist() == list(range(19))


def test_noise_without_its_root_is_too_weak_in_the_middle():
    sound, spoilt = changed("noise without its root", lambda: cosine().add_noise(X_0, EPS, 500))
    signal, sigma = cosine()(500)
    assert_close(sound, signal * X_0 + sigma * EPS)
    assert_close(spoilt, signal * X_0 + sigma**2 * EPS)


def test_nine_labels_in_ten_are_dropped_by_the_bug():
    cond = torch.eye(10).repeat(200, 1)

    def told():
        return (train.forget_whole(cond, torch.Generator().manual_seed(0)) != 0).any(1).float().mean()

    sound, spoilt = changed("label dropped too often", told)
    assert 0.87 < sound < 0.93 and 0.07 < spoilt < 0.13
    # Training finds the function in a table of its own: it must meet the bug there, too.
    with BUGS["label dropped too often"].put_in():
        assert train.FORGET["whole"](cond, torch.Generator().manual_seed(0)).sum() < 300


def test_the_negative_one_hot_is_what_the_opposite_request_was():
    net, cond = tiny(), torch.eye(10)[:2]

    def guess(sign=1):
        with torch.no_grad():
            return net(X_0, 500, sign * cond)

    sound, spoilt = changed("one-hot turned negative", guess)
    assert_close(spoilt, guess(-1))
    assert (sound - spoilt).abs().max() > 1e-3
    nothing = changed("one-hot turned negative", lambda: net(X_0, 500, 0 * cond).detach())
    assert_close(*nothing)


def test_cosine_without_its_square_leaves_more_at_mid_time():
    sound, spoilt = changed("cosine without its square", lambda: cosine().alpha_bar[499])
    assert sound.item() == pytest.approx(0.494, abs=1e-3) and spoilt.item() == pytest.approx(0.703, abs=1e-3)
    # A net that is built with the bug keeps its schedule.
    with BUGS["cosine without its square"].put_in():
        net = tiny(schedule="cosine")
    assert net.schedule.alpha_bar[499].item() == pytest.approx(0.703, abs=1e-3)


def test_no_noise_is_carried_on_by_the_bug():
    sound, spoilt = changed("no noise carried on", lambda: sample.DDIM(straight()).step(EPS, X_0, 700, 600))
    assert_close(spoilt, straight()(600)[0] * X_0)
    assert (sound - spoilt).abs().max() > 0.1


def test_guidance_from_the_wrong_end_is_one_scale_too_much():
    net, cond = tiny(), torch.eye(10)[:2]

    def guided(scale):
        with torch.no_grad():
            return guidance.classifier_free(net, scale)(X_0, 500, cond)

    sound, spoilt = changed("guidance from the wrong end", lambda: guided(2.0))
    assert_close(spoilt, guided(3.0), atol=1e-4, rtol=0)
    assert (sound - spoilt).abs().max() > 1e-4


def test_pictures_scaled_twice_lie_between_minus_three_and_one():
    sound, spoilt = changed("pictures scaled twice", lambda: digits()[:16][0])
    assert (sound.min(), sound.max()) == (-1, 1) and (spoilt.min(), spoilt.max()) == (-3, 1)


def row(read, far):
    """A row with these intervals of the two differences."""
    names = ("value", "low", "high")
    made = lambda low, high: dict(zip(names, ((low + high) / 2, low, high), strict=True))  # noqa: E731
    return {"read less sound": {"2": made(*read)}, "distance less sound": {"2": made(*far)}}


@pytest.mark.parametrize(
    ("read", "far", "says"),
    [
        ((-0.1, 0.1), (-1, 1), "none seen"),
        ((-0.3, -0.1), (-1, 1), "harm"),
        ((-0.1, 0.1), (0.5, 1), "harm"),
        ((0.1, 0.3), (0.5, 1), "harm"),
        ((0.1, 0.3), (-1, 1), "better"),
        ((-0.1, 0.1), (-1, -0.5), "better"),
    ],
)
def test_the_rule_calls_harm_what_an_interval_shows(read, far, says):
    assert harm(row(read, far)) == says


def test_a_run_against_itself_is_no_harm_and_noise_is():
    net, judge = load("digits").denoiser, load("digits-judge").classifier
    drawn = {scale: bugs.draw_all(net, 3, scale) for scale in (1, 2)}
    real = bugs.features_of(mnist("test")[:60][0], bugs._eyes())
    same = bugs.measured(drawn, drawn, real, judge)
    assert harm(same) == harm(same, 1) == "none seen" and same["distance less sound"]["1"]["value"] == 0
    assert same["read"]["2"]["share"] > 0.9 and same["read"]["2"]["count"] == 30
    noise = {
        scale: torch.randn(30, 1, 28, 28, generator=torch.Generator().manual_seed(0)).clamp(-1, 1) for scale in (1, 2)
    }
    worse = bugs.measured(noise, drawn, real, judge)
    assert harm(worse) == "harm" and worse["read less sound"]["1"]["value"] < -0.5


def test_runs_that_train_alike_share_their_checkpoints_and_others_do_not(tmp_path):
    folders = {name: bugs.folder_of(name, tmp_path) for name in RUNS}
    assert folders["no noise carried on"] == folders["guidance from the wrong end"] == folders[SOUND]
    assert len(set(folders.values())) == 8


def test_the_command_trains_measures_and_goes_on_where_it_was(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bugs, "RUNS", (SOUND, "guidance from the wrong end", "pictures scaled twice"))
    argv = ["--plan", "ci", "--pictures", "32", "--asked", "2", "--out", str(tmp_path)]
    assert bugs.main(argv) == 0
    written = (tmp_path / "bugs.json").read_bytes()
    told = json.loads(written)
    assert [row["run"] for row in told["rows"]] == list(bugs.RUNS)
    assert told["rows"][0]["losses"] == told["rows"][1]["losses"] != told["rows"][2]["losses"]
    assert told["recipe"]["pictures"] == 32 and told["recipe"]["forget"] == "whole"
    assert told["command"].endswith("--plan ci --pictures 32 --asked 2 --out DIR")
    monkeypatch.setattr(bugs, "draw_all", None)  # all is kept: nothing is drawn or trained again
    assert bugs.main(argv) == 0 and (tmp_path / "bugs.json").read_bytes() == written
    assert bugs.main(["--plan", "ci", "--pictures", "0", "--out", str(tmp_path)]) == 2
    assert "pictures and batch must be above 0" in capsys.readouterr().err


def test_what_was_recorded_is_whole():
    about, rows, pictures = bugs.recorded()
    assert tuple(rows) == tuple(pictures) == RUNS and "facelab.bugs" in about["command"]
    assert all(x.shape == (10, 1, 28, 28) and x.min() >= -1 and x.max() <= 1 for x in pictures.values())
    assert harm(rows[SOUND]) == "none seen" and rows[SOUND]["read less sound"]["2"]["value"] == 0
    assert all(len(row["losses"]) == 25 for row in rows.values())
    # A row is where it says: the judge reads the sound zeros to nines better than those of dropped labels.
    judge = load("digits-judge").classifier
    right = {name: int((judge.read(pictures[name]) == torch.arange(10)).sum()) for name in rows}
    assert right[SOUND] > right["label dropped too often"]


def test_an_interval_that_is_not_finite_shows_nothing():
    for read, far in (((math.nan, 0.1), (-1, 1)), ((-0.1, 0.1), (-1, math.nan)), ((-0.1, 0.1), (-math.inf, 1))):
        with pytest.raises(ValueError, match="an interval that is not finite"):
            harm(row(read, far))
