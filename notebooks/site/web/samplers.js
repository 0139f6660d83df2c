// Samplers, as in facelab/samplers.py: step(x_t, x_0_hat, t, s) makes x_s, where s = -1 is the clean image.

const clamp = (x) => Math.min(1, Math.max(-1, x));

class Sampler {
  constructor(schedule) {
    this.schedule = schedule;
  }

  // x_0_hat, clamped to [-1, 1], and the noise that x_t then has.
  predictions(x_t, x_0_hat, t) {
    const [signal, sigma] = this.schedule.rates(t), clean = x_0_hat.map(clamp);
    return [clean, x_t.map((x, i) => (x - signal * clean[i]) / sigma)];
  }
}

// Mix both predictions with less noise: Song et al. 2021, eq. 12.
class DDIM extends Sampler {
  step(x_t, x_0_hat, t, s) {
    const [clean, eps] = this.predictions(x_t, x_0_hat, t), [signal, sigma] = this.schedule.rates(s);
    return clean.map((x, i) => signal * x + sigma * eps[i]);
  }
}

// The last two predictions, extrapolated to the middle of the step (Hairer, Norsett and Wanner 1993, III.5).
class AdamsBashforth extends Sampler {
  step(x_t, x_0_hat, t, s) {
    const [clean, eps] = this.predictions(x_t, x_0_hat, t), [tBefore, cleanBefore, epsBefore] = this.before ?? [t + 1, clean, eps];
    const [signal, sigma] = this.schedule.rates(t), [signalNext, sigmaNext] = this.schedule.rates(s);
    const ratio = (t - s) / (tBefore - t) / 2, middle = (now, before, i) => now[i] + ratio * (now[i] - before[i]);
    this.before = [t, clean, eps];
    const x_s = x_t.map((x, i) =>
      x + (signalNext - signal) * middle(clean, cleanBefore, i) + (sigmaNext - sigma) * middle(eps, epsBefore, i));
    return s < 0 ? x_s.map(clamp) : x_s;
  }
}

export const SAMPLERS = { DDIM, AdamsBashforth };

// x_s after every step, the image last; each must be asked for, so the caller can stop in between.
export async function* trajectory(denoise, x, cond, sampler, steps) {
  const timesteps = [...sampler.schedule.timesteps(steps), -1];
  for (let i = 0; i < steps; i++) yield (x = sampler.step(x, await denoise(x, timesteps[i], cond), timesteps[i], timesteps[i + 1]));
}
