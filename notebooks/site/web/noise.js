// x_T as torch makes it on a CPU, so that a seed gives the same person here as in the package: the Mersenne Twister
// (Matsumoto and Nishimura 1998), 24 bits of each number as a uniform one, and Box and Muller's transform of 8 pairs at a time.

function mersenneTwister(seed) {
  const state = new Uint32Array(624);
  state[0] = seed;
  for (let i = 1; i < 624; i++) state[i] = Math.imul(1812433253, state[i - 1] ^ (state[i - 1] >>> 30)) + i;
  let at = 624;
  return () => {
    if (at === 624) {
      for (at = 0; at < 624; at++) {
        const mixed = (state[at] & 0x80000000) | (state[(at + 1) % 624] & 0x7fffffff);
        state[at] = state[(at + 397) % 624] ^ (mixed >>> 1) ^ (mixed & 1 ? 0x9908b0df : 0);
      }
      at = 0;
    }
    let y = state[at++];
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    return (y ^ (y >>> 18)) >>> 0;
  };
}

// `count` standard normal numbers, a multiple of 16.
export function noise(count, seed) {
  const next = mersenneTwister(seed), x = new Float32Array(count);
  for (let i = 0; i < count; i++) x[i] = (next() & 0xffffff) / 0x1000000;
  for (let start = 0; start < count; start += 16) {
    for (let i = start; i < start + 8; i++) {
      const radius = Math.sqrt(-2 * Math.log(1 - x[i])), angle = 2 * Math.PI * x[i + 8];
      x[i] = radius * Math.cos(angle);
      x[i + 8] = radius * Math.sin(angle);
    }
  }
  return x;
}

// Spherical interpolation between two noises (Shoemake 1985); angle and length change evenly.
export function slerp(a, b, weight) {
  const dot = (x, y) => x.reduce((sum, value, i) => sum + value * y[i], 0), [p, q] = [Math.sqrt(dot(a, a)), Math.sqrt(dot(b, b))];
  const angle = Math.acos(Math.min(1, dot(a, b) / (p * q)));
  if (angle < 1e-6) return a.slice();
  const length = p + weight * (q - p), [u, v] = [1 - weight, weight].map((w) => (length * Math.sin(w * angle)) / Math.sin(angle));
  return a.map((value, i) => (u / p) * value + (v / q) * b[i]);
}
