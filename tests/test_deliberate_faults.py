"""The tests can fail: each check passes on the real code and fails on a copy with one fault in it."""

import oracle
import pytest

from facelab import analytic, guidance, samplers, schedules, training

CLIP = "        x_0_hat = x_0_hat.clamp(-1, 1) if self.clip else x_0_hat\n"
RETURN = "        return x_0_hat, self"

# {module: (fault, check, the right source, the wrong one), ...}
FAULTS = {
    guidance: [
        ("wrong sign in guidance", oracle.guidance_is_exact, "other_hat + scale * (", "other_hat - scale * ("),
        ("swapped conditions", oracle.guidance_is_exact, "[cond, other])", "[other, cond])"),
        ("order of timesteps", oracle.guidance_is_exact, "t.repeat(len(", "t.repeat_interleave(len("),
    ],
    samplers: [
        ("wrong sign in the step", oracle.ddim_steps_as_in_diffusers, "x_0_hat + max(", "x_0_hat - max("),
        ("stops at 0", oracle.last_step_reaches_the_clean_image, "[*timesteps[1:], -1]", "[*timesteps[1:], 0]"),
        ("DDIM does not clip", oracle.ddim_steps_as_in_diffusers, f"{CLIP}{RETURN}", RETURN),
        ("DDPM does not clip", oracle.ddpm_steps_as_in_diffusers, f"{CLIP}        (signal_t", "        (signal_t"),
    ],
    schedules: [
        ("missing root", oracle.noise_is_added_as_in_diffusers, "(1 - alpha_bar).sqrt(), n", "1 - alpha_bar, n"),
        (
            "timesteps off by one",
            oracle.timesteps_are_evenly_spaced,
            "(steps - i) / steps) - 1",
            "(steps - i - 1) / steps)",
        ),
        ("t along the width", oracle.each_image_has_its_own_timestep, "reshape(-1, 1, 1, 1)", "reshape(1, 1, 1, -1)"),
    ],
    training: [
        ("no EMA", oracle.ema_follows_its_recursion, "EMAModel(self.weights, decay,", "EMAModel(self.weights, 0.0,"),
        ("no condition dropout", oracle.some_attributes_are_dropped, "where(u < 0.1, 0,", "where(u < 0.0, 0,"),
        ("last timestep not trained", oracle.every_timestep_is_trained, "num_timesteps).", "(num_timesteps - 1))."),
        ("no eval mode", oracle.trained_net_is_in_eval_mode, "copy.deepcopy(net).eval()", "copy.deepcopy(net)"),
    ],
    analytic: [
        ("one condition", oracle.each_image_has_its_own_condition, "cond.to(x).expand", "cond.to(x)[:1].expand"),
    ],
}


@pytest.mark.parametrize(
    "module, check, right, wrong",
    [(module, *row[1:]) for module, rows in FAULTS.items() for row in rows],
    ids=[row[0] for rows in FAULTS.values() for row in rows],
)
def test_a_fault_is_caught(module, check, right, wrong):
    check(module)
    with pytest.raises(AssertionError):
        check(oracle.faulty(module, right, wrong))
