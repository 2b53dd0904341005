// What is at a place: the popup of a click, and the line that follows the pointer.

import { Popup } from "maplibre-gl";
import * as server from "./server.js";
import { degrees, element, linked, metres, plain } from "./words.js";

export class Places {
  #map;
  #archive = null;
  #popup = null;
  #line = document.getElementById("readout");
  #pointer = null; // where it is on the map
  #busy = false;
  #opened;

  // `opened(at)` is called with the position of a popup, and with null when it closes.
  constructor(map, opened) {
    this.#map = map;
    this.#opened = opened;
    map.on("click", ({ lngLat }) => this.open(lngLat));
    map.on("mousemove", ({ lngLat }) => this.#follow(lngLat));
    map.on("mouseout", () => this.#follow(null));
    map.getCanvas().addEventListener("keydown", ({ key }) => {
      if (key === "Enter") this.open(map.getCenter());
      if (key === "Escape") this.#popup?.remove();
    });
  }

  set archive(archive) {
    this.#archive = archive;
    this.#popup?.remove();
    this.#follow(null);
  }

  async open(lngLat) {
    const at = lngLat.wrap();
    if (!this.#archive || Math.abs(at.lat) > 85.0511) return;
    const archive = this.#archive;
    const content = await server.place(archive, at).then(facts, (error) => element("p", {}, error.message));
    if (archive !== this.#archive) return;
    this.#popup?.remove();
    this.#popup = new Popup({ maxWidth: "min(20rem, 90vw)", focusAfterOpen: false })
      .setLngLat(lngLat)
      .setDOMContent(element("div", { class: "place" }, element("h2", {}, degrees(at)), content))
      .addTo(this.#map);
    this.#popup.on("close", () => this.#opened(null));
    this.#opened(at);
  }

  // One question at a time is on the way; of those in between only the last is asked.
  async #follow(lngLat) {
    this.#pointer = this.#archive && lngLat;
    if (!this.#pointer) this.#line.hidden = true;
    if (this.#busy) return;
    this.#busy = true;
    for (let asked = null; this.#pointer && this.#pointer !== asked; ) {
      asked = this.#pointer;
      const archive = this.#archive;
      const at = asked.wrap();
      const height = await server.place(archive, at).then((told) => metres(told.height_m), () => "");
      if (!this.#pointer || archive !== this.#archive) continue;
      this.#line.hidden = false;
      this.#line.replaceChildren(element("span", {}, degrees(at, 4)), element("b", {}, height));
    }
    this.#busy = false;
  }
}

function facts(told) {
  const rows = [
    ["Height", element("strong", {}, metres(told.height_m))],
    ["Source", told.source && linked(told.source, told.website)],
    ["Blended with", told.second_source && `${told.second_source}, ${Math.round(told.second_share * 100)} %`],
    ["Source pixel", told.source_resolution_m && `about ${metres(Number(told.source_resolution_m.toPrecision(3)))}`],
    ["Zoom", told.zoom ?? null],
    ["Pixel here", told.resolution_m && metres(Number(told.resolution_m.toPrecision(3)))],
    ["Vertical step", told.vertical_step_m && `${Number(told.vertical_step_m.toPrecision(3))} m`],
    ["Datum", told.vertical_datum],
    ["Credit", plain(told.attribution)],
    ["Licence", told.license],
  ].filter(([, value]) => value !== null && value !== undefined && value !== "");
  const list = element("dl", {}, ...rows.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]));
  return element("div", {}, list, ...(told.note ? [element("p", { class: "note" }, told.note)] : []));
}
