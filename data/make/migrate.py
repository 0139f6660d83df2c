"""Weights of facelab 0.1: bring their config, card and folder name to those of 0.2. The weights file itself stays unchanged.

python data/make/migrate.py data/pretrained          every folder of weights in it, or the one folder that is named
"""

import json
import re
import sys
from pathlib import Path

from facelab.pretrained import NETWORKS, RENAMED

VALUES = {"velocity": "v", "straight": "rectified_flow"}
CONFIG = {
    "pictures": "total_images", "batch": "batch_size", "optimiser": "optimizer", "decay": "lr_schedule", "ema": "ema_decays",
    "clip": "max_grad_norm", "ticks": "timestep_sampling", "forget": "cond_dropout", "evenly": "rare_fraction",
    "start": "init_from",
}  # fmt: skip
DROPOUT = {"some": "partial", True: "partial", "never": "none", False: "none", "whole": "whole"}
CARD = {"licence": "license", "recipe": "config", "legs": "stages", "last loss": "last_loss"}
OPTIONS = {"--plan": "--preset", "--pictures": "--images", "--evenly": "--rare-fraction", "--start": "--init-from"}
SCORES = {
    "counted on": "evaluated_on", "distance, floor": "frechet_distance_of_two_real_sets",
    "accuracy on real test digits": "accuracy", "balanced accuracy, mean": "mean_balanced_accuracy",
    "balanced accuracy": "balanced_accuracy", "plain accuracy": "accuracy",
    "the majority's plain accuracy": "majority_class_accuracy",
}  # fmt: skip
MEASURED = {
    "asked = read, balanced, mean over the attributes": "attribute_accuracy",
    "asked = read": "class_accuracy",
    "distance in EfficientNet-Lite0 features": "frechet_distance",
}
PROSE = {
    "drawn faces": "synthetic faces", "together as in CelebA": "correlated as in CelebA", " (as asked)": "",
    "valid for want of test pictures": "valid, because there are no test images", "faces of CelebA": "images of CelebA",
    "in the attention between the two halves, which the next leg leaves out":
    "in the attention of the middle block, which the next stage leaves out",
}  # fmt: skip
NOTE = (
    "These weights were trained by the command line of facelab 0.1. The command is its equivalent in 0.2; the network is that "
    "of config.json, and 0.2 samples other random numbers."
)


def migrate_config(config: dict) -> dict:
    """A network's config with the keys and values of 0.2, without `refine`, which 0.2 has no more."""
    renamed = NETWORKS[config["_class_name"]].renamed
    kept = {key: old for key, old in config.items() if key != "refine"}
    return dict(sorted((renamed.get(key, key), VALUES.get(str(old), old)) for key, old in kept.items()))


def migrate_card(card: dict, name: str) -> dict:
    """The card of the weights `name` (their name in 0.2), without a private word; every fact is kept."""
    new = {CARD.get(key, key): _prose(value) for key, value in card.items()}
    new["what"] = re.sub("^[^:]*", name, new["what"])
    stages = [_stage(stage, name) for stage in new.pop("stages", [])]
    new = {"what": new.pop("what"), **_stage(new, name), "note": NOTE}
    if stages:
        new["stages"] = stages
    if "scores" in new:
        new["scores"] = _scores(new["scores"])
    return new


def _stage(stage: dict, name: str) -> dict:
    stage = {CARD.get(key, key): _prose(value) for key, value in stage.items()}
    config = {CONFIG.get(key, key): value for key, value in stage["config"].items()}
    config |= {"cond_dropout": DROPOUT[config["cond_dropout"]], "ema_decays": [config["ema_decays"]]}
    return stage | {"config": config, "command": _command(stage["command"], name)}


def _command(command: str, name: str) -> str:
    """python -m facelab train faces --data celeba --net ours --plan full -> python data/make/train_weights.py celeba ..."""
    pairs = re.findall(r"(--[a-z-]+) (\S+)", command)
    kept = [(OPTIONS.get(key, key), value) for key, value in pairs if key not in ("--data", "--net")]
    words = [f"{key} {RENAMED.get(value, value) if key == '--init-from' else value}" for key, value in kept]
    return " ".join(["python data/make/train_weights.py", name, *words])


def _scores(scores: dict) -> dict:
    """{"asked = read, guided at 2, 2000 digits, 10 DDIM calls": 1} -> {"guidance_scale_2": {"class_accuracy": 1}, ...}"""
    new = {}
    for key, value in scores.items():
        match = re.fullmatch(r"(.+), (plain|guided at 2), (\d+) (?:digits|faces), (\d+) DDIM calls", key)
        if not match:
            new[SCORES[key]] = value
            continue
        what, guided, images, steps = match.groups()
        new |= {"images": int(images), "steps": int(steps), "sampler": "DDIM"}
        new.setdefault("guidance_scale_1" if guided == "plain" else "guidance_scale_2", {})[MEASURED[what]] = value
        if "EfficientNet" in what:
            new["features"] = "EfficientNet-Lite0"
    return new


def _prose(value):
    if isinstance(value, str):
        for old, now in PROSE.items():
            value = value.replace(old, now)
    return {key: _prose(v) for key, v in value.items()} if isinstance(value, dict) else value


def migrate(folder: Path) -> Path:
    """Rewrite config.json and card.json in a folder of weights, and give a shipped folder its new name; returns the folder."""
    config, card = (json.loads((folder / f"{name}.json").read_text("utf-8")) for name in ("config", "card"))
    if "names" not in config:
        return folder
    name = RENAMED.get(folder.name, folder.name)
    for file, content in (("config", migrate_config(config)), ("card", migrate_card(card, name))):
        text = json.dumps(content, indent=2 if file == "config" else 1) + "\n"
        (folder / f"{file}.json").write_text(text, "utf-8")
    return folder.rename(folder.with_name(name))


def main(argv: list[str]) -> None:
    for top in map(Path, argv):
        for config in sorted(top.glob("**/config.json")):
            print(f"{config.parent} -> {migrate(config.parent).name}")


if __name__ == "__main__":
    main(sys.argv[1:] or sys.exit(__doc__))
