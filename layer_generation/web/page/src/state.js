// What the page knows: the map's quadrants, the queue, what is selected. Nothing of the queue is kept here
// longer than the page is open.

export const BITS = { render: 1, generation: 2, flagged: 4, starred: 8, is_water: 16, is_reference: 32, note: 64 };
export const key = (x, y) => `${x},${y}`;
export const placeOf = (text) => text.split(",").map(Number);

const listeners = new Map();
export const on = (name, handle) => listeners.set(name, [...(listeners.get(name) ?? []), handle]);
export const tell = (name, ...values) => (listeners.get(name) ?? []).forEach((handle) => handle(...values));

export const state = {
  facts: null,
  quadrants: new Map(), // "x,y" -> bits
  pictures: new Map(), // layer id -> Set of "x,y", for layers beside the map's own
  items: new Map(), // id -> item
  selected: new Set(),
  box: null, // [x, y, x, y] when a rectangle is selected
  cursor: [0, 0],
  layer: "generation",
  lines: true,
  coords: false,
};

export function takeQuadrants(rows) {
  const changed = [];
  for (const [x, y, bits] of rows) {
    const name = key(x, y);
    const isKnown = state.quadrants.has(name);
    if (bits === null) state.quadrants.delete(name);
    else state.quadrants.set(name, bits);
    if (isKnown === (bits === null)) rows = null;
    changed.push(name);
  }
  return changed;
}

// The quadrants row by row, y -> ascending x; and the corners of them all, null for a map of none.
let rows = null;
let bounds = null;
export function rowsOfMap() {
  if (rows) return rows;
  rows = new Map();
  for (const name of state.quadrants.keys()) {
    const [x, y] = placeOf(name);
    if (!rows.has(y)) rows.set(y, []);
    rows.get(y).push(x);
  }
  bounds = null;
  for (const [y, row] of rows) {
    row.sort((one, other) => one - other);
    const [left, top, right, bottom] = bounds ?? [row[0], y, row[0], y];
    bounds = [Math.min(left, row[0]), Math.min(top, y), Math.max(right, row.at(-1)), Math.max(bottom, y)];
  }
  return rows;
}
export function boundsOfMap() {
  rowsOfMap();
  return bounds;
}

export const isInBounds = ([x, y]) => {
  const [left, top, right, bottom] = boundsOfMap() ?? [0, 0, -1, -1];
  return x >= left && x <= right && y >= top && y <= bottom;
};

export function takeItems(items, removed = []) {
  for (const item of items) state.items.set(item.id, item);
  for (const id of removed) state.items.delete(id);
}

// Events come in order. The answer to a request may come after events that say more: then it says nothing new.
let newest = 0;
export function takeEvent({ revision, items, removed = [] }) {
  newest = revision;
  takeItems(items, removed);
}
export function takeAnswer({ revision, items }) {
  if (revision > newest) takeItems(items);
}

export const has = (x, y, layer = state.layer) => {
  const name = key(x, y);
  if (layer in BITS) return Boolean((state.quadrants.get(name) ?? 0) & BITS[layer]);
  return state.pictures.get(layer)?.has(name) ?? false;
};

export const selection = () => {
  if (!state.box) return [...state.selected].map(placeOf);
  const [left, top, right, bottom] = state.box;
  const found = [];
  for (let y = top; y <= bottom; y++) for (let x = left; x <= right; x++) found.push([x, y]);
  return found.filter(([x, y]) => state.quadrants.has(key(x, y)));
};

export const chosenBody = () =>
  state.box
    ? { top_left: state.box.slice(0, 2), bottom_right: state.box.slice(2) }
    : { quadrants: [...state.selected].map(placeOf) };

// Takes away what was sent; what was selected meanwhile stays.
export function deselect(sent) {
  if (String(state.box) === String(sent.box)) state.box = null;
  for (const name of sent.names) state.selected.delete(name);
  tell("selection");
}
export const chosenNow = () => ({ box: state.box, names: [...state.selected] });

export function clearSelection() {
  state.selected.clear();
  state.box = null;
  tell("selection");
}

// A click adds or takes away; more than the limit drops the oldest.
export function toggle(x, y) {
  const name = key(x, y);
  if (!state.quadrants.has(name)) return false;
  state.box = null;
  if (!state.selected.delete(name)) state.selected.add(name);
  while (state.selected.size > state.facts.selection_limit) state.selected.delete(state.selected.values().next().value);
  tell("selection");
  return true;
}

export function selectBox(from, to) {
  state.selected.clear();
  const [left, top, right, bottom] = boundsOfMap() ?? [0, 0, -1, -1]; // what lies beyond is left out
  const box = [Math.max(left, Math.min(from[0], to[0])), Math.max(top, Math.min(from[1], to[1])), Math.min(right, Math.max(from[0], to[0])), Math.min(bottom, Math.max(from[1], to[1]))];
  state.box = box[0] <= box[2] && box[1] <= box[3] ? box : null;
  tell("selection");
}

const KEPT = "fusi-app";
export const preferences = (() => {
  try {
    return JSON.parse(localStorage.getItem(KEPT)) ?? {};
  } catch {
    return {};
  }
})();
export function prefer(name, value) {
  preferences[name] = value;
  try {
    localStorage.setItem(KEPT, JSON.stringify(preferences));
  } catch {
    // a browser that keeps nothing forgets the choice with the page
  }
}
