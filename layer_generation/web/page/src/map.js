// The map: tiles of the chosen layer, and over them a canvas with lines, selection, queue and marks.
import L from "leaflet";
import { BITS, has, key, on, placeOf, prefer, preferences, selectBox, state, tell, toggle } from "./state.js";

const FULL = 9; // the zoom at which a quadrant has its 512 px
const GRID = L.extend({}, L.CRS.Simple, { transformation: new L.Transformation(1, 0, 1, 0) });

export const map = L.map("map", {
  crs: GRID,
  attributionControl: false,
  zoomControl: false,
  boxZoom: false,
  doubleClickZoom: false,
  keyboard: false,
  minZoom: -3,
  maxZoom: 11,
  zoomSnap: 0.25,
  zoomDelta: 1,
  wheelPxPerZoomLevel: 90,
  maxBoundsViscosity: 0.8,
});

// Tiles

const anyIn = (level, x, y, layer) => {
  if (level > 4) return true;
  const side = 2 ** level;
  for (let row = y * side; row < (y + 1) * side; row++)
    for (let column = x * side; column < (x + 1) * side; column++) if (has(column, row, layer)) return true;
  return false;
};

const Tiles = L.GridLayer.extend({
  createTile({ x, y, z }, done) {
    const level = FULL - z;
    const tile = document.createElement("img");
    tile.alt = "";
    tile.draggable = false;
    tile.style.visibility = "hidden";
    tile.place = [level, x, y];
    this.fill(tile, done);
    return tile;
  },

  async fill(tile, done = () => {}) {
    const [level, x, y] = tile.place;
    tile.asking?.abort();
    const asking = (tile.asking = new AbortController());
    await null; // Leaflet knows the tile only when createTile has returned
    const layer = this.options.layerAt(level, x, y);
    if (!layer || !anyIn(level, x, y, layer)) {
      this.show(tile, null);
      return done(null, tile);
    }
    try {
      for (;;) {
        const answer = await fetch(`/tiles/${encodeURIComponent(layer)}/${level}/${x}/${y}`, { signal: asking.signal });
        const isPart = answer.headers.has("retry-after"); // more of it comes
        if (answer.status === 200 || !isPart) this.show(tile, answer.status === 200 ? await answer.blob() : null);
        if (!isPart) break;
        done(null, tile);
        await new Promise((over) => setTimeout(over, 1000));
        if (asking.signal.aborted) return;
      }
    } catch (error) {
      if (error.name === "AbortError") return done(null, tile);
      this.show(tile, null);
    }
    done(null, tile);
  },

  show(tile, blob) {
    const before = tile.src;
    tile.style.visibility = blob ? "" : "hidden";
    if (blob) tile.src = URL.createObjectURL(blob);
    if (before.startsWith("blob:")) URL.revokeObjectURL(before);
  },

  // In place: GridLayer.redraw asks for tiles of fractional zooms.
  reload() {
    for (const { el } of Object.values(this._tiles)) this.fill(el);
  },

  refresh(names) {
    const changed = names.map(placeOf);
    for (const { el } of Object.values(this._tiles)) {
      const [level, x, y] = el.place;
      const side = 2 ** level;
      if (changed.some(([column, row]) => Math.floor(column / side) === x && Math.floor(row / side) === y)) this.fill(el);
    }
  },
});

const options = {
  tileSize: 512,
  minNativeZoom: -3,
  maxNativeZoom: FULL,
  minZoom: -3,
  maxZoom: 11,
  updateWhenZooming: false,
  keepBuffer: 1,
};
const shown = new Tiles({ ...options, zIndex: 2, layerAt: () => state.layer });
// Where a generation is missing, its render is seen dimly.
const beneath = new Tiles({
  ...options,
  zIndex: 1,
  opacity: 0.45,
  className: "beneath",
  layerAt: (level, x, y) => (state.layer !== "generation" || (level === 0 && has(x, y, "generation")) ? null : "render"),
});
for (const layer of [shown, beneath]) {
  layer.on("tileunload", ({ tile }) => {
    tile.asking?.abort();
    if (tile.src.startsWith("blob:")) URL.revokeObjectURL(tile.src);
  });
}
export const tiles = {
  reload: () => [beneath, shown].forEach((layer) => layer.reload()),
  refresh: (names) => [beneath, shown].forEach((layer) => layer.refresh(names)),
};

// What lies over it

const canvas = document.createElement("canvas");
const pen = canvas.getContext("2d");
const styles = getComputedStyle(document.documentElement);
const color = (name) => styles.getPropertyValue(name).trim();
let wanted = 0;

export function redraw() {
  if (!wanted) wanted = requestAnimationFrame(draw);
}

function corner(x, y) {
  return map.latLngToContainerPoint([y, x]);
}

function draw(now) {
  wanted = 0;
  const { x: width, y: height } = map.getSize();
  const ratio = devicePixelRatio || 1;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
  }
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, height);
  const side = map.options.crs.scale(map.getZoom());
  const from = map.containerPointToLatLng([0, 0]);
  const to = map.containerPointToLatLng([width, height]);
  const view = [Math.floor(from.lng), Math.floor(from.lat), Math.floor(to.lng), Math.floor(to.lat)];
  drawQuadrants(view, side);
  const moving = drawQueue(side, now);
  drawSelection(side);
  if (moving) redraw();
}

function drawQuadrants([left, top, right, bottom], side) {
  const many = (right - left + 1) * (bottom - top + 1) > 40000;
  if (many) return;
  pen.lineWidth = 1;
  pen.textBaseline = "top";
  for (let y = top; y <= bottom; y++) {
    for (let x = left; x <= right; x++) {
      const bits = state.quadrants.get(key(x, y));
      if (bits === undefined) continue;
      const at = corner(x, y);
      if (!has(x, y)) {
        pen.fillStyle = color("--missing");
        pen.fillRect(at.x, at.y, side, side);
      }
      if (state.lines && side >= 6) {
        pen.strokeStyle = color("--grid");
        pen.strokeRect(Math.round(at.x) + 0.5, Math.round(at.y) + 0.5, Math.round(side), Math.round(side));
      }
      if (side >= 10) drawMarks(bits, at, side);
      if (state.coords && side >= 48) {
        pen.font = "11px ui-monospace, monospace";
        label(`${x}, ${y}`, at.x + 5, at.y + side - 18);
      }
    }
  }
}

function drawMarks(bits, at, side) {
  const signs = [];
  if (bits & BITS.flagged) signs.push(["⚑", color("--flag")]);
  if (bits & BITS.starred) signs.push(["★", color("--star")]);
  if (bits & BITS.is_water) signs.push(["≈", color("--water")]);
  if (bits & BITS.is_reference) signs.push(["◆", color("--accent")]);
  if (bits & BITS.note) signs.push(["✎", color("--paper-solid")]);
  const size = Math.max(8, Math.min(18, side / 5));
  signs.forEach(([sign, fill], number) => {
    pen.font = `${size}px system-ui, sans-serif`;
    pen.lineWidth = 3;
    pen.strokeStyle = "rgb(0 0 0 / 0.65)";
    const x = at.x + side - (number + 1) * (size + 3);
    pen.strokeText(sign, x, at.y + 4);
    pen.fillStyle = fill;
    pen.fillText(sign, x, at.y + 4);
  });
}

function label(text, x, y) {
  const { width } = pen.measureText(text);
  pen.fillStyle = "rgb(0 0 0 / 0.6)";
  pen.fillRect(x - 3, y - 2, width + 6, 16);
  pen.fillStyle = "#fff";
  pen.fillText(text, x, y);
}

function drawQueue(side, now) {
  let moving = false;
  pen.textBaseline = "top";
  for (const item of state.items.values()) {
    if (!["pending", "processing", "error"].includes(item.status)) continue;
    if (item.status === "error" && item.quadrants.every(([x, y]) => has(x, y, item.item_type === "render" ? "render" : "generation"))) continue;
    const running = item.status === "processing";
    moving ||= running;
    const shade = item.status === "error" || item.held ? "--bad" : running ? "--running" : "--waiting";
    for (const [x, y] of item.quadrants) {
      const at = corner(x, y);
      pen.globalAlpha = 0.3;
      pen.fillStyle = color(shade);
      pen.fillRect(at.x, at.y, side, side);
      pen.globalAlpha = 1;
    }
    const xs = item.quadrants.map(([x]) => x);
    const ys = item.quadrants.map(([, y]) => y);
    if (!xs.length || item.quadrants.length > 4) continue;
    const at = corner(Math.min(...xs), Math.min(...ys));
    const size = [(Math.max(...xs) - Math.min(...xs) + 1) * side, (Math.max(...ys) - Math.min(...ys) + 1) * side];
    pen.strokeStyle = color(shade);
    pen.lineWidth = 2;
    pen.setLineDash(running ? [8, 6] : []);
    pen.lineDashOffset = running ? -now / 40 : 0;
    pen.strokeRect(at.x + 1, at.y + 1, size[0] - 2, size[1] - 2);
    pen.setLineDash([]);
    if (Math.min(...size) >= 26) {
      pen.font = "bold 12px system-ui, sans-serif";
      label(item.status === "error" ? "!" : item.held ? "held" : running ? "…" : `${item.position}`, at.x + 8, at.y + 8);
    }
  }
  return moving;
}

function drawSelection(side) {
  pen.lineWidth = 3;
  const outline = (x, y, columns, rows, name) => {
    const at = corner(x, y);
    pen.strokeStyle = "rgb(0 0 0 / 0.55)";
    pen.lineWidth = 5;
    pen.strokeRect(at.x, at.y, columns * side, rows * side);
    pen.strokeStyle = color(name);
    pen.lineWidth = 2.5;
    pen.strokeRect(at.x, at.y, columns * side, rows * side);
  };
  for (const name of state.selected) {
    const [x, y] = placeOf(name);
    const at = corner(x, y);
    pen.fillStyle = color("--selected");
    pen.fillRect(at.x, at.y, side, side);
    outline(x, y, 1, 1, "--select");
  }
  const box = drag ? [...drag] : state.box;
  if (box) {
    const [left, top] = [Math.min(box[0], box[2]), Math.min(box[1], box[3])];
    const [columns, rows] = [Math.abs(box[2] - box[0]) + 1, Math.abs(box[3] - box[1]) + 1];
    const at = corner(left, top);
    pen.fillStyle = color("--selected");
    pen.fillRect(at.x, at.y, columns * side, rows * side);
    outline(left, top, columns, rows, "--select");
  }
  if (document.activeElement === map.getContainer() || state.keyed) {
    const [x, y] = state.cursor;
    const at = corner(x, y);
    pen.strokeStyle = color("--accent");
    pen.lineWidth = 2;
    pen.setLineDash([4, 3]);
    pen.strokeRect(at.x + 4, at.y + 4, side - 8, side - 8);
    pen.setLineDash([]);
  }
}

// Pointers

let drag = null;
let firstCorner = null;
const quadrantAt = (event) => {
  const { lat, lng } = map.mouseEventToLatLng(event);
  return [Math.floor(lng), Math.floor(lat)];
};

export function setBoxMode(isOn) {
  firstCorner = null;
  state.boxMode = isOn;
  map.getContainer().classList.toggle("boxing", isOn);
  tell("mode");
}

function clicked(event) {
  const place = quadrantAt(event.originalEvent);
  state.cursor = place;
  state.keyed = false;
  tell("cursor");
  if (state.boxMode) {
    if (!firstCorner) {
      firstCorner = place;
      drag = [...place, ...place];
    } else {
      drag = null;
      selectBox(firstCorner, place);
      setBoxMode(false);
    }
  } else {
    toggle(...place);
  }
  redraw();
}

function shiftDrag(container) {
  let from = null;
  container.addEventListener("pointerdown", (event) => {
    if (!event.shiftKey || event.button !== 0) return;
    from = quadrantAt(event);
    map.dragging.disable();
    container.setPointerCapture(event.pointerId);
  });
  container.addEventListener("pointermove", (event) => {
    if (from) drag = [...from, ...quadrantAt(event)];
    else if (firstCorner) drag = [...firstCorner, ...quadrantAt(event)];
    if (drag) redraw();
  });
  const over = (event) => {
    if (!from) return;
    if (drag && event.type === "pointerup") selectBox(drag.slice(0, 2), drag.slice(2));
    from = drag = null;
    map.dragging.enable();
    suppressed = performance.now();
    redraw();
  };
  container.addEventListener("pointerup", over);
  container.addEventListener("pointercancel", over);
}
let suppressed = -1e9;

// Views

// What the panel and the tools leave free.
function margins() {
  const side = document.getElementById("side").getBoundingClientRect();
  const size = map.getSize();
  const isBelow = side.width > size.x * 0.8;
  const isFolded = document.body.classList.contains("folded");
  return {
    paddingTopLeft: [isBelow ? 14 : 64, 66],
    paddingBottomRight: [isBelow || isFolded ? 14 : side.width + 28, isBelow ? (isFolded ? 52 : size.y * 0.54) + 14 : 20],
  };
}

export function showBounds([left, top, right, bottom]) {
  map.fitBounds([[top, left], [bottom + 1, right + 1]], { ...margins(), animate: false, maxZoom: 8.5 });
}

export function fit() {
  if (state.facts.map.bounds) showBounds(state.facts.map.bounds);
}

export function goTo(x, y, select = false) {
  state.cursor = [x, y];
  const side = map.options.crs.scale(map.getZoom());
  const zoom = side < 40 ? 7 : map.getZoom();
  map.setView([y + 0.5, x + 0.5], zoom, { animate: false });
  if (select) {
    state.selected.clear();
    state.box = null;
    toggle(x, y);
  }
  tell("cursor");
  redraw();
}

export function keepInView([x, y]) {
  const size = map.getSize();
  const side = map.options.crs.scale(map.getZoom());
  const at = corner(x, y);
  if (at.x < 0 || at.y < 0 || at.x + side > size.x || at.y + side > size.y) map.panTo([y + 0.5, x + 0.5], { animate: false });
}

export function showLayer(id) {
  state.layer = id;
  prefer("layer", id);
  tiles.reload();
  tell("layer");
  redraw();
}

export function begin() {
  canvas.className = "over";
  map.getContainer().append(canvas);
  map.on("move zoom zoomanim viewreset resize", redraw);
  map.on("click", (event) => {
    if (performance.now() - suppressed > 250) clicked(event);
  });
  map.on("mousemove", (event) => tell("hover", quadrantAt(event.originalEvent)));
  map.on("moveend", () => {
    const { lat, lng } = map.getCenter();
    prefer(`view ${state.facts.map.name}`, [lat, lng, map.getZoom()]);
  });
  shiftDrag(map.getContainer());
  const view = preferences[`view ${state.facts.map.name}`];
  const bounds = state.facts.map.bounds ?? [0, 0, 0, 0];
  map.setView([0, 0], 7);
  if (view?.every?.(Number.isFinite)) map.setView(view.slice(0, 2), view[2], { animate: false });
  else showBounds(bounds);
  const margin = Math.max(8, bounds[2] - bounds[0], bounds[3] - bounds[1]);
  map.setMaxBounds([[bounds[1] - margin, bounds[0] - margin], [bounds[3] + margin, bounds[2] + margin]]);
  beneath.addTo(map);
  shown.addTo(map);
  new ResizeObserver(() => map.invalidateSize({ animate: false })).observe(map.getContainer());
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  on("selection", redraw);
  on("queue", redraw);
}
