// Where the map is looked at, and which layer.
import { beginDrawing, redraw } from "./draw.js";
import { cornerOf, map, side } from "./grid.js";
import { beginPointers } from "./pointers.js";
import { boundsOfMap, prefer, preferences, state, tell, toggle } from "./state.js";
import { tiles } from "./tiles.js";

// What the panel and the tools leave free.
function margins() {
  const panel = document.getElementById("side").getBoundingClientRect();
  const size = map.getSize();
  const isBelow = panel.width > size.x * 0.8;
  const isFolded = document.body.classList.contains("folded");
  return {
    paddingTopLeft: [isBelow ? 62 : 70, 66],
    paddingBottomRight: [isBelow || isFolded ? 14 : panel.width + 28, isBelow ? (isFolded ? 58 : size.y * 0.54) + 14 : 20],
  };
}

export function fit() {
  const bounds = boundsOfMap();
  if (!bounds) return;
  const [left, top, right, bottom] = bounds;
  map.fitBounds([[top, left], [bottom + 1, right + 1]], { ...margins(), animate: false, maxZoom: 8.5 });
}

export function goTo(x, y, select = false) {
  state.cursor = [x, y];
  map.setView([y + 0.5, x + 0.5], side() < 40 ? 7 : map.getZoom(), { animate: false });
  if (select) {
    state.selected.clear();
    state.box = null;
    toggle(x, y);
  }
  tell("cursor");
}

export function keepInView([x, y]) {
  const size = map.getSize();
  const { paddingTopLeft: [left, top], paddingBottomRight: [right, bottom] } = margins();
  const at = cornerOf(x, y);
  const isSeen = at.x >= left && at.y >= top && at.x + side() <= size.x - right && at.y + side() <= size.y - bottom;
  const fits = side() <= size.x - left - right && side() <= size.y - top - bottom;
  if (fits && isSeen) return;
  const middle = [(left + size.x - right) / 2, (top + size.y - bottom) / 2];
  map.panBy([at.x + side() / 2 - middle[0], at.y + side() / 2 - middle[1]], { animate: false });
}

export function showLayer(id) {
  state.layer = id;
  prefer("layer", id);
  tiles.reload();
  tell("layer");
  redraw();
}

// Keeps the map from being dragged out of sight.
function holdIn() {
  const [left, top, right, bottom] = boundsOfMap() ?? [0, 0, 0, 0];
  const margin = Math.max(8, right - left, bottom - top);
  map.setMaxBounds([[top - margin, left - margin], [bottom + margin, right + margin]]);
}

export function begin() {
  map.setView([0, 0], 7, { animate: false });
  const view = preferences[`view ${state.facts.map.name}`];
  if (Array.isArray(view) && view.length === 3 && view.every(Number.isFinite)) map.setView(view.slice(0, 2), view[2], { animate: false });
  else fit();
  holdIn();
  beginDrawing();
  beginPointers();
  map.on("moveend", () => {
    const { lat, lng } = map.getCenter();
    prefer(`view ${state.facts.map.name}`, [lat, lng, map.getZoom()]);
  });
  tiles.begin(map);
  new ResizeObserver(() => map.invalidateSize({ animate: false })).observe(map.getContainer());
}
