"""The worked example of CONTRIBUTING.md is run as it stands there: the sampler, its test, and the same sampler by diffusers."""

import re
from pathlib import Path

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler
from oracle import Fake, randn
from torch.testing import assert_close

from facelab.sample import DDIM, FromDiffusers, sample
from facelab.schedule import cosine, linear, straight

PAGE = Path(__file__).resolve().parents[1] / ".github/CONTRIBUTING.md"


def example(change=lambda sampler: sampler) -> dict:
    """What is defined by the two blocks of code on the page, the first one changed."""
    sampler, test = re.findall(r"^```python\n(.+?)^```$", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    names = {}
    exec(change(sampler), names)
    exec(test, names)
    return names


def held_by(names: dict) -> list:
    return [value for name, value in names.items() if name.startswith("test_")]


def test_the_pages_own_test_holds():
    names = example()
    assert [test() for test in held_by(names)] == [None]


@pytest.mark.parametrize(
    ("right", "wrong"),
    [("(here - before) / 2", "(here - before)"), ("* (x_0_hat - x_0_before)", "* (x_0_before - x_0_hat)"),
     ("* signal_t) * ahead", "* signal_t) * x_0_hat"), ("sigma_s / sigma_t * x_t", "signal_s / signal_t * x_t")],
)  # fmt: skip
def test_the_pages_own_test_notices_a_mistake(right, wrong):
    def planted(sampler):
        assert sampler.count(right) == 1
        return sampler.replace(right, wrong)

    with pytest.raises(AssertionError):
        for test in held_by(example(planted)):
            test()


@pytest.mark.parametrize("made", [linear(), cosine()], ids=str)
@pytest.mark.parametrize("clip", [True, False])
def test_it_steps_as_diffusers_does(made, clip):
    """diffusers keeps its rates in float32, so what is compared is a whole way, not its last digits."""
    x_T, cond = randn(2, 1, 4, 4), torch.zeros(2, 1)
    for steps in (5, 20):
        theirs = FromDiffusers(DPMSolverMultistepScheduler, made, clip=clip)
        wanted = sample(Fake(), x_T, cond, theirs, steps)
        got = sample(Fake(), x_T, cond, example()["DPMSolver"](made, clip), steps)
        assert_close(got, wanted, rtol=0, atol=1e-3)
        assert (got - sample(Fake(), x_T, cond, DDIM(made, clip=clip), steps)).abs().max() > 0.01, "this is DDIM"


def test_it_starts_from_pure_noise_too_and_forgets_another_way():
    x_T, cond, solver = randn(2, 1, 4, 4), torch.zeros(2, 1), example()["DPMSolver"](straight())
    first = sample(Fake(), x_T, cond, solver, 7)
    assert first.isfinite().all() and first.abs().max() <= 1
    assert_close(sample(Fake(), x_T, cond, solver, 7), first, rtol=0, atol=0)


def test_the_sampler_is_short():
    (sampler, _test) = re.findall(r"^```python\n(.+?)^```$", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    assert len([line for line in sampler.splitlines() if line.strip()]) <= 22
