// Changes by hand: notes, flags of two more kinds, rectangles out and in, colours.
import { get, post, send } from "./api.js";
import { attempt, ask, element, says } from "./page.js";
import { chosenBody, key, selection, state, toggle } from "./state.js";

const dialog = document.getElementById("edit");
const MINE = ["generation", "render"]; // layers that a picture can be put into

const field = (label, control) => element("label", {}, [label, control]);
const check = (label, control) => element("label", { className: "check" }, [control, label]);
const button = (text, run, name = "") => element("button", { type: "button", textContent: text, className: name, onclick: run });
const section = (title, children) => element("fieldset", {}, [element("legend", { textContent: title }), ...children]);
const count = (number, word = "quadrant") => `${number} ${word}${number === 1 ? "" : "s"}`;
const choice = (layers, chosen) => element("select", {}, layers.map(({ id, name }) => element("option", { value: id, textContent: name, selected: id === chosen })));

function corners(places) {
  const xs = places.map(([x]) => x);
  const ys = places.map(([, y]) => y);
  return [Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys)];
}

function notes(places) {
  const text = element("textarea", { rows: 2, ariaLabel: "Note" });
  if (places.length === 1) {
    text.disabled = true; // until the note that there is has come
    get(`/api/quadrants/${places[0].join("/")}`).then((known) => (text.value = known?.notes ?? "")).catch(() => {}).finally(() => (text.disabled = false));
  } else text.placeholder = `in place of the notes of all ${places.length}`;
  const save = () => attempt(async () => {
    if (text.disabled) return;
    await post("/api/note", { ...chosenBody(), text: text.value });
    says("Note kept.");
  });
  return section("Note", [text, element("div", { className: "row end" }, [button("Keep the note", save)])]);
}

function marks() {
  const set = (flag, value) => () => attempt(async () => {
    const { changed } = await post("/api/flag", { ...chosenBody(), flag, value });
    says(`${count(changed)} marked.`);
  });
  return section("Marks", [
    element("div", { className: "row small" }, [
      button("Water", set("is_water", true)),
      button("No water", set("is_water", false)),
      button("Reference", set("is_reference", true)),
      button("No reference", set("is_reference", false)),
    ]),
  ]);
}

function takeOut([left, top, right, bottom]) {
  const layer = choice(state.facts.layers, state.layer);
  const partial = element("input", { type: "checkbox" });
  const out = () => attempt(async () => {
    const missing = partial.checked ? "transparent" : "refuse";
    const query = new URLSearchParams({ top_left: `${left},${top}`, bottom_right: `${right},${bottom}`, layer: layer.value, missing });
    const answer = await get(`/api/export?${query}`);
    const link = element("a", { href: URL.createObjectURL(await answer.blob()), download: `${layer.value.replace(/\W/g, "_")}_${left}_${top}_${right}_${bottom}.png` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  });
  const [columns, rows] = [right - left + 1, bottom - top + 1];
  return section("Take out as PNG", [
    element("p", { className: "faint", textContent: `${columns} × ${rows} quadrants, ${columns * 512} × ${rows * 512} px` }),
    element("div", { className: "row" }, [field("From layer", layer), button("Download", out)]),
    check("Transparent where something is missing", partial),
  ]);
}

function putBack([left, top]) {
  const layers = MINE.map((id) => state.facts.layers.find((one) => one.id === id));
  const layer = choice(layers, MINE.includes(state.layer) ? state.layer : "generation");
  const file = element("input", { type: "file", accept: "image/png" });
  const over = element("input", { type: "checkbox" });
  const back = () => attempt(async () => {
    if (!file.files.length) return says("Choose a PNG first.", "bad");
    const query = new URLSearchParams({ top_left: `${left},${top}`, layer: layer.value, overwrite: over.checked });
    const { written } = await send(`/api/import?${query}`, file.files[0]);
    says(`${count(written)} written.`);
    dialog.close();
  });
  return section("Put a PNG back", [
    element("p", { className: "faint", textContent: `Its top left corner goes to ${left}, ${top}. What is transparent in it stays as it is.` }),
    field("PNG", file),
    element("div", { className: "row" }, [field("Into layer", layer), button("Put it back", back)]),
    check("Change pictures that are there", over),
  ]);
}

function colors(places) {
  const from = element("input", { type: "color", value: "#4a6372" });
  const to = element("input", { type: "color", value: "#7fb2c9" });
  const soft = element("input", { type: "range", min: 0, max: 60, value: 10 });
  const change = () => attempt(async () => {
    const body = { ...chosenBody(), color: from.value, replacement: to.value, softness: Number(soft.value) };
    const { changed } = await post("/api/replace-color", body);
    says(changed ? `${count(changed)} changed.` : "No generation here has that colour.");
  });
  const fill = () => attempt(async () => {
    if (!(await ask(`Fill ${count(places.length)} with one colour, in place of the generations that are there?`, "Fill"))) return;
    const { changed } = await post("/api/fill", { quadrants: places, color: to.value });
    says(`${count(changed)} filled.`);
  });
  return section("Colours of generations", [
    element("div", { className: "row" }, [field("Colour", from), field("becomes", to), field("and near ones, softly", soft)]),
    element("div", { className: "row small" }, [button("Replace", change), button("Fill with the second", fill)]),
  ]);
}

function title(places, [left, top, right, bottom]) {
  if (places.length === 1) return `Quadrant ${left}, ${top}`;
  return `${count(places.length)}, ${left}, ${top} to ${right}, ${bottom}`;
}

export function openEdit() {
  if (!selection().length) {
    const [x, y] = state.cursor;
    if (!state.quadrants.has(key(x, y))) return says("Select a quadrant first.", "bad");
    toggle(x, y);
  }
  const places = selection();
  const box = corners(places);
  const close = element("button", { textContent: "×", className: "close", ariaLabel: "Close", formNoValidate: true });
  dialog.replaceChildren(
    element("form", { method: "dialog" }, [
      element("div", { className: "head" }, [element("h2", { id: "editTitle", textContent: title(places, box) }), close]),
      notes(places),
      marks(),
      takeOut(box),
      putBack(box),
      colors(places),
    ]),
  );
  dialog.showModal();
  dialog.scrollTop = 0;
}
