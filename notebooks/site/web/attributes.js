// Attributes, as in facelab/attributes.py: +1 yes, -1 no, 0 unspecified, values between for degrees.
// Here a condition is also an object {name: value} of the specified attributes, and a state is what decides the image.

export const words = (name) => name.replaceAll("_", " ");

export const encode = (names, values) => names.map((name) => values[name] ?? 0);

// "Smiling, no Eyeglasses, Young 0.5", or "unconditional" for the null condition.
export function describe(names, values) {
  const word = (name) => ({ 1: words(name), [-1]: `no ${words(name)}` })[values[name]] ?? `${words(name)} ${values[name]}`;
  return names.filter((name) => values[name]).map(word).join(", ") || "unconditional";
}

// The values with one of them changed; of exclusive attributes, a yes makes the others unspecified.
export function change({ attributes, exclusive }, values, name, value) {
  const changed = { ...(exclusive && value === 1 ? {} : values), [name]: value };
  return Object.fromEntries(attributes.filter((one) => changed[one]).map((one) => [one, changed[one]]));
}

// The part of the training images that has a value, such as "no Beard".
export function rare({ attributes, frequencies }, values, below = 0.05) {
  const share = (i, value) => (value > 0 ? frequencies[i] : 1 - frequencies[i]);
  return attributes.flatMap((name, i) =>
    frequencies && values[name] && share(i, values[name]) < below
      ? [`${values[name] < 0 ? "no " : ""}${words(name)} (${(100 * share(i, values[name])).toPrecision(2)} %)`] : []);
}

const NUMBERS = { seed: [0, 2 ** 31, 1], steps: [1, 100, 1], guidance_scale: [0, 8, 0.1] };
const within = (number, [low, high, step]) => Math.round(Math.min(high, Math.max(low, number)) / step) / Math.round(1 / step);

// A state as the part of an address behind #, and back; what is missing or wrong there keeps the default.
export function toLink({ values, ...fields }) {
  return new URLSearchParams({ ...fields, ...values }).toString();
}

export function fromLink(text, manifest, defaults) {
  const given = [...new URLSearchParams(text)], state = { ...defaults, values: {} };
  for (const [key, value] of given) {
    if (key in NUMBERS && Number.isFinite(Number(value))) state[key] = within(Number(value), NUMBERS[key]);
    else if (manifest.attributes.includes(key) && Number.isFinite(Number(value)))
      state.values = change(manifest, state.values, key, within(Number(value), [-1, 1, 0.1]));
    else if (["from", "to", "compare", "autoguidance"].includes(key)) state[key] = value;
  }
  return given.length ? state : { ...defaults };
}
