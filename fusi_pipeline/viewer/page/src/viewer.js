// The page: a map of the archive that is chosen, and the panel that says how it is drawn.

import { AttributionControl, LngLat, Map as MapView, NavigationControl, ScaleControl, addProtocol, setWorkerUrl } from "maplibre-gl";
import { differs, expression, range } from "./colours.js";
import { follow, tell, told } from "./link.js";
import { Panel } from "./panel.js";
import { Places } from "./place.js";
import * as server from "./server.js";
import { graticule, isPicture, style } from "./style.js";

const DARK = matchMedia("(prefers-color-scheme: dark)");
const DEEPER_THAN_DATA = 5;
const DEFAULTS = { hillshade: true, colours: true, terrain: false, lineage: false, exaggeration: 1.5, opacity: 0.6 };
const SWITCHES = Object.keys(DEFAULTS).filter((name) => typeof DEFAULTS[name] === "boolean");

class Viewer {
  #shown = null; // what is on the map: {archive, heights, lineage, sources}
  #range = null; // the heights that colours stand for
  #asking = null;
  #loaded = false; // whether the style of what is shown has arrived
  #pitch = null; // to which the map is tilting, or is to be tilted when the style arrives
  #choice = 0;

  constructor(archives) {
    const known = archives.filter((one) => one.encoding !== "lineage");
    this.archives = known.length ? known : archives;
    this.panel = new Panel(remembered(), (name) => this.#changed(name), (index) => this.show(index, true));
  }

  get #theme() {
    return DARK.matches ? "dark" : "light";
  }

  async start() {
    const index = Math.max(this.archives.findIndex((one) => one.name === told("archive")), 0);
    this.panel.list(this.archives, index);
    const placed = view(told("map"));
    const first = await this.#read(this.archives[index]);
    const map = (this.map = new MapView({
      container: "map",
      style: this.#style(first),
      maxPitch: 80,
      maxZoom: 22,
      attributionControl: false,
      ...(placed ?? first.around ?? { bounds: first.box, fitBoundsOptions: { padding: this.#margins() } }),
    }));
    follow(map, view);
    map.addControl(new NavigationControl({ visualizePitch: true }), "top-right");
    map.addControl(new AttributionControl(), "bottom-right");
    map.addControl(new ScaleControl({ maxWidth: 120 }), "bottom-left");
    map.on("error", ({ error }) => this.panel.alert(error.message));
    map.on("style.load", () => this.#draw());
    map.on("moveend", () => this.#moved());
    DARK.addEventListener("change", () => this.#restyle(this.#shown));
    this.places = new Places(map, (at) => tell("at", at && `${at.lng.toFixed(5)},${at.lat.toFixed(5)}`));
    this.#describe(first);
    const at = told("at")?.split(",").map(Number);
    if (at?.length === 2 && at.every(Number.isFinite)) map.once("load", () => this.places.open(new LngLat(...at)));
  }

  async show(index, moving) {
    const choice = ++this.#choice;
    try {
      const next = await this.#read(this.archives[index]);
      if (choice === this.#choice) this.#replace(next, index, moving);
    } catch (error) {
      if (choice !== this.#choice) return;
      this.panel.list(this.archives, this.archives.indexOf(this.#shown.archive));
      this.panel.alert(`${this.archives[index].title} cannot be shown: ${error.message}`);
    }
  }

  #replace(next, index, moving) {
    tell("archive", index ? next.archive.name : null);
    this.panel.alert("");
    this.#describe(next);
    this.#restyle(next);
    if (!moving) return;
    if (next.around) this.map.jumpTo({ ...next.around, pitch: this.#pitch });
    else this.map.fitBounds(next.box, { padding: this.#margins(), duration: 0, pitch: this.#pitch });
  }

  // Puts another style on the map. The pitch that was wished for stays wished for until the style is there.
  #restyle(next) {
    this.#pitch ??= this.map.getPitch();
    if (this.#loaded) this.map.setTerrain(null);
    this.#loaded = false;
    this.map.setStyle(this.#style(next), { diff: false });
  }

  // Everything that is known of an archive, before it is drawn.
  async #read(archive) {
    const companion = archive.lineage && { name: archive.lineage, tilejson: `${encodeURIComponent(archive.lineage)}.json` };
    const lineage = archive.encoding === "lineage" ? archive : companion;
    const [own, sources] = await Promise.all([server.tilejson(archive), lineage ? server.tilejson(lineage) : null]);
    const entries = lineage ? await server.legend(lineage) : [];
    const [west, south, east, north] = own.bounds;
    const box = [[west, Math.max(south, -85)], [east, Math.min(north, 85)]];
    // Bounds of the whole width may be those of a narrow archive across the antimeridian; its centre is true.
    const [lon, lat, zoom] = own.center;
    const around = east - west >= 360 ? { center: [lon, lat], zoom } : null;
    return { archive, told: own, heights: lineage === archive ? null : own, lineage, sources, entries, box, around };
  }

  #style(next) {
    this.#shown = next;
    this.#range = null;
    return style({ ...next, theme: this.#theme });
  }

  #describe(next) {
    const terrain = next.heights && !isPicture(next.heights);
    this.panel.describe(next.told, { heights: terrain, sources: Boolean(next.sources) });
    this.panel.legend(next.entries);
    this.places.archive = terrain || next.sources ? next.archive : null;
    this.map.setMaxZoom(Math.min(next.told.maxzoom + DEEPER_THAN_DATA, 22));
  }

  // Puts every value of the panel on a style that has just been loaded.
  #draw() {
    this.#loaded = true;
    for (const name of ["hillshade", "colours", "lineage", "opacity", "terrain"]) this.#apply(name);
    if (this.#pitch !== null) this.map.jumpTo({ pitch: this.#pitch });
    this.#moved();
  }

  #changed(name) {
    this.#apply(name);
    const { values } = this.panel;
    tell("show", SWITCHES.filter((one) => values[one]).join(",") || "nothing");
    for (const one of ["exaggeration", "opacity"]) tell(one, values[one] === DEFAULTS[one] ? null : values[one]);
    if (name === "terrain") this.#tilt(values.terrain ? 60 : 0);
    if (name === "colours") this.#colour();
  }

  #tilt(pitch) {
    this.map.stop();
    this.#pitch = pitch;
    if (this.#loaded) this.map.easeTo({ pitch, duration: 600 });
  }

  #apply(name) {
    if (!this.#loaded) return; // all of it is applied when the style arrives
    const { map } = this;
    const { values } = this.panel;
    if (name === "terrain" || name === "exaggeration") {
      const wanted = values.terrain && map.getSource("terrain");
      map.setTerrain(wanted ? { source: "terrain", exaggeration: values.exaggeration } : null);
    } else if (name === "opacity") {
      if (map.getLayer("lineage")) map.setPaintProperty("lineage", "raster-opacity", values.opacity);
    } else if (map.getLayer(name)) {
      const only = name === "lineage" && !this.#shown.heights;
      map.setLayoutProperty(name, "visibility", values[name] || only ? "visible" : "none");
    }
  }

  #moved() {
    if (this.#loaded) this.#pitch = null;
    const seen = this.map.getBounds();
    const north = Math.min(seen.getNorth(), 85);
    this.map.getSource("graticule")?.setData(graticule([seen.getWest(), Math.max(seen.getSouth(), -85), seen.getEast(), north]));
    this.#colour();
  }

  // Fits the colours to the heights that are seen.
  async #colour() {
    if (!this.map.getLayer("colours") || !this.panel.values.colours) return;
    this.#asking?.abort();
    const asking = (this.#asking = new AbortController());
    const seen = this.map.getBounds();
    const { archive } = this.#shown;
    try {
      const next = range(await server.relief(archive, box(seen), asking.signal));
      this.panel.alert("");
      if (archive !== this.#shown.archive || !this.map.getLayer("colours") || !differs(this.#range, next)) return;
      this.#range = next;
      this.map.setPaintProperty("colours", "color-relief-color", expression(next));
      this.panel.colours(next);
    } catch (error) {
      if (error.name !== "AbortError") this.panel.alert(`The server does not answer: ${error.message}`);
    }
  }

  // The room that the panel takes from the map.
  #margins() {
    const panel = document.getElementById("panel").getBoundingClientRect();
    const beside = panel.width < innerWidth / 2;
    const rest = Math.min(innerWidth, innerHeight) * 0.05;
    return { top: beside ? rest : panel.bottom + rest, left: beside ? panel.right + rest : rest, right: rest + (beside ? 30 : 0), bottom: rest + 20 };
  }
}

// The view that a link holds as zoom/latitude/longitude/bearing/pitch, the last two only where they are not 0.
function view(text) {
  const [zoom, lat, lng, bearing = 0, pitch = 0] = (text ?? "").split("/").map(Number);
  const known = [zoom, lat, lng, bearing, pitch].every(Number.isFinite) && Math.abs(lat) <= 90;
  return text && known ? { center: [lng, lat], zoom, bearing, pitch } : null;
}

// The box that is seen as [west, south, east, north] in -180..180, west above east across the antimeridian.
function box(seen) {
  const [south, north] = [Math.max(seen.getSouth(), -85.05), Math.min(seen.getNorth(), 85.05)];
  if (seen.getEast() - seen.getWest() >= 360) return [-180, south, 180, north];
  return [seen.getSouthWest().wrap().lng, south, seen.getNorthEast().wrap().lng, north];
}

function remembered() {
  const values = { ...DEFAULTS };
  const shown = told("show")?.split(",");
  if (shown) for (const name of SWITCHES) values[name] = shown.includes(name);
  for (const name of ["exaggeration", "opacity"]) {
    const value = Number(told(name));
    if (told(name) && value > 0 && value <= 5) values[name] = value;
  }
  return values;
}

setWorkerUrl(server.at("static/maplibre-gl-worker.mjs"));
addProtocol("fusi", server.load);
try {
  const viewer = new Viewer(await server.archives());
  window.viewer = viewer;
  await viewer.start();
} catch (error) {
  const alert = document.getElementById("alert");
  alert.textContent = `The map cannot be shown: ${error.message}`;
  alert.hidden = false;
}
