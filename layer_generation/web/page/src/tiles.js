// Pictures on the map: tiles of the chosen layer, each asked for again when one of its quadrants changes.
import L from "leaflet";
import { FULL } from "./grid.js";
import { has, placeOf, state } from "./state.js";

const anyIn = (level, x, y, layer) => {
  if (level > 4) return true;
  const side = 2 ** level;
  for (let row = y * side; row < (y + 1) * side; row++)
    for (let column = x * side; column < (x + 1) * side; column++) if (has(column, row, layer)) return true;
  return false;
};

// How many quadrants tiles that are being made show already, and of how many.
const coming = new Map(); // tile -> [shown, there]
const place = document.getElementById("drawing");
function came(tile, answer) {
  const progress = /^(\d+)\/(\d+)$/.exec(answer?.headers.get("overview-progress") ?? "");
  if (progress) coming.set(tile, progress.slice(1).map(Number));
  else if (!coming.delete(tile)) return;
  const [shown, there] = [...coming.values()].reduce(([some, all], [one, of]) => [some + one, all + of], [0, 0]);
  place.hidden = coming.size === 0;
  place.textContent = coming.size ? `Drawing overviews: ${shown} of ${there}` : "";
}

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
    came(tile, null);
    await null; // Leaflet knows the tile only when createTile has returned
    const layer = this.options.layerAt(level, x, y);
    if (!layer || !anyIn(level, x, y, layer)) {
      this.show(tile, null);
      return done(null, tile);
    }
    try {
      for (let seconds = 0.3; ; seconds = Math.min(seconds * 1.6, 3)) {
        const answer = await fetch(`/tiles/${encodeURIComponent(layer)}/${level}/${x}/${y}?far=${this.far(level, x, y)}`, { signal: asking.signal });
        came(tile, answer);
        const isPart = answer.headers.has("retry-after"); // more of it comes
        if (answer.status === 200 || !isPart) this.show(tile, answer.status === 200 ? await answer.blob() : null);
        if (!isPart) break;
        done(null, tile);
        await new Promise((over) => setTimeout(over, 1000 * seconds));
        if (asking.signal.aborted) return;
      }
    } catch (error) {
      if (error.name === "AbortError") return done(null, tile);
      this.show(tile, null);
    }
    came(tile, null);
    done(null, tile);
  },

  // Tiles between one and the middle of the view, so that what is looked at is made first.
  far(level, x, y) {
    const { lat, lng } = this._map.getCenter();
    const side = 2 ** level;
    return Math.round(Math.hypot(lng / side - x - 0.5, lat / side - y - 0.5));
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
    came(tile, null);
    if (tile.src.startsWith("blob:")) URL.revokeObjectURL(tile.src);
  });
}
export const tiles = {
  begin: (map) => [beneath, shown].forEach((layer) => layer.addTo(map)),
  reload: () => [beneath, shown].forEach((layer) => layer.reload()),
  refresh: (names) => [beneath, shown].forEach((layer) => layer.refresh(names)),
};
