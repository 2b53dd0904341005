// The panel: what is shown and how, as values; it knows the document and not the map.

import { gradient } from "./colours.js";
import { element, linked, metres, plain } from "./words.js";

const SWITCHES = ["hillshade", "colours", "terrain", "lineage"];
const KEYS = { h: "hillshade", c: "colours", t: "terrain", l: "lineage" };
const NARROW = "(max-width: 640px)";
const find = (id) => document.getElementById(id);

export class Panel {
  // `changed(name, value)` is called for every switch and slider, `chosen(index)` for another archive.
  constructor(values, changed, chosen) {
    this.values = values;
    if (matchMedia(NARROW).matches) find("panel").open = false;
    for (const name of SWITCHES) this.#wire(name, "checked", "change", changed);
    for (const name of ["exaggeration", "opacity"]) this.#wire(name, "valueAsNumber", "input", changed);
    find("archive").addEventListener("change", ({ target }) => chosen(target.selectedIndex));
    document.addEventListener("keydown", (event) => this.#key(event));
    find("ramp").querySelector(".bar").style.background = gradient();
    this.#dependent();
  }

  #wire(name, property, event, changed) {
    const input = find(name);
    input[property] = this.values[name];
    input.addEventListener(event, () => {
      this.values[name] = input[property];
      this.#dependent();
      changed(name, this.values[name]);
    });
  }

  #key(event) {
    const name = KEYS[event.key.toLowerCase()];
    const typing = event.target.closest?.("select, input[type=range], input[type=text]");
    if (!name || typing || event.ctrlKey || event.metaKey || event.altKey) return;
    const input = find(name);
    if (!input.closest("[hidden]")) input.click();
  }

  // What only matters while something else is on.
  #dependent() {
    find("exaggerated").hidden = !this.values.terrain;
    find("faded").hidden = find("legend").hidden = !this.values.lineage;
    find("ramp").hidden = !this.values.colours;
    find("exaggerated").querySelector("output").textContent = `× ${this.values.exaggeration.toFixed(1)}`;
    find("faded").querySelector("output").textContent = `${Math.round(this.values.opacity * 100)} %`;
  }

  list(archives, index) {
    const options = archives.map((one) => element("option", {}, `${one.title}${same(one, archives) ? ` (${one.name})` : ""}`));
    find("archive").replaceChildren(...options);
    find("archive").selectedIndex = index;
    find("archives").hidden = archives.length < 2;
  }

  describe(told, { heights, sources }) {
    find("title").textContent = document.title = told.name ?? "fusi";
    find("about").textContent = `Zoom ${told.minzoom} to ${told.maxzoom}${told.description ? ` · ${told.description}` : ""}`;
    find("relief").hidden = !heights;
    find("sources").hidden = !sources;
    find("clicks").hidden = !heights && !sources;
  }

  colours({ low, high, depth }) {
    const middle = low + (high - low) / 2;
    const ticks = [low, middle, high].map((value) => element("span", {}, metres(Math.round(value))));
    find("ramp").querySelector(".ticks").replaceChildren(...ticks);
    find("ramp").setAttribute("aria-label", `Colours from ${metres(low)} to ${metres(high)}; blue at 0 m and below`);
    find("ramp").title = depth < -1 ? `Blue: 0 m and below, darkest at ${metres(depth)}` : "Blue: 0 m and below";
  }

  legend(entries) {
    find("legend").replaceChildren(...entries.map(entry));
  }

  alert(message) {
    find("alert").textContent = message;
    find("alert").hidden = !message;
  }
}

const same = (one, archives) => archives.filter((other) => other.title === one.title).length > 1;

function entry(source) {
  const swatch = element("i", { "aria-hidden": "true" });
  swatch.style.background = source.color;
  const size = source.resolution_m ? `about ${metres(Number(source.resolution_m.toPrecision(2)))} a pixel` : "";
  const facts = [size, source.vertical_datum, plain(source.attribution), source.license].filter(Boolean).join(" · ");
  return element("li", {}, swatch, element("div", {}, linked(source.name, source.website), element("small", {}, facts)));
}
