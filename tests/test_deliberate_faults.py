"""The tests can fail: each check passes on the real code and fails on a copy with one fault in it."""

import oracle
import pytest

from facelab import analytic, guidance, samplers, schedules, training

CLIP = "        x_0_hat = x_0_hat.clamp(-1, 1) if self.clip else x_0_hat\n"

# fault: (check, module, the right source, the wrong one)
FAULTS = {
    "1 wrong sign in guidance": (
        oracle.guidance_is_exact,
        guidance,
        "other_hat + scale * (cond_hat - other_hat)",
        "other_hat - scale * (cond_hat - other_hat)",
    ),
    "1 wrong sign in the step": (
        oracle.ddim_steps_as_in_diffusers,
        samplers,
        "x_s = signal_s * x_0_hat + max(",
        "x_s = signal_s * x_0_hat - max(",
    ),
    "2 the square root is missing": (
        oracle.noise_is_added_as_in_diffusers,
        schedules,
        "Schedule(alpha_bar.sqrt(), (1 - alpha_bar).sqrt(), name)",
        "Schedule(alpha_bar.sqrt(), 1 - alpha_bar, name)",
    ),
    "3 the conditions of guidance are swapped": (
        oracle.guidance_is_exact,
        guidance,
        "[cond, other])",
        "[other, cond])",
    ),
    "4 the EMA does not average": (
        oracle.ema_follows_its_recursion,
        training,
        "EMAModel(self.weights, decay,",
        "EMAModel(self.weights, 0.0,",
    ),
    "5 the timesteps are off by one": (
        oracle.timesteps_are_evenly_spaced_from_the_last,
        schedules,
        "round(len(self) * (steps - i) / steps) - 1",
        "round(len(self) * (steps - i - 1) / steps)",
    ),
    "5 the last step stops at timestep 0": (
        oracle.last_step_reaches_the_clean_image,
        samplers,
        "[*timesteps[1:], -1]",
        "[*timesteps[1:], 0]",
    ),
    "6 the condition is never dropped": (
        oracle.some_attributes_are_dropped,
        training,
        "torch.where(u < 0.1, 0,",
        "torch.where(u < 0.0, 0,",
    ),
    "7 the last timestep is never trained": (
        oracle.every_timestep_is_trained,
        training,
        " * num_timesteps).long()",
        " * (num_timesteps - 1)).long()",
    ),
    "8 DDIM does not clip": (
        oracle.ddim_steps_as_in_diffusers,
        samplers,
        f"{CLIP}        return x_0_hat, self",
        "        return x_0_hat, self",
    ),
    "8 DDPM does not clip": (
        oracle.ddpm_steps_as_in_diffusers,
        samplers,
        f"{CLIP}        (signal_t",
        "        (signal_t",
    ),
    "9 timesteps run along the width of the image": (
        oracle.each_image_has_its_own_timestep,
        schedules,
        "reshape(-1, 1, 1, 1)",
        "reshape(1, 1, 1, -1)",
    ),
    "9 guidance repeats timesteps in the wrong order": (
        oracle.guidance_is_exact,
        guidance,
        "t.repeat(len(conds))",
        "t.repeat_interleave(len(conds))",
    ),
    "9 the first condition is used for all images": (
        oracle.each_image_has_its_own_condition,
        analytic,
        "cond.to(x).expand(len(x_t), -1)",
        "cond.to(x)[:1].expand(len(x_t), -1)",
    ),
    "10 eval mode is missing": (
        oracle.trained_net_is_in_eval_mode,
        training,
        "copy.deepcopy(net).eval()",
        "copy.deepcopy(net)",
    ),
}


@pytest.mark.parametrize("check, module, right, wrong", FAULTS.values(), ids=FAULTS)
def test_a_fault_is_caught(check, module, right, wrong):
    check(module)
    with pytest.raises(AssertionError):
        check(oracle.faulty(module, right, wrong))
