"""The command that measures runs through, with networks as small as can be: what it tells of speed means nothing here."""

import importlib.util
import os
import re
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).with_name("benchmarks")
SMALL = {"channels": (32, 32), "attention": (False, False), "patch": 8}


def loaded(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setenv("FACELAB_CACHE", os.environ["FACELAB_CACHE"])  # reading.py has a cache of its own
    spec = importlib.util.spec_from_file_location("benchmarks_command", FOLDER / "__main__.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def command(monkeypatch, tmp_path):
    module = loaded(monkeypatch)
    monkeypatch.setattr(module, "FACES", SMALL)
    report = module.NETS["report"] | {"channels": (32, 32), "layers": 1, "attention": (False, False)}
    nets = {"report": report, "unconditional": report | {"condition": "none"}}
    monkeypatch.setattr(module, "NETS", nets)
    monkeypatch.setattr(module, "SHAPE", (3, 32, 32))
    monkeypatch.setattr(module, "TIMED", 1)
    monkeypatch.setattr(module, "find_spec", lambda name: None if name == "denoising_diffusion_pytorch" else name)
    monkeypatch.setattr(module, "child", lambda code: compile(code, "child", "exec") and 1.0)
    monkeypatch.setattr(sys.modules["reading"], "COUNT", 128)
    monkeypatch.setattr(sys.modules["reading"], "SECONDS", 0.001)
    (tmp_path / "README.md").write_text("before\n<!-- table -->\nold\n<!-- end -->\nafter\n")
    monkeypatch.setattr(module, "README", tmp_path / "README.md")
    yield module
    forget()


def forget():
    for name in ("reading", "against_the_report"):
        sys.modules.pop(name, None)


def test_the_whole_table_at_the_smallest_size(command, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--rounds", "1", "--write"])
    command.main()
    out, text = capsys.readouterr().out, (tmp_path / "README.md").read_text("utf-8")
    assert text.startswith("before\n<!-- table -->\n") and text.endswith("<!-- end -->\nafter\n") and "old" not in text
    assert out.strip() in text
    rows = [line for line in out.splitlines() if line.startswith("|") and "---" not in line]
    assert len(rows) > 30 and all(
        line.count("|") == rows[i - 1].count("|") or "|" in line for i, line in enumerate(rows)
    )
    assert not re.search(r"\bnan\b|\binf\b", out)
    for words in (
        "training step",
        "16 guided faces",
        "one guided face",
        "DDIMPipeline",
        "import",
        "slope",
        "GFLOP",
        "64 GPUs",
    ):
        assert words in out


def test_how_long_scores_take_is_told_part_by_part(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(FOLDER))
    import scoring

    scoring.main(20, 2)
    *parts, about = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in parts[-2:]] == ["the table", "all"] and len(parts) == 5
    clock = [float(re.search(r"([\d.]+) s ", line)[1]) for line in parts]
    assert (
        abs(sum(clock[:-1]) - clock[-1]) < 0.3 and "20 pictures of each set, 2 replicates for each of 3 rows" in about
    )


def test_a_system_that_tells_neither_processor_nor_cpu_time_is_measured_too(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "resource", None)  # as on Windows
    module = loaded(monkeypatch)
    try:
        monkeypatch.setattr(module, "CPUINFO", tmp_path / "none")  # as on macOS
        assert module.processor()
        assert 0 < module.child("pass") < 60
    finally:
        forget()


def test_a_slope_is_the_power_of_a_power_law(command):
    assert command.slope([1, 2, 4], [3, 3 * 2**1.5, 3 * 4**1.5]) == pytest.approx(1.5)


def test_the_page_has_a_place_for_the_table():
    assert (FOLDER / "README.md").read_text("utf-8").count("<!-- table -->") == 1
