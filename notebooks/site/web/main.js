// The page: it shows a state, changes it, and asks the worker in engine.js for the image. Nothing here computes one.
import { change, describe, fromLink, lerp, rare, toLink, words } from "./attributes.js";
import { png } from "./png.js";

const START = { celeba: { Smiling: 1, Young: 1 }, mnist: { 7: 1 } }, FRAMES = 9, CACHED = 64;
const OLD = "The networks cannot be started: this browser is too old, or a file of the page is missing.";
const SIMD = [0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11];
const $ = (id) => document.getElementById(id);
const make = (kind, properties, ...children) => {
  const element = Object.assign(document.createElement(kind), properties);
  element.append(...children);
  return element;
};
const manifests = {}, states = {}, cache = new Map(), key = JSON.stringify;
let name, manifest, state, worker, kind, job = 0, parts = [], missing = [], film = null, whenFinished = null, linkTimer, shows = [];

const linked = () => new URLSearchParams(location.hash.slice(1));
const linkedModel = () => (linked().get("model") === "mnist" ? "mnist" : "celeba");
const write = () => history.replaceState(null, "", `#${toLink({ model: name, ...state })}`);
const randomSeed = () => 1 + Math.floor(9999 * Math.random());

function say(text, share = 0) {
  $("status").textContent = text;
  $("progress").value = share;
}

function fail(text) {
  document.body.classList.add("failed");
  say("");
  $("error").textContent = text;
}

// Another model, in the state of the address, or as it was left.
function choose(model) {
  [name, manifest] = [model, manifests[model]];
  for (const button of document.querySelectorAll("nav button")) button.ariaPressed = button.dataset.model === name;
  if (!manifest) return worker.postMessage({ load: name, kind });
  const defaults = { seed: manifest.first_seed, guidance_scale: 2, steps: 10, values: START[name] ?? {} };
  build(manifest);
  const isLinked = linkedModel() === name && [...linked().keys()].some((given) => given !== "model");
  state = isLinked ? fromLink(location.hash.slice(1), manifest, defaults) : states[name] ?? defaults;
  update({});
}

function build({ groups, exclusive, files, license, data }) {
  shows = [];
  $("hint").textContent = exclusive ? "Press a digit; pressed again, it is unspecified. Sliders set degrees."
    : "Press a name for yes, the word beside it for no, and either again for unspecified. Sliders set degrees.";
  $("groups").replaceChildren(...Object.entries(groups).map(([group, names]) => {
    const chips = make("div", { className: "chips" }, ...names.map((one) => chip(one, exclusive)));
    const sliders = make("div", { hidden: true }, ...names.map((one) => slider(one, exclusive ? 0 : -1)));
    const degrees = make("button", { type: "button", textContent: "degrees", ariaPressed: false, ariaLabel: `degrees: ${group}` });
    degrees.onclick = () => ([chips.hidden, sliders.hidden, degrees.ariaPressed] = [sliders.hidden, chips.hidden, sliders.hidden]);
    const head = make("div", { className: "group-head" }, make("h3", { textContent: exclusive ? "digit" : group }), degrees);
    return make("div", { className: "group" }, head, chips, sliders);
  }));
  [$("weak").hidden, $("guesses").hidden] = [!files.weak, exclusive];
  $("person").textContent = exclusive ? "Other handwriting" : "Another person";
  $("license").textContent = `The weights are ${license === "MIT" ? "free to use (MIT licence)" : license}. Trained on ${data}.`;
}

function chip(one, exclusive) {
  const buttons = [["yes", words(one), 1], ["no", "no", -1]].slice(0, exclusive ? 1 : 2).map(([className, textContent, value]) => {
    const button = make("button", { type: "button", className, textContent, ariaLabel: value < 0 ? `no ${words(one)}` : null });
    button.onclick = () => set(one, Math.sign(state.values[one] ?? 0) === value ? 0 : value);
    shows.push((values) => (button.ariaPressed = Math.sign(values[one] ?? 0) === value));
    return button;
  });
  shows.push(({ [one]: value = 0 }) => (buttons[0].textContent = value % 1 ? `${words(one)} ${value}` : words(one)));
  return make("div", { className: "chip" }, ...buttons);
}

function slider(one, min) {
  const input = make("input", { id: `degree-${one}`, type: "range", min, max: 1, step: 0.1 }), output = make("output");
  input.oninput = () => set(one, Number(input.value));
  shows.push((values) => (output.value = input.value = values[one] ?? 0));
  return make("div", { className: "field" }, make("label", { htmlFor: input.id, textContent: words(one) }), input, output);
}

const set = (one, value) => update({ values: change(manifest, state.values, one, value) });

function update(changes) {
  state = states[name] = { ...state, ...changes };
  const { values, seed, guidance_scale, steps, compare, autoguidance, from, to } = state;
  shows.forEach((show) => show(values));
  $("seed").value = seed;
  for (const id of ["guidance_scale", "steps"]) $(id).nextElementSibling.value = $(id).value = state[id];
  for (const id of ["compare", "autoguidance"]) $(id).checked = Boolean(state[id]);
  document.body.classList.toggle("comparing", Boolean(compare));
  const [start, end] = [from, to].map((text) => (text ? inWords(endOf(text), ", ") : "not set"));
  $("ends").textContent = `From: ${start}. To: ${end}.`;
  $("play").disabled = !(from && to);
  $("condition").textContent = inWords(state);
  $("rare").textContent = rare(manifest, values).join(", ");
  const weak = autoguidance ? `, weak=facelab.load("${name}-weak"), weak_scale=${manifest.weak_scale}` : "";
  const how = `guidance_scale=${guidance_scale}, steps=${steps}, seed=${seed}${weak}`;
  $("code").textContent = `import facelab\nmodel = facelab.load("${name}")
images = facelab.generate(model, ${JSON.stringify(values)}, ${how})\nfacelab.show(images)`;
  clearTimeout(linkTimer);
  linkTimer = setTimeout(write, 200); // browsers refuse many changes in a short time
  const one = part(values, [seed]);
  request(compare ? [one, { ...one, values: {} }] : [one]);
}

const inWords = ({ values, seed }, and = "; ") => `${describe(manifest.attributes, values)}${and}seed ${seed}`;
const endOf = (text) => fromLink(text, manifest, { seed: 0, values: {} });
const part = (values, noises, weight = 0) => {
  const { guidance_scale, steps, autoguidance } = state;
  return { name, values, noises, weight, guidance_scale, steps, autoguided: Boolean(autoguidance) };
};

// Show the images of these parts: from the cache, or from the worker, where a newer request replaces an older one.
function request(wanted, ended = null) {
  clearInterval(film);
  [film, whenFinished, parts, job] = [ended, ended, wanted, job + 1];
  $("play").textContent = film ? "Stop the film" : "Play the film";
  missing = parts.filter((one) => !cache.has(key(one)));
  parts.forEach((one, i) => film || missing.includes(one) || draw(i, cache.get(key(one))));
  worker.postMessage({ job, name, parts: missing });
  $("stage").ariaBusy = true;
  if (missing.length) say(film ? `Generating ${missing.length} frames.` : "Generating.");
  else finish("Finished before.");
}

function draw(i, { image, probabilities, preview }, values = parts[i].values) {
  const canvas = $(i ? "plain" : "image"), [, height, width] = manifest.shape;
  Object.assign(canvas, { width, height });
  canvas.getContext("2d").putImageData(new ImageData(image, width, height), 0, 0);
  const what = `${preview ? "preview of a " : ""}generated ${manifest.exclusive ? "digit" : "face"}`;
  canvas.ariaLabel = `A ${what}: ${inWords({ values, seed: state.seed })}`;
  if (!i && probabilities) $("predicted").replaceChildren(...prediction(probabilities, values));
}

// The most probable digit; of faces the specified attributes, or else those that are probably there.
function prediction(probabilities, values) {
  const { attributes, exclusive } = manifest, order = [...attributes.keys()].sort((a, b) => probabilities[b] - probabilities[a]);
  if (exclusive) return [`${attributes[order[0]]} (${Math.round(100 * probabilities[order[0]])} %)`];
  const specified = order.filter((i) => values[attributes[i]]), likely = order.filter((i) => probabilities[i] > 0.5).slice(0, 5);
  return (specified.length ? specified : likely).flatMap((i, at) => {
    const yes = probabilities[i] > 0.5, wrong = (values[attributes[i]] ?? 0) * (yes ? 1 : -1) < 0;
    const text = `${yes ? "" : "no "}${words(attributes[i])}${wrong ? " (not as specified)" : ""}`;
    return [at ? ", " : "", make("span", { textContent: text, className: wrong ? "wrong" : "" })];
  });
}

function finish(text) {
  $("stage").ariaBusy = false;
  say(text);
  if (!manifests.mnist) worker.postMessage({ load: "mnist", kind }); // so that the other tab is instant
  const next = whenFinished;
  whenFinished = null;
  next?.();
}

// From one state to the other and back, until something else is shown; once where less motion is wished.
function playFilm() {
  if (film) return update({});
  const [a, b] = [endOf(state.from), endOf(state.to)], weights = Array.from({ length: FRAMES }, (_, i) => i / (FRAMES - 1));
  const frames = weights.map((weight) => part(lerp(a.values, b.values, weight), [a.seed, b.seed], weight));
  const once = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const order = once ? frames : [...frames, ...frames.slice(1, -1).reverse()];
  let at = 0;
  request(frames, () => (film = setInterval(() => {
    const frame = order[at++ % order.length];
    draw(0, { image: cache.get(key(frame)).image }, frame.values);
    if (once && at === order.length) update({ values: b.values, seed: b.seed });
  }, 140)));
}

async function save() {
  if ($("stage").ariaBusy === "true") return void (whenFinished = save);
  const { seed, guidance_scale, steps, values, autoguidance } = state, { sha256, sampler } = manifest;
  const record = { model: name, sha256, cond: values, guidance_scale, steps, sampler, seed };
  if (autoguidance) record.weak_scale = manifest.weak_scale;
  const href = URL.createObjectURL(await png($("image"), record));
  make("a", { href, download: `facelab-${name}-${seed}.png` }).click();
  setTimeout(() => URL.revokeObjectURL(href), 10_000);
  say("Saved, with its recipe in the file.");
}

// Another seed, and a value for an attribute of some groups; no rare one.
function surprise() {
  const values = {}, { groups, exclusive } = manifest;
  for (const names of Object.values(groups).filter((names) => exclusive || (names.length > 1 && Math.random() < 0.7)))
    values[names[Math.floor(Math.random() * names.length)]] = exclusive || Math.random() < 0.7 ? 1 : -1;
  const common = Object.entries(values).filter(([one, value]) => !rare(manifest, { [one]: value }).length);
  update({ seed: randomSeed(), values: Object.fromEntries(common) });
}

function answer({ data }) {
  if (data.error) return fail(data.error);
  if (data.manifest) {
    manifests[data.name] = data.manifest;
    document.body.dataset[data.name] = data.ready;
    const threads = data.threads === 1 ? "one thread" : `${data.threads} threads`;
    const wasm = `WebAssembly in ${threads}, because WebGPU is not available here`;
    $("machine").textContent = `Computed with ${data.on === "webgpu" ? "WebGPU" : wasm}.`;
    if (data.name === name) choose(name);
  } else if (data.name === name && !manifest) {
    const { got, all, starting } = data, [done, bytes] = [Math.min(got, all), all].map((size) => (size / 1e6).toFixed(1));
    say(starting ? "Starting the network." : `Loading the network: ${done} of ${bytes} MB.`, starting ? 1 : got / all);
  }
  if (data.job !== job) return;
  const one = missing[data.part];
  if (data.step) $("progress").value = (data.part + data.step / data.steps) / missing.length;
  if (!data.image) return;
  if (!data.preview) cache.set(key(one), data);
  if (cache.size > CACHED) cache.delete(cache.keys().next().value);
  draw(film ? 0 : parts.indexOf(one), data, one.values);
  if (data.preview) $("status").textContent = `A preview of ${data.preview} steps.`;
  else if (one === missing.at(-1)) finish(`Finished: ${one.steps} steps, ${data.seconds.toFixed(1)} s.`);
}

async function copyLink() {
  write();
  const copied = await navigator.clipboard.writeText(location.href).then(() => true, () => false);
  say(copied ? "Link copied." : "Copy the address of this page: it holds the state.");
}

function listen() {
  for (const button of document.querySelectorAll("nav button")) {
    button.onclick = () => {
      history.replaceState(null, "", "#");
      choose(button.dataset.model);
    };
  }
  const mark = (end) => () => update({ [end]: toLink({ seed: state.seed, values: state.values }) });
  const actions = { surprise, save, link: copyLink, from: mark("from"), to: mark("to"), play: playFilm };
  Object.assign(actions, { person: () => update({ seed: randomSeed() }), clear: () => update({ values: {} }) });
  for (const [id, action] of Object.entries(actions)) $(id).onclick = () => manifest && action();
  for (const id of ["seed", "guidance_scale", "steps"])
    $(id).oninput = () => manifest && $(id).value && $(id).checkValidity() && update({ [id]: Number($(id).value) });
  for (const id of ["compare", "autoguidance"]) $(id).onchange = () => manifest && update({ [id]: $(id).checked });
  onhashchange = () => choose(linkedModel());
}

async function start() {
  $("again").onclick = () => location.reload();
  if (!globalThis.WebAssembly || !WebAssembly.validate(new Uint8Array(SIMD))) return fail(OLD);
  if (!crypto.subtle) return fail("This page needs an address with https, because browsers check files only there.");
  const adapter = WebAssembly.Suspending && (await navigator.gpu?.requestAdapter().catch(() => null));
  // WebGPU in software is far slower than WebAssembly.
  kind = adapter && !(adapter.info?.isFallbackAdapter ?? adapter.isFallbackAdapter) ? "jspi" : "wasm";
  worker = new Worker(new URL("engine.js", import.meta.url), { type: "module" });
  Object.assign(worker, { onmessage: answer, onerror: () => fail(OLD) });
  listen();
  choose(linkedModel());
}

start();
