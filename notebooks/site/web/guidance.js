// Guidance, as in facelab/guidance.py: each function takes a denoiser and returns one.
// A denoiser is denoise(x_t, t, cond) -> x_0_hat, for one image and its condition.

const extrapolate = (from, to, scale) => from.map((x, i) => x + scale * (to[i] - x));

// Classifier-free guidance (Ho and Salimans 2022, eq. 6): uncond + scale (cond - uncond).
// denoiseMany(x_t, t, conds) evaluates several conditions in one batch.
export function cfg(denoiseMany, scale) {
  if (scale === 1) return async (x_t, t, cond) => (await denoiseMany(x_t, t, [cond]))[0];
  return async (x_t, t, cond) => {
    const [conditional, unconditional] = await denoiseMany(x_t, t, [cond, cond.map(() => 0)]);
    return extrapolate(unconditional, conditional, scale);
  };
}

// Away from the errors of a weaker network under the same condition (Karras et al. 2024).
export function autoguidance(denoise, weak, scale) {
  return async (x_t, t, cond) => extrapolate(await weak(x_t, t, cond), await denoise(x_t, t, cond), scale);
}
