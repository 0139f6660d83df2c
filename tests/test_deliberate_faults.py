"""The tests can fail: each check passes on the real code and fails on a copy with one fault in it."""

import oracle
import pytest

from facelab import analytic, guidance, samplers, schedules, training

CLIP = "        x_0_hat = x_0_hat.clamp(-1, 1) if self.clip else x_0_hat\n"
RETURN = "        return x_0_hat, self"

# (fault, check, module, the right source, the wrong one)
FAULTS = [
    ("wrong sign in guidance", oracle.guidance_is_exact, guidance, "other_hat + scale * (", "other_hat - scale * ("),
    ("wrong sign in the step", oracle.ddim_steps_as_in_diffusers, samplers, "x_0_hat + max(", "x_0_hat - max("),
    ("missing root", oracle.noise_is_added_as_in_diffusers, schedules, "(1 - alpha_bar).sqrt(), n", "1 - alpha_bar, n"),
    ("swapped conditions", oracle.guidance_is_exact, guidance, "[cond, other])", "[other, cond])"),
    (
        "no EMA",
        oracle.ema_follows_its_recursion,
        training,
        "EMAModel(self.weights, decay,",
        "EMAModel(self.weights, 0.0,",
    ),
    (
        "timesteps off by one",
        oracle.timesteps_are_evenly_spaced_from_the_last,
        schedules,
        "(steps - i) / steps) - 1",
        "(steps - i - 1) / steps)",
    ),
    ("stops at 0", oracle.last_step_reaches_the_clean_image, samplers, "[*timesteps[1:], -1]", "[*timesteps[1:], 0]"),
    ("no condition dropout", oracle.some_attributes_are_dropped, training, "where(u < 0.1, 0,", "where(u < 0.0, 0,"),
    (
        "last timestep not trained",
        oracle.every_timestep_is_trained,
        training,
        "num_timesteps).",
        "(num_timesteps - 1)).",
    ),
    ("DDIM does not clip", oracle.ddim_steps_as_in_diffusers, samplers, f"{CLIP}{RETURN}", RETURN),
    (
        "DDPM does not clip",
        oracle.ddpm_steps_as_in_diffusers,
        samplers,
        f"{CLIP}        (signal_t",
        "        (signal_t",
    ),
    (
        "timesteps run along the width of the image",
        oracle.each_image_has_its_own_timestep,
        schedules,
        "reshape(-1, 1, 1, 1)",
        "reshape(1, 1, 1, -1)",
    ),
    ("order of timesteps", oracle.guidance_is_exact, guidance, "t.repeat(len(", "t.repeat_interleave(len("),
    ("one condition", oracle.each_image_has_its_own_condition, analytic, "cond.to(x).expand", "cond.to(x)[:1].expand"),
    ("no eval mode", oracle.trained_net_is_in_eval_mode, training, "copy.deepcopy(net).eval()", "copy.deepcopy(net)"),
]


@pytest.mark.parametrize("check, module, right, wrong", [one[1:] for one in FAULTS], ids=[one[0] for one in FAULTS])
def test_a_fault_is_caught(check, module, right, wrong):
    check(module)
    with pytest.raises(AssertionError):
        check(oracle.faulty(module, right, wrong))
