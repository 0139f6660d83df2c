// Noise schedules, as in facelab/schedules.py:  x_t = signal_t x_0 + sigma_t eps  (Ho et al. 2020, eq. 4)

const SIGMA2 = {
  linear(n) {
    let kept = 1;
    return Array.from({ length: n }, (_, t) => 1 - (kept *= 1 - (1e-4 + ((0.02 - 1e-4) * t) / (n - 1))));
  },
  cosine(n) {
    const curve = (u) => Math.cos((((u + 0.008) / 1.008) * Math.PI) / 2) ** 2;
    let kept = 1;
    return Array.from({ length: n }, (_, t) => 1 - (kept *= 1 - Math.min(1 - curve((t + 1) / n) / curve(t / n), 0.999)));
  },
};

export class Schedule {
  // Timesteps are whole numbers: 0 is almost clean, the last one almost or purely noise, and -1 is the clean image.
  constructor(name, length) {
    this.length = length;
    if (name === "rectified_flow") this.pairs = Array.from({ length }, (_, t) => [1 - (t + 1) / length, (t + 1) / length]);
    else if (name in SIGMA2) this.pairs = SIGMA2[name](length).map((v) => [Math.sqrt(1 - v), Math.sqrt(v)]);
    else throw new Error(`This page does not know the noise schedule ${name}.`);
  }

  rates(t) {
    return t < 0 ? [1, 0] : this.pairs[t]; // [signal_t, sigma_t]
  }

  timesteps(steps) {
    return Array.from({ length: steps }, (_, i) => roundHalfEven((this.length * (steps - i)) / steps) - 1);
  }
}

// Python's round(): a half goes to the even neighbour.
function roundHalfEven(x) {
  const low = Math.floor(x);
  return x - low === 0.5 ? low + (low % 2) : Math.round(x);
}
