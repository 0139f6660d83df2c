"""The benchmarks run, with networks as small as possible; the times that they print here mean nothing."""

import importlib
import importlib.util
import os
import re
import sys
from pathlib import Path

import pytest

from facelab.denoiser import Denoiser
from facelab.pretrained import Pretrained

FOLDER = Path(__file__).with_name("benchmarks")
SMALL = {"block_out_channels": (32, 32), "attention": (False, False), "patch_size": 4}
MODULES = ("timing", "reading", "scoring", "explorer")


@pytest.fixture
def load(monkeypatch):
    """Imports a benchmark by its file's name."""
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setenv("FACELAB_CACHE", os.environ["FACELAB_CACHE"])  # reading.py sets another

    def load(name):
        spec = importlib.util.spec_from_file_location(f"benchmarks_{name.strip('_')}", FOLDER / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    yield load
    for name in MODULES:
        sys.modules.pop(name, None)


def test_all_tables_at_the_smallest_size(load, monkeypatch, tmp_path, capsys):
    module, small_report = load("__main__"), {"block_out_channels": (32, 32), "attention": (False, False)}
    report = module.REPORT_NET | small_report | {"layers_per_block": 1}
    values = {
        "OURS": SMALL, "REPORT_NET": report, "REPORT_UNCONDITIONAL_NET": report | {"conditioning": "none"},
        "SHAPE": (3, 32, 32), "TIMED": 1, "README": tmp_path / "README.md", "child": lambda code: len(code) / 1000,
        "find_spec": lambda name: None if name == "denoising_diffusion_pytorch" else name,
    }  # fmt: skip
    for name, value in values.items():
        monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(sys.modules["reading"], "COUNT", 128)
    monkeypatch.setattr(sys.modules["reading"], "SECONDS", 0.001)
    (tmp_path / "README.md").write_text("before\n<!-- table -->\nold\n<!-- end -->\nafter\n")
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--rounds", "1", "--write"])
    module.main()
    out, text = capsys.readouterr().out, (tmp_path / "README.md").read_text("utf-8")
    assert text.startswith("before\n<!-- table -->\n") and text.endswith("<!-- end -->\nafter\n") and "old" not in text
    assert out.strip() in text and not re.search(r"\bnan\b|\binf\b", out)
    assert sum(line.startswith("| ") for line in out.splitlines()) > 30
    for words in ("training step", "16 guided faces", "one guided face", "import", "exponent", "GFLOP", "64 GPUs"):
        assert words in out
    assert (FOLDER / "README.md").read_text("utf-8").count("<!-- table -->") == 1
    assert module.slope([1, 2, 4], [3, 3 * 2**1.5, 3 * 4**1.5]) == pytest.approx(1.5)


def test_scoring_prints_the_time_of_each_part(load, capsys):
    load("scoring").main(20)
    *parts, about = capsys.readouterr().out.splitlines()
    seconds = [float(re.search(r"([\d.]+) s ", line)[1]) for line in parts]
    assert len(parts) == 4 and abs(sum(seconds[:-1]) - seconds[-1]) < 0.3 and "20 images of each set" in about


def test_the_explorer_is_timed(load, capsys):
    from facelab.attributes import DIGITS

    net = Denoiser((1, 8, 8), DIGITS.names, True, block_out_channels=(32,), attention=(False,)).eval()
    load("explorer").main(1, Pretrained("tiny", DIGITS, net.shape, {}, denoiser=net))
    assert re.match(r"first pixels [\d.]+ s, finished [\d.]+ s; cpu", capsys.readouterr().out)
