"""The tests can fail: each check passes the real code and goes red on a copy with one fault in it."""

import oracle
import pytest

from facelab import guidance, ideal, sample, schedule, train

CLIP = "        x_0_hat = x_0_hat.clamp(-1, 1) if self.clip else x_0_hat\n"
RATES = "        (signal_t, sigma_t), (signal_s, sigma_s) = self.schedule(t), self.schedule(s)\n"

# what goes wrong: (check, module, the right source, the wrong one)
FAULTS = {
    "1 wrong sign in guidance": (
        oracle.guidance_is_exact,
        guidance,
        "other + scale * (told - other)",
        "other - scale * (told - other)",
    ),
    "1 wrong sign in the step": (
        oracle.ddim_steps_as_diffusers_does,
        sample,
        "x_s = signal_s * x_0_hat + max(",
        "x_s = signal_s * x_0_hat - max(",
    ),
    "2 the root is missing": (
        oracle.adds_noise_as_diffusers_does,
        schedule,
        "Schedule(alpha_bar.sqrt(), (1 - alpha_bar).sqrt(), name)",
        "Schedule(alpha_bar.sqrt(), 1 - alpha_bar, name)",
    ),
    "3 guidance's halves are swapped": (
        oracle.guidance_is_exact,
        guidance,
        "torch.cat([cond, other])",
        "torch.cat([other, cond])",
    ),
    "4 the average does not average": (
        oracle.average_follows_its_recursion,
        train,
        "kept.lerp_(new, 1 - decay)",
        "kept.copy_(new)",
    ),
    "5 the ticks are one off": (
        oracle.ticks_are_evenly_spaced_from_the_last,
        schedule,
        "round(len(self) * (steps - i) / steps) - 1",
        "round(len(self) * (steps - i - 1) / steps)",
    ),
    "5 the last step stops at tick 0": (
        oracle.last_step_reaches_the_clean_picture,
        sample,
        "[*ticks[1:], -1]",
        "[*ticks[1:], 0]",
    ),
    "6 the condition is never dropped": (
        oracle.some_answers_are_forgotten,
        train,
        "torch.where(luck < 0.1, 0,",
        "torch.where(luck < 0.0, 0,",
    ),
    "7 the last tick is never trained": (
        oracle.every_tick_is_trained,
        train,
        "(u * ticks).long().clamp(max=ticks - 1)",
        "(u * (ticks - 1)).long()",
    ),
    "8 DDIM does not clip": (
        oracle.ddim_steps_as_diffusers_does,
        sample,
        f"{CLIP}{RATES}        eps_hat",
        f"{RATES}        eps_hat",
    ),
    "8 DDPM does not clip": (
        oracle.ddpm_steps_as_diffusers_does,
        sample,
        f"{CLIP}{RATES}        kept",
        f"{RATES}        kept",
    ),
    "9 ticks run along the picture's width": (
        oracle.each_picture_has_its_own_tick,
        schedule,
        "shape = (-1, 1, 1, 1)",
        "shape = (1, 1, 1, -1)",
    ),
    "9 guidance repeats ticks in the wrong order": (
        oracle.guidance_is_exact,
        guidance,
        "t.repeat(2)",
        "t.repeat_interleave(2)",
    ),
    "9 the first request answers for all": (
        oracle.each_picture_has_its_own_condition,
        ideal,
        "cond.to(x).expand(len(x_t), -1)",
        "cond.to(x)[:1].expand(len(x_t), -1)",
    ),
    "10 eval mode is forgotten": (
        oracle.fitted_net_says_the_same_twice,
        train,
        "self.average.module.eval()",
        "self.average.module",
    ),
}


@pytest.mark.parametrize("check, module, right, wrong", FAULTS.values(), ids=FAULTS)
def test_a_fault_is_caught(check, module, right, wrong):
    check(module)
    with pytest.raises(AssertionError):
        check(oracle.faulty(module, right, wrong))
