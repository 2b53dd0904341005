// The page of the image server: sends requests, follows them, shows what was drawn.

const route = "v1/images/generations";
const find = (id) => document.getElementById(id);
const terminal = new Set(["complete", "error", "cancelled"]);
const words = { pending: "waiting", in_progress: "drawing", complete: "done", error: "failed", cancelled: "cancelled" };
const stages = { loading: "loading the model", diffusion: "drawing", decoding: "finishing" };
const keptResults = 24;

const prompts = new Map(remembered("prompts", []));
const cards = new Map();
const results = new Map();
let token = remembered("token", "");
let models = [];
let picture = null;
let isPainted = false;

function remembered(name, otherwise) {
  try { return JSON.parse(sessionStorage.getItem(`fusi-${name}`)) ?? otherwise; } catch { return otherwise; }
}

function remember(name, value) {
  try { sessionStorage.setItem(`fusi-${name}`, JSON.stringify(value)); } catch { /* a browser without storage */ }
}

class Refused extends Error {
  constructor(status, error) {
    super([error?.message ?? `HTTP ${status}`, error?.suggestion].filter(Boolean).join(". "));
    this.status = status;
  }
}

async function ask(path, options = {}) {
  const headers = { ...(options.headers ?? {}) };
  if (token) headers.Authorization = `Bearer ${token}`;
  const answer = await fetch(path, { ...options, headers, cache: "no-store" });
  const told = await answer.json().catch(() => ({}));
  if (answer.status === 401) find("entry").hidden = false;
  if (!answer.ok) throw new Refused(answer.status, told.error);
  return told;
}

// Elements are made, never parsed: nothing that a request said becomes markup.
function made(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "data") Object.assign(element.dataset, value);
    else if (name === "role" || name.startsWith("aria-")) element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

// What is shown of the server

async function lookAtHealth() {
  const pill = find("health");
  try {
    const health = await ask("health");
    const waiting = health.queued ? `, ${health.queued} waiting` : "";
    pill.textContent = health.status === "stopping" ? "shutting down" : `${health.backend}: ${health.busy ? "drawing" : "idle"}${waiting}`;
    pill.dataset.state = health.status === "stopping" ? "gone" : health.busy ? "busy" : "idle";
    return health.busy || health.queued > 0;
  } catch {
    pill.textContent = "server not reached";
    pill.dataset.state = "gone";
    return false;
  }
}

async function lookAtModels() {
  models = (await ask("v1/models")).data;
  find("model").replaceChildren(...models.map((model) => made("option", { value: model.id, textContent: model.id })));
  showSamplers();
}

function showSamplers() {
  const model = models.find((one) => one.id === find("model").value) ?? models[0];
  find("sampler").replaceChildren(...(model?.samplers ?? []).map((name) => made("option", { value: name, textContent: name })));
}

// What is shown of generations

function card(known) {
  const parts = {
    title: made("h3"), badge: made("span", { className: "badge" }), facts: made("p", { className: "facts" }),
    bar: made("i"), stage: made("p", { className: "hint" }), wrong: made("p", { className: "wrong", hidden: true }),
    shots: made("div", { className: "shots", hidden: true }),
    stop: made("button", { type: "button", className: "quiet", textContent: "Cancel" }),
  };
  parts.track = made("div", { className: "track", role: "progressbar", "aria-valuemin": 0, "aria-valuemax": 100, "aria-label": "Progress" }, parts.bar);
  parts.live = made("div", { className: "row between" }, parts.stage, parts.stop);
  parts.root = made("li", { className: "card", data: { id: known.id } },
    made("div", { className: "row between" }, parts.badge, parts.facts), parts.title, parts.track, parts.live, parts.wrong, parts.shots);
  parts.stop.addEventListener("click", async () => {
    parts.stop.disabled = true;
    try { await ask(`${route}/${encodeURIComponent(known.id)}`, { method: "DELETE" }); } catch (error) { say(error.message); }
    wake();
  });
  return parts;
}

function show(known) {
  const parts = cards.get(known.id) ?? card(known);
  cards.set(known.id, parts);
  const prompt = prompts.get(known.id);
  parts.title.textContent = prompt ?? "asked for elsewhere";
  parts.title.classList.toggle("other", !prompt);
  parts.badge.textContent = words[known.status] ?? known.status;
  parts.badge.dataset.status = known.status;
  const count = known.count > 1 ? `${known.count} × ` : "";
  const taken = parts.takenMs === undefined ? "" : ` · ${(parts.takenMs / 1000).toFixed(1)} s`;
  parts.facts.textContent = `${count}${known.width} × ${known.height} px · ${known.model} · ${new Date(known.createdAt).toLocaleTimeString()}${taken}`;
  const live = !terminal.has(known.status);
  parts.live.hidden = parts.track.hidden = !live;
  const progress = known.progress;
  const percent = progress?.percentage ?? 0;
  parts.bar.style.width = `${percent}%`;
  parts.track.setAttribute("aria-valuenow", Math.floor(percent));
  parts.stage.textContent = known.status === "pending"
    ? (known.position > 1 ? `place ${known.position} in the queue` : "next in the queue")
    : progress ? [
        progress.totalImages ? `picture ${progress.currentImage} of ${progress.totalImages}` : "",
        stages[progress.stage] ?? progress.stage,
        progress.stage === "diffusion" ? `step ${progress.currentStep} of ${progress.totalSteps}` : "",
        `${Math.floor(percent)} %`,
      ].filter(Boolean).join(" · ") : "beginning";
  parts.wrong.hidden = !known.error;
  parts.wrong.textContent = known.error ? `${known.error.message} (${known.error.code})` : "";
  if (known.status === "complete" && !results.has(known.id)) collect(known, parts);
  return parts.root;
}

async function collect(known, parts) {
  results.set(known.id, []);
  try {
    const told = await ask(`${route}/${encodeURIComponent(known.id)}`);
    const urls = told.result.images.map((one) => URL.createObjectURL(png(one.image)));
    results.set(known.id, urls);
    parts.shots.replaceChildren(...told.result.images.map((one, number) => shot(known, one, urls[number])));
    parts.shots.hidden = false;
    parts.takenMs = told.result.timeTaken;
  } catch {
    results.delete(known.id);
  }
}

function shot(known, one, url) {
  const again = made("button", { type: "button", className: "quiet", textContent: "Seed", title: "Use this seed" });
  again.addEventListener("click", () => { find("seed").value = one.seed; find("seed").focus(); });
  const from = made("button", { type: "button", className: "quiet", textContent: "Start from", title: "Start from this picture" });
  from.addEventListener("click", () => load(url));
  return made("figure", { className: "shot" },
    made("img", { src: url, width: one.width, height: one.height, alt: prompts.get(known.id) ?? `picture of seed ${one.seed}` }),
    made("figcaption", {}, made("span", { textContent: `seed ${one.seed}` }), again, from,
      made("a", { href: url, download: `${known.id}-${one.seed}.png`, textContent: "Save" })));
}

function png(base64) {
  const text = atob(base64);
  return new Blob([Uint8Array.from(text, (letter) => letter.charCodeAt(0))], { type: "image/png" });
}

async function lookAtList() {
  const told = await ask(`${route}?limit=${keptResults}`);
  const list = find("list");
  const order = told.data.map(show);
  order.forEach((root, place) => { if (list.children[place] !== root) list.insertBefore(root, list.children[place] ?? null); });
  while (list.children.length > order.length) list.lastChild.remove();
  const known = new Set(told.data.map((one) => one.id));
  for (const id of [...cards.keys()].filter((one) => !known.has(one))) {
    cards.delete(id);
    (results.get(id) ?? []).forEach((url) => URL.revokeObjectURL(url));
    results.delete(id);
  }
  find("empty").hidden = told.data.length > 0;
  find("total").textContent = told.total > told.data.length ? `the newest ${told.data.length} of ${told.total}` : "";
  return told.data.some((one) => !terminal.has(one.status));
}

// Watching, often while something is drawn

let timer = 0;
let looking = false;

async function watch() {
  clearTimeout(timer);
  if (looking) return;
  looking = true;
  let busy = await lookAtHealth();
  try {
    if (!models.length) await lookAtModels();
    busy = (await lookAtList()) || busy;
  } catch { /* the pill says it */ }
  looking = false;
  timer = setTimeout(watch, document.hidden ? 10000 : busy ? 500 : 2500);
}

function wake() { setTimeout(watch, 0); }

document.addEventListener("visibilitychange", () => { if (!document.hidden) wake(); });

// Asking for a picture

function say(text) {
  find("said").textContent = text;
}

function fields() {
  const number = (id) => (find(id).value.trim() === "" ? undefined : Number(find(id).value));
  const asked = {
    prompt: find("prompt").value, width: number("width"), height: number("height"), steps: number("steps"),
    cfgScale: number("cfg"), seed: number("seed"), count: number("count"),
  };
  if (find("negative").value.trim()) asked.negativePrompt = find("negative").value;
  if (find("model").value) asked.model = find("model").value;
  if (find("sampler").value) asked.sampler = find("sampler").value;
  if (picture) {
    asked.image = bare(find("picture"));
    asked.strength = Number(find("strength").value);
    asked.width = find("picture").width;
    asked.height = find("picture").height;
    if (isPainted) asked.mask = mask();
  }
  return asked;
}

const bare = (canvas) => canvas.toDataURL("image/png").split(",")[1];

function mask() {
  const painted = find("brush");
  const canvas = made("canvas", { width: painted.width, height: painted.height });
  const context = canvas.getContext("2d");
  const pixels = painted.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  for (let at = 0; at < pixels.data.length; at += 4) {
    pixels.data.fill(pixels.data[at + 3] > 127 ? 255 : 0, at, at + 3);
    pixels.data[at + 3] = 255;
  }
  context.putImageData(pixels, 0, 0);
  return bare(canvas);
}

find("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  if (!find("prompt").value.trim()) { say("Write what to draw."); find("prompt").focus(); return; }
  find("draw").disabled = true;
  say("");
  try {
    const asked = fields();
    const told = await ask(route, {
      method: "POST", body: JSON.stringify(asked), headers: { "Content-Type": "application/json", "Idempotency-Key": fresh() },
    });
    prompts.set(told.id, asked.prompt);
    remember("prompts", [...prompts].slice(-50));
    say("");
  } catch (error) {
    say(error instanceof Refused ? error.message : "The server is not reached.");
  }
  find("draw").disabled = false;
  wake();
});

const fresh = () => [...crypto.getRandomValues(new Uint8Array(16))].map((one) => one.toString(16).padStart(2, "0")).join("");

find("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) find("form").requestSubmit();
});
find("model").addEventListener("change", showSamplers);
find("strength").addEventListener("input", () => { find("strength-now").textContent = find("strength").value; });
find("entry").addEventListener("submit", (event) => {
  event.preventDefault();
  token = find("token").value.trim();
  remember("token", token);
  find("entry").hidden = true;
  models = [];
  wake();
});

// The picture to start from, and the paint that says where to draw

async function load(url) {
  const image = new Image();
  image.src = url;
  try { await image.decode(); } catch { say("That is no picture."); return; }
  const scale = Math.min(1, 1024 / Math.max(image.naturalWidth, image.naturalHeight));
  const side = (length) => Math.max(16, Math.round((length * scale) / 8) * 8);
  for (const id of ["picture", "brush"]) {
    find(id).width = side(image.naturalWidth);
    find(id).height = side(image.naturalHeight);
  }
  find("picture").getContext("2d").drawImage(image, 0, 0, find("picture").width, find("picture").height);
  find("width").value = find("picture").width;
  find("height").value = find("picture").height;
  find("width").disabled = find("height").disabled = true;
  find("easel").hidden = false;
  picture = true;
  isPainted = false;
  find("easel").scrollIntoView({ block: "nearest" });
}

function discard() {
  picture = null;
  isPainted = false;
  find("easel").hidden = true;
  find("file").value = "";
  find("width").disabled = find("height").disabled = false;
}

function take(files) {
  if (files.length) load(URL.createObjectURL(files[0]));
}

find("file").addEventListener("change", () => take(find("file").files));
find("discard").addEventListener("click", discard);
find("unpaint").addEventListener("click", () => {
  find("brush").getContext("2d").clearRect(0, 0, find("brush").width, find("brush").height);
  isPainted = false;
});
for (const kind of ["dragover", "dragleave", "drop"]) {
  find("drop").addEventListener(kind, (event) => {
    event.preventDefault();
    find("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop") take(event.dataTransfer.files);
  });
}

function paint(event) {
  if (!(event.buttons & 1)) return;
  const brush = find("brush");
  const box = brush.getBoundingClientRect();
  const scale = brush.width / box.width;
  const context = brush.getContext("2d");
  context.fillStyle = "#f2b35d";
  context.beginPath();
  context.arc((event.clientX - box.left) * scale, (event.clientY - box.top) * scale, brush.width / 16, 0, 2 * Math.PI);
  context.fill();
  isPainted = true;
}

find("brush").addEventListener("pointerdown", (event) => { find("brush").setPointerCapture(event.pointerId); paint(event); });
find("brush").addEventListener("pointermove", paint);

watch();
