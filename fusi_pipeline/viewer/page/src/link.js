// What a link to the page remembers beside the view, which MapLibre keeps under `map` in the same hash.

const read = () => new URLSearchParams(location.hash.slice(1));

export const told = (key) => read().get(key);

export function tell(key, value) {
  const all = read();
  if (value === null || value === undefined) all.delete(key);
  else all.set(key, value);
  // Commas and slashes are kept readable, as MapLibre writes its own.
  const text = [...all].map(([name, one]) => `${name}=${encodeURIComponent(one).replace(/%2C/g, ",").replace(/%2F/g, "/")}`);
  history.replaceState(history.state, "", `#${text.join("&")}`);
}
