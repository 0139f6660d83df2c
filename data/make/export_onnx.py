"""Export shipped weights to ONNX for the explorer's web page, or write the numbers that its JavaScript is tested against.

    python data/make/export_onnx.py celeba --out DIR       DIR/celeba.onnx, its classifier, and celeba.json that describes both
    python data/make/export_onnx.py --fixtures FILE

Needs the extra `site`. Weights are stored in half precision, as the shipped ones are, and computed with in float32.
"""

import argparse
import hashlib
import json
from pathlib import Path

import onnx
import torch
from onnx import helper, numpy_helper

from facelab.attributes import CELEBA, DIGITS
from facelab.editing import slerp
from facelab.guidance import WEAK_SCALE, autoguidance, cfg
from facelab.pretrained import load, names
from facelab.samplers import DDIM, AdamsBashforth, default_sampler, noise
from facelab.schedules import SCHEDULES, Schedule
from facelab.widgets.explorer import CLASSIFIERS, FIRST_SEED

MAX_BATCH = 63  # from 64 images on, diffusers' upsampling takes another path


class _Unchecked(Schedule):
    """A schedule whose timesteps are not checked, because an exported graph has no branches."""

    def _index(self, t):
        return t


def export(net, file: Path) -> dict:
    """Write a denoiser (x_t, t (1,), cond -> x_0_hat) or a classifier (images -> logits); returns name, bytes and sha256."""
    batch = {0: torch.export.Dim("batch", max=MAX_BATCH)}
    x = torch.zeros(2, *net.shape)
    args, shapes, inputs, output = (x,), [batch], ["images"], "logits"
    schedule = getattr(net, "schedule", None)
    if schedule is not None:
        net.schedule = _Unchecked(schedule.signal[:-1], schedule.sigma[:-1], schedule.name)
        args, shapes = (x, torch.tensor([500]), torch.zeros(2, len(net.attributes))), [batch, None, batch]
        inputs, output = ["x_t", "t", "cond"], "x_0_hat"
    try:
        net(*args)  # fills the tables of the schedule
        program = torch.export.export(net, args, dynamic_shapes=shapes, strict=True)
    finally:
        if schedule is not None:
            net.schedule = schedule
    found = torch.onnx.export(program, input_names=inputs, output_names=[output], opset_version=18, verbose=False)
    content = _halve(found.model_proto).SerializeToString()
    file.write_bytes(content)
    return {"file": file.name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _halve(model: onnx.ModelProto) -> onnx.ModelProto:
    """Weights in float16, each with a node that casts it to float32.

    Vectors and small constants stay float32: rates of the schedule, frequencies of the timestep's embedding.
    """
    casts = []
    for part in (model, model.graph, *model.graph.node):  # the exporter's notes are as long as a small network
        del part.metadata_props[:]
        part.doc_string = ""
    for weight in model.graph.initializer:
        values = numpy_helper.to_array(weight)
        if weight.data_type == onnx.TensorProto.FLOAT and values.ndim > 1 and values.size >= 1000:
            casts.append(helper.make_node("Cast", [f"{weight.name}.half"], [weight.name], to=onnx.TensorProto.FLOAT))
            weight.CopyFrom(numpy_helper.from_array(values.astype("float16"), f"{weight.name}.half"))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:], model.graph.value_info[:]
    model.graph.node.extend(nodes)
    onnx.checker.check_model(model)
    return model


def write(name: str, out: Path) -> dict:
    """Export a denoiser, its classifier, and the weak network of autoguidance if there is one; returns the manifest."""
    model, others = load(name), {"classifier": None, "weak": f"{name}-weak"}
    others["classifier"] = CLASSIFIERS[model.attributes]
    files = {"denoiser": export(model.denoiser, out / f"{name}.onnx")}
    for part, other in others.items():
        if other in names():
            found = load(other)
            files[part] = export(found.denoiser or found.classifier, out / f"{other}.onnx")
    attributes, config = model.attributes, model.denoiser.config
    manifest = {"model": name, "files": files, "shape": model.shape, "attributes": attributes.names}
    manifest |= {"groups": attributes.groups, "exclusive": attributes.exclusive, "frequencies": config.frequencies}
    manifest |= {"schedule": config.schedule, "num_timesteps": config.num_timesteps, "weak_scale": WEAK_SCALE}
    manifest |= {"timestep_shift": config.timestep_shift, "first_seed": FIRST_SEED}
    manifest |= {"sampler": default_sampler(model.schedule).__name__, "data": model.card["data"]}
    manifest |= {"license": model.card["license"], "sha256": model.card["sha256"]}
    (out / f"{name}.json").write_text(json.dumps(manifest), "utf-8")
    return manifest


def fixtures() -> dict:
    """What the page's JavaScript must compute, made by the package."""
    x, a, b, c = noise(4, (1, 2, 3), seed=1)
    found = {"x": x, "predictions": [a, b, c], "timesteps": {}, "rates": {}, "ddim": {}, "adams_bashforth": {}}
    for name, shift in (("linear", 1), ("rectified_flow", 3)):
        schedule = SCHEDULES[name]()
        schedule.shift = shift
        found["timesteps"][name] = {steps: schedule.timesteps(steps) for steps in (1, 3, 10, 16, 48, 999)}
        found["rates"][name] = {t: schedule(t) for t in (-1, 0, 1, 499, 998, 999)}
        found["ddim"][name] = DDIM(schedule).step(x, a, 999, 499)
        sampler, moving, steps = AdamsBashforth(schedule), x, []
        for (t, s), x_0_hat in zip([(999, 665), (665, 332), (332, -1)], (a, b, c), strict=True):
            steps.append(moving := sampler.step(moving, x_0_hat, t, s))
        found["adams_bashforth"][name] = steps
    found["cfg"] = cfg(lambda x_t, t, cond: x_t * (1 + cond.sum(1)[:, None, None, None]), 3.0)(
        x[None], 9, torch.ones(2)
    )
    found["autoguidance"] = autoguidance(lambda *_: a, lambda *_: b, 3.0)(x, 9, None)
    found["slerp"] = slerp(x, a, 3)[1]
    found["noise"] = {seed: noise(1, (1, 28, 28), seed).flatten()[::56] for seed in (0, 5, 2**31)}
    values = {"Smiling": 1.0, "Eyeglasses": -1.0, "Young": 0.5}
    found |= {"values": values, "cond": CELEBA.encode(**values), "words": CELEBA.describe(CELEBA.encode(**values))}
    names = {"celeba": CELEBA, "mnist": DIGITS}
    return found | {"attributes": {name: one.names for name, one in names.items()}}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?", help="a shipped denoiser: celeba, mnist, synthetic")
    parser.add_argument("--out", type=Path, default=Path())
    parser.add_argument("--fixtures", type=Path, metavar="FILE")
    given = parser.parse_args(argv)
    if given.fixtures:
        given.fixtures.write_text(json.dumps(fixtures(), default=lambda tensor: tensor.flatten().tolist()), "utf-8")
    if given.name:
        given.out.mkdir(parents=True, exist_ok=True)
        for part in write(given.name, given.out)["files"].values():
            print(f"{part['bytes']:,} bytes: {given.out / part['file']}")


if __name__ == "__main__":
    main()
