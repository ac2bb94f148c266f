// A dense and a sparse model, classified and timed side by side. No library: the engine is sparseland.js.
"use strict";

const TURNS = 30;      // timed turns, dense and sparse in alternation; the median counts
const SLICE = 4;       // milliseconds one turn should take at least: browsers round their clocks
const $ = (id) => document.getElementById(id);
const state = { engine: null, models: {}, about: null, pixels: null, stream: null, busy: false };

class Model {
  // bytes: a .sland file. One input [1,C,H,W], one output [1,classes,1,1]; both stay where they are for all runs.
  constructor(engine, name, bytes) {
    this.engine = engine;
    this.bytes = bytes.length;
    const place = engine._malloc(bytes.length);
    engine.HEAPU8.set(bytes, place);
    this.handle = engine._sl_load(place, bytes.length);
    engine._free(place);
    if (!this.handle) throw new Error(`${name}: ${engine.UTF8ToString(engine._sl_error())}`);
    if (engine._sl_count(this.handle, 0) !== 1 || engine._sl_count(this.handle, 1) !== 1)
      throw new Error(`${name}: this page needs a model with one input and one output`);
    this.inputs = this.size(0);
    this.outputs = this.size(1);
    this.input = engine._malloc(4 * this.inputs);
    this.output = engine._malloc(4 * this.outputs);
    this.pointers = engine._malloc(8);
    engine.HEAP32[this.pointers >> 2] = this.input;
    engine.HEAP32[(this.pointers >> 2) + 1] = this.output;
  }
  size(which) {
    const five = this.engine._malloc(20);
    this.engine._sl_dimensions(this.handle, which, 0, five);
    const [, n, c, h, w] = this.engine.HEAP32.slice(five >> 2, (five >> 2) + 5);
    this.engine._free(five);
    return n * c * h * w;
  }
  put(numbers) {
    if (numbers.length !== this.inputs) throw new Error(`the model takes ${this.inputs} numbers, not ${numbers.length}`);
    this.engine.HEAPF32.set(numbers, this.input >> 2);
  }
  run() {
    if (this.engine._sl_run(this.handle, this.pointers, this.pointers + 4) !== 0)
      throw new Error(this.engine.UTF8ToString(this.engine._sl_error()));
  }
  logits() {
    return this.engine.HEAPF32.slice(this.output >> 2, (this.output >> 2) + this.outputs);
  }
  time(runs) {  // milliseconds of one run
    const start = performance.now();
    for (let i = 0; i < runs; ++i) this.run();
    return (performance.now() - start) / runs;
  }
}

function softmax(logits) {
  const largest = Math.max(...logits);
  const raised = Array.from(logits, (x) => Math.exp(x - largest));
  const sum = raised.reduce((a, b) => a + b, 0);
  return raised.map((x) => x / sum);
}
const median = (list) => {
  const sorted = [...list].sort((a, b) => a - b), half = sorted.length >> 1;
  return sorted.length % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
};

// pixels: [C,H,W] in 0 … 1, as the models were trained on (before mean and standard deviation).
function classify(pixels) {
  const { shape, mean, std, names } = state.about, plane = shape[1] * shape[2];
  state.pixels = pixels;
  const numbers = pixels.map((x, i) => (x - mean[Math.floor(i / plane)]) / std[Math.floor(i / plane)]);
  paint($("seen"), pixels);
  for (const [kind, model] of Object.entries(state.models)) {
    model.put(numbers);
    model.run();
    const shares = softmax(model.logits());
    const best = shares.map((share, i) => [share, names[i]]).sort((a, b) => b[0] - a[0]).slice(0, 3);
    $(kind).querySelector("ol").replaceChildren(...best.map(([share, name]) => {
      const [line, word, number] = ["li", "span", "b"].map((tag) => document.createElement(tag));
      word.textContent = name;
      number.textContent = `${(100 * share).toFixed(0)} %`;
      line.style.setProperty("--share", `${100 * share}%`);
      line.append(word, number);
      return line;
    }));
  }
}

function paint(canvas, pixels) {
  const [channels, height, width] = state.about.shape, image = new ImageData(width, height);
  for (let i = 0; i < width * height; ++i)
    for (let c = 0; c < 4; ++c)
      image.data[4 * i + c] = c === 3 ? 255 : 255 * pixels[(channels === 3 ? c : 0) * width * height + i];
  [canvas.width, canvas.height] = [width, height];
  canvas.getContext("2d").putImageData(image, 0, 0);
}

// The middle square of a picture or a video. One-channel models know light things on black: others are turned round.
function look(source, wide, high) {
  const [channels, height, width] = state.about.shape, side = Math.min(wide, high);
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [width, height];
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  context.drawImage(source, (wide - side) / 2, (high - side) / 2, side, side, 0, 0, width, height);
  const rgba = context.getImageData(0, 0, width, height).data, plane = width * height;
  const pixels = new Float32Array(channels * plane);
  for (let i = 0; i < plane; ++i) {
    const [r, g, b] = [rgba[4 * i] / 255, rgba[4 * i + 1] / 255, rgba[4 * i + 2] / 255];
    if (channels === 3) [pixels[i], pixels[plane + i], pixels[2 * plane + i]] = [r, g, b];
    else pixels[i] = 0.299 * r + 0.587 * g + 0.114 * b;
  }
  if (channels === 1) {
    let edge = 0, count = 0;
    for (let y = 0; y < height; ++y)
      for (let x = 0; x < width; ++x)
        if (y === 0 || x === 0 || y === height - 1 || x === width - 1) {
          edge += pixels[y * width + x];
          ++count;
        }
    if (edge / count > 0.5) for (let i = 0; i < plane; ++i) pixels[i] = 1 - pixels[i];
  }
  return pixels;
}

async function measure() {
  if (state.busy) return;
  state.busy = $("measure").disabled = true;
  const times = {}, runs = {};
  for (const [kind, model] of Object.entries(state.models)) {
    model.time(2);
    runs[kind] = Math.max(1, Math.ceil(SLICE / Math.max(model.time(3), 0.05)));
    times[kind] = [];
  }
  for (let turn = 0; turn < TURNS; ++turn) {
    for (const [kind, model] of Object.entries(state.models)) times[kind].push(model.time(runs[kind]));
    if (turn % 5 === 4) {
      show(times);
      await new Promise((resume) => setTimeout(resume));
    }
  }
  state.busy = $("measure").disabled = false;
  document.body.dataset.measured = "yes";
}

function show(times) {
  const ms = Object.fromEntries(Object.entries(times).map(([kind, list]) => [kind, median(list)]));
  const most = Math.max(...Object.values(ms));
  for (const kind of Object.keys(ms)) {
    $(`${kind}-ms`).value = `${ms[kind].toFixed(2)} ms`;
    $(`${kind}-bar`).style.width = `${100 * ms[kind] / most}%`;
  }
  $("ratio").textContent = `sparse takes ${(100 * ms.sparse / ms.dense).toFixed(0)} % of the time: ` +
    `${(ms.dense / ms.sparse).toFixed(2)} × as fast (median of ${times.dense.length})`;
}

function choose(button, pixels) {
  for (const other of $("samples").children) other.setAttribute("aria-pressed", String(other === button));
  classify(pixels);
}

function samples() {
  state.about.samples.forEach(({ name, pixels }, i) => {
    const raw = atob(pixels), numbers = Float32Array.from(raw, (letter) => letter.charCodeAt(0) / 255);
    const button = document.createElement("button"), canvas = document.createElement("canvas");
    button.type = "button";
    button.setAttribute("aria-label", `test image ${i + 1}: ${name}`);
    paint(canvas, numbers);
    button.append(canvas);
    button.addEventListener("click", () => { stop(); choose(button, numbers); });
    $("samples").append(button);
    if (i === 0) choose(button, numbers);
  });
}

function stop() {
  state.stream?.getTracks().forEach((track) => track.stop());
  state.stream = null;
  $("video").hidden = true;
  $("webcam").setAttribute("aria-pressed", "false");
}

async function webcam() {
  if (state.stream) return stop();
  if (!navigator.mediaDevices) throw new Error("browsers give a webcam only to pages over https or on localhost");
  state.stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  const video = $("video");
  video.srcObject = state.stream;
  video.hidden = false;
  $("webcam").setAttribute("aria-pressed", "true");
  await video.play();
  const step = () => {
    if (!state.stream) return;
    if (!state.busy && video.videoWidth) choose(null, look(video, video.videoWidth, video.videoHeight));
    setTimeout(() => requestAnimationFrame(step), 100);
  };
  step();
}

function problem(error) {
  $("problem").hidden = false;
  $("problem").textContent = `This did not work: ${error.message ?? error}`;
  document.body.dataset.failed = "yes";
}
const guarded = (f) => async (...given) => { try { await f(...given); } catch (error) { problem(error); } };

async function bytes(name) {
  const answer = await fetch(name);
  if (!answer.ok) throw new Error(`${name}: ${answer.status} (run \`make browser-example\`, then serve its folder)`);
  return new Uint8Array(await answer.arrayBuffer());
}

const start = guarded(async () => {
  if (location.protocol === "file:") throw new Error("browsers load no models from file://; serve this folder, " +
    "for example with `python -m http.server`");
  state.engine = await Sparseland();
  state.about = JSON.parse(new TextDecoder().decode(await bytes("model.json")));
  for (const kind of ["dense", "sparse"])
    state.models[kind] = new Model(state.engine, kind, await bytes(`${kind}.sland`));
  const { model, data, sparsity, accuracy, tested } = state.about;
  const kb = (kind) => `${Math.round(state.models[kind].bytes / 1000)} kB`;
  $("about").textContent = `${model} on ${data}, once with all its weights and once with ` +
    `${(100 * sparsity).toFixed(0)} % of its 1×1 convolutions zero, in WebAssembly.`;
  for (const kind of ["dense", "sparse"])
    $(kind).querySelector("h3").textContent = `${kind} – ${(100 * accuracy[kind]).toFixed(1)} % right`;
  $("small").textContent = `Accuracy on ${tested} test images. Files: dense ${kb("dense")}, sparse ${kb("sparse")}. ` +
    `Kernels: ${state.engine.UTF8ToString(state.engine._sl_isa())}.`;
  samples();
  $("file").addEventListener("change", guarded(async (event) => {
    const [file] = event.target.files;
    if (!file) return;
    stop();
    const image = await createImageBitmap(file);
    choose(null, look(image, image.width, image.height));
    event.target.value = "";
  }));
  $("webcam").addEventListener("click", guarded(webcam));
  $("measure").addEventListener("click", guarded(measure));
  $("measure").disabled = false;
  document.body.dataset.ready = "yes";
  await measure();
});
start();
