"""The measurements of README.md in one run: `python tests/benchmarks [--write] [--rounds 5] [--only PART ...]`.

CPU time on one thread, everything that is compared interleaved in one run; a ratio is the median of the ratios of neighbours in
time, with the smallest and the largest. Weights do not change the time, so networks are untrained. `--write` puts the tables
into README.md beside this file. lucidrains' denoising-diffusion-pytorch is measured too where it is installed.
"""

import argparse
import os
import platform
import re
import shutil
import statistics
import time
from importlib.util import find_spec
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from diffusers import DDIMPipeline, DDIMScheduler, DDPMPipeline, DDPMScheduler
from reading import methods, rate  # it sets a temporary cache
from timing import child, cpu, in_turn, medians, processor
from torch.utils.flop_counter import FlopCounterMode

from facelab import DDIM, DDPM, AdamsBashforth, AttributeDataset, Denoiser, TrainConfig, cfg, noise, sample, train
from facelab.attributes import CELEBA
from facelab.device import precision
from facelab.evaluation.metrics import frechet_distance
from facelab.presets import CELEBA_NET, REPORT_CONFIG, REPORT_NET, REPORT_UNCONDITIONAL_NET

OURS, SHAPE, STEPS, GUIDANCE_SCALE = CELEBA_NET, (3, 64, 64), 10, 2.0
ALL, TIMED = 1000, 10  # of what takes 1,000 steps, ten are timed
CONFIG = TrainConfig(160_000, 16, 2e-3, timestep_sampling="logit-normal", flip=True)
README = Path(__file__).with_name("README.md")
REPORT = "the report's"


class Table:
    """Rows as they are measured, printed as Markdown."""

    def __init__(self):
        self.lines = []

    def add(self, *lines: str) -> None:
        self.lines += lines
        print(*lines, sep="\n", flush=True)

    def head(self, name: str) -> None:
        self.add("", f"| {name} | ours, ms | the other, ms | ratio other / ours |", "|---|---:|---:|---:|")

    def row(self, name: str, ours: list[float], others: list[float]) -> None:
        ratios = sorted(b / a for a, b in zip(ours, others, strict=True))
        a, b = (1000 * statistics.median(seconds) for seconds in (ours, others))
        self.add(
            f"| {name} | {a:,.1f} | {b:,.1f} | {statistics.median(ratios):.2f} [{ratios[0]:.2f}, {ratios[-1]:.2f}] |"
        )


def denoiser(settings: dict, shape=None) -> Denoiser:
    return Denoiser(shape or SHAPE, CELEBA.names, **settings)


def dataset() -> AttributeDataset:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (64, *SHAPE), generator=generator, dtype=torch.uint8)
    conds = torch.randint(0, 2, (64, len(CELEBA)), generator=generator) * 2 - 1
    return AttributeDataset(images, conds, CELEBA, "noise", "noise")


def training_step(net, config):
    steps = train(net, dataset(), config, resume=False, save_every=1e9)
    return lambda: next(steps)


def training(table: Table, rounds: int) -> None:
    nets = {"ours": denoiser(OURS), REPORT: denoiser(REPORT_NET)}
    config = {"ours": CONFIG, REPORT: TrainConfig(**vars(REPORT_CONFIG) | {"total_images": CONFIG.total_images})}
    steps = {name: training_step(net, config[name]) for name, net in nets.items()}
    steps["its listing"] = listing_step(dataset())
    if find_spec("denoising_diffusion_pytorch"):
        nets["lucidrains"], steps["lucidrains"] = lucidrains_step(dataset())
    found = medians(steps, rounds)
    sizes = {name: sum(p.numel() for p in net.parameters()) for name, net in nets.items()}
    table.add("", f"Parameters: {', '.join(f'{name} {size:,}' for name, size in sizes.items())}.")
    table.head("training step, 16 images")
    table.row("the report's network in our loop", found["ours"], found[REPORT])
    table.row("the report's listing, corrected: its network, its loop", found["ours"], found["its listing"])
    if "lucidrains" in found:
        table.row("lucidrains' Unet and loss", found["ours"], found["lucidrains"])


def listing_step(data: AttributeDataset):
    """A step of the report's listing, corrected only where it does not run: DDPMScheduler, Adam, MSE of the noise."""
    net, scheduler = denoiser(REPORT_NET), DDPMScheduler(beta_schedule="squaredcos_cap_v2")
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)

    def step():
        x, cond = data[torch.randint(0, len(data), (16,))]
        eps, t = torch.randn_like(x), torch.randint(0, 999, (16,))
        prediction = net(scheduler.add_noise(x, eps, t), t, cond, return_prediction=True)
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(prediction, eps).backward()
        optimizer.step()

    return step


def lucidrains():
    from denoising_diffusion_pytorch import GaussianDiffusion, Unet

    net = Unet(dim=32, dim_mults=(1, 2, 4), flash_attn=False)
    return net, lambda steps: GaussianDiffusion(net, image_size=64, timesteps=ALL, sampling_timesteps=steps)


def lucidrains_step(data: AttributeDataset):
    net, diffusion = lucidrains()
    loss_of, optimizer = diffusion(ALL), torch.optim.Adam(net.parameters(), lr=1e-3)

    def step():
        x, _ = data[torch.randint(0, len(data), (16,))]
        optimizer.zero_grad()
        loss_of((x + 1) / 2).backward()
        optimizer.step()

    return net, step


def pipeline(kind, scheduler, net):
    made = kind(unet=net, scheduler=scheduler(beta_schedule="squaredcos_cap_v2"))
    made.set_progress_bar_config(disable=True)
    return made


def sampling(table: Table, rounds: int) -> None:
    """The number of steps and the network apart."""
    nets = [denoiser(settings).eval() for settings in (OURS, REPORT_NET, REPORT_UNCONDITIONAL_NET)]
    nets[2].unet.register_to_config(sample_size=SHAPE[1])
    for count in (16, 1):
        found = medians(sampling_calls(count, *nets), max(2, rounds - 2) if count == 16 else rounds)
        found |= {name: [s * ALL / TIMED for s in found[name]] for name in ("ancestral", "DDPMPipeline")}
        found |= {name: [s * 50 / TIMED for s in found[name]] for name in ("50 DDIM", "lucidrains") if name in found}
        ours, network = found["ours"], found["its network"]
        table.head(f"{'16 guided faces' if count == 16 else 'one guided face'}, {STEPS} steps of ours")
        table.row(f"the report's network, {ALL} ancestral steps", ours, found["ancestral"])
        table.row("- of that the network: the report's, our sampler and steps", ours, network)
        table.row("- of that the steps: the report's network", network, found["ancestral"])
        table.row(f"`DDPMPipeline`, {ALL} steps, the report's network, unconditional", ours, found["DDPMPipeline"])
        table.row("`DDIMPipeline`, its 50 steps, the same network", ours, found["50 DDIM"])
        table.row("the same network and steps: our DDPM, `DDPMPipeline`", found["our DDPM"], found["10 DDPM"])
        table.row("the same network and steps: our DDIM, `DDIMPipeline`", found["our DDIM"], found["10 DDIM"])
        if "lucidrains" in found:
            table.row("lucidrains' Unet, 50 steps, unconditional", ours, found["lucidrains"])


def sampling_calls(count: int, ours, report, unconditional) -> dict:
    x_T, cond, null = noise(count, SHAPE), CELEBA.encode(Smiling=True), torch.zeros(len(CELEBA))
    ddpm = pipeline(DDPMPipeline, DDPMScheduler, unconditional.unet)
    ddim = pipeline(DDIMPipeline, DDIMScheduler, unconditional.unet)

    def guided(net):
        return sample(cfg(net, GUIDANCE_SCALE), x_T, cond, AdamsBashforth(net.schedule), STEPS)

    def ancestral(net, cond):
        return sample(net, x_T, cond, DDPM(net.schedule, generator=torch.Generator().manual_seed(0)), TIMED)

    how = {"batch_size": count, "num_inference_steps": TIMED, "output_type": "np"}
    calls = {
        "ours": lambda: guided(ours),
        "its network": lambda: guided(report),
        "ancestral": lambda: ancestral(report, cond),
        "DDPMPipeline": lambda: ddpm(**how),
        "10 DDPM": lambda: ddpm(**how),
        "our DDPM": lambda: ancestral(unconditional, null),
        "50 DDIM": lambda: ddim(**how),
        "10 DDIM": lambda: ddim(**how),
        "our DDIM": lambda: sample(unconditional, x_T, null, DDIM(unconditional.schedule), TIMED),
    }
    if find_spec("denoising_diffusion_pytorch"):
        other = lucidrains()[1](TIMED).eval()
        calls["lucidrains"] = lambda: other.sample(batch_size=count)
    return calls


IMPORTS = {
    "torch + diffusers": "import torch; from diffusers import UNet2DModel, DDPMScheduler, DDIMScheduler",
    "sampling": "from facelab import cfg, load, sample",
    "everything": "import facelab.__main__",
}
FIRST = "import facelab; facelab.generate(facelab.load('celeba'), {'Smiling': True}, guidance_scale=2.0)"
FIRST_OF_DIFFUSERS = """
import torch
from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel
net = UNet2DModel(sample_size=64, block_out_channels=(32, 32, 32, 64), layers_per_block=3, norm_num_groups=32,
    down_block_types=("DownBlock2D", *["AttnDownBlock2D"] * 3), up_block_types=(*["AttnUpBlock2D"] * 3, "UpBlock2D"))
DDIMPipeline(unet=net, scheduler=DDIMScheduler()).to("cpu")(batch_size=1, num_inference_steps=50, output_type="np")
"""


def starting(table: Table, rounds: int) -> None:
    for code in IMPORTS.values():
        child(code)  # byte code and the disk's cache
    codes = IMPORTS | {"first": FIRST, "first of diffusers": FIRST_OF_DIFFUSERS}
    found = in_turn({name: lambda code=code: child(code) for name, code in codes.items()}, rounds)
    theirs = found["torch + diffusers"]
    table.head("starting, Python's own start included")
    table.row("import what samples (ours); torch + diffusers", found["sampling"], theirs)
    table.row("import everything (ours); torch + diffusers", found["everything"], theirs)
    table.row(
        "import and first face; `DDIMPipeline`'s 50 steps, no weights loaded",
        found["first"],
        found["first of diffusers"],
    )
    ratio = statistics.median(b / a for a, b in zip(theirs, found["sampling"], strict=True))
    table.add("", f"Import of facelab relative to torch + diffusers: {ratio:.2f}.")


def reading_and_scoring(table: Table, rounds: int) -> None:
    rng = np.random.default_rng(0)
    every = methods(rng)
    names = "from the memory map", "decoding 178x218 JPEG, cropped, reduced"
    for name in names:
        every[name](list(range(64)))
    found = in_turn({name: lambda name=name: 64 / rate(every[name], rng) for name in names}, rounds)
    table.head("reading and scoring")
    table.row("a batch of 64 prepared images; decoding them each time", *found.values())
    if find_spec("scipy"):
        from scipy.linalg import sqrtm

        a, b = (torch.randn(3000, 512, generator=torch.Generator().manual_seed(i), dtype=torch.float64) for i in (0, 1))

        def usual():
            (m, s), (n, r) = ((x.mean(0).numpy(), np.cov(x.numpy(), rowvar=False)) for x in (a, b))
            return ((m - n) ** 2).sum() + np.trace(s + r - 2 * sqrtm(s @ r).real)

        times = medians({"ours": lambda: frechet_distance(a, b), "usual": usual}, rounds)
        table.row("Fréchet distance of 512 features; with SciPy's `sqrtm`", times["ours"], times["usual"])


def slope(sizes, seconds) -> float:
    """The exponent of a power law, by least squares of the logarithms."""
    return float(np.polyfit(np.log(list(sizes)), np.log(list(seconds)), 1)[0])


def slopes(table: Table, rounds: int) -> dict[str, float]:
    """How cost grows with one quantity at a time; an exponent of 1 is proportional."""
    cond = torch.zeros(len(CELEBA))

    def sampling_of(net, count=4, steps=1):
        x_T = noise(count, net.shape)
        return lambda: sample(net, x_T, cond, DDIM(net.schedule), steps)

    def wide(share):
        widths = tuple(int(width * share) for width in OURS["block_out_channels"])
        return denoiser(OURS | {"block_out_channels": widths}).eval()

    net = denoiser(OURS).eval()
    sized = {side: denoiser(OURS, (3, side, side)).eval() for side in (32, 64, 128)}
    widths = {sum(p.numel() for p in n.parameters()): n for n in map(wide, (1, 2, 3))}
    cases = {
        "pixels a side": {side: sampling_of(n) for side, n in sized.items()},
        "images at once": {count: sampling_of(net, count) for count in (1, 4, 16)},
        "steps": {steps: sampling_of(net, 2, steps) for steps in (2, 5, 10)},
        "parameters (by width)": {size: sampling_of(n) for size, n in widths.items()},
    }
    table.add("", "| cost grows with | tried | ms | exponent |", "|---|---|---|---:|")
    found = {}
    for name, calls in cases.items():
        seconds = {size: statistics.median(times) for size, times in medians(calls, rounds).items()}
        found[name] = slope(seconds.keys(), seconds.values())
        tried, times = (
            ", ".join(f"{size:,}" for size in seconds),
            ", ".join(f"{1000 * s:,.0f}" for s in seconds.values()),
        )
        table.add(f"| {name} | {tried} | {times} | {found[name]:.2f} |")
    return found


KINDS = {"convolutions": "conv", "attention": "attention|bmm|softmax", "matrix products": "addmm|::mm|linear"}
KINDS |= {"normalization": "norm", "optimizer and EMA": "adam|foreach|lerp|optimizer"}


def limits(table: Table, rounds: int) -> None:
    """The arithmetic of one step, this machine's matrix throughput in the same run, and where the time goes."""
    size, dtype = 768, precision("cpu")
    m = torch.ones(size, size, dtype=dtype)
    fastest = max(2 * size**3 / max(cpu(lambda: m @ m), 1e-9) for _ in range(5))
    step = training_step(denoiser(OURS), CONFIG)
    step()
    with FlopCounterMode(display=False) as counter:
        step()
    flops = counter.get_total_flops()
    reached = flops / min(cpu(step) for _ in range(3))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        step()
    shares = dict.fromkeys([*KINDS, "the rest"], 0.0)
    for event in profile.key_averages():
        kind = next((name for name, words in KINDS.items() if re.search(words, event.key.lower())), "the rest")
        shares[kind] += event.self_cpu_time_total
    total = sum(shares.values())
    words = ", ".join(
        f"{name} {100 * part / total:.0f} %" for name, part in sorted(shares.items(), key=lambda x: -x[1])
    )
    table.add(
        "",
        f"A training step of ours needs {flops / 1e9:.1f} GFLOP and reaches {reached / 1e9:.1f} per second; a product of two "
        f"{size} x {size} matrices in {str(dtype).removeprefix('torch.')} reaches {fastest / 1e9:.1f}, so the step is at "
        f"{100 * reached / fastest:.0f} % of that. Where its time goes: {words}.",
    )


# Assumed, not measured: FLOP/s of one GPU with this network, its price an hour, the share that remains of eight and more.
SUSTAINED, DOLLARS, TOGETHER = 40e12, 2.0, 0.9
IMAGES, EPOCHS, SCORED, INCEPTION = 202_599, 12, 50_000, 11.4e9


def costs(table: Table, rounds: int) -> None:
    """Hours and costs of GPUs, computed: arithmetic counted at 64x64, its growth with the side from the times measured."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        denoiser(OURS)(torch.zeros(1, *SHAPE), 500, torch.zeros(len(CELEBA)))
    flops, exponent = counter.get_total_flops(), slopes(table, rounds)["pixels a side"]
    table.add(
        "",
        f"Computed, not measured: {flops / 1e9:.2f} GFLOP per evaluation and image at 64x64 (counted), three times that in "
        f"training, growing with the side to the power of {exponent:.2f} (the exponent above); a GPU that sustains "
        f"{SUSTAINED / 1e12:.0f} TFLOP/s with this network at ${DOLLARS:g} an hour, of which several lose a tenth (assumed). "
        f"Training: {EPOCHS} epochs of {IMAGES:,} images. FID-50k: {SCORED:,} images in {STEPS} guided steps, and Inception over "
        "as many generated and real ones.",
        "",
        "| computed | 1 GPU | 8 GPUs | 64 GPUs |",
        "|---|---:|---:|---:|",
    )
    for pixels in (64, 128, 256):
        one = flops * (pixels / 64) ** exponent
        whole = {"training": 3 * one * IMAGES * EPOCHS, "FID-50k": SCORED * (2 * STEPS * one + 2 * INCEPTION)}
        for name, count in whole.items():
            hours = [(count / SUSTAINED / 3600 / (n * (TOGETHER if n > 1 else 1)), n) for n in (1, 8, 64)]
            cells = " | ".join(f"{60 * h:,.1f} min, ${h * n * DOLLARS:,.2f}" for h, n in hours)
            table.add(f"| {name}, {pixels}x{pixels} | {cells} |")


PARTS = {"training": training, "sampling": sampling, "starting": starting, "reading": reading_and_scoring}
PARTS |= {"costs": costs, "limits": limits}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured")
    parser.add_argument("--write", action="store_true", help="put the tables into README.md")
    parser.add_argument("--only", nargs="+", choices=tuple(PARTS), default=list(PARTS))
    args = parser.parse_args()
    torch.set_num_threads(1)
    table = Table()
    load = f", load {os.getloadavg()[0]:.1f} at the beginning" if hasattr(os, "getloadavg") else ""
    table.add(
        f"{time.strftime('%Y-%m-%d')}, {processor()} ({torch.backends.cpu.get_cpu_capability()}), one thread, CPU time, "
        f"{args.rounds} rounds{load}; Python {platform.python_version()}, torch {torch.__version__}."
    )
    for part in args.only:
        PARTS[part](table, args.rounds)
    if args.write:
        between = re.compile(r"(?<=<!-- table -->\n).*(?=<!-- end -->)", re.S)
        README.write_text(between.sub(lambda _: "\n".join(table.lines) + "\n", README.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    try:
        main()
    finally:
        shutil.rmtree(os.environ["FACELAB_CACHE"], ignore_errors=True)
