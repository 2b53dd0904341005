// The page put together: what it was told with its first bytes, then events, then what a person does.
import { get, listen, post } from "./api.js";
import "./about.js";
import { openEdit } from "./edit.js";
import { listenKeys, openHelp } from "./keys.js";
import { begin, fit, goTo, keepInView, map, redraw, setBoxMode, showLayer, tiles } from "./map.js";
import { ask, attempt, element, says } from "./page.js";
import { announce, showQueue } from "./queue.js";
import { BITS, chosenBody, clearSelection, has, key, on, prefer, preferences, selectBox, selection, state, takeItems, takeQuadrants, tell, toggle } from "./state.js";

const at = (id) => document.getElementById(id);
const field = { model: at("model"), prompt: at("prompt"), negative: at("negative"), seed: at("seed"), regenerate: at("regenerate") };

// Models

const model = () => state.facts.models.find((one) => one.model_id === field.model.value);

function showModels() {
  const { models, default_model_id: chosen } = state.facts;
  const wanted = models.some((one) => one.model_id === preferences.model) ? preferences.model : chosen;
  field.model.replaceChildren(...models.map((one) => element("option", { value: one.model_id, textContent: one.ready ? one.name : `${one.name} (not ready)`, selected: one.model_id === wanted })));
  showModel();
}

function showModel() {
  const one = model();
  field.prompt.placeholder = one.prompt || "what to draw";
  field.negative.placeholder = one.negative_prompt || "what not to draw";
  at("unready").hidden = one.ready;
  at("unready").textContent = one.reason;
  prefer("model", one.model_id);
}

// Layers

function showLooks() {
  at("looks").replaceChildren(
    ...state.facts.layers.map(({ id, name }, number) =>
      element("button", { type: "button", textContent: name, title: `${name} (${number + 1})`, ariaPressed: String(id === state.layer), onclick: () => chooseLayer(id) }),
    ),
  );
}

async function chooseLayer(id) {
  if (!(id in BITS)) await fetchLayer(id);
  showLayer(id);
}

async function fetchLayer(id) {
  const known = await attempt(() => get(`/api/layers/${encodeURIComponent(id)}/quadrants`));
  if (known) state.pictures.set(id, new Set(known.quadrants.map(([x, y]) => key(x, y))));
}

// Selection

function showSelection() {
  const places = selection();
  const drawn = places.filter(([x, y]) => has(x, y, "generation")).length;
  const words = places.length
    ? `${places.length === 1 ? `Quadrant ${places[0].join(", ")}` : `${places.length} quadrants`} selected${drawn ? `, ${drawn} with a generation` : ""}`
    : state.boxMode
      ? "Click two opposite corners."
      : matchMedia("(pointer: coarse)").matches
        ? "Tap quadrants, up to four, or ▭ for a rectangle."
        : "Click quadrants, up to four; Shift and drag for a rectangle.";
  at("chosen").textContent = words;
  const rendered = places.every(([x, y]) => has(x, y, "render"));
  at("generate").disabled = isPlanning || !places.length || !state.facts.generates;
  at("generate").textContent = isPlanning ? "planning…" : "Generate";
  at("render").disabled = !places.length || state.facts.renderer.kind === "none";
  at("render").title = state.facts.renderer.reason || "R";
  at("generate").title = rendered ? "G" : "Some have no render yet; render first (G)";
  for (const one of at("marks").children) one.disabled = !places.length;
}

// What a person does

const MOST_UNASKED = 100; // quadrants
let isPlanning = false;

const wishBody = () => ({
  ...chosenBody(),
  model_id: field.model.value,
  prompt: field.prompt.value.trim(),
  negative_prompt: field.negative.value.trim(),
  ...(field.seed.value.trim() ? { seed: Number(field.seed.value) } : {}),
  regenerate: field.regenerate.checked,
});

async function generate() {
  const places = selection();
  if (isPlanning) return;
  if (!places.length) return says("Select quadrants first.", "bad");
  const body = wishBody();
  isPlanning = true;
  showSelection();
  try {
    if (places.length > MOST_UNASKED && !(await ask(`Queue pictures for ${places.length} quadrants?`, "Generate"))) return;
    const queued = await attempt(() => post("/api/generate", body));
    if (queued) wasQueued(queued);
  } finally {
    isPlanning = false;
    showSelection();
  }
}

function wasQueued(queued) {
  takeItems(queued.items);
  showQueue();
  const skipped = queued.skipped.length ? `; ${queued.skipped.length} were left as they are` : "";
  says(`${queued.calls} ${queued.calls === 1 ? "picture" : "pictures"} queued${skipped}.`);
  if (queued.without_context.length) says(`${queued.without_context.length} of them cannot be shown enough of their neighbours; a seam is likely there.`);
  clearSelection();
  if (state.layer === "render") showLayer("generation");
}

async function render() {
  if (!selection().length) return says("Select quadrants first.", "bad");
  const queued = await attempt(() => post("/api/render", chosenBody()));
  if (!queued) return;
  takeItems(queued.items);
  showQueue();
  clearSelection();
}

async function mark(flag) {
  const places = selection();
  if (!places.length) return says("Select quadrants first.", "bad");
  const value = !places.every(([x, y]) => (state.quadrants.get(key(x, y)) ?? 0) & BITS[flag]);
  await attempt(() => post("/api/flag", { ...chosenBody(), flag, value }));
}

async function removePictures() {
  const there = selection().filter(([x, y]) => has(x, y, "generation"));
  if (!there.length) return says("None of these has a generation.", "bad");
  const what = there.length === 1 ? `the generation of (${there[0].join(", ")})` : `${there.length} generations`;
  if (await ask(`Delete ${what}? This cannot be taken back.`, "Delete")) await attempt(() => post("/api/delete", { quadrants: there, what: "generation" }));
}

async function next(flag, direction) {
  const found = await attempt(() => get(`/api/next?flag=${flag}&after=${state.cursor}&direction=${direction}`));
  if (found?.quadrant) goTo(...found.quadrant, true);
  else if (found) says(`Nothing is ${flag}.`);
}

function move([right, down], isStretching) {
  const before = state.cursor;
  state.cursor = [before[0] + right, before[1] + down];
  state.keyed = true;
  if (isStretching) {
    const anchor = state.box ? (state.anchor ?? before) : before;
    state.anchor = anchor;
    selectBox(anchor, state.cursor);
  }
  keepInView(state.cursor);
  tell("cursor");
  redraw();
}

const turn = (name) => {
  state[name] = !state[name];
  at(name).ariaPressed = String(state[name]);
  prefer(name, state[name]);
  redraw();
};

let peeked = null;
const actions = {
  generate, render, move,
  flag: () => mark("flagged"),
  star: () => mark("starred"),
  remove: removePictures,
  edit: openEdit,
  help: openHelp,
  select: () => toggle(...state.cursor) || says("Not on the map."),
  clear: () => {
    setBoxMode(false);
    clearSelection();
  },
  box: () => setBoxMode(!state.boxMode),
  lines: () => turn("lines"),
  coords: () => turn("coords"),
  layer: (number) => state.facts.layers[number] && chooseLayer(state.facts.layers[number].id),
  nextLayer: () => {
    const ids = state.facts.layers.map(({ id }) => id);
    chooseLayer(ids[(ids.indexOf(state.layer) + 1) % ids.length]);
  },
  peek: (isOn) => {
    if (isOn && peeked === null) {
      peeked = state.layer;
      showLayer("render");
    } else if (!isOn && peeked !== null) {
      showLayer(peeked);
      peeked = null;
    }
  },
  nextFlagged: () => next("flagged", 1),
  previousFlagged: () => next("flagged", -1),
  nextStarred: () => next("starred", 1),
  previousStarred: () => next("starred", -1),
  zoomIn: () => map.zoomIn(1),
  zoomOut: () => map.zoomOut(1),
  fit,
  fold: () => {
    const isFolded = document.body.classList.toggle("folded");
    at("fold").ariaExpanded = String(!isFolded);
    prefer("folded", isFolded);
  },
  clearPending: async () => {
    if (await ask("Cancel everything that waits?", "Cancel all")) await attempt(() => post("/api/queue/clear", {}));
  },
  retryFailed: () => attempt(() => post("/api/queue/retry-failed", {})),
  clearFinished: () => attempt(() => post("/api/queue/clear", { finished: true })),
};
const run = (name, ...values) => actions[name]?.(...values);

// What happens elsewhere

const handlers = {
  queue: ({ items, removed }) => {
    announce(items);
    takeItems(items, removed);
    tell("queue");
  },
  quadrants: ({ quadrants }) => {
    const names = takeQuadrants(quadrants);
    tiles.refresh(names);
    tell("quadrants", names);
    showSelection();
    redraw();
  },
  layer: async ({ layer }) => {
    if (!state.facts.layers.some(({ id }) => id === layer)) {
      state.facts = await get("/api/config");
      showLooks();
    }
    if (layer !== state.layer) return;
    const before = state.pictures.get(layer) ?? new Set();
    await fetchLayer(layer);
    tiles.refresh([...state.pictures.get(layer)].filter((name) => !before.has(name)));
    redraw();
  },
  reset: () => location.reload(),
};

async function fetchAll() {
  const [quadrants, queue] = await Promise.all([get("/api/quadrants"), get("/api/queue")]);
  takeQuadrants(quadrants.quadrants);
  takeItems(queue.items);
  announce(queue.items);
  return `${queue.revision}.${quadrants.revision}`;
}

async function open() {
  state.facts = JSON.parse(at("boot").textContent);
  at("name").textContent = state.facts.map.name;
  document.body.classList.toggle("folded", preferences.folded ?? innerWidth < 720);
  for (const name of ["lines", "coords"]) {
    state[name] = preferences[name] ?? state[name];
    at(name).ariaPressed = String(state[name]);
  }
  for (const name of ["prompt", "negative"]) {
    field[name].value = preferences[name] ?? "";
    field[name].addEventListener("input", () => prefer(name, field[name].value));
  }
  const { layers, map: facts } = state.facts;
  const drawn = layers.find(({ id }) => id === "generation").pictures;
  const ids = layers.map(({ id }) => id);
  state.layer = ids.includes(preferences.layer) ? preferences.layer : drawn ? "generation" : "render";
  state.cursor = facts.bounds ? facts.bounds.slice(0, 2) : [0, 0];
  const from = await fetchAll();
  if (!(state.layer in BITS)) await fetchLayer(state.layer);
  showModels();
  showLooks();
  begin();
  showQueue();
  showSelection();
  tell("cursor");
  if (!state.facts.generates) says("This app only looks: nothing is drawn.");
  on("layer", showLooks);
  on("selection", showSelection);
  on("mode", () => {
    at("box").ariaPressed = String(Boolean(state.boxMode));
    showSelection();
  });
  listen(from, handlers, (isThere) => {
    at("state").textContent = isThere ? "" : "connection lost, trying again…";
  });
  field.model.addEventListener("change", showModel);
  at("wish").addEventListener("submit", (event) => {
    event.preventDefault();
    generate();
  });
  document.addEventListener("click", (event) => {
    const name = event.target.closest?.("[data-do]:not(:disabled)")?.dataset.do;
    if (name) run(name);
  });
  for (const name of ["focus", "blur"]) at("map").addEventListener(name, redraw);
  listenKeys(run);
  document.body.dataset.ready = "yes";
  window.fusiApp = { state, map }; // for people who look into it
}

open().catch((error) => {
  says(`The page could not begin: ${error.message}`, "bad");
  throw error;
});
