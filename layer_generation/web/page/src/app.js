// The page put together: what it was told with its first bytes, then events, then what a person does.
import { get, listen, post } from "./api.js";
import "./about.js";
import { openEdit } from "./edit.js";
import { listenKeys, openHelp } from "./keys.js";
import { redraw } from "./draw.js";
import { map } from "./grid.js";
import { begin, fit, goTo, keepInView, showLayer } from "./map.js";
import { choose, follow, hasCorner, setBoxMode } from "./pointers.js";
import { tiles } from "./tiles.js";
import { ask, attempt, element, isolated, says } from "./page.js";
import { announce, showQueue } from "./queue.js";
import { isInBounds, BITS, boundsOfMap, chosenBody, chosenNow, clearSelection, deselect, has, key, on, placeOf, prefer, preferences, selectBox, selection, state, takeAnswer, takeEvent, takeQuadrants, tell } from "./state.js";

const at = (id) => document.getElementById(id);
const field = { model: at("model"), prompt: at("prompt"), negative: at("negative"), seed: at("seed"), regenerate: at("regenerate") };

// Models

const model = () => state.facts.models.find((one) => one.model_id === field.model.value);

function showModels() {
  const { models, default_model_id: chosen } = state.facts;
  const wanted = models.some((one) => one.model_id === preferences.model) ? preferences.model : chosen;
  field.model.replaceChildren(...models.map((one) => element("option", { value: one.model_id, textContent: one.ready ? one.name : `${isolated(one.name)} (not ready)`, selected: one.model_id === wanted })));
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
      element("button", { type: "button", textContent: name, title: `${isolated(name)} (${number + 1})`, ariaPressed: String(id === state.layer), onclick: () => chooseLayer(id) }),
    ),
  );
}

let lastChosen = null;
async function chooseLayer(id) {
  lastChosen = id;
  if (!(id in BITS)) await fetchLayer(id);
  if (lastChosen === id) showLayer(id);
}

async function fetchLayer(id) {
  const known = await attempt(() => get(`/api/layers/${encodeURIComponent(id)}/quadrants`));
  if (known) state.pictures.set(id, new Set(known.quadrants.map(([x, y]) => key(x, y))));
}

// Selection

function hint() {
  if (state.boxMode) return hasCorner() ? "Now the opposite corner." : "Choose two opposite corners of a rectangle.";
  if (matchMedia("(pointer: coarse)").matches) return "Tap quadrants, up to four. The dashed square selects a rectangle.";
  return "Click quadrants, up to four. Shift and drag selects a rectangle.";
}

function showSelection() {
  const places = selection();
  const drawn = places.filter(([x, y]) => has(x, y, "generation")).length;
  const what = places.length === 1 ? `Quadrant ${places[0].join(", ")}` : `${places.length} quadrants`;
  at("chosen").textContent = places.length ? `${what} selected${drawn ? `, ${drawn} with a generation` : ""}` : state.box ? "No quadrant lies in this rectangle." : hint();
  at("chosen").classList.toggle("some", places.length > 0);
  const { renderer, generates } = state.facts;
  const isBare = places.some(([x, y]) => !has(x, y, "render"));
  at("generate").disabled = isPlanning || !places.length;
  at("generate").textContent = isPlanning ? "Planning…" : "Generate";
  at("generate").title = isBare ? "G; missing renders are made first" : "G";
  at("render").disabled = !places.length || renderer.kind === "none";
  at("render").title = renderer.kind === "none" ? renderer.reason : "R";
  for (const one of at("marks").children) one.disabled = !places.length;
  at("looksOnly").hidden = generates;
  at("brief").textContent = places.length ? `${places.length} selected` : "";
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
  const isDrawn = places.every(([x, y]) => has(x, y, "generation"));
  const anew = isDrawn && !field.regenerate.checked;
  if (anew && !(await ask(places.length === 1 ? "It has a generation already. Draw it anew?" : `All ${places.length} have a generation already. Draw them anew?`, "Draw anew"))) return;
  if (!field.seed.checkValidity()) return says("The seed is a whole number, or empty.", "bad");
  const [body, sent] = [{ ...wishBody(), ...(anew ? { regenerate: true } : {}) }, chosenNow()];
  isPlanning = true;
  showSelection();
  try {
    if (places.length > MOST_UNASKED && !anew && !(await ask(`Queue pictures for ${places.length} quadrants?`, "Generate"))) return;
    const queued = await attempt(() => post("/api/generate", body));
    if (queued) wasQueued(queued, sent);
  } finally {
    isPlanning = false;
    showSelection();
  }
}

function wasQueued(queued, sent) {
  takeAnswer(queued);
  showQueue();
  const renders = queued.items.length - queued.calls;
  const also = renders ? `, after ${renders === 1 ? "a render that was missing" : "renders that were missing"}` : "";
  const skipped = queued.skipped.length ? `; ${queued.skipped.length} ${queued.skipped.length === 1 ? "quadrant was" : "quadrants were"} left as they are` : "";
  says(`${queued.calls} ${queued.calls === 1 ? "picture" : "pictures"} queued${also}${skipped}.`);
  if (queued.without_context.length) says(`${queued.without_context.length} of them cannot be shown enough of their neighbours; a seam is likely there. A square of 2 by 2, or a rectangle, lets each be shown its neighbours.`);
  deselect(sent);
  redraw();
  if (state.layer === "render") chooseLayer("generation");
}

async function render() {
  if (!selection().length) return says("Select quadrants first.", "bad");
  const sent = chosenNow();
  await queueRenders(chosenBody(), selection().length, () => deselect(sent));
}

const MOST_NAMED = 65536; // quadrants that one request may name
async function renderAll() {
  const places = [...state.quadrants.keys()].slice(0, MOST_NAMED).map(placeOf);
  await queueRenders({ quadrants: places, overwrite: false }, places.length, () => {});
}

async function queueRenders(body, number, after) {
  const queued = await attempt(() => post("/api/render", body));
  if (!queued) return;
  takeAnswer(queued);
  showQueue();
  const left = number - queued.skipped.length;
  says(`${left} ${left === 1 ? "render" : "renders"} queued${queued.skipped.length ? `; ${queued.skipped.length} were there or queued already` : ""}.`);
  after();
  redraw();
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
  if (found?.quadrant) {
    state.keyed = true;
    goTo(...found.quadrant, true);
  }
  else if (found) says(`Nothing is ${flag}.`);
}

function move([right, down], isStretching) {
  const before = state.cursor;
  const to = [before[0] + right, before[1] + down];
  if (isStretching && !isInBounds(to)) return;
  state.cursor = to;
  state.keyed = true;
  if (isStretching) {
    const anchor = state.box ? (state.anchor ?? before) : before;
    state.anchor = anchor;
    selectBox(anchor, state.cursor);
  }
  follow(state.cursor);
  keepInView(state.cursor);
  tell("cursor");
}

const turn = (name) => {
  state[name] = !state[name];
  at(name).ariaPressed = String(state[name]);
  prefer(name, state[name]);
  redraw();
};

let peeked = null;
const actions = {
  generate, render, renderAll, move,
  flag: () => mark("flagged"),
  star: () => mark("starred"),
  remove: removePictures,
  edit: openEdit,
  help: openHelp,
  select: () => {
    state.keyed = true;
    if (!choose(state.cursor)) says("That is not on the map.");
  },
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
    at("fold").ariaLabel = isFolded ? "Unfold the panel" : "Fold the panel";
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
  queue: (event) => {
    announce(event.items);
    takeEvent(event);
    tell("queue");
  },
  quadrants: ({ quadrants }) => {
    const names = takeQuadrants(quadrants);
    tiles.refresh(names);
    tell("quadrants", names);
    showSelection();
    showQueue();
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
  takeEvent(queue);
  announce(queue.items, true);
  return `${state.facts.map.identity}-${queue.revision}.${quadrants.revision}`;
}

// The quadrant nearest to the middle of the map.
function middle() {
  const [left, top, right, bottom] = boundsOfMap() ?? [0, 0, 0, 0];
  const [x, y] = [(left + right) / 2, (top + bottom) / 2];
  let best = [left, top, Infinity];
  for (const name of state.quadrants.keys()) {
    const [column, row] = placeOf(name);
    const far = (column - x) ** 2 + (row - y) ** 2;
    if (far < best[2]) best = [column, row, far];
  }
  return best.slice(0, 2);
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
  const { layers } = state.facts;
  const drawn = layers.find(({ id }) => id === "generation").pictures;
  const ids = layers.map(({ id }) => id);
  state.layer = ids.includes(preferences.layer) ? preferences.layer : drawn ? "generation" : "render";
  const from = await fetchAll();
  state.cursor = middle();
  if (!(state.layer in BITS)) await fetchLayer(state.layer);
  showModels();
  showLooks();
  begin();
  showQueue();
  showSelection();
  tell("cursor");
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
  at("fold").ariaExpanded = String(!document.body.classList.contains("folded"));
  listenKeys(run);
  document.body.dataset.ready = "yes";
  window.fusiApp = { state, map }; // for people who look into it
}

open().catch((error) => {
  says(`The page could not begin: ${error.message}`, "bad");
  throw error;
});
