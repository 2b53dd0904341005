// The queue: what is made, what waits and for what, what failed and why.
import { get, post, remove } from "./api.js";
import { has, on, state } from "./state.js";
import { goTo } from "./map.js";
import { attempt, element, says } from "./page.js";

const list = document.getElementById("items");
const ORDER = { processing: 0, pending: 1, error: 2, held: 3, cancelled: 4, complete: 4 };
const orderOf = (item) => ORDER[item.held ? "held" : item.status];
const isActive = (item) => item.status === "processing" || item.status === "pending";
const MOST = 200;
const rows = new Map();

const nameOf = (item) => {
  if (item.item_type === "render") return "Render";
  return state.facts.models.find((model) => model.model_id === item.model_id)?.name ?? item.model_id ?? "?";
};

const placed = (item) => {
  if (!item.quadrants.length) return "";
  const [x, y] = item.quadrants[0];
  return item.quadrants.length === 1 ? `(${x}, ${y})` : `${item.quadrants.length} at (${x}, ${y})`;
};

const seconds = (from, to) => (from && to ? `${((to - from) / 1000).toFixed(1)} s` : "");

function status(item) {
  if (item.status === "processing") {
    const { stage = "working", percentage } = item.progress ?? {};
    return percentage == null ? stage : `${stage} ${Math.round(percentage)} %`;
  }
  if (item.status === "pending") {
    if (item.held) return `held: item ${item.held.id} ${item.held.status === "error" ? "failed" : `was ${item.held.status}`}`;
    const after = item.waits_for.length ? `, after ${item.waits_for.join(", ")}` : "";
    const again = item.error_message ? ` · ${item.error_message}` : "";
    return `waits${item.position ? ` at ${item.position}` : ""}${after}${again}`;
  }
  if (item.status === "error") return item.error_message || "failed";
  if (item.status === "cancelled") return item.error_message || "cancelled";
  return item.result_message || seconds(item.started_at, item.completed_at);
}

function actions(item) {
  const made = [];
  const button = (sign, title, run) =>
    element("button", { type: "button", textContent: sign, title, ariaLabel: `${title}: item ${item.id}`, onclick: () => attempt(run) });
  if (["pending", "processing"].includes(item.status)) made.push(button("✕", "Cancel", () => post(`/api/queue/${item.id}/cancel`)));
  else {
    if (item.status !== "complete") made.push(button("↻", "Retry", () => post(`/api/queue/${item.id}/retry`)));
    made.push(button("✕", "Take off the list", () => remove(`/api/queue/${item.id}`)));
  }
  return made;
}

function row(item) {
  const signature = JSON.stringify(item);
  const known = rows.get(item.id);
  if (known?.signature === signature) return known.node;
  const node = element("li", { className: `item ${item.status}${item.held ? " held" : ""}` });
  node.dataset.id = item.id;
  node.append(
    element("button", {
      type: "button",
      className: "what",
      title: item.prompt || "",
      onclick: () => item.quadrants.length && goTo(...item.quadrants[0]),
    }, [
      element("span", { className: "title" }, [
        element("b", { textContent: `${item.id}` }),
        ` ${nameOf(item)} `,
        element("span", { className: "faint", textContent: placed(item) }),
      ]),
      element("span", { className: "status", textContent: status(item) }),
      ...(item.status === "processing" ? [element("progress", progressOf(item))] : []),
    ]),
    element("span", { className: "actions" }, actions(item)),
  );
  rows.set(item.id, { signature, node });
  return node;
}

const progressOf = (item) => (item.progress?.percentage == null ? {} : { max: 100, value: item.progress.percentage });

// An item of the server with what follows from the others: its place among those that wait in its lane,
// and the failed or cancelled item that holds it back, whichever number of items lie between.
function placedItems() {
  const waiting = new Map();
  const holders = new Map();
  const holder = (id) => {
    const item = state.items.get(id);
    if (!item || item.status === "complete") return null;
    if (item.status === "error" || item.status === "cancelled") return { id, status: item.status };
    if (!holders.has(id)) {
      holders.set(id, null);
      holders.set(id, item.waits_for.map(holder).find(Boolean) ?? null);
    }
    return holders.get(id);
  };
  return [...state.items.values()]
    .sort((one, other) => one.id - other.id)
    .map((item) => {
      if (item.status !== "pending") return { ...item, held: null };
      const lane = item.item_type === "render" ? "render" : (item.model_id ?? "");
      const position = (waiting.get(lane) ?? 0) + 1;
      waiting.set(lane, position);
      return { ...item, position, held: holder(item.id) };
    });
}

// Why lanes rest, a line each. Asked again while one does: a rest ends without any item changing.
let asked = 0;
function showLanes(lanes) {
  const resting = lanes.filter(({ paused }) => paused);
  document.getElementById("resting").replaceChildren(
    ...resting.map(({ name, paused }) => element("p", { className: "warning", textContent: `${name} rests: ${paused}` })),
  );
  clearTimeout(asked);
  if (resting.length) asked = setTimeout(lookAtLanes, 3000);
}
async function lookAtLanes() {
  const newest = Number.MAX_SAFE_INTEGER; // of the items nothing, of the lanes all
  const known = await get(`/api/queue?since=${newest}`).catch(() => null);
  if (known) showLanes(known.lanes);
}

export function showQueue() {
  const items = placedItems().sort(
    (one, other) => orderOf(one) - orderOf(other) || (isActive(one) ? one.id - other.id : other.completed_at - one.completed_at || other.id - one.id),
  );
  const active = items.filter(isActive);
  clearTimeout(asked);
  asked = setTimeout(lookAtLanes, 300);
  const nodes = items.slice(0, MOST).map(row);
  const focused = document.activeElement?.closest?.("#items li")?.dataset.id;
  if (nodes.length !== list.children.length || nodes.some((node, number) => node !== list.children[number])) list.replaceChildren(...nodes);
  if (focused && !document.activeElement?.closest("#items")) list.querySelector(`[data-id="${focused}"] button`)?.focus();
  for (const id of [...rows.keys()]) if (!state.items.has(id)) rows.delete(id);
  const failed = items.filter((item) => item.status === "error").length;
  document.getElementById("count").textContent = active.length ? `${active.length}` : "";
  document.getElementById("idle").hidden = items.length > 0;
  document.getElementById("clearPending").hidden = !active.some((item) => item.status === "pending");
  document.getElementById("clearFinished").hidden = items.length === active.length;
  document.getElementById("retryFailed").hidden = failed === 0;
  document.title = `${active.length ? `(${active.length}) ` : ""}${state.facts.map.name} · fusi`;
  document.body.classList.toggle("failed", failed > 0);
}

// Tell of what ended since the page looked last.
const told = new Map();
export function announce(items) {
  for (const item of items) {
    const before = told.get(item.id);
    told.set(item.id, item.status);
    if (before && before !== item.status && item.status === "error") says(`Item ${item.id}: ${item.error_message}`, "bad");
    if (before === "processing" && item.status === "complete" && item.quadrants.every(([x, y]) => has(x, y, "render"))) says(`Item ${item.id}: ${item.result_message}`);
  }
}

on("queue", showQueue);
