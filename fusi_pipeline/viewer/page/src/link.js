// What a link to the page remembers, in its hash. MapLibre's own hash would undo the escapes of the other values.

const PACE_MS = 300; // browsers refuse a hundred changes within 30 s

const read = () => new URLSearchParams(location.hash.slice(1));

export const told = (key) => read().get(key);

export function tell(key, value) {
  const all = read();
  if (value === null || value === undefined) all.delete(key);
  else all.set(key, value);
  // Commas and slashes are kept readable.
  const text = [...all].map(([name, one]) => `${name}=${encodeURIComponent(one).replace(/%2C/g, ",").replace(/%2F/g, "/")}`);
  history.replaceState(history.state, "", `#${text.join("&")}`);
}

// Keeps the view of a map under `map`, and takes the map to a view that is typed or pasted; `view` reads one.
export function follow(map, view) {
  let last = 0;
  let later;
  const write = () => {
    last = Date.now();
    tell("map", written(map));
  };
  map.on("moveend", () => {
    clearTimeout(later);
    later = setTimeout(write, Math.max(last + PACE_MS - Date.now(), 0));
  });
  addEventListener("hashchange", () => {
    const wanted = view(told("map"));
    if (wanted) map.jumpTo(wanted);
  });
  map.once("load", write);
}

// A view as zoom/latitude/longitude/bearing/pitch, to half a pixel; the last two only where they are not 0.
function written(map) {
  const zoom = Math.round(map.getZoom() * 100) / 100;
  const digits = Math.ceil((zoom * Math.LN2 + Math.log(512 / 360 / 0.5)) / Math.LN10);
  const { lat, lng } = map.getCenter();
  const [bearing, pitch] = [Math.round(map.getBearing() * 10) / 10, Math.round(map.getPitch())];
  const place = [zoom, ...[lat, lng].map((value) => Number(value.toFixed(Math.max(digits, 0))))];
  return [...place, ...(bearing || pitch ? [bearing] : []), ...(pitch ? [pitch] : [])].join("/");
}
