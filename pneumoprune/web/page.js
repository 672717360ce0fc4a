// The page itself: a picture in, an answer out. Whatever comes from a file is shown as text, never as markup.

import { Network, ninths, tinted } from "./network.js";
import { PictureError, readPicture } from "./picture.js";
import { words } from "./words.js";

const $ = (id) => document.getElementById(id);
const RUNS = 9; // predictions that are timed

// ---- language: of the address, else of the browser ----

const state = { say: null, values: null, answer: null }; // what is shown, to be said again in another language

function language() {
  const asked = location.hash.slice(1);
  return asked in words ? asked : navigator.language?.startsWith("ru") ? "ru" : "en";
}

const said = () => words[document.documentElement.lang];

function speak() {
  document.documentElement.lang = language();
  for (const link of document.querySelectorAll("[data-choice]")) {
    if (link.dataset.choice === language()) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
  }
  if (state.about) $("facts").textContent = said().facts(state.about);
  tell(...(state.say ?? []));
  if (state.answer) showAnswer();
  if (state.answer?.heat) showHeat();
}

function tell(key, detail = "") {
  state.say = key ? [key, detail] : null;
  const [error, plain] = [said().errors[key], said()[key]];
  $("state").textContent = error ? error(detail) : plain ?? "";
  $("state").classList.toggle("wrong", Boolean(error));
}

function tellError(error) {
  if (error instanceof PictureError) return tell(error.code, error.detail);
  console.error(error);
  tell(...(error instanceof RangeError ? ["memory"] : ["unknown", error.message]));
}

// ---- the network ----

async function fetched(name) {
  const answer = await fetch(name);
  if (!answer.ok) throw new Error(`${name}: ${answer.status}`);
  return answer;
}

async function load() {
  tell("loading");
  const ort = await import("./ort/ort.wasm.bundle.min.mjs"); // not before the page is there: it is large
  ort.env.wasm.numThreads = 1; // more need headers that a plain host does not send
  ort.env.wasm.wasmPaths = { wasm: new URL("ort/ort-wasm-simd-threaded.wasm", document.baseURI).href };
  state.about = await (await fetched("model.json")).json();
  $("facts").textContent = said().facts(state.about);
  const files = [state.about.file, ...(state.about.first ? [state.about.first.file] : [])];
  const [model, first] = await Promise.all(files.map(async (name) => (await fetched(name)).arrayBuffer()));
  const network = await Network.open(ort, state.about, new Uint8Array(model), first && new Float32Array(first));
  tell("ready");
  return network;
}

const network = load();
network.catch((error) => {
  console.error(error);
  tell("network", error.message);
});

// ---- an answer ----

const pause = () => new Promise((done) => setTimeout(done));

async function medianTime(net, plane) { // milliseconds of a prediction, the first being a warm-up
  const times = [];
  for (let run = 0; run <= RUNS; run++) {
    const start = performance.now();
    await net.predict([plane]);
    times.push(performance.now() - start);
    await pause();
  }
  return times.slice(1).sort((a, b) => a - b)[RUNS >> 1];
}

let latest = 0; // an answer to an earlier picture that comes late is not shown

async function answer(file) {
  const own = ++latest, stale = () => own !== latest;
  try {
    const net = await network.catch(() => null);
    if (!net || stale()) return;
    $("answer").hidden = true;
    state.answer = null;
    tell("working");
    await pause();
    const picture = await readPicture(new Uint8Array(await file.arrayBuffer()), net.about.size);
    const judged = await net.judge(picture.plane), time = await medianTime(net, picture.plane);
    if (stale()) return;
    state.answer = { ...picture, ...judged, time, file: file.name };
    tell();
    showAnswer();
    $("found").focus();
    const heat = await net.occlusion(picture.plane, async (done) => {
      if (!stale()) $("progress").value = done;
      await pause();
    });
    if (stale()) return;
    state.answer.heat = heat;
    showHeat();
  } catch (error) {
    if (!stale()) tellError(error);
  }
}

function draw(canvas, pixels, size) {
  Object.assign(canvas, { width: size, height: size });
  canvas.getContext("2d").putImageData(new ImageData(pixels, size, size), 0, 0);
}

function showAnswer() {
  const { answer: found, about } = state, text = said(), rows = text.rows;
  $("sentence").textContent = found.known ? text.decided(found) : text.refused(found);
  const probability = text.number(found.probability, 3);
  const told = {
    file: found.file,
    pixels: `${found.width} × ${found.height}`,
    probability: found.known ? probability : `${probability} (${text.meaningless})`,
    threshold: text.number(found.threshold, 3),
    decision: found.decision === null ? text.none : text.className(found.decision),
    ...(about.guarded && { distance: text.number(found.distance, 2) }),
    time: `${text.number(found.time, 1)} (${text.median(RUNS)})`,
  };
  $("numbers").replaceChildren(...Object.entries(told).map(([key, value]) => {
    const row = document.createElement("tr"), head = document.createElement("th"), cell = document.createElement("td");
    Object.assign(head, { scope: "row", textContent: rows[key] });
    Object.assign(cell, { textContent: value, id: `told-${key}` });
    row.append(head, cell);
    return row;
  }));
  const grey = tinted(found.plane, new Float64Array(found.plane.length));
  draw($("picture"), grey, about.size);
  if (!found.heat) {
    draw($("heat"), grey, about.size);
    for (const id of ["ninths", "heat-words"]) $(id).hidden = true;
    for (const id of ["progress", "progress-label"]) $(id).hidden = false;
    $("progress").value = 0;
  }
  $("answer").hidden = false;
}

function showHeat() {
  const { answer: found, about } = state, text = said(), parts = ninths(found.heat, about.size);
  draw($("heat"), tinted(found.plane, found.heat), about.size);
  const most = parts.indexOf(Math.max(...parts)), points = (value) => text.number(100 * value, 1);
  $("heat-words").textContent = parts[most] > 0 ? text.most(text.places[most], points(parts[most])) : text.nothing;
  $("ninths").querySelectorAll("tbody td").forEach((cell, i) => { cell.textContent = points(parts[i]); });
  for (const id of ["ninths", "heat-words"]) $(id).hidden = false;
  for (const id of ["progress", "progress-label"]) $(id).hidden = true;
}

// ---- what a person does ----

addEventListener("hashchange", speak);
$("file").addEventListener("change", ({ target }) => { if (target.files[0]) answer(target.files[0]); });
for (const kind of ["dragover", "dragleave", "drop"]) addEventListener(kind, (event) => {
  event.preventDefault(); // a picture dropped beside the field would be opened instead of the page
  $("drop").classList.toggle("over", kind === "dragover");
  if (kind === "drop" && event.dataTransfer.files[0]) answer(event.dataTransfer.files[0]);
});
speak();
if ("serviceWorker" in navigator) navigator.serviceWorker.register("sw.js").catch(console.warn); // not over file: or plain http
