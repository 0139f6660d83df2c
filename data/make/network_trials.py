"""Trials of the face network at equal CPU time, one change per row; see `ROWS`. Writes rows, weights and images to --out.

python data/make/network_trials.py haar --seed 0 --minutes 22 --out DIR
python data/make/network_trials.py --table DIR
"""

import argparse
import json
import math
import time
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.optim.swa_utils import AveragedModel

from facelab.control import mean_obeyed, read
from facelab.data import celeba
from facelab.features import efficientnet_features
from facelab.metrics import frechet_difference, frechet_estimate
from facelab.model import Denoiser
from facelab.plan import FACES, Recipe, machine
from facelab.pretrained import load
from facelab.sample import AdamsBashforth, noise, sample
from facelab.train import Batch, _moving_average, denoising_loss

# Root mean square of the Haar bands LL, LH, HL, HH of CelebA at 64x64, from the train partition.
CELEBA_BANDS = (1.181, 0.163, 0.146, 0.066)
# The same after the transform was taken twice.
CELEBA_BANDS_4 = (
    2.283,
    0.437,
    0.379,
    0.184,
    0.201,
    0.207,
    0.09,
    0.122,
    0.176,
    0.089,
    0.18,
    0.116,
    0.047,
    0.062,
    0.062,
    0.087,
)
ROWS = {
    "pixel-unshuffle": {},
    "haar": {"sigma_data": CELEBA_BANDS},
    "haar-refine": {"sigma_data": CELEBA_BANDS, "refine": 16},
    "haar-wide": {"sigma_data": CELEBA_BANDS, "channels": (48, 96, 192)},
    "haar-twice": {"sigma_data": CELEBA_BANDS_4, "patch": 4, "channels": (96, 192), "attention": (False, True)},
}
IMAGES = 500


def train(row: str, seed: int, minutes: float):
    """The EMA network after `minutes` of this process's CPU time; the learning rate falls along a cosine of that time."""
    faces = celeba("train")
    net = Denoiser(faces.shape, faces.attributes.names, **FACES | {"rates": faces.rates, "seed": seed} | ROWS[row])
    recipe = Recipe(1_000_000, 16, lr=2e-3, ticks="logit-normal", flip=True, seed=seed)
    average = AveragedModel(net, multi_avg_fn=_moving_average(recipe.ema))
    optimizer = torch.optim.AdamW(net.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
    losses, start, budget = [], time.process_time(), 60 * minutes
    while (spent := (time.process_time() - start) / budget) < 1:
        batch = Batch.draw(faces, recipe, len(losses))
        warm = min(1, (len(losses) + 1) / 50)
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr * warm * 0.5 * (1 + math.cos(math.pi * spent))
        optimizer.zero_grad()
        loss = denoising_loss(net, batch.x_0, batch.cond, batch.t, batch.eps).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), recipe.clip)
        optimizer.step()
        average.update_parameters(net)
        losses.append(loss.item())
        if len(losses) % 50 == 0:
            print(
                f"{row} {seed}: step {len(losses)}, {100 * spent:.0f} % of the time, loss {sum(losses[-50:]) / 50:.4f}",
                flush=True,
            )
    return average.module.eval(), losses


def nyquist_amplitudes(images: torch.Tensor) -> dict[str, float]:
    """Amplitude, in grey levels of 255, of images (N, C, H, W) in [-1, 1] at the Nyquist frequencies and at period 4."""
    grey = (images.mean(1) + 1) * 127.5
    spectrum = torch.fft.fft2(grey).abs().mean(0) / grey[0].numel()
    half, quarter = grey.shape[-1] // 2, grey.shape[-1] // 4
    places = {
        "32,32": (half, half),
        "32,0": (half, 0),
        "0,32": (0, half),
        "16,16": (quarter, quarter),
        "16,0": (quarter, 0),
        "0,16": (0, quarter),
    }
    return {name: spectrum[place].item() for name, place in places.items()}


def score(net, out: Path, name: str) -> dict:
    """Scores of images for the rows of unseen faces: in 10 steps, unguided. Features and weights go to `out`."""
    valid, classifier = celeba("valid"), load("judge").classifier
    order = torch.randperm(len(valid), generator=torch.Generator().manual_seed(0))
    cond, others = valid[order[:IMAGES]][1], valid[order[-IMAGES:]][0]
    x_T = noise(IMAGES, net.shape, seed=1)
    start = time.process_time()
    images = torch.cat(
        [sample(net, *part, AdamsBashforth(net.schedule), 10) for part in zip(x_T.split(50), cond.split(50))]
    )
    seconds = time.process_time() - start
    features, reference = efficientnet_features(images), efficientnet_features(others)
    save_file({"features": features, "reference": reference}, out / f"{name}.features.safetensors")
    save_file({k: v.half().contiguous() for k, v in net.state_dict().items()}, out / f"{name}.safetensors")
    grid = (
        ((images[:20].reshape(4, 5, 3, 64, 64).permute(0, 3, 1, 4, 2).reshape(256, 320, 3) + 1) * 127.5)
        .round()
        .clamp(0, 255)
    )
    Image.fromarray(grid.byte().numpy()).save(out / f"{name}.png")
    return {
        "distance": list(frechet_estimate(features, reference)),
        "attribute accuracy": list(
            mean_obeyed(read(classifier, images), cond, valid.attributes.names, valid.attributes)
        ),
        "amplitudes": nyquist_amplitudes(images),
        "amplitudes of real faces": nyquist_amplitudes(others),
        "CPU seconds for 500 images": seconds,
    }


def table(out: Path) -> None:
    """Every row beside the first, as a difference of distances with its interval."""
    rows = [json.loads(file.read_text()) for file in sorted(out.glob("*.json"))]
    base = {row["seed"]: row for row in rows if row["row"] == "pixel-unshuffle"}
    for row in rows:
        features = load_file(out / f"{row['row']}-{row['seed']}.features.safetensors")
        line = f"{row['row']:16} seed {row['seed']} {row['images']:6} images, loss {row['last loss']:.4f}, distance {row['distance'][0]:.1f}, "
        if row["seed"] in base and row["row"] != "pixel-unshuffle":
            other = load_file(out / f"pixel-unshuffle-{row['seed']}.features.safetensors")["features"]
            line += f"difference {frechet_difference(features['reference'], features['features'], other)}, "
        print(
            line
            + f"accuracy {row['attribute accuracy'][0]:.3f}, (32,32) {row['amplitudes']['32,32']:.2f}, {row['CPU seconds for 500 images']:.0f} s"
        )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("row", nargs="?", choices=ROWS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=22)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--table", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.table:
        return table(args.table)
    args.out.mkdir(parents=True, exist_ok=True)
    net, losses = train(args.row, args.seed, args.minutes)
    name = f"{args.row}-{args.seed}"
    about = {
        "row": args.row,
        "seed": args.seed,
        "CPU minutes": args.minutes,
        "images": 16 * len(losses),
        "machine": machine(),
    }
    about |= {
        "parameters": sum(p.numel() for p in net.parameters()),
        "first loss": sum(losses[:100]) / 100,
        "last loss": sum(losses[-100:]) / 100,
    }
    (args.out / f"{name}.json").write_text(json.dumps(about | score(net, args.out, name), indent=1))


if __name__ == "__main__":
    main()
