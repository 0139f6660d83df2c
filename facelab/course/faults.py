"""Eight faults of published code, each a function of facelab with one line changed (lesson 06).

`with enabled(name):` replaces the correct function by the faulty one in all of facelab and in the notebook. That is process-wide
(unittest.mock) and not thread-safe: while a fault is enabled, other threads run the faulty function too.
"""

import ast
import contextlib
import dataclasses
import difflib
import functools
import inspect
import math
import sys
import textwrap
from collections.abc import Callable, Iterator
from unittest import mock

import torch

from facelab import guidance, schedules, training
from facelab.attributes import expand_cond
from facelab.data.dataset import AttributeDataset
from facelab.denoiser import Denoiser
from facelab.guidance import _finite, _in_one_batch
from facelab.samplers import DDIM, noise_like
from facelab.schedules import Schedule, _times, from_alpha_bar


def to_timesteps(u, num_timesteps):
    """randint(0, 999) stops at 998, in the report's listing too."""
    return (u * (num_timesteps - 1)).long().clamp(max=num_timesteps - 2)


def add_noise(self, x_0, eps, t):
    """(1 - ab_t) * noise, without the square root."""
    signal, sigma = self.rates(t, like=x_0)
    return signal * x_0 + sigma**2 * eps


def drop_condition(cond, generator, groups=None):
    """Dropped with probability 0.9 where 0.1 was meant."""
    return cond * (torch.rand(len(cond), generator=generator) >= 0.9)[:, None]


def _network(self, x, t, cond):
    """context_mask = (-1*(1-context_mask))."""
    time = torch.as_tensor(t, device=x.device).expand(len(x)) * (1000 / self.config.num_timesteps)
    cond = self._scale_cond(cond)
    if self.config.conditioning == "channels":
        x = torch.cat([x, self.embed(cond)[:, :, None, None].expand(-1, -1, *x.shape[2:])], 1)
    labels = self.embed(-1 * cond) if self.config.conditioning == "embedding" else None
    return self.unet(x, time, class_labels=labels).sample


def cosine(num_timesteps=1000, s=0.008, max_beta=0.999):
    """f(t) = cos(...), where the paper squares it."""
    u = torch.cat([torch.zeros(1, dtype=torch.float64), _times(num_timesteps)])
    curve = ((u + s) / (1 + s) * math.pi / 2).cos()
    return from_alpha_bar((1 - (1 - curve[1:] / curve[:-1]).clamp(max=max_beta)).cumprod(0), "cosine")


def step(self, x_t, x_0_hat, t, s):
    """The predicted noise is scaled by the rate of the fresh noise, which is 0 at eta 0."""
    x_0_hat, eps_hat = self._predictions(x_t, x_0_hat, t)
    (signal_t, sigma_t), (signal_s, sigma_s) = self.schedule(t), self.schedule(s)
    noise_std = self.eta * sigma_s * max(0.0, 1 - (signal_t * sigma_s / (signal_s * sigma_t)) ** 2) ** 0.5
    x_s = signal_s * x_0_hat + noise_std * eps_hat
    return x_s + noise_std * noise_like(x_t, self.generator) if noise_std else x_s


def cfg(denoise, guidance_scale, negative_cond=None):
    """Two conventions, in which unguided is a scale of 0 or of 1."""
    scale = _finite(guidance_scale, "guidance_scale")

    def guided(x_t, t, cond):
        cond = expand_cond(cond, len(x_t))
        other = torch.zeros_like(cond) if negative_cond is None else expand_cond(negative_cond.to(cond), len(x_t))
        if other.shape != cond.shape:
            raise ValueError(f"negative_cond must have {cond.shape[1]} values as cond does, got {other.shape[1]}.")
        cond_hat, other_hat = _in_one_batch(denoise, x_t, t, [cond, other])
        return cond_hat + scale * (cond_hat - other_hat)

    return denoise if scale == 1 else guided


def __getitem__(self, i):
    """Normalize(0.5, 0.5), and then x * 2 - 1."""
    images = self._all_images[i if self._rows is None else self._rows[i]]
    return (images.float() / 127.5 - 1) * 2 - 1, self.conds[i].float()


@dataclasses.dataclass(frozen=True)
class Fault:
    """A faulty function, the module or class whose correct function it replaces, and where it was published."""

    name: str
    owner: object
    faulty: Callable
    source: str

    @functools.cached_property
    def correct(self) -> Callable:
        """The function of facelab that the faulty one replaces."""
        return getattr(self.owner, self.faulty.__name__)

    def diff(self) -> str:
        """What differs between the two sources, without docstrings, comments and annotations."""
        sides = (_normalized(function) for function in (self.correct, self.faulty))
        where = f"{self.correct.__module__.replace('.', '/')}.py, {self.correct.__qualname__}"
        lines = difflib.unified_diff(*sides, where, "as published", n=1, lineterm="")
        return "\n".join(line for line in lines if not line.startswith("@@"))


def _normalized(function: Callable) -> list[str]:
    tree = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    if ast.get_docstring(tree):
        del tree.body[0]
    for node in ast.walk(tree):
        for annotation in {"annotation", "returns"} & set(node._fields):
            setattr(node, annotation, None)
    return ast.unparse(tree).splitlines()


# Lesson 06 shows A to D before it names them.
FAULTS = {
    "A": Fault("DDIM drops the predicted noise", DDIM, step, "jsboige/CoursIA, pull request 16158"),
    "B": Fault("scale from the wrong end", guidance, cfg, "threestudio-project/threestudio, issue 127"),
    "E": Fault("images scaled twice", AttributeDataset, __getitem__, "the listing of the report"),
    "F": Fault("labels dropped too often", training, drop_condition, "eje24/iap-diffusion-labs, commit 3ce71b6"),
    "C": Fault("variance, not its root", Schedule, add_noise, "Ryota-Kawamura/How-Diffusion-Models-Work, issue 1"),
    "G": Fault("one-hot made negative", Denoiser, _network, "TeaPearce/Conditional_Diffusion_MNIST, issue 1"),
    "D": Fault("cosine without its square", schedules, cosine, "lilianweng/lilianweng.github.io, issue 9"),
    "H": Fault("last timestep not trained", training, to_timesteps, "huggingface/diffusion-models-class, unit 2/02"),
}


def fault(name: str) -> Fault:
    """The fault of that letter or name."""
    for letter, one in FAULTS.items():
        if name in (letter, one.name):
            return one
    known = ", ".join(f"{letter} ({one.name})" for letter, one in FAULTS.items())
    raise ValueError(f"there is no fault {name!r}: the faults are {known}.")


@contextlib.contextmanager
def enabled(name: str) -> Iterator[None]:
    """Inside, the faulty function of that letter or name runs."""
    one = fault(name)
    correct = one.correct  # read before it is replaced
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(one.owner, one.faulty.__name__, one.faulty))
        # Other modules, the notebook and tables hold the function under names of their own.
        ours = [m for key, m in list(sys.modules.items()) if key.startswith(("__main__", "facelab"))]
        for module, name in [(m, name) for m in ours for name, value in vars(m).items() if value is correct]:
            stack.enter_context(mock.patch.object(module, name, one.faulty))
        for table in (schedules.SCHEDULES, training.COND_DROPOUT):
            changes = {name: one.faulty for name, value in table.items() if value is correct}
            stack.enter_context(mock.patch.dict(table, changes))
        yield
