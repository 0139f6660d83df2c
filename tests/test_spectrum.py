"""No checkerboard in the images of the weights that come with facelab; what real images have stands in their card."""

import pytest
import torch

from facelab.attributes import DIGITS
from facelab.data.synthetic_faces import synthetic_faces
from facelab.evaluation.metrics import spectrum_amplitudes
from facelab.pretrained import load, names
from facelab.samplers import generate


def conditions(attributes) -> torch.Tensor:
    """48 conditions: the classes in turn, or attributes of synthetic faces, the others unspecified."""
    if attributes.exclusive:
        return torch.eye(len(DIGITS)).repeat(5, 1)[:48]
    faces, cond = synthetic_faces(48, "test"), torch.zeros(48, len(attributes))
    cond[:, [attributes.index(name) for name in faces.attributes]] = faces.conds.float()
    return cond


GENERATORS = [name for name in names() if load(name).denoiser and not name.startswith("report")]


@pytest.mark.parametrize("name", GENERATORS)
def test_generated_images_have_no_checkerboard(name):
    weights = load(name)
    scores = weights.card["scores"]
    images = generate(weights, conditions(weights.attributes), steps=scores["steps"], seed=3)
    real, found = scores["spectrum_of_real_images"], spectrum_amplitudes(images)
    assert {place: found[place] for place in found if found[place] > max(1.5 * real[place], 0.15)} == {}
