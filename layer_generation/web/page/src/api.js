// Requests to the server, and its events.

export class Refused extends Error {}

async function asked(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, { credentials: "same-origin", ...options });
  } catch {
    throw new Refused("The app does not answer. Is it still running?");
  }
  if (answer.status === 204) return null;
  const isJson = (answer.headers.get("content-type") ?? "").startsWith("application/json");
  const document = isJson ? await answer.json() : null;
  if (!answer.ok) throw new Refused(document?.error?.message ?? `The app answered ${answer.status}.`);
  return document ?? answer;
}

export const get = (path) => asked(path);
export const post = (path, body = {}) =>
  asked(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });
export const send = (path, blob) =>
  asked(path, { method: "POST", headers: { "content-type": "image/png" }, body: blob });
export const remove = (path) => asked(path, { method: "DELETE" });

// Events from a moment on. EventSource comes back by itself; where it gives up, a new one begins there.
export function listen(from, handlers, onState) {
  let last = from;
  const open = () => {
    const source = new EventSource(`/api/events?since=${last}`);
    source.onopen = () => onState(true);
    source.onerror = () => {
      onState(false);
      if (source.readyState === EventSource.CLOSED) setTimeout(open, 2000);
    };
    for (const [name, handle] of Object.entries(handlers)) {
      source.addEventListener(name, (event) => {
        if (event.lastEventId) last = event.lastEventId;
        handle(JSON.parse(event.data));
      });
    }
  };
  open();
}
