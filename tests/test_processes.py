"""Two processes, launched by torchrun on the CPU, train together; and the command counts them.

Run by torchrun, this file is what each of the two does: `torchrun --nproc_per_node 2 tests/test_processes.py OUT`.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from oracle import digits, digits_classifier, random_dataset, tiny
from safetensors.torch import load_file, save_file

from facelab.training import TrainConfig, fit, processes, train

ROOT = Path(__file__).resolve().parents[1]
CONFIG = TrainConfig(8 * 20, 8, lr=2e-3, ema_decays=(0.9,))


def trainings(out: Path) -> dict[str, torch.Tensor]:
    """Losses and weights of a denoiser, of one that was stopped and resumed, and of a classifier."""
    found = {}
    for progress in train(tiny(), random_dataset(), CONFIG, checkpoint_dir=out / "resumed"):
        if progress.step == 7:
            break
    for name, net, data in (
        ("denoiser", tiny(), random_dataset()),
        ("resumed", tiny(), random_dataset()),
        ("classifier", digits_classifier(), digits()),
    ):
        average, losses = fit(net, data, CONFIG, checkpoint_dir=out / name, progress=False)
        found[f"{name}: losses"] = torch.tensor(losses, dtype=torch.float64)
        weights = {f"{name}: {key}": value for key, value in net.state_dict().items()}
        found |= weights | {f"{name}: ema {key}": value for key, value in average.state_dict().items()}
    return found


def launch(*words, **env):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    env |= {"OMP_NUM_THREADS": "1", "FACELAB_DATA": "", "PYTHONPATH": str(ROOT), "FACELAB_PRECISION": "float32"}
    return subprocess.run([*torchrun, *map(str, words)], capture_output=True, text=True, env=os.environ | env)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What the first and what the second process ended with."""
    out = tmp_path_factory.mktemp("two")
    done = launch(__file__, out, FACELAB_CACHE=str(out / "cache"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(file.name for file in (out / "denoiser").iterdir()) == ["checkpoint.pt"]
    return [load_file(out / f"{rank}.safetensors") for rank in (0, 1)]


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FACELAB_PRECISION", "float32")
        return trainings(tmp_path_factory.mktemp("one"))


def test_both_processes_have_the_same_weights(two):
    first, second = two
    for name in first:
        # Of a batch norm's statistics each process sees its own share, and those of the first are saved.
        if not name.endswith(("running_mean", "running_var")):
            assert torch.allclose(first[name], second[name], atol=1e-6), name


@pytest.mark.parametrize("name", ["denoiser", "resumed"])
def test_two_processes_train_a_denoiser_as_one_does(two, one, name):
    losses = f"{name}: losses"
    assert len(two[0][losses]) == CONFIG.steps and (two[0][losses] - one[losses]).abs().max() < 1e-3


def test_two_processes_train_a_classifier_to_the_same_loss_within_noise(two, one):
    """Their batch statistics are of half a batch each."""
    there, here = (found["classifier: losses"] for found in (two[0], one))
    assert there.shape == here.shape and (there - here)[-10:].mean().abs() < 0.35
    assert there[-10:].mean() < there[:5].mean()


def test_the_command_counts_its_processes_and_the_first_one_writes(tmp_path):
    script = ROOT / "data/make/train_weights.py"
    words = (script, "mnist-classifier", "--preset", "ci", "--images", 64, "--out", tmp_path / "out")
    done = launch(*words, FACELAB_CACHE=str(tmp_path / "cache"))
    assert done.returncode == 0, done.stderr
    assert len(re.findall("^2 processes$", done.stdout, re.M)) == 1 and done.stdout.count("written to") == 1
    assert (tmp_path / "out/card.json").is_file()


if __name__ == "__main__":
    torch.set_num_threads(1)
    rank, folder = processes().process_index, Path(sys.argv[1])
    assert processes().num_processes == 2
    found = {name: value.contiguous().clone() for name, value in trainings(folder).items()}
    save_file(found, folder / f"{rank}.safetensors")
