// Attributes, as in facelab/attributes.py: +1 yes, -1 no, 0 unspecified, values between for degrees.
// Here a condition is also an object {name: value} of the specified attributes, and a state is what decides the image.

export const words = (name) => name.replaceAll("_", " ");

export const encode = (names, values) => names.map((name) => values[name] ?? 0);

// "Smiling, no Eyeglasses, Young 0.5", or "unconditional" for the null condition.
export function describe(names, values) {
  const text = (name, value) => ({ 1: name, [-1]: `no ${name}` })[value] ?? `${name} ${+value.toPrecision(2)}`;
  return names.filter((name) => values[name]).map((name) => text(words(name), values[name])).join(", ") || "unconditional";
}

// The values with one of them changed; of exclusive attributes, a yes makes the others unspecified.
export function change({ attributes, exclusive }, values, name, value) {
  const changed = { ...(exclusive && value === 1 ? {} : values), [name]: value };
  return Object.fromEntries(attributes.filter((one) => changed[one]).map((one) => [one, changed[one]]));
}

export function lerp(a, b, weight) {
  const names = Object.keys({ ...a, ...b });
  return Object.fromEntries(names.map((name) => [name, (1 - weight) * (a[name] ?? 0) + weight * (b[name] ?? 0)]));
}

// The values that few training images have, in words: "Bald (2.3 %)".
export function rare({ attributes, frequencies }, values, below = 0.05) {
  const found = attributes.map((name, i) => [name, values[name], values[name] > 0 ? frequencies?.[i] : 1 - frequencies?.[i]]);
  return found.filter(([, value, share]) => value && share < below).map(([name, value, share]) =>
    `${value < 0 ? "no " : ""}${words(name)} (${(100 * share).toPrecision(2)} %)`);
}

// A state as the part of an address behind #, and back; what is missing or wrong there keeps the default.
export const toLink = ({ values, ...fields }) =>
  new URLSearchParams(Object.entries({ ...fields, ...values }).filter(([, value]) => value || value === 0)).toString();

const NUMBERS = { seed: [0, 2 ** 31, 1], steps: [1, 50, 1], guidance_scale: [0, 8, 10] }; // lowest, highest, parts of one
const within = (number, [low, high, parts]) => Math.round(Math.min(high, Math.max(low, number)) * parts) / parts;

export function fromLink(text, manifest, defaults) {
  const state = { ...defaults, values: {} };
  for (const [name, value] of new URLSearchParams(text)) {
    if (name in NUMBERS && !isNaN(value)) state[name] = within(Number(value), NUMBERS[name]);
    else if (manifest.attributes.includes(name) && !isNaN(value))
      state.values = change(manifest, state.values, name, within(Number(value), [-1, 1, 10]));
    else if (["from", "to", "compare", "autoguidance"].includes(name)) state[name] = value;
  }
  return state;
}
