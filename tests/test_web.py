"""The explorer's web page: its ONNX files agree with PyTorch, and its JavaScript with numbers that the package computes."""

import json
import logging
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from facelab import CELEBA, Denoiser, cfg
from facelab.samplers import default_sampler, noise, sample

ROOT = Path(__file__).resolve().parents[1]
WEB = ROOT / "notebooks/site/web"
onnxruntime = pytest.importorskip("onnxruntime", reason="pip install -e '.[site]'")
export_onnx = pytest.importorskip("export_onnx", reason="pip install -e '.[site]'")

MATHS = """
import { readFileSync } from "node:fs";
const from = (name) => import(`WEB/${name}.js`);
const [schedules, samplers, guidance, noises, attributes] = await Promise.all(
    "schedules samplers guidance noise attributes".split(" ").map(from));
const want = JSON.parse(readFileSync(0, "utf-8")), [x, a, b, c] = [want.x, ...want.predictions].map((x) => Float32Array.from(x));
const got = { timesteps: {}, rates: {}, ddim: {}, adams_bashforth: {} };
for (const name in want.rates) {
    const schedule = new schedules.Schedule(name, 1000, name === "linear" ? 1 : 3);
    const timesteps = Object.keys(want.timesteps[name]).map((steps) => [steps, schedule.timesteps(Number(steps))]);
    got.timesteps[name] = Object.fromEntries(timesteps);
    got.rates[name] = Object.fromEntries(Object.keys(want.rates[name]).map((t) => [t, schedule.rates(Number(t))]));
    got.ddim[name] = [...new samplers.SAMPLERS.DDIM(schedule).step(x, a, 999, 499)];
    const sampler = new samplers.SAMPLERS.AdamsBashforth(schedule);
    let moving = x;
    got.adams_bashforth[name] = [[999, 665, a], [665, 332, b], [332, -1, c]].map(([t, s, x_0_hat]) =>
        [...(moving = sampler.step(moving, x_0_hat, t, s))]);
}
const fake = async (x_t, t, conds) => conds.map((cond) => x_t.map((value) => value * (1 + cond[0] + cond[1])));
got.cfg = [...await guidance.cfg(fake, 3)(x, 9, [1, 1])];
got.autoguidance = [...await guidance.autoguidance(async () => a, async () => b, 3)(x, 9, [])];
got.slerp = [...noises.slerp(x, a, 0.5)];
got.noise = Object.fromEntries(Object.keys(want.noise).map((seed) =>
    [seed, [...noises.noise(784, Number(seed))].filter((_, i) => i % 56 === 0)]));
got.cond = attributes.encode(want.attributes.celeba, want.values);
got.words = attributes.describe(want.attributes.celeba, want.values);
process.stdout.write(JSON.stringify(got));
"""


@pytest.fixture(scope="module")
def node():
    """node(script, given) -> what a JavaScript module prints as JSON; `given` is its standard input."""
    if not shutil.which("node"):
        pytest.skip("node is not installed")

    def run(script, given=""):
        command = ["node", "--input-type=module", "-e", script.replace("WEB", WEB.as_posix())]
        done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def leaves(found, path=""):
    """{path: number or text} of nested dictionaries and lists."""
    if not isinstance(found, (dict, list)):
        return {path: found}
    items = found.items() if isinstance(found, dict) else enumerate(found)
    return {place: leaf for key, value in items for place, leaf in leaves(value, f"{path}/{key}").items()}


def test_the_javascript_computes_what_the_package_does(node, tmp_path):
    export_onnx.main(["--fixtures", str(tmp_path / "fixtures.json")])
    text = (tmp_path / "fixtures.json").read_text()
    want, got = leaves(json.loads(text)), leaves(node(MATHS, text))
    assert len(got) > 150 and got == {place: pytest.approx(want[place], abs=2e-6) for place in got}


def test_the_javascript_is_at_most_500_lines_of_code():
    lines = [line.strip() for file in WEB.glob("*.js") for line in file.read_text("utf-8").splitlines()]
    assert max(map(len, lines)) <= 132 and sum(bool(line) and not line.startswith("//") for line in lines) <= 500


LINK = """
const { change, fromLink, rare, toLink } = await import("WEB/attributes.js");
const faces = { attributes: ["Bald", "Smiling"], frequencies: [0.02, 0.5] }, digits = { attributes: ["0", "1"], exclusive: true };
const defaults = { seed: 5, steps: 10, guidance_scale: 2, values: { Smiling: 1 } };
const state = { ...defaults, seed: 2147483648, steps: 3, guidance_scale: 0.5, values: { Bald: -1, Smiling: 0.3 } };
process.stdout.write(JSON.stringify([
    fromLink(toLink(state), faces, defaults), state,
    fromLink("seed=7", faces, defaults), { ...defaults, seed: 7, values: {} },
    fromLink("seed=-4&steps=1e9&guidance_scale=x&Smiling=7&Bald=no&Nose=1", faces, defaults),
    { ...defaults, seed: 0, steps: 50, values: { Smiling: 1 } },
    change(digits, { 0: 1 }, "1", 1), { 1: 1 },
    change(faces, { Bald: 1 }, "Bald", 0), {},
    rare(faces, { Bald: 1, Smiling: -1 }), ["Bald (2.0 %)"],
]));
"""


def test_a_link_holds_the_state_and_a_wrong_one_keeps_the_default(node):
    found = node(LINK)
    for got, want in zip(found[::2], found[1::2], strict=True):
        assert got == want


@pytest.fixture(scope="module", params=["bands", pytest.param("pixels", marks=pytest.mark.slow)])
def exported(request, tmp_path_factory):
    """A small denoiser of either kind with random weights, and its ONNX session."""
    kinds = {
        "bands": {"patch_size": 4, "sigma_data": (2.0, *[0.3] * 15), "schedule": "linear"},
        "pixels": {"patch_size": 2, "normalize_cond": True, "frequencies": (0.3,) * len(CELEBA)},
    }
    size = {"block_out_channels": (16,), "attention": (True,), "attention_head_dim": 16}
    net = Denoiser((1, 8, 8), CELEBA.names, **size, **kinds[request.param]).eval()
    with torch.no_grad():
        for weight in net.parameters():  # as the shipped weights are stored; the last layers are not zero
            weight.add_(0.02 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)))
            weight.copy_(weight.half().float())
    file = tmp_path_factory.mktemp("onnx") / "small.onnx"
    logging.disable()  # pytest would collect thousands of lines of the exporter
    about = export_onnx.export(net, file)
    logging.disable(logging.NOTSET)
    # Half precision; the graph itself has about 50 kB.
    assert about["bytes"] == file.stat().st_size < 80_000 + 2 * sum(weight.numel() for weight in net.parameters())
    return net, session(file)


def session(file):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(file, options)


def denoise_with(session):
    def denoise(x_t, t, cond):
        feeds = {"x_t": x_t.numpy(), "t": torch.tensor([t]).numpy(), "cond": cond.expand(len(x_t), -1).numpy()}
        return torch.from_numpy(session.run(None, feeds)[0])

    return denoise


def check_parity(net, session, most=2e-3):
    cond, x_T = net.attributes.encode(**{net.attributes.names[1]: True}), noise(1, net.shape, 3)
    there = denoise_with(session)
    with torch.no_grad():
        for t in net.schedule.timesteps(10):
            both = torch.stack([cond, 0 * cond])
            assert (there(x_T.repeat(2, 1, 1, 1), t, both) - net(x_T.repeat(2, 1, 1, 1), t, both)).abs().max() < most
        sampler = default_sampler(net.schedule)
        ours, theirs = (sample(cfg(one, 2.0), x_T, cond, sampler(net.schedule), 10) for one in (net, there))
    assert (ours - theirs).abs().mean() * 127.5 < 1


def test_an_exported_denoiser_agrees_with_pytorch(exported):
    net, session = exported
    check_parity(net, session, 1e-4)
    assert net.schedule(0) and type(net.schedule).__name__ == "Schedule"  # the network is as before


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mnist", "celeba"])
def test_the_shipped_weights_agree_with_pytorch(tmp_path, name):
    logging.disable()
    model = export_onnx.load(name)
    manifest = export_onnx.write(name, tmp_path)
    logging.disable(logging.NOTSET)
    assert json.loads((tmp_path / f"{name}.json").read_text())["attributes"] == list(model.attributes)
    assert manifest["files"]["denoiser"]["bytes"] <= 14e6
    check_parity(model.denoiser, session(tmp_path / f"{name}.onnx"))
    classifier = export_onnx.load(export_onnx.CLASSIFIERS[model.attributes]).classifier
    images = noise(3, model.shape, 1).clamp(-1, 1)
    found = session(tmp_path / manifest["files"]["classifier"]["file"]).run(None, {"images": images.numpy()})[0]
    assert (torch.from_numpy(found) - classifier(images)).abs().max() < 0.1
