"""The recording commands: every part on tiny networks and few synthetic faces; conditions independent of references; ablations."""

import json

import pytest
import record_ablation
import record_results
import torch
from record_results import Run, arguments, main

from facelab import CELEBA, DIGITS, SYNTHETIC, AttributeClassifier, AttributeDataset, Denoiser, pretrained
from facelab.data import synthetic_faces
from facelab.evaluation import report
from facelab.presets import PRESETS

TINY = {"block_out_channels": (32,), "attention": (False,), "patch_size": 4}
FEW = "--count 24 --steps 1 --scales 1 2 --features synthetic-classifier".split()


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """A folder of tiny untrained weights."""
    folder, shape = tmp_path_factory.mktemp("weights"), (3, 64, 64)
    nets = {
        "model": Denoiser(shape, SYNTHETIC.names, **TINY),
        "weak": Denoiser(shape, SYNTHETIC.names, seed=1, **TINY),
        "report-unconditional": Denoiser(shape, SYNTHETIC.names, seed=2, conditioning="none", **TINY),
        "synthetic-classifier": AttributeClassifier(shape, SYNTHETIC.names, channels=(8, 8, 8)),
        "mnist": Denoiser((1, 28, 28), DIGITS.names, True, block_out_channels=(32,), attention=(False,), patch_size=4),
    }
    for name, net in nets.items():
        pretrained.save(net, folder / name, {"what": "made for this test"})
    return folder


@pytest.fixture
def few(weights, monkeypatch, tmp_path_factory):
    """Few synthetic faces; only the tiny weights are shipped; image means in place of EfficientNet's features."""
    for split, count in {"train": 80, "valid": 60, "test": 60}.items():
        monkeypatch.setitem(synthetic_faces.SPLIT_SIZES, split, count)
    folder = tmp_path_factory.mktemp("run")
    (folder / "cache").mkdir()
    # Faces are rendered once for all tests; generated images are each test's own.
    (folder / "cache/prepared").symlink_to(weights, target_is_directory=True)
    monkeypatch.setattr(pretrained, "shipped_dir", lambda kind="pretrained": weights)
    monkeypatch.setenv("FACELAB_CACHE", str(folder / "cache"))
    monkeypatch.delenv("FACELAB_DATA", raising=False)

    def means(images):
        x = images.float().flatten(2) / 127.5 - 1
        return torch.cat([x.mean(2), x.std(2)], 1)

    monkeypatch.setattr(record_results, "efficientnet_features", means)
    return folder


def record(few, part, *options, name=None, model="model"):
    main([part, "--model", model, *FEW, *options, "--out", str(few / "out")])
    return json.loads((few / "out" / f"{name or f'{model}_{part}'}.json").read_text())


def options_of(*argv):
    return arguments().parse_args(["guidance", "--model", "model", *FEW, *argv])


def is_interval(value):
    return value["low"] <= value["value"] <= value["high"]


def test_every_record_has_its_command_model_and_machine(few, capsys):
    found = record(few, "spacing")
    assert found["about"]["command"].startswith("python data/make/record_results.py spacing --model model --count 24")
    assert found["about"]["command"].endswith("--out data/results")
    assert found["about"]["model"].startswith("model, sha256 ") and "torch" in found["about"]["machine"]
    one, *others = found["rows"]
    assert [row["timestep_shift"] for row in found["rows"]] == [1, 2, 3, 4]
    assert all(is_interval(value) for row in found["rows"] for key, value in row.items() if key != "timestep_shift")
    # In one step every spacing begins and ends at the same timesteps.
    assert all(one["frechet_distance"] == other["frechet_distance"] for other in others)
    assert found["about"]["real_images"]["frechet_distance"]["value"] < one["frechet_distance"]["value"]
    assert json.loads(capsys.readouterr().out) == found
    assert [file.name for file in (few / "out").iterdir()] == ["model_spacing.json"]
    assert len(list((few / "cache/generated").iterdir())) == 4


def test_reference_images_and_conditions_are_chosen_independently(few, monkeypatch):
    """With the reference's own labels as conditions, a model comes nearer to it than other real images do (bug 4)."""
    labels = torch.randint(0, 2, (400, 40), generator=torch.Generator().manual_seed(0)) * 2 - 1
    images = torch.arange(400)[:, None, None, None].expand(-1, 3, 64, 64).to(torch.uint8)
    faces = AttributeDataset(images, labels, CELEBA, "made for this test", "celeba")
    monkeypatch.setattr(record_results, "celeba_conds", lambda split: (None, labels))
    monkeypatch.setattr(record_results, "default_faces", lambda split, name: faces)
    run = Run(options_of("--count", "100"))
    run.data = "celeba"
    chosen = report.disjoint_rows(400, 100, 100, seed=0)
    assert torch.equal(run.reference_images()[0], images[chosen[0]])
    row = (run.cond @ labels.float().T).argmax(1)  # the row of labels behind each condition
    shared = [len(set(row.tolist()) & set(part.tolist())) for part in chosen]
    # Of 100 rows among 400 a quarter is shared by chance, with both sets alike.
    assert max(shared) < 45 and min(shared) > 10 and len(set(row.tolist())) == 100


def test_cached_images_belong_to_their_weights_and_options(few, monkeypatch):
    """Two models with the same conditions (bug 8)."""
    run, other, cond = Run(options_of()), Run(options_of(), "weak"), torch.zeros(2, len(SYNTHETIC))
    first, guided = run.images(cond), run.images(cond, weak=other, weak_scale=2.0)
    variants = [other.images(cond), run.images(cond, steps=2), run.images(cond + 1), guided]
    variants.append(Run(options_of("--seed", "1")).images(cond))
    assert not any(torch.equal(first, images) for images in variants)
    assert len(list((few / "cache/generated").iterdir())) == 6
    monkeypatch.setattr(record_results, "generate", lambda *a, **k: pytest.fail("generated twice"))
    assert torch.equal(run.images(cond), first) and torch.equal(run.images(cond, weak=other, weak_scale=2.0), guided)


def test_sweeps_of_guidance_scale_and_autoguidance(few):
    found = record(few, "guidance")
    assert [(row["guidance_scale"], row["weak_scale"]) for row in found["rows"]] == [(1, 1), (2, 1)]
    scores = ("frechet_distance", "precision", "recall")
    assert all(is_interval(row[key]) for row in found["rows"] for key in (*scores, "attribute_accuracy"))
    assert all(is_interval(found["about"]["real_images"][key]) for key in scores)
    weak = record(few, "guidance", "--weak", "weak", "--weak-scales", "1", "1.5")
    assert weak["rows"][:2] == found["rows"]
    assert [(row["guidance_scale"], row["weak_scale"]) for row in weak["rows"][2:]] == [(1, 1.5), (2, 1.5)]
    distances = [row["frechet_distance"]["value"] for row in weak["rows"]]
    assert len(set(distances)) == 4 and weak["about"]["weak"].startswith("weak, sha256 ")


def test_table1_with_missing_weights(few, monkeypatch):
    lines = {"unconditional": ("report-unconditional", False, 1.0), "guided": ("celeba", True, 2.0)}
    monkeypatch.setattr(record_results, "TABLE1", lines | {"missing": ("report-conditional", True, 1.0)})
    real_load = pretrained.load
    monkeypatch.setattr(record_results, "load", lambda name, *a: real_load("model" if name == "celeba" else name, *a))
    monkeypatch.setattr(record_results, "names", lambda: ["celeba", "report-unconditional"])
    found = record(few, "table1", name="table1")
    assert found["about"]["missing"] == ["missing"] and list(found["models"]) == list(lines)
    assert [row["nfe"] for row in found["models"].values()] == [1, 2]
    assert all(row["seconds"] > 0 and is_interval(row["attribute_accuracy"]) for row in found["models"].values())
    (scores,) = report.recorded_scores(found)
    assert [row.images for row in scores.rows] == [*lines, report.REAL, report.COLLAPSED]


def test_memorization_finds_copies(few):
    for space, row in record(few, "memorization")["rows"].items():
        new, copies = row["other training images (new)"], row["these training images (copies)"]
        assert copies["value"] == 1 > new["value"] and copies["n"] == 24 and is_interval(row["generated"]), space


def test_the_classifier_by_group(few):
    groups = record(few, "classifier", name="synthetic_classifier")["groups"]
    assert list(groups)[:3] == ["all", "women", "men"] and groups["women"]["count"] + groups["men"]["count"] == 60
    assert set(groups["all"]["balanced_accuracy"]) == set(SYNTHETIC)


def test_other_weights_are_refused(few):
    for name in ("mnist", "synthetic-classifier"):
        with pytest.raises(ValueError, match="generates no faces"):
            record(few, "guidance", model=name)
    with pytest.raises(ValueError, match="different rows are needed"):
        record(few, "guidance", "--count", "31")


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
    plain, preconditioned = record_ablation.COMPARISONS["preconditioning"][0].values()
    noise, v, flow = record_ablation.COMPARISONS["prediction"][0].values()
    assert plain == preconditioned | {"sigma_data": None} and preconditioned == noise
    assert noise | {"prediction_type": "v"} == v and v | {"schedule": "rectified_flow"} == flow
    embedding, channels, none = record_ablation.COMPARISONS["conditioning"][0].values()
    assert embedding == flow and {**channels, "conditioning": ""} == {**none, "conditioning": ""}


@pytest.mark.slow
@pytest.mark.parametrize("comparison", record_ablation.COMPARISONS)
def test_one_training_measures_every_sampler(comparison):
    kinds, columns = record_ablation.COMPARISONS[comparison]
    run = record_ablation.one_training(comparison, list(kinds)[-1], 0, PRESETS["ci"])
    assert set(run["accuracy"]) == set(columns) and all(0 <= v <= 1 for v in run["accuracy"].values())
