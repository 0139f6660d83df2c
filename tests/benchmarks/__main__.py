"""What README.md tells, in one run: `python tests/benchmarks [--write] [--rounds 5]`.

CPU time on one thread, everything that is compared interleaved in one run; ratios are the median of the ratios of neighbours,
with the smallest and the largest. Weights do not change the time, so networks are new. `--write` puts the table into README.md
beside this file. Where lucidrains' denoising-diffusion-pytorch is installed, it is measured too. Windows tells CPU time in 64ths
of a second, and none of a process that has ended: there it is the clock's.
"""

import argparse
import math
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from against_the_report import cpu, medians
from diffusers import DDIMPipeline, DDIMScheduler, DDPMPipeline, DDPMScheduler
from reading import rate, ways  # it brings a cache of its own, which is thrown away
from torch.utils.flop_counter import FlopCounterMode

from facelab.__main__ import CALLS, FACES_BY, SCALE
from facelab.attributes import CELEBA
from facelab.data import Pictures
from facelab.guidance import classifier_free
from facelab.metrics import frechet_distance
from facelab.model import Denoiser
from facelab.plan import FACES, NETS, PATIENT, REPORT_RECIPE, Recipe, precision
from facelab.sample import DDIM, DDPM, noise, sample
from facelab.train import _Run

try:
    import resource
except ImportError:  # Windows
    resource = None

SHAPE, ALL, TIMED = (3, 64, 64), 1000, 10
ROOT = Path(__file__).resolve().parents[2]
README = Path(__file__).with_name("README.md")
CPUINFO = Path("/proc/cpuinfo")
REPORT = "the report's"


def processor() -> str:
    """The processor's name as the system tells it."""
    told = CPUINFO.read_text() if CPUINFO.is_file() else ""
    found = re.search(r"^model name\s*: (.+)$", told, re.M)
    return found[1].strip() if found else platform.processor() or platform.machine()


def spent() -> float:
    """CPU seconds of all children that have ended; the clock's where the system does not tell."""
    if resource is None:
        return time.perf_counter()
    told = resource.getrusage(resource.RUSAGE_CHILDREN)
    return told.ru_utime + told.ru_stime


def child(code: str) -> float:
    """CPU seconds of a Python of its own, that of starting Python included."""
    before = spent()
    env = os.environ | {"PYTHONPATH": str(ROOT), "FACELAB_DEVICE": "cpu"}
    subprocess.run([sys.executable, "-c", code], check=True, env=env, stdout=subprocess.DEVNULL)
    return spent() - before


def in_turn(calls: dict, rounds: int) -> dict[str, list[float]]:
    """As `medians`, of calls that tell their seconds themselves."""
    found = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            found[name].append(call())
    return found


class Table:
    """Rows as they are measured, printed as Markdown."""

    def __init__(self):
        self.lines = []

    def say(self, *lines: str) -> None:
        self.lines += lines
        print(*lines, sep="\n", flush=True)

    def head(self, name: str) -> None:
        self.say(f"| {name} | ours, ms | the other, ms | the other is so many times ours |", "|---|---:|---:|---:|")

    def row(self, name: str, ours: list[float], theirs: list[float]) -> None:
        ratios = sorted(b / a for a, b in zip(ours, theirs, strict=True))
        low, high = ratios[0], ratios[-1]
        a, b = (1000 * statistics.median(seconds) for seconds in (ours, theirs))
        self.say(f"| {name} | {a:,.1f} | {b:,.1f} | {statistics.median(ratios):.2f} [{low:.2f}, {high:.2f}] |")


def pictures() -> Pictures:
    luck = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (64, *SHAPE), generator=luck, dtype=torch.uint8)
    return Pictures(images, torch.randint(0, 2, (64, len(CELEBA)), generator=luck) * 2 - 1, CELEBA, "noise")


def step_of(run):
    def step():
        run.apply(run.forward_and_back(None))

    return step


def training(table: Table, rounds: int) -> None:
    some, others = pictures(), {}
    nets = {"ours": Denoiser(SHAPE, CELEBA.names, **FACES), REPORT: Denoiser(SHAPE, CELEBA.names, **NETS["report"])}
    steps = {
        "ours": step_of(_Run(nets["ours"], some, Recipe(16_000, 16, **PATIENT))),
        REPORT: step_of(_Run(nets[REPORT], some, Recipe(16_000, 16, **REPORT_RECIPE))),
        "its listing": listed(some),
    }
    if find_spec("denoising_diffusion_pytorch"):
        others["lucidrains"], steps["lucidrains"] = lucidrains_step(some)
    found = medians(steps, rounds)
    sizes = {name: sum(p.numel() for p in net.parameters()) for name, net in (nets | others).items()}
    table.say("", f"Parameters: {', '.join(f'{name} {size:,}' for name, size in sizes.items())}.", "")
    table.head("training step, 16 pictures")
    table.row("the report's network in our loop", found["ours"], found[REPORT])
    table.row("the report's listing as mended: its network, its loop", found["ours"], found["its listing"])
    if "lucidrains" in found:
        table.row("lucidrains' Unet and loss", found["ours"], found["lucidrains"])


def listed(some: Pictures):
    """A step of the report's listing, mended only where it does not run: DDPMScheduler, Adam, MSE on the noise."""
    net, scheduler = Denoiser(SHAPE, CELEBA.names, **NETS["report"]), DDPMScheduler(beta_schedule="squaredcos_cap_v2")
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-3)

    def step():
        x, cond = some[torch.randint(0, len(some), (16,))]
        eps, t = torch.randn_like(x), torch.randint(0, 999, (16,))
        x_t = scheduler.add_noise(x, eps, t)
        loss = torch.nn.functional.mse_loss(net(x_t, t, cond, raw=True), eps)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return step


def lucidrains():
    from denoising_diffusion_pytorch import GaussianDiffusion, Unet

    net = Unet(dim=32, dim_mults=(1, 2, 4), flash_attn=False)
    return net, lambda calls: GaussianDiffusion(net, image_size=64, timesteps=ALL, sampling_timesteps=calls)


def lucidrains_step(some: Pictures):
    net, diffusion = lucidrains()
    loss_of, optimiser = diffusion(ALL), torch.optim.Adam(net.parameters(), lr=1e-3)

    def step():
        x, _ = some[torch.randint(0, len(some), (16,))]
        optimiser.zero_grad()
        loss_of((x + 1) / 2).backward()
        optimiser.step()

    return net, step


def pipeline(kind, scheduler, net):
    made = kind(unet=net, scheduler=scheduler(beta_schedule="squaredcos_cap_v2"))
    made.set_progress_bar_config(disable=True)
    return made


def sampling(table: Table, rounds: int) -> None:
    """The calls and the network apart. What takes 1,000 calls is timed over a few of them."""
    ours = Denoiser(SHAPE, CELEBA.names, **FACES).eval()
    report = Denoiser(SHAPE, CELEBA.names, **NETS["report"]).eval()
    plain = Denoiser(SHAPE, CELEBA.names, **NETS["unconditional"]).eval()
    plain.unet.register_to_config(sample_size=SHAPE[1])
    ddpm = pipeline(DDPMPipeline, DDPMScheduler, plain.unet)
    ddim = pipeline(DDIMPipeline, DDIMScheduler, plain.unet)
    cond, nothing = CELEBA.encode(Smiling=True), torch.zeros(len(CELEBA))
    for count in (16, 1):
        x_T = noise(count, SHAPE)

        def ancestral(net, cond, x_T=x_T):
            sample(net, x_T, cond, DDPM(net.schedule, generator=torch.Generator().manual_seed(0)), TIMED)

        guided = lambda net, x_T=x_T: sample(classifier_free(net, SCALE), x_T, cond, FACES_BY(net.schedule), CALLS)  # noqa: E731
        calls = {
            "ours": lambda guided=guided: guided(ours),
            "its network": lambda guided=guided: guided(report),
            "ancestral": lambda ancestral=ancestral: ancestral(report, cond),
            "DDPMPipeline": lambda count=count: ddpm(batch_size=count, num_inference_steps=TIMED, output_type="np"),
            "our DDPM": lambda ancestral=ancestral: ancestral(plain, nothing),
            "DDIMPipeline": lambda count=count: ddim(batch_size=count, num_inference_steps=TIMED, output_type="np"),
            "our DDIM": lambda x_T=x_T: sample(plain, x_T, nothing, DDIM(plain.schedule), TIMED),
        }
        if find_spec("denoising_diffusion_pytorch"):
            fifty = lucidrains()[1](TIMED).eval()
            calls["lucidrains"] = lambda count=count, fifty=fifty: fifty.sample(batch_size=count)
        found = medians(calls, max(2, rounds - 2) if count == 16 else rounds)
        whole = {name: [s * ALL / TIMED for s in found[name]] for name in ("ancestral", "DDPMPipeline")}
        fifty_of = {
            name: [s * 50 / TIMED for s in found[name]] for name in ("DDIMPipeline", "lucidrains") if name in found
        }
        table.say("")
        table.head(f"{'16 guided faces' if count == 16 else 'one guided face'}, {CALLS} calls of ours")
        table.row(f"the report's network, {ALL} ancestral calls", found["ours"], whole["ancestral"])
        table.row("- of that the network: the report's, our solver and calls", found["ours"], found["its network"])
        table.row("- of that the calls: the report's network", found["its network"], whole["ancestral"])
        table.row(
            f"`DDPMPipeline`, {ALL} calls, the report's network without a condition",
            found["ours"],
            whole["DDPMPipeline"],
        )
        table.row("`DDIMPipeline`, its 50 calls, the same network", found["ours"], fifty_of["DDIMPipeline"])
        table.row(
            "the same network and calls: our DDPM beside `DDPMPipeline`", found["our DDPM"], found["DDPMPipeline"]
        )
        table.row(
            "the same network and calls: our DDIM beside `DDIMPipeline`", found["our DDIM"], found["DDIMPipeline"]
        )
        if "lucidrains" in fifty_of:
            table.row("lucidrains' Unet, 50 calls, no condition", found["ours"], fifty_of["lucidrains"])


IMPORTS = {
    "nothing": "pass",
    "torch + diffusers": "import torch; from diffusers import UNet2DModel, DDPMScheduler, DDIMScheduler",
    "what draws": "from facelab import guidance, pretrained, sample",
    "everything": "import facelab.__main__",
}
FIRST = """
from facelab import guidance, pretrained, sample
face = pretrained.load("celeba")
sample.sample(guidance.classifier_free(face.denoiser, 2.0), sample.noise(1, face.shape), face.attributes.encode(Smiling=True),
    sample.AdamsBashforth(face.schedule), 10)
"""
FIRST_OF_OTHERS = """
import torch
from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel
net = UNet2DModel(sample_size=64, block_out_channels=(32, 32, 32, 64), layers_per_block=3, norm_num_groups=32,
    down_block_types=("DownBlock2D", *["AttnDownBlock2D"] * 3), up_block_types=(*["AttnUpBlock2D"] * 3, "UpBlock2D"))
DDIMPipeline(unet=net, scheduler=DDIMScheduler()).to("cpu")(batch_size=1, num_inference_steps=50, output_type="np")
"""


def starting(table: Table, rounds: int) -> None:
    for code in IMPORTS.values():
        child(code)  # byte code and the disk's cache
    calls = {name: lambda code=code: child(code) for name, code in IMPORTS.items()}
    calls |= {"first": lambda: child(FIRST), "their first": lambda: child(FIRST_OF_OTHERS)}
    found = in_turn(calls, rounds)
    table.say("")
    table.head("starting, Python's own start included")
    table.row("import what draws (ours), beside torch + diffusers", found["what draws"], found["torch + diffusers"])
    table.row("import everything (ours), beside torch + diffusers", found["everything"], found["torch + diffusers"])
    table.row(
        "import and first face, beside `DDIMPipeline`'s 50 calls, no weights loaded",
        found["first"],
        found["their first"],
    )
    ratio = statistics.median(b / a for a, b in zip(found["torch + diffusers"], found["what draws"], strict=True))
    table.say("", f"Import over torch + diffusers: {ratio:.2f}.")


def reading_and_scoring(table: Table, rounds: int) -> None:
    luck = np.random.default_rng(0)
    every = ways(luck)
    mapped, decoded = "from the memory map", "decoding 178x218 JPEG, cropped, reduced"
    for name in (mapped, decoded):
        every[name](list(range(64)))
    found = {name: [] for name in (mapped, decoded)}
    for _ in range(rounds):
        for name in found:
            found[name].append(64 / rate(every[name], luck))
    table.say("")
    table.head("reading and scoring")
    table.row("a batch of 64 pictures, prepared, beside decoding them each time", found[mapped], found[decoded])
    a, b = (torch.randn(3000, 512, generator=torch.Generator().manual_seed(i), dtype=torch.float64) for i in (0, 1))
    if find_spec("scipy"):
        from scipy.linalg import sqrtm

        def usual():
            (m, s), (n, r) = ((x.mean(0).numpy(), np.cov(x.numpy(), rowvar=False)) for x in (a, b))
            return ((m - n) ** 2).sum() + np.trace(s + r - 2 * sqrtm(s @ r).real)

        seen = medians({"ours": lambda: frechet_distance(a, b), "usual": usual}, rounds)
        table.row("Fréchet distance of 512 features, beside SciPy's `sqrtm`", seen["ours"], seen["usual"])


def slope(sizes, seconds) -> float:
    """Least squares through the logarithms."""
    x, y = ([math.log(v) for v in values] for values in (sizes, seconds))
    mx, my = statistics.fmean(x), statistics.fmean(y)
    return sum((a - mx) * (b - my) for a, b in zip(x, y, strict=True)) / sum((a - mx) ** 2 for a in x)


def slopes(table: Table, rounds: int) -> dict[str, float]:
    """How cost grows: one quantity at a time, the rest as told. 1 is in proportion; "exponentially" would be no line at all."""
    cond = torch.zeros(len(CELEBA))

    def drawing(net, count=4, calls=1):
        x_T = noise(count, net.shape)
        return lambda: sample(net, x_T, cond, DDIM(net.schedule), calls)

    def wide(share):
        channels = tuple(int(width * share) for width in FACES["channels"])
        return Denoiser(SHAPE, CELEBA.names, **FACES | {"channels": channels}).eval()

    net = Denoiser(SHAPE, CELEBA.names, **FACES).eval()
    sized = {side: Denoiser((3, side, side), CELEBA.names, **FACES).eval() for side in (32, 64, 128)}
    widths = {sum(p.numel() for p in n.parameters()): n for n in map(wide, (0.5, 1, 2))}
    cases = {
        "pixels a side": {side: drawing(n) for side, n in sized.items()},
        "pictures at once": {count: drawing(net, count) for count in (1, 4, 16)},
        "calls": {calls: drawing(net, 2, calls) for calls in (2, 5, 10)},
        "parameters (by width)": {size: drawing(n) for size, n in widths.items()},
    }
    table.say("", "| cost grows with | tried | ms | slope in logarithms |", "|---|---|---|---:|")
    found = {}
    for name, calls in cases.items():
        seconds = {size: statistics.median(took) for size, took in medians(calls, rounds).items()}
        found[name] = slope(seconds.keys(), seconds.values())
        tried, took = (
            ", ".join(f"{size:,}" for size in seconds),
            ", ".join(f"{1000 * s:,.0f}" for s in seconds.values()),
        )
        table.say(f"| {name} | {tried} | {took} | {found[name]:.2f} |")
    return found


KINDS = (("convolutions", "conv"), ("attention", "attention|bmm|softmax"), ("matrix products", "addmm|::mm|linear"))
KINDS += (("normalisation", "norm"), ("optimiser and average", "adam|foreach|lerp|optimizer"))


def limits(table: Table) -> None:
    """The arithmetic of one step, this machine's matrix throughput in the same run, and where the time goes."""
    size, fastest = 768, 0.0
    dtype = precision("cpu")
    m = torch.ones(size, size, dtype=dtype)
    for _ in range(5):
        fastest = max(fastest, 2 * size**3 / cpu(lambda: m @ m))
    run = _Run(Denoiser(SHAPE, CELEBA.names, **FACES), pictures(), Recipe(16_000, 16, **PATIENT))
    step = step_of(run)
    step()
    with FlopCounterMode(display=False) as counter:
        step()
    took = min(cpu(step) for _ in range(3))
    reached = counter.get_total_flops() / took
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        step()
    shares, total = dict.fromkeys([name for name, _ in KINDS] + ["the rest"], 0.0), 0.0
    for event in profile.key_averages():
        kind = next((name for name, words in KINDS if re.search(words, event.key.lower())), "the rest")
        shares[kind] += event.self_cpu_time_total
        total += event.self_cpu_time_total
    words = ", ".join(
        f"{name} {100 * part / total:.0f} %" for name, part in sorted(shares.items(), key=lambda one: -one[1])
    )
    table.say(
        "",
        f"A training step of ours needs {counter.get_total_flops() / 1e9:.1f} GFLOP and reaches {reached / 1e9:.1f} a second; a "
        f"product of two {size} x {size} matrices in {str(dtype).removeprefix('torch.')} reaches {fastest / 1e9:.1f}, so the step "
        f"is at {100 * reached / fastest:.0f} % of what the machine multiplies. Where its time goes: {words}.",
    )


# For the table of hours. Nobody has measured these here: they are assumed, and the table says so.
SUSTAINED, DOLLARS, TOGETHER = (
    40e12,
    2.0,
    0.9,
)  # FLOP/s of one GPU on this net, its price an hour, the share left of 8 and more
FACES_IN_ALL, PASSES, SCORED, INCEPTION = 202_599, 12, 50_000, 11.4e9


def hours(table: Table, rounds: int) -> None:
    """Hours and costs of GPUs, computed: the arithmetic counted at 64x64, its growth with the side from the times measured."""
    net, side = Denoiser(SHAPE, CELEBA.names, **FACES), {}
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(torch.zeros(1, *SHAPE), 500, torch.zeros(len(CELEBA)))
    call = counter.get_total_flops()
    grows = slopes(table, rounds)["pixels a side"]
    table.say(
        "",
        f"Computed, not measured: {call / 1e9:.2f} GFLOP a call and picture at 64x64 (counted), three times that to train on it, "
        f"growing with the side to the power of {grows:.2f} (the slope above); a GPU that sustains {SUSTAINED / 1e12:.0f} TFLOP/s "
        f"on this net at ${DOLLARS:g} an hour, of which several lose a tenth (assumed). Training: {PASSES} passes over "
        f"{FACES_IN_ALL:,} faces. FID-50k: {SCORED:,} faces in {CALLS} guided calls, and Inception over as many again of both.",
        "",
        "| computed | 1 GPU | 8 GPUs | 64 GPUs |",
        "|---|---:|---:|---:|",
    )
    for pixels in (64, 128, 256):
        side[pixels] = call * (pixels / 64) ** grows
        whole = {"training": 3 * side[pixels] * FACES_IN_ALL * PASSES}
        whole["FID-50k"] = SCORED * (2 * CALLS * side[pixels] + 2 * INCEPTION)
        for name, flops in whole.items():
            one = flops / SUSTAINED / 3600
            cells = [(one / (n * (TOGETHER if n > 1 else 1)), n) for n in (1, 8, 64)]
            told = " | ".join(f"{60 * h:,.1f} min, ${h * n * DOLLARS:,.2f}" for h, n in cells)
            table.say(f"| {name}, {pixels}x{pixels} | {told} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured")
    parser.add_argument("--write", action="store_true", help="put the table into README.md")
    parser.add_argument("--only", nargs="+", choices=tuple(PARTS), default=list(PARTS))
    told = parser.parse_args()
    torch.set_num_threads(1)
    table = Table()
    load = f", load {os.getloadavg()[0]:.1f} at the beginning" if hasattr(os, "getloadavg") else ""
    table.say(
        f"{time.strftime('%Y-%m-%d')}, {processor()} ({torch.backends.cpu.get_cpu_capability()}), one thread, CPU time, "
        f"{told.rounds} rounds{load}; Python {platform.python_version()}, torch {torch.__version__}."
    )
    for part in told.only:
        PARTS[part](table, told.rounds)
    if told.write:
        text = README.read_text("utf-8")
        between = re.compile(r"(?<=<!-- table -->\n).*(?=<!-- end -->)", re.S)
        README.write_text(between.sub(lambda _: "\n".join(table.lines) + "\n", text), "utf-8")


PARTS = {
    "training": training,
    "sampling": sampling,
    "starting": starting,
    "reading": reading_and_scoring,
    "slopes": hours,
    "limits": lambda table, rounds: limits(table),
}

if __name__ == "__main__":
    try:
        main()
    finally:
        shutil.rmtree(os.environ["FACELAB_CACHE"], ignore_errors=True)
