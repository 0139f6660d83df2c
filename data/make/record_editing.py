"""Measure editing and interpolation, and write what lesson 04 quotes to data/results.

    python data/make/record_editing.py edits --model synthetic --count 200 --steps 50 --out data/results
    python data/make/record_editing.py interpolation --model celeba --count 200 --scales 2 --out data/results

Edits are compared with the true counterfactual: the same synthetic face with one attribute changed. Real faces have none.
"""

from typing import NamedTuple

import torch
from record_results import SAMPLERS, Run, chosen, main
from scipy.stats import spearmanr
from torch import Tensor

from facelab.attributes import SYNTHETIC
from facelab.data.synthetic_faces import counterfactual, people, render
from facelab.editing import cross_product, edit, lerp
from facelab.evaluation.statistics import Interval, mean_interval
from facelab.guidance import cfg
from facelab.images import to_uint8
from facelab.samplers import DDIM, AdamsBashforth, noise, sample

# The attributes that edits change, image by image in turn: worn, hair, expression, skin.
CHANGES = "Eyeglasses Smiling Wearing_Hat Blond_Hair Bangs Mouth_Slightly_Open Bald Heavy_Makeup".split()
# How a face is inverted and reconstructed: sampler, fixed-point iterations. 0 iterations are DDIM inversion as published.
INVERSIONS = {"second order": (AdamsBashforth, 1), "first order": (DDIM, 1), "DDIM inversion": (DDIM, 0)}
GUIDANCE_SCALE, MASK_THRESHOLD, BATCH = 2.0, 0.5, 20


def rms(a: Tensor, b: Tensor, mask: Tensor | None = None) -> Tensor:
    """(B,) root mean squared difference of images in [-1, 1] in grey levels of 255, within mask (B, 1, H, W); NaN where empty."""
    mask = torch.ones_like(a[:, :1], dtype=torch.bool) if mask is None else mask
    squares = (((a - b) * 127.5).double().square() * mask).flatten(1).sum(1)
    return (squares / (mask.flatten(1).sum(1) * a.shape[1])).sqrt()


def psnr(a: Tensor, b: Tensor, mask: Tensor | None = None) -> Tensor:
    """(B,) 20 log10(255 / rms) in dB, at most 58.9, where the rms is that of rounding to 256 levels."""
    return 20 * torch.log10(255 / rms(a, b, mask).clamp(min=12**-0.5))


class Counterfactuals(NamedTuple):
    """Synthetic faces before and after one change: images in [-1, 1], conditions, names; other faces with the target condition."""

    before: Tensor
    after: Tensor
    source_cond: Tensor
    target_cond: Tensor
    changed: list[str]
    others: Tensor

    @property
    def mask(self) -> Tensor:
        """(N, 1, H, W): the pixels that change."""
        return (self.before != self.after).any(1, keepdim=True)


def counterfactuals(count: int, changes: list[str] = CHANGES, split: str = "test") -> Counterfactuals:
    """Of the first synthetic faces of a split, each with one attribute flipped, the next one where no pixel changes."""
    conds, seeds = people(count, split)
    rows = []
    for i, (source, seed) in enumerate(zip(conds.float(), seeds.tolist(), strict=True)):
        for turn in range(len(changes)):
            name = changes[(i + turn) % len(changes)]
            value = bool(source[SYNTHETIC.index(name)] < 0)
            before, after, target = counterfactual(source, seed, **{name: value})
            if (before != after).any():
                other = render(target, seed + 500_000)  # from the other half of the split's million seeds
                rows.append((before, after, source, target, f"{'' if value else 'no '}{name}", other))
                break
    before, after, source, target, changed, others = zip(*rows, strict=True)
    before, after, others = (torch.stack(images).float() / 127.5 - 1 for images in (before, after, others))
    return Counterfactuals(before, after, torch.stack(source), torch.stack(target), list(changed), others)


def edit_errors(edited: Tensor, reconstructed: Tensor, pairs: Counterfactuals) -> dict[str, dict[str, Interval]]:
    """Errors of edits and reconstructions (N, C, H, W).

    "inside": rms to the true image where it differs from the given one, of the edit, the given image, and another face with the
    target condition; "improvement": how much nearer the edit is than these two; "outside": PSNR to the given image elsewhere.
    """
    sets = {"edit": edited, "unedited": pairs.before, "another face": pairs.others}
    inside = {name: rms(images, pairs.after, pairs.mask) for name, images in sets.items()}
    improvement = {f"over {name}": inside[name] - inside["edit"] for name in ("unedited", "another face")}
    some = (~pairs.mask).flatten(1).any(1)  # a change of the whole image leaves no outside
    sets = {"edit": edited, "reconstruction": reconstructed}
    outside = {name: psnr(images, pairs.before, ~pairs.mask)[some] for name, images in sets.items()}
    outside["cost of the edit"] = outside["reconstruction"] - outside["edit"]
    groups = {"inside": inside, "improvement": improvement, "outside": outside}
    return {group: {name: mean_interval(values) for name, values in found.items()} for group, found in groups.items()}


@torch.no_grad()
def edits(args) -> tuple[str, dict]:
    """`count` held-out synthetic faces: reconstructed by every inversion, and edited with the second-order one."""
    run = Run(args)
    if run.data != "synthetic":
        raise ValueError("only synthetic faces have a true counterfactual: take --model synthetic.")
    pairs, net = counterfactuals(args.count), run.model.denoiser

    def make(target, sampler, iters, scale=1.0, threshold=0.0):
        sets = zip(*(x.to(net.device).split(BATCH) for x in (pairs.before, pairs.source_cond, target)), strict=True)
        by = sampler(net.schedule, clip=False)
        return torch.cat([edit(net, *given, by, args.steps, scale, iters, threshold).cpu() for given in sets])

    back = {name: make(pairs.source_cond, *way) for name, way in INVERSIONS.items()}
    edited = make(pairs.target_cond, *INVERSIONS["second order"], GUIDANCE_SCALE, MASK_THRESHOLD)
    measures = "edits of one attribute of held-out synthetic faces, beside the true counterfactual; PSNR in dB, rms in grey levels"
    facts = {"guidance_scale": GUIDANCE_SCALE, "mask_threshold": MASK_THRESHOLD}
    facts |= {"changes": {name: pairs.changed.count(name) for name in sorted(set(pairs.changed))}}
    found = {"about": run.about(measures, **facts)}
    found["reconstruction"] = {name: mean_interval(psnr(images, pairs.before)) for name, images in back.items()}
    return f"{args.model}_edits", found | edit_errors(edited, back["second order"], pairs)


def rank_correlation(x: Tensor, y: Tensor) -> float:
    """Spearman's, from -1 to 1; 0 where all values are equal."""
    return 0.0 if len(x.unique()) == 1 else float(spearmanr(x, y).statistic)


def monotonicity(denoise, classifier, name, x_T: Tensor, sampler, steps, conds, p_real: Tensor, frames=9, paths=20):
    """How an attribute's probability follows its condition, interpolated from -1 to 1 with everything else unspecified.

    Args:
        x_T: (R, C, H, W): both ends are generated from every noise, the path of `frames` images from the first `paths`.
        conds, p_real: (N, K) the labels of real images and the classifier's probabilities on them. As many of these as there are
            noises, with and without the attribute, give the change of the other attributes in the data.
    """
    i = classifier.attributes.index(name)
    groups = [p_real[(conds[:, i] == sign).nonzero()[: len(x_T), 0]].mean(0) for sign in (1, -1)]
    ends = torch.zeros(2, len(classifier.attributes))
    ends[:, i] = torch.tensor([-1.0, 1.0])

    def probabilities(noises, conds):
        """(R, F, K) for every noise under every condition."""
        batches = zip(*(part.split(64) for part in cross_product(noises, conds.to(noises.device))), strict=True)
        images = torch.cat([to_uint8(sample(denoise, *batch, sampler, steps)) for batch in batches])
        return classifier.predict_proba(images.float() / 127.5 - 1).double().reshape(len(noises), len(conds), -1)

    path, places = probabilities(x_T[:paths], lerp(*ends, frames)), torch.arange(frames)
    both = torch.cat([path[:, [0, -1]], *([probabilities(x_T[paths:], ends)] if len(x_T) > paths else [])])
    others = torch.arange(len(classifier.attributes)) != i
    correlation = mean_interval(torch.tensor([rank_correlation(one, places) for one in path[:, :, i]]))
    return {
        "rank_correlation": correlation._replace(low=max(-1.0, correlation.low), high=min(1.0, correlation.high)),
        "rank_correlation_of_the_mean": rank_correlation(path[:, :, i].mean(0), places),
        "change": mean_interval(both[:, 1, i] - both[:, 0, i]),
        "change_of_others": (both[:, 1] - both[:, 0]).mean(0).abs()[others].mean().item(),
        "change_of_others_in_data": (groups[0] - groups[1]).abs()[others].mean().item(),
    }


@torch.no_grad()
def interpolation(args) -> tuple[str, dict]:
    """Monotonicity for each of --names, with `count` noises for the ends, at the first guidance scale."""
    run, scale = Run(args), args.scales[0]
    net, batches = run.model.denoiser, run.faces.images.split(500)
    x_T, sampler = noise(args.count, run.model.shape, args.seed).to(net.device), SAMPLERS[args.sampler](net.schedule)
    real = run.faces.conds, torch.cat([run.classifier.predict_proba(x.float() / 127.5 - 1).double() for x in batches])
    given = x_T, sampler, args.steps, *real
    rows = {name: monotonicity(cfg(net, scale), run.classifier, name, *given) for name in chosen(run)}
    measures = "an attribute interpolated from -1 to 1, nothing else specified: rank correlation of its probability"
    return f"{args.model}_interpolation", {"about": run.about(measures, guidance_scale=scale), "rows": rows}


if __name__ == "__main__":
    main(parts={"edits": edits, "interpolation": interpolation}, script="record_editing.py")
