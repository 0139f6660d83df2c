// The worker that holds the networks. It answers {load: name} and {job, parts}, and drops a job when a newer one arrives.
import { encode } from "./attributes.js";
import { autoguidance, cfg } from "./guidance.js";
import { noise, slerp } from "./noise.js";
import { SAMPLERS, trajectory } from "./samplers.js";
import { Schedule } from "./schedules.js";

const WEAK_SCALE = 2, PREVIEW_MS = 600;
const models = {};
const RUNTIME = { jspi: 16.8e6, wasm: 14.2e6 }; // bytes of onnxruntime-web, for the progress line
let ort, runtime, options, newest = 0, queue = Promise.resolve();

// One call at a time: a runtime with WebGPU does not take a second one before the first has ended.
const inTurn = (call) => (queue = queue.catch(() => {}).then(call));

// A file's bytes, checked against the size and sha256 of the manifest if it names them; `arrived` is called with each part's size.
async function download(url, expected, arrived = () => {}) {
  const name = url.split(/[/?]/).at(expected ? -2 : -1), chunks = [];
  const answer = await fetch(url).catch(() => ({ status: "no connection" }));
  if (!answer.ok) throw new Error(`The file ${name} could not be loaded (${answer.status}).`);
  try {
    for (const reader = answer.body.getReader(); ; ) {
      const { done, value } = await reader.read();
      if (done) break;
      chunks.push(value);
      arrived(value.length);
    }
  } catch {
    throw new Error(`The connection broke while the file ${name} was loading.`);
  }
  const content = new Uint8Array(await new Blob(chunks).arrayBuffer());
  if (expected) {
    const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", content));
    if ([...hash].map((byte) => byte.toString(16).padStart(2, "0")).join("") !== expected.sha256)
      throw new Error(`The file ${name} is damaged (its checksum is wrong), so the page does not use it.`);
  }
  return content;
}

// onnxruntime-web: with WebGPU where the page found one, else WebAssembly, with threads where the server's headers allow them.
async function startRuntime(kind, arrived) {
  const [module, wasmBinary] = await Promise.all([
    import(`./ort/ort.${kind}.bundle.min.mjs`),
    download(`./ort/ort-wasm-simd-threaded${kind === "jspi" ? ".jspi" : ""}.wasm`, null, arrived),
  ]);
  ort = module;
  Object.assign(ort.env.wasm, { wasmBinary, numThreads: self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency) : 1 });
  ort.env.logLevel = "error";
  options = { executionProviders: kind === "jspi" ? ["webgpu"] : ["wasm"] };
}

function createSession(bytes) {
  return inTurn(() => ort.InferenceSession.create(bytes, options)).catch((error) => {
    if (options.executionProviders[0] === "wasm") throw error;
    options = { executionProviders: ["wasm"] }; // WebGPU was refused
    return createSession(bytes);
  });
}

async function load(name, kind) {
  const manifest = JSON.parse(new TextDecoder().decode(await download(`./models/${name}.json`)));
  const files = Object.entries(manifest.files), first = !runtime;
  let got = 0;
  const all = files.reduce((sum, [, { bytes }]) => sum + bytes, first ? RUNTIME[kind] : 0);
  const arrived = (bytes) => postMessage({ name, got: (got += bytes), all });
  runtime ??= startRuntime(kind, arrived).catch((error) => ((runtime = null), Promise.reject(error)));
  const downloads = files.map(([, file]) => download(`./models/${file.file}?${file.sha256.slice(0, 8)}`, file, arrived));
  const [contents] = await Promise.all([Promise.all(downloads), runtime]);
  postMessage({ name, starting: true });
  const start = performance.now(), sessions = {};
  for (const [i, [part]] of files.entries()) sessions[part] = await createSession(contents[i]);
  const model = { manifest, sessions, schedule: new Schedule(manifest.schedule, manifest.num_timesteps) };
  return { ...model, ready: (performance.now() - start) / 1000 };
}

// denoise(x_t, t, conds) -> x_0_hat of one image under several conditions, in one batch.
function denoiseMany({ manifest, sessions }, part) {
  const { shape, attributes } = manifest;
  return async (x_t, t, conds) => {
    const n = conds.length, images = new Float32Array(n * x_t.length);
    conds.forEach((_, i) => images.set(x_t, i * x_t.length));
    const feeds = { x_t: new ort.Tensor("float32", images, [n, ...shape]), t: new ort.Tensor("int64", [BigInt(t)], [1]) };
    feeds.cond = new ort.Tensor("float32", Float32Array.from(conds.flat()), [n, attributes.length]);
    const { x_0_hat: { data } } = await inTurn(() => sessions[part].run(feeds));
    return conds.map((_, i) => data.slice(i * x_t.length, (i + 1) * x_t.length));
  };
}

async function* answer({ name, parts }, job) {
  const model = await models[name], { manifest, schedule, sessions } = model, { shape, attributes, sampler } = manifest;
  const many = denoiseMany(model, "denoiser"), Sampler = SAMPLERS[sampler], size = shape[0] * shape[1] * shape[2];
  const frames = parts.map(({ noises: [a, b], weight, values, ...how }) => {
    const x_T = b === undefined || a === b ? noise(size, a) : slerp(noise(size, a), noise(size, b), weight);
    return { ...how, x_T, cond: encode(attributes, values) };
  });
  const unguided = cfg(many, 1), start = performance.now();
  const cost = ({ cond, steps, guidance_scale }) => steps * (cond.some(Boolean) && guidance_scale !== 1 ? 2 : 1);
  if (frames.length < 3 && model.ms && frames.reduce((sum, frame) => sum + cost(frame), 0) * model.ms > PREVIEW_MS) {
    for (const [part, { x_T, cond, steps, guidance_scale }] of frames.entries()) {
      const few = Math.min(steps, model.ms > 200 ? 2 : 3), shown = guidance_scale > 0 ? cond : cond.map(() => 0);
      for await (const x of trajectory(unguided, x_T, shown, new Sampler(schedule), few)) {
        yield;
        var image = x;
      }
      postMessage({ job, part, preview: few, image: pixels(image, shape) });
    }
  }
  for (const [part, { x_T, cond, steps, guidance_scale, autoguided }] of frames.entries()) {
    let denoise = cond.some(Boolean) ? cfg(many, guidance_scale) : unguided, step = 0;
    if (autoguided && sessions.weak) denoise = autoguidance(denoise, cfg(denoiseMany(model, "weak"), 1), WEAK_SCALE);
    for await (const x of trajectory(denoise, x_T, cond, new Sampler(schedule), steps)) {
      postMessage({ job, part, step: ++step, steps });
      yield;
      image = x;
    }
    const rgba = pixels(image, shape);
    postMessage({ job, part, image: rgba, probabilities: await classify(model, rgba), seconds: (performance.now() - start) / 1000 });
  }
  model.ms = (performance.now() - start) / frames.reduce((sum, frame) => sum + cost(frame), 0);
}

// The classifier's probabilities for an image as it would be saved.
async function classify({ manifest: { shape, exclusive }, sessions: { classifier } }, rgba) {
  const [channels, height, width] = shape, pixels = height * width;
  const images = Float32Array.from({ length: channels * pixels }, (_, i) => rgba[4 * (i % pixels) + Math.floor(i / pixels)] / 127.5 - 1);
  const { logits } = await inTurn(() => classifier.run({ images: new ort.Tensor("float32", images, [1, ...shape]) }));
  const x = [...logits.data];
  return exclusive ? x.map((one) => 1 / x.reduce((sum, other) => sum + Math.exp(other - one), 0)) : x.map((one) => 1 / (1 + Math.exp(-one)));
}

// (C, H, W) in [-1, 1] as the bytes of a canvas.
function pixels(x, [channels, height, width]) {
  const count = height * width, bytes = new Uint8ClampedArray(4 * count).fill(255);
  for (let i = 0; i < 3 * count; i++) bytes[4 * (i % count) + Math.floor(i / count)] = (x[i % (channels * count)] + 1) * 127.5;
  return bytes;
}

function sentence({ message }) {
  if (/memory|alloc/i.test(message)) return "There is not enough memory for the networks: close other tabs.";
  return /^[A-Z].*\.$/.test(message) ? message : `The networks could not be run here (${message.split("\n")[0].slice(0, 120)}).`;
}

onmessage = async ({ data }) => {
  const { load: name, kind, job } = data;
  try {
    if (name) {
      models[name] ??= load(name, kind);
      const { manifest, ready } = await models[name];
      return postMessage({ name, manifest, ready, on: options.executionProviders[0], threads: ort.env.wasm.numThreads });
    }
    newest = job;
    for await (const _ of answer(data, job)) {
      await new Promise((resume) => setTimeout(resume)); // a newer message is read here
      if (newest !== job) return;
    }
  } catch (error) {
    delete models[name];
    postMessage({ name: data.name ?? name, job, error: sentence(error) });
  }
};
