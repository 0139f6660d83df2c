"""facelab: what the notebooks share."""

import os

# Before diffusers and huggingface_hub are imported, which look at these once: what is done here is nobody's business.
for _name in ("HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK"):
    os.environ.setdefault(_name, "1")

__version__ = "0.1.0"
