// Noise schedules, as in facelab/schedules.py:  x_t = signal_t x_0 + sigma_t eps  (Ho et al. 2020, eq. 4)
// Timesteps are whole numbers: 0 is almost clean, the last one almost or purely noise, and -1 is the clean image.

const RATES = {
  rectified_flow: (n) => Array.from({ length: n }, (_, t) => [1 - (t + 1) / n, (t + 1) / n]),
  linear(n) {
    let alphaBar = 1;
    const betas = Array.from({ length: n }, (_, t) => 1e-4 + ((0.02 - 1e-4) * t) / (n - 1));
    return betas.map((beta) => [Math.sqrt((alphaBar *= 1 - beta)), Math.sqrt(1 - alphaBar)]);
  },
};

export class Schedule {
  constructor(name, length, shift = 1) {
    if (!RATES[name]) throw new Error(`This page does not know the noise schedule ${name}.`);
    Object.assign(this, { length, shift, table: RATES[name](length) });
  }

  // [signal_t, sigma_t]
  rates(t) {
    return t < 0 ? [1, 0] : this.table[t];
  }

  timesteps(steps) {
    let [top, left] = [this.length, steps + 1];
    const next = () => (this.length * this.shift * --left) / (steps + (this.shift - 1) * left);
    return Array.from({ length: steps }, () => (top = Math.min(top, roundHalfEven(next())) - 1));
  }
}

// Python's round(): a half goes to the even neighbour.
const roundHalfEven = (x) => (x % 1 === 0.5 ? 2 * Math.round(x / 2) : Math.round(x));
