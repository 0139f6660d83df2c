"""Two processes do what one does: the same trainings in two (gloo, on the CPU) and in one, and the same measuring.

Run by torchrun, this file is what each of the two does: `torchrun --nproc_per_node 2 tests/test_processes.py OUT`.
"""

import contextlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from test_evaluate import FEW
from test_evaluate import TINY as PAINTER
from test_train import equal, pictures, tiny

from facelab import data, pretrained, train
from facelab.__main__ import main
from facelab.attributes import DRAWN
from facelab.model import AttributeClassifier, Denoiser
from facelab.plan import Recipe
from facelab.train import fit, training

ROOT = Path(__file__).resolve().parents[1]
STEPS = 20
CASES = {
    "fp32": {},
    "float64": {"double": True},
    "an uneven batch": {"double": True, "batch": 7},
    "stopped": {"double": True, "stop": 7},
    "little memory": {"double": True, "most": 3},
}


def fp32(kind=None) -> torch.dtype:
    """Where bfloat16 is fast training takes it, and rounding alone would part the two from the one."""
    return torch.float32


@contextlib.contextmanager
def memory_for(most: int | None):
    """As if a training step with more than `most` pictures ran out of memory; None: as it is."""
    real = train.denoising_loss

    def little(net, x_0, *rest):
        if most is not None and len(x_0) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return real(net, x_0, *rest)

    train.denoising_loss = little
    try:
        yield
    finally:
        train.denoising_loss = real


def trained(keep: Path, double=False, batch=8, stop=0, most=None) -> dict[str, torch.Tensor]:
    """Losses, weights, their average, moments, and what the averaged net says, after 20 steps."""
    net, recipe = tiny(), Recipe(STEPS * batch, batch=batch, ema=0.9)
    net = net.double() if double else net
    with memory_for(most):
        if stop:
            for now in training(net, pictures(), recipe, keep=keep):
                if now.step == stop:
                    break
            net = tiny().double()
            for weight in net.parameters():  # all that goes on must come from the checkpoint
                weight.data.zero_()
        averaged, losses = fit(net, pictures(), recipe, keep=keep, progress=False)
    noise = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        said = averaged(noise.double() if double else noise, torch.tensor([1, 300, 700, 999]), torch.eye(10)[:4])
    found = {"losses": torch.tensor(losses, dtype=torch.float64), "said": said}
    found |= {f"net.{name}": value for name, value in net.state_dict().items()}
    return found | {f"average.{name}": value for name, value in averaged.state_dict().items()}


def refusals(keep: Path) -> dict[str, str]:
    """What each process is told where training cannot start, or has to stop."""
    told, recipe = {}, Recipe(8 * 8, batch=8)

    def note(name, *what):
        try:
            fit(*what, keep=keep / name, progress=False)
        except (ValueError, MemoryError) as error:
            told[name] = str(error)

    note("judge", AttributeClassifier((1, 8, 8), channels=(8, 8), exclusive=True), pictures(), recipe)
    note("one picture", tiny(), pictures(), Recipe(8, batch=1))
    fit(tiny(), pictures(), recipe, keep=keep / "taken", progress=False)
    note("taken", tiny(channels=(32, 64)), pictures(), recipe)
    real = Denoiser.forward

    def poisoned(self, x_t, *rest, **options):
        return real(self, x_t, *rest, **options) * (torch.nan if int(os.environ.get("RANK", "0")) == 1 else 1)

    Denoiser.forward = poisoned
    note("poison in the second", tiny(), pictures(), recipe)
    Denoiser.forward = real
    with memory_for(0):
        note("no memory", tiny(), pictures(), recipe)
    return told


def measured(out: Path, weights: Path) -> None:
    """A tiny net's distance to drawn faces, by the command, into out/painter_distance.json."""
    data.DRAWN_COUNTS, pretrained.shipped_dir = (
        {"train": 80, "valid": 60, "test": 60},
        lambda kind="pretrained": weights,
    )
    assert main(["evaluate", "--model", "painter", "--what", "distance", *FEW, "--out", str(out)]) == 0


def commanded(out: Path) -> None:
    assert train.main(["--plan", "ci", "--pictures", "96", "--out", str(out)]) == 0


def run(out: Path) -> None:
    """What one process of the two does."""
    accelerator = Accelerator(cpu=True)
    torch.set_num_threads(1)
    train.precision = fp32
    rank, found = accelerator.process_index, {}
    for case, how in CASES.items():
        found |= {f"{case}: {name}": value for name, value in trained(out / case, **how).items()}
    save_file({name: value.contiguous().clone() for name, value in found.items()}, out / f"{rank}.safetensors")
    told = {"world": accelerator.num_processes, "refusals": refusals(out / "refused")}
    (out / f"{rank}.json").write_text(json.dumps(told))
    shipped = pretrained.shipped_dir
    measured(out / "measured", out / "weights")
    pretrained.shipped_dir = shipped
    commanded(out / "commanded")


# In the test's own process: start the two, and do the same alone.


def launched(*words, processes=2, **env):
    """torchrun with two processes, on a port of its own."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    env = os.environ | {"OMP_NUM_THREADS": "1", "FACELAB_DATA": "", "PYTHONPATH": str(ROOT)} | env
    return subprocess.run([*torchrun, *map(str, words)], capture_output=True, text=True, env=env)


@pytest.fixture(scope="module", autouse=True)
def in_fp32():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "precision", fp32)
        yield


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """(what the first process found, the second, the folder, what was printed)"""
    out = tmp_path_factory.mktemp("two")
    pretrained.save(Denoiser((3, 64, 64), DRAWN.names, **PAINTER), out / "weights/painter", {"what": "for this test"})
    judge = AttributeClassifier((3, 64, 64), DRAWN.names, channels=(8, 8, 8))
    pretrained.save(judge, out / "weights/drawn-judge", {"what": "for this test"})
    told = launched(__file__, out, FACELAB_CACHE=str(out / "cache"))
    assert told.returncode == 0, told.stdout + told.stderr
    return *(load_file(out / f"{rank}.safetensors") for rank in (0, 1)), out, told.stdout


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    keep = tmp_path_factory.mktemp("one")
    return {name: trained(keep / name, **CASES[name]) for name in ("fp32", "float64", "an uneven batch")}


def of(case: str, found: dict) -> dict:
    return {name.removeprefix(f"{case}: "): value for name, value in found.items() if name.startswith(f"{case}: ")}


def farthest(a: dict, b: dict) -> float:
    assert a.keys() == b.keys()
    return max((a[name].double() - b[name].double()).abs().max().item() for name in a)


def test_two_processes_were_counted_and_have_the_same_weights(two):
    first, second, out, _ = two
    assert [json.loads((out / f"{rank}.json").read_text())["world"] for rank in (0, 1)] == [2, 2]
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_in_fp32_losses_and_predictions_equal_those_of_one(two, one):
    there = of("fp32", two[0])
    for name in ("losses", "said"):
        assert (there[name] - one["fp32"][name]).abs().max() < 1e-5
    assert there["losses"].shape == (STEPS,)


@pytest.mark.parametrize("case", ["float64", "an uneven batch"])
def test_in_float64_weights_and_averages_equal_those_of_one(two, one, case):
    assert farthest(of(case, two[0]), one[case]) < 1e-8


@pytest.mark.parametrize("case", ["stopped", "little memory"])
def test_two_that_were_stopped_or_had_little_memory_do_the_same(two, one, case):
    assert farthest(of(case, two[0]), one["float64"]) < 1e-8


def test_both_are_told_why_training_does_not_start_or_stops(two):
    first, second = (json.loads((two[2] / f"{rank}.json").read_text())["refusals"] for rank in (0, 1))
    assert first.keys() == second.keys() == {"judge", "one picture", "taken", "poison in the second", "no memory"}
    for told in (first, second):
        assert "looks at a batch as a whole: train it in one process" in told["judge"]
        assert "a batch of 1 cannot be shared by 2 processes" in told["one picture"]
        assert "is a checkpoint of another run" in told["taken"]
        assert "the loss is not a number at tick" in told["poison in the second"]
        assert "does not hold a training step with 1 pictures at once" in told["no memory"]


def test_what_two_measure_is_what_one_measures(two, tmp_path, monkeypatch):
    monkeypatch.setattr(data, "DRAWN_COUNTS", data.DRAWN_COUNTS)
    monkeypatch.setattr(pretrained, "shipped_dir", pretrained.shipped_dir)
    monkeypatch.setenv("FACELAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("FACELAB_DATA", raising=False)
    measured(tmp_path, two[2] / "weights")
    there, here = (
        json.loads((folder / "painter_distance.json").read_text()) for folder in (two[2] / "measured", tmp_path)
    )
    assert there["scores"] == here["scores"] and there["distance"]["real"] == here["distance"]["real"]


def test_the_command_counts_its_processes_and_the_first_one_writes(two, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("FACELAB_DATA", "")
    assert two[3].count("2 processes\n") == 1 and two[3].count("written to") == 2
    commanded(tmp_path)
    assert "1 process\n" in capsys.readouterr().out
    there, here = (pretrained.load(str(folder)) for folder in (two[2] / "commanded", tmp_path))
    assert there.card["steps"] == here.card["steps"] == 6
    x = torch.randn(3, 1, 28, 28, generator=torch.Generator().manual_seed(2))
    said = [model.denoiser(x, 500, torch.eye(10)[:3]) for model in (there, here)]
    assert torch.allclose(*said, atol=2e-3), "the same but for rounding to half precision"


def test_where_the_launcher_s_count_is_another_training_does_not_start(tmp_path, monkeypatch, capsys):
    Accelerator(cpu=True)  # accelerate has already counted: one
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(
        ValueError, match=r"2 processes were launched \(WORLD_SIZE\), accelerate counts 1: .* not start"
    ):
        fit(tiny(), pictures(), Recipe(8, batch=8), keep=tmp_path)
    monkeypatch.setenv("FACELAB_DATA", "")
    assert main(["train", "--plan", "ci", "--out", str(tmp_path / "out")]) == 2
    assert "\nfacelab: 2 processes were launched" in f"\n{capsys.readouterr().err}"
    assert list(tmp_path.iterdir()) == []


# Out of memory, in one process.


def test_out_of_memory_halves_the_batch_with_the_same_result_and_says_so(one, tmp_path):
    with pytest.warns(UserWarning, match="out of memory with 8 pictures at once: now 4 at a time, .* the same result"):
        found = trained(tmp_path, double=True, most=3)
    assert farthest(found, one["float64"]) < 1e-8


def test_the_size_that_fits_is_kept_for_the_rest_of_the_run(tmp_path):
    seen, recipe, real = [], Recipe(8 * 4, batch=8), train.denoising_loss
    with memory_for(4), pytest.warns(UserWarning, match="now 4 at a time"):
        notes = [now.note for now in training(tiny(), pictures(), Recipe(8 * 4, batch=8), keep=tmp_path / "a")]
    assert notes[0].startswith("out of memory with 8") and not any(notes[1:])
    with memory_for(4), pytest.warns(UserWarning):
        for now in training(tiny(), pictures(), recipe, keep=tmp_path / "b"):
            if now.step == 2:
                break
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "denoising_loss", lambda net, x_0, *rest: seen.append(len(x_0)) or real(net, x_0, *rest))
        resumed, _ = fit(tiny(), pictures(), recipe, keep=tmp_path / "b", progress=False)
    assert seen == [4] * 4
    whole, _ = fit(tiny(), pictures(), recipe, keep=tmp_path / "a", progress=False)
    assert equal(resumed, whole)


def test_where_not_one_picture_fits_one_sentence_says_so_and_the_checkpoint_stands(tmp_path):
    recipe = Recipe(8 * 4, batch=8)
    for now in training(tiny(), pictures(), recipe, keep=tmp_path):
        if now.step == 2:
            break
    before = sorted(tmp_path.iterdir())
    with memory_for(0), pytest.warns(UserWarning), pytest.raises(MemoryError, match="does not hold .* last checkpoint"):
        fit(tiny(), pictures(), recipe, keep=tmp_path, progress=False)
    assert sorted(tmp_path.iterdir()) == before
    assert next(training(tiny(), pictures(), recipe, keep=tmp_path)).note == "resumed at step 2"


def test_another_error_is_no_lack_of_memory(tmp_path, monkeypatch):
    def broken(*args):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(train, "denoising_loss", broken)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        fit(tiny(), pictures(), Recipe(8, batch=8), keep=tmp_path, progress=False)


# As it is told in tests/benchmarks/README.md.


def test_the_cell_that_launches_from_a_notebook(tmp_path, monkeypatch, capsys):
    page = (ROOT / "tests/benchmarks/README.md").read_text("utf-8")
    (cell,) = re.findall(r"```python\n(from accelerate import notebook_launcher.+?)```", page, re.S)
    monkeypatch.chdir(tmp_path)
    names = {"net": tiny(), "pictures": pictures(), "recipe": Recipe(8 * 4, batch=8), "fit": fit, "torch": torch}
    exec(cell, names)
    assert "Launching training on" in capsys.readouterr().out, "the launcher ran it"
    assert len(names["losses"]) == 4 and len(list((tmp_path / "my-faces").glob("step-*"))) <= 2
    assert equal(names["net"], fit(tiny(), pictures(), Recipe(8 * 4, batch=8), keep=tmp_path / "b", progress=False)[0])


@pytest.mark.slow
def test_torchrun_as_it_is_told(tmp_path):
    told = launched("-m", "facelab.train", "--plan", "ci", "--out", tmp_path, FACELAB_CACHE=str(tmp_path / "cache"))
    assert told.returncode == 0, told.stderr
    assert re.search(r"^2 processes$", told.stdout, re.M) and (tmp_path / "card.json").is_file()


@pytest.mark.slow
def test_accelerate_launch_on_a_cpu_starts_one_and_training_says_so(tmp_path):
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--cpu",
        "--num_processes",
        "2",
        "-m",
        "facelab.train",
    ]
    command += ["--plan", "ci", "--pictures", "64", "--out", str(tmp_path)]
    told = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"FACELAB_DATA": "", "PYTHONPATH": str(ROOT)}
    )
    assert told.returncode == 0, told.stderr
    assert re.search(r"^1 process$", told.stdout, re.M)


if __name__ == "__main__":
    run(Path(sys.argv[1]))
