// What the server is asked, relative to the page, so that the page also works below another path.

export const at = (path) => new URL(path, document.baseURI).href;

const part = encodeURIComponent;

async function json(path, signal) {
  const answer = await fetch(at(path), { signal });
  const told = await answer.json().catch(() => ({ error: answer.statusText }));
  if (!answer.ok) throw new Error(told.error);
  return told;
}

export const archives = () => json("archives.json");
export const tilejson = (archive) => json(archive.tilejson);
export const legend = (archive) => json(`${part(archive.name)}/legend.json`);
export const place = (archive, { lng, lat }, signal) =>
  json(`${part(archive.name)}/at?lon=${lng.toFixed(7)}&lat=${lat.toFixed(7)}`, signal);
export const relief = (archive, bounds, signal) =>
  json(`${part(archive.name)}/relief.json?bbox=${bounds.map((value) => value.toFixed(5))}`, signal);

// Tiles go through a protocol of our own, `fusi:`, so that a missing one is no error on the console.
// A surface that is missing is nothing; for a missing picture the map is to look for one of a lower zoom.
export const surfaces = (archive, format) => `fusi://${part(archive.name)}/surface/{z}/{x}/{y}.${format}`;
export const gaps = (archive, color) => `fusi://${part(archive.name)}/gaps/{z}/{x}/{y}.png?rgb=${color.slice(1)}`;
export const pictures = (archive, format) => `fusi://${part(archive.name)}/{z}/{x}/{y}.${format}`;

export async function load({ url }, { signal }) {
  const path = url.slice("fusi://".length);
  const answer = await fetch(at(`${path}${path.includes("?") ? "&" : "?"}missing=204`), { signal });
  if (answer.status === 204) {
    if (/^[^/]+\/(surface|gaps)\//.test(path)) return { data: null };
    throw Object.assign(new Error("no such tile"), { status: 404 });
  }
  if (!answer.ok) {
    const told = await answer.json().catch(() => ({}));
    throw Object.assign(new Error(told.error ?? answer.statusText), { status: answer.status });
  }
  return { data: await answer.arrayBuffer() };
}
