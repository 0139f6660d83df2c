// The worker that holds the networks. It answers {load: name} and {job, name, parts}, and drops a job when a newer one arrives.
import { encode } from "./attributes.js";
import { autoguidance, cfg } from "./guidance.js";
import { noise, slerp } from "./noise.js";
import { SAMPLERS, trajectory } from "./samplers.js";
import { Schedule } from "./schedules.js";

const PREVIEW_MS = 600; // an image that takes longer has a preview
const RUNTIME = { jspi: 16.8e6, wasm: 14.2e6 }; // bytes of onnxruntime-web, for the progress line
const models = {};
let ort, runtime, options, newest = 0, queue = Promise.resolve();

// One call at a time: a runtime with WebGPU does not take a second one before the first has ended.
const inTurn = (call) => (queue = queue.catch(() => {}).then(call));

// A file's bytes, checked against `sha256` if it is given; `arrived` is called with the size of each part.
async function download(url, arrived = () => {}, sha256) {
  const name = url.match(/([^/?]+)(\?|$)/)[1], chunks = [], answer = await fetch(url).catch(() => ({ status: "no connection" }));
  if (!answer.ok) throw new Error(`The file ${name} could not be loaded (${answer.status}).`);
  for (let reader = answer.body.getReader(), part; !(part = await reader.read()).done; chunks.push(part.value)) {
    arrived(part.value.length);
  }
  const content = new Uint8Array(await new Blob(chunks).arrayBuffer());
  const hash = sha256 && new Uint8Array(await crypto.subtle.digest("SHA-256", content));
  if (hash && [...hash].map((byte) => byte.toString(16).padStart(2, "0")).join("") !== sha256)
    throw new Error(`The file ${name} is damaged (its checksum is wrong), so the page does not use it.`);
  return content;
}

// onnxruntime-web: with WebGPU where the page found one, else WebAssembly, with threads where the server's headers allow them.
async function startRuntime(kind, arrived) {
  const file = `./ort/ort-wasm-simd-threaded${kind === "jspi" ? ".jspi" : ""}.wasm`;
  const [module, wasmBinary] = await Promise.all([import(`./ort/ort.${kind}.bundle.min.mjs`), download(file, arrived)]);
  ort = module;
  const numThreads = self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency) : 1;
  Object.assign(ort.env.wasm, { wasmBinary, numThreads });
  options = { executionProviders: [kind === "jspi" ? "webgpu" : "wasm"], logSeverityLevel: 3 };
}

const createSession = (bytes) => inTurn(() => ort.InferenceSession.create(bytes, options)).catch((error) => {
  if (options.executionProviders[0] === "wasm") throw error;
  options.executionProviders = ["wasm"]; // WebGPU was refused
  return createSession(bytes);
});

async function load(name, kind) {
  const manifest = JSON.parse(new TextDecoder().decode(await download(`./models/${name}.json`)));
  const files = Object.entries(manifest.files);
  const all = files.reduce((sum, [, { bytes }]) => sum + bytes, runtime ? 0 : RUNTIME[kind]);
  let got = 0;
  const arrived = (bytes) => postMessage({ name, got: (got += bytes), all });
  runtime ??= startRuntime(kind, arrived);
  const downloads = files.map(([, { file, sha256 }]) => download(`./models/${file}?${sha256.slice(0, 8)}`, arrived, sha256));
  const contents = await Promise.all([...downloads, runtime]), start = performance.now(), sessions = {};
  postMessage({ name, starting: true });
  for (const [i, [part]] of files.entries()) sessions[part] = await createSession(contents[i]);
  const schedule = new Schedule(manifest.schedule, manifest.num_timesteps, manifest.timestep_shift);
  return { manifest, sessions, schedule, ready: (performance.now() - start) / 1000 };
}

// denoiseMany(x_t, t, conds) -> x_0_hat of one image under several conditions, in one batch.
const network = (session, { shape, attributes }) => async (x_t, t, conds) => {
  const n = conds.length, images = new Float32Array(n * x_t.length);
  conds.forEach((_, i) => images.set(x_t, i * x_t.length));
  const feeds = { x_t: new ort.Tensor("float32", images, [n, ...shape]), t: new ort.Tensor("int64", [BigInt(t)], [1]) };
  feeds.cond = new ort.Tensor("float32", Float32Array.from(conds.flat()), [n, attributes.length]);
  const { x_0_hat } = await inTurn(() => session.run(feeds));
  return conds.map((_, i) => x_0_hat.data.slice(i * x_t.length, (i + 1) * x_t.length));
};

// Posts the progress and the image of each part; first a preview of a few unguided steps, where the images take long.
async function* answer({ job, name, parts }) {
  const model = await models[name], { manifest, schedule, sessions, ms = Infinity } = model;
  const { shape, attributes, sampler } = manifest;
  const many = network(sessions.denoiser, manifest), weak = sessions.weak && cfg(network(sessions.weak, manifest), 1);
  const start = performance.now(), size = shape.reduce((a, b) => a * b), few = ms > 200 ? 2 : 3;
  const frames = parts.map(({ values, noises: [a, b = a], weight, guidance_scale, steps, autoguided }, part) => {
    const cond = encode(attributes, values), scale = cond.some(Boolean) ? guidance_scale : 1, guided = cfg(many, scale);
    const x_T = a === b ? noise(size, a) : slerp(noise(size, a), noise(size, b), weight);
    const denoise = autoguided && weak ? autoguidance(guided, weak, manifest.weak_scale) : guided;
    return { part, x_T, cond, steps, denoise, evaluations: steps * (scale === 1 ? 1 : 2) };
  });
  const evaluations = frames.reduce((sum, frame) => sum + frame.evaluations, 0);
  const slow = frames.length < 3 && evaluations * ms > PREVIEW_MS ? frames : [];
  const previews = slow.map((frame) => ({ ...frame, denoise: cfg(many, 1), preview: few, steps: Math.min(few, frame.steps) }));
  for (const { part, x_T, cond, steps, denoise, preview } of [...previews, ...frames]) {
    let step = 0, x;
    for await (x of trajectory(denoise, x_T, cond, new SAMPLERS[sampler](schedule), steps)) {
      if (!preview) postMessage({ job, part, step: ++step, steps });
      yield;
    }
    const image = pixels(x, shape), probabilities = preview ? null : await classify(sessions.classifier, manifest, image);
    postMessage({ job, part, preview, image, probabilities, seconds: (performance.now() - start) / 1000 });
  }
  model.ms = (performance.now() - start) / evaluations;
}

// The classifier's probabilities for an image as it would be saved.
async function classify(classifier, { shape, exclusive }, rgba) {
  const count = shape[1] * shape[2], images = new ort.Tensor("float32", new Float32Array(shape[0] * count), [1, ...shape]);
  images.data.forEach((_, i) => (images.data[i] = rgba[4 * (i % count) + Math.floor(i / count)] / 127.5 - 1));
  const logits = [...(await inTurn(() => classifier.run({ images }))).logits.data];
  return logits.map((x) => 1 / (exclusive ? logits.reduce((sum, other) => sum + Math.exp(other - x), 0) : 1 + Math.exp(-x)));
}

// (C, H, W) in [-1, 1] as the bytes of a canvas.
function pixels(x, [channels, height, width]) {
  const count = height * width, bytes = new Uint8ClampedArray(4 * count).fill(255);
  for (let i = 0; i < 3 * count; i++) bytes[4 * (i % count) + Math.floor(i / count)] = (x[i % (channels * count)] + 1) * 127.5;
  return bytes;
}

function sentence({ message }) {
  if (/memory|alloc/i.test(message)) return "There is not enough memory for the networks: close other tabs.";
  if (/network error|failed to fetch/i.test(message)) return "The connection broke while the networks were loading.";
  return /^[A-Z].*\.$/.test(message) ? message : `The networks cannot be run here (${message.split("\n")[0].slice(0, 120)}).`;
}

onmessage = async ({ data }) => {
  const { load: name, kind, job } = data;
  try {
    if (name) {
      const { manifest, ready } = await (models[name] ??= load(name, kind));
      return postMessage({ name, manifest, ready, on: options.executionProviders[0], threads: ort.env.wasm.numThreads });
    }
    newest = job;
    for await (const _ of answer(data)) {
      await new Promise((resume) => setTimeout(resume)); // a newer message is read here
      if (newest !== job) return;
    }
  } catch (error) {
    postMessage({ name: name ?? data.name, job, error: sentence(error) });
  }
};
