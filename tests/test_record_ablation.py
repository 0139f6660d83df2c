"""The comparison of lesson 02: its runs, its table, and that a stopped recording continues."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "data/make"))
import record_ablation

from facelab.presets import PRESETS


def test_a_recording_continues_and_has_each_kind_once_for_each_seed(tmp_path, monkeypatch):
    trained, (kinds, columns) = [], record_ablation.COMPARISONS["prediction"]

    def one_training(comparison, kind, seed, sizes):
        trained.append((kind, seed))
        return {"kind": kind, "seed": seed, "accuracy": dict.fromkeys(columns, 0.5 + 0.1 * seed)}

    monkeypatch.setattr(record_ablation, "one_training", one_training)
    file = tmp_path / "ablation.json"
    record_ablation.main(["prediction", "--preset", "ci", "--seeds", "2", "--out", str(file)])
    assert trained == [(kind, seed) for seed in (0, 1) for kind in kinds]
    record_ablation.main(["prediction", "--preset", "ci", "--seeds", "3", "--out", str(file)])
    assert trained[6:] == [(kind, 2) for kind in kinds]
    record = json.loads(file.read_text())
    assert len(record["runs"]) == 9 and record["images"] == PRESETS["ci"].mnist_ddpm.total_images
    found = record["table"]["v-prediction"]["DDIM, 50 steps"]
    half = 4.303 * 0.1 / 3**0.5  # t with two degrees of freedom
    assert found == pytest.approx({"value": 0.6, "low": 0.6 - half, "high": 0.6 + half, "n": 3}, abs=1e-4)


def test_the_kinds_differ_in_one_thing_each():
    noise, v, flow = record_ablation.COMPARISONS["prediction"][0].values()
    assert noise | {"prediction_type": "v"} == v and v | {"schedule": "rectified_flow"} == flow
    embedding, channels, none = record_ablation.COMPARISONS["conditioning"][0].values()
    assert embedding == flow and {**channels, "conditioning": ""} == {**none, "conditioning": ""}


@pytest.mark.slow
@pytest.mark.parametrize("comparison", record_ablation.COMPARISONS)
def test_one_training_measures_every_sampler(comparison):
    kinds, columns = record_ablation.COMPARISONS[comparison]
    run = record_ablation.one_training(comparison, list(kinds)[-1], 0, PRESETS["ci"])
    assert set(run["accuracy"]) == set(columns) and all(0 <= v <= 1 for v in run["accuracy"].values())
