"""facelab, the small package that the notebooks share. `dir(facelab)` lists the names that people use.

A name's module is imported when the name is first used (PEP 562), so `import facelab` itself loads nothing heavy.
"""

import importlib
import os

# huggingface_hub reads these once, when it is imported: no telemetry, and no download while FACELAB_OFFLINE is set.
for _name in ("HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK"):
    os.environ.setdefault(_name, "1")
if os.environ.get("FACELAB_OFFLINE", "0") not in ("", "0"):
    os.environ.setdefault("HF_HUB_OFFLINE", "1")

__version__ = "0.2.0"

_MODULES = {
    name: f"facelab.{module}"
    for module, names in {
        "attributes": "Attributes CELEBA DIGITS SYNTHETIC",
        "schedules": "Schedule linear cosine sigmoid rectified_flow",
        "denoiser": "Denoiser haar inverse_haar",
        "classifier": "AttributeClassifier",
        "analytic": "IdealDenoiser GaussianDenoiser",
        "guidance": "cfg compositional interval_guidance autoguidance",
        "samplers": "DDPM DDIM AdamsBashforth Heun DiffusersSampler noise trajectory sample generate",
        "training": "TrainConfig train fit denoising_loss drop_attributes drop_condition",
        "pretrained": "load",
        "presets": "preset",
        "editing": "lerp slerp ddim_invert edit sdedit",
        "images": "open_image save_png",
        "plots": "show filmstrip animation curve",
        "data.dataset": "AttributeDataset",
        "data.mnist": "mnist",
        "data.celeba": "celeba label_statistics",
        "data.synthetic_faces": "synthetic_faces default_faces default_face_name",
        "data.csv_dataset": "from_csv",
        "evaluation.features": "extractor extract_features",
        "evaluation.report": "evaluate results",
        "widgets.explorer": "AttributeExplorer",
        "widgets.schedule_designer": "ScheduleDesigner",
    }.items()
    for name in names.split()
}


def __getattr__(name: str):
    if name not in _MODULES:
        raise AttributeError(f"module 'facelab' has no attribute {name!r}", name=name)
    value = globals()[name] = getattr(importlib.import_module(_MODULES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*_MODULES, "__version__"})
