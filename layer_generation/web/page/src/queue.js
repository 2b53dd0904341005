// The queue: what is made, what waits and for what, what failed and why.
import { get, post, remove } from "./api.js";
import { BITS, on, state } from "./state.js";
import { goTo } from "./map.js";
import { attempt, element, isolated, says } from "./page.js";

const list = document.getElementById("items");
const ORDER = { processing: 0, pending: 1, error: 2, held: 3, cancelled: 4, complete: 4 };
const orderOf = (item) => ORDER[item.isHeld ? "held" : item.status];
const isActive = (item) => item.status === "processing" || item.status === "pending";
const MOST = 200;
const rows = new Map();

const nameOf = (item) => {
  if (item.item_type === "render") return "Render";
  return state.facts.models.find((model) => model.model_id === item.model_id)?.name ?? item.model_id ?? item.item_type;
};

const placed = (item) => {
  if (!item.quadrants.length) return "";
  const [x, y] = item.quadrants[0];
  return item.quadrants.length === 1 ? `(${x}, ${y})` : `${item.quadrants.length} at (${x}, ${y})`;
};

const seconds = (from, to) => (from && to ? `${((to - from) / 1000).toFixed(1)} s` : "");

const listed = (numbers) => (numbers.length > 4 ? `${numbers.slice(0, 3).join(", ")} and ${numbers.length - 3} more` : numbers.length > 1 ? `${numbers.slice(0, -1).join(", ")} and ${numbers.at(-1)}` : `${numbers[0]}`);

function status(item) {
  if (item.status === "processing") {
    const { stage = "working", percentage } = item.progress ?? {};
    return percentage == null ? stage : `${stage} ${Math.round(percentage)} %`;
  }
  if (item.status === "pending") {
    if (item.isHeld) return `held back: item ${item.holder} ${item.holderStatus === "error" ? "failed" : "was cancelled"}`;
    const { place, waits_for: others } = item;
    const after = others.length ? `, after ${others.length === 1 ? "item" : "items"} ${listed(others)}` : "";
    const again = item.error_message ? ` · ${isolated(item.error_message)}` : "";
    return `${place === 1 ? "next" : place ? `number ${place} in line` : "waits"}${after}${again}`;
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
  const node = element("li", { className: `item ${item.status}${item.isHeld ? " held" : ""}` });
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
        element("span", { textContent: ` ${placed(item)} ` }), // before names, which may be cut off
        element("bdi", { className: "faint", textContent: nameOf(item) }),
      ]),
      element("span", { className: "status", textContent: status(item) }),
      ...(item.status === "processing" ? [element("progress", progressOf(item))] : []),
    ]),
    element("span", { className: "actions" }, actions(item)),
  );
  rows.set(item.id, { signature, node });
  return node;
}

// A map without any picture has one thing to begin with.
function showStart(items) {
  const isBare = state.quadrants.size > 0 && ![...state.quadrants.values()].some((bits) => bits & (BITS.render | BITS.generation));
  const { kind, reason } = state.facts.renderer;
  document.getElementById("start").hidden = !isBare || items.some(isActive);
  document.getElementById("renderAll").hidden = kind === "none";
  document.getElementById("renderAll").textContent = `Render all ${state.quadrants.size} quadrants`;
  document.getElementById("startWhy").textContent = kind === "none" ? reason : "This map has no pictures yet. Renders come first: models draw over them.";
}

const progressOf = (item) => (item.progress?.percentage == null ? {} : { max: 100, value: item.progress.percentage });

// Adds to the server's items what follows from the others: the place among those that wait in a lane, and the
// failed or cancelled item that holds one back, whichever number of items lie between.
function place() {
  const waiting = new Map();
  const holders = new Map();
  const holder = (id) => {
    const item = state.items.get(id);
    if (!item || item.status === "complete") return null;
    if (item.status === "error" || item.status === "cancelled") return item;
    if (!holders.has(id)) {
      holders.set(id, null);
      holders.set(id, item.waits_for.map(holder).find(Boolean) ?? null);
    }
    return holders.get(id);
  };
  const items = [...state.items.values()].sort((one, other) => one.id - other.id);
  for (const item of items) {
    const by = item.status === "pending" ? holder(item.id) : null;
    Object.assign(item, { isHeld: Boolean(by), holder: by?.id, holderStatus: by?.status, place: null });
    if (item.status !== "pending" || by) continue;
    const lane = item.item_type === "render" ? "render" : (item.model_id ?? "");
    item.place = (waiting.get(lane) ?? 0) + 1;
    waiting.set(lane, item.place);
  }
  return items;
}

// Why lanes rest, a line each. Asked again while one does: a rest ends without any item changing.
let asked = 0;
function showLanes(lanes) {
  const resting = lanes.filter(({ paused }) => paused);
  document.getElementById("resting").replaceChildren(
    ...resting.map(({ name, paused }) => element("p", { className: "warning", textContent: `${isolated(name)} rests: ${isolated(paused)}` })),
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
  const items = place().sort(
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
  showStart(items);
  document.getElementById("clearPending").hidden = !active.some((item) => item.status === "pending");
  document.getElementById("clearFinished").hidden = items.length === active.length;
  document.getElementById("retryFailed").hidden = failed === 0;
  document.title = `${active.length ? `(${active.length}) ` : ""}${state.facts.map.name} · fusi`;
  document.body.classList.toggle("failed", failed > 0);
}

// Tell of what ended since the page looked last; many at once in one line.
const told = new Map();
let done = [];
let failed = [];
let later = 0;
const failures = { count: 0, toast: null }; // of the message that is shown
export function announce(items, isFirst = false) {
  for (const item of items) {
    const before = told.get(item.id);
    told.set(item.id, item.status);
    if (isFirst || before === item.status) continue;
    if (item.status === "error") failed.push(item);
    else if (item.status === "complete") done.push(item);
  }
  if ((done.length || failed.length) && !later) later = setTimeout(sayEnded, 400);
}
function sayEnded() {
  later = 0;
  if (failed.length) {
    const last = failed.at(-1);
    failures.count = (failures.toast?.isConnected ? failures.count : 0) + failed.length;
    failures.toast = says(failures.count === 1 ? `Item ${last.id} failed: ${isolated(last.error_message)}` : `${failures.count} items failed, the last: ${isolated(last.error_message)}`, "bad", "failed");
  }
  if (done.length) says(done.length === 1 ? `Item ${done[0].id}: ${done[0].result_message || "done"}` : `${done.length} items done.`, "", "done");
  done = [];
  failed = [];
}

on("queue", showQueue);
