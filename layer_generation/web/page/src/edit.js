// Changes by hand: notes, flags of two more kinds, rectangles out and in, colours.
import { get, post, send } from "./api.js";
import { attempt, element, says } from "./page.js";
import { chosenBody, key, selection, state } from "./state.js";

const dialog = document.getElementById("edit");

const corners = () => {
  const places = selection();
  const xs = places.map(([x]) => x);
  const ys = places.map(([, y]) => y);
  return [Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys)];
};

const field = (label, control) => element("label", {}, [label, control]);
const button = (text, run, name = "") => element("button", { type: "button", textContent: text, className: name, onclick: run });

function notes(places) {
  const text = element("textarea", { rows: 2 });
  if (places.length === 1) get(`/api/quadrants/${places[0].join("/")}`).then((known) => (text.value ||= known?.notes ?? ""), () => {});
  const save = () => attempt(async () => {
    await post("/api/note", { ...chosenBody(), text: text.value });
    says("Note kept.");
  });
  return section("Note", [field("", text), button("Keep the note", save)]);
}

function marks() {
  const set = (flag, value) => () => attempt(async () => {
    const { changed } = await post("/api/flag", { ...chosenBody(), flag, value });
    says(`${changed} marked.`);
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

function exchange() {
  const [left, top, right, bottom] = corners();
  const layer = element("select", {}, state.facts.layers.map(({ id, name }) => element("option", { value: id, textContent: name, selected: id === state.layer })));
  const partial = element("input", { type: "checkbox" });
  const out = () => attempt(async () => {
    const missing = partial.checked ? "transparent" : "refuse";
    const query = new URLSearchParams({ top_left: `${left},${top}`, bottom_right: `${right},${bottom}`, layer: layer.value, missing });
    const answer = await get(`/api/export?${query}`);
    const link = element("a", { href: URL.createObjectURL(await answer.blob()), download: `${layer.value.replace(/\W/g, "_")}_${left}_${top}_${right}_${bottom}.png` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  });
  const file = element("input", { type: "file", accept: "image/png" });
  const over = element("input", { type: "checkbox" });
  const back = () => attempt(async () => {
    if (!file.files.length) return says("Choose a PNG first.", "bad");
    const query = new URLSearchParams({ top_left: `${left},${top}`, layer: "generation", overwrite: over.checked });
    const { written } = await send(`/api/import?${query}`, file.files[0]);
    says(`${written} quadrants written.`);
    dialog.close();
  });
  return section("Edit elsewhere", [
    field("Layer", layer),
    element("label", { className: "check" }, [partial, " transparent where something is missing"]),
    button("Download as one PNG", out),
    field(`PNG to put back at ${left}, ${top}`, file),
    element("label", { className: "check" }, [over, " replace generations that are there"]),
    button("Put it back", back),
  ]);
}

function colors() {
  const from = element("input", { type: "color", value: "#4a6372" });
  const to = element("input", { type: "color", value: "#4a6372" });
  const soft = element("input", { type: "range", min: 0, max: 60, value: 10 });
  const change = () => attempt(async () => {
    const body = { ...chosenBody(), color: from.value, replacement: to.value, softness: Number(soft.value) };
    const { changed } = await post("/api/replace-color", body);
    says(`${changed} quadrants changed.`);
  });
  const fill = () => attempt(async () => {
    const { changed } = await post("/api/fill", { quadrants: selection(), color: to.value });
    says(`${changed} quadrants filled.`);
    dialog.close();
  });
  return section("Colours", [
    element("div", { className: "row" }, [field("Colour", from), field("becomes", to), field("softly", soft)]),
    element("div", { className: "row small" }, [button("Replace in generations", change), button("Fill whole quadrants", fill)]),
  ]);
}

const section = (title, children) => element("fieldset", {}, [element("legend", { textContent: title }), ...children]);

export function openEdit() {
  const places = selection();
  if (!places.length) {
    const [x, y] = state.cursor;
    if (!state.quadrants.has(key(x, y))) return says("Select a quadrant first.", "bad");
    state.selected.add(key(x, y));
    places.push([x, y]);
  }
  dialog.replaceChildren(
    element("form", { method: "dialog" }, [
      element("h2", { id: "editTitle", textContent: places.length === 1 ? `Quadrant ${places[0].join(", ")}` : `${places.length} quadrants` }),
      notes(places),
      marks(),
      exchange(),
      colors(),
      element("div", { className: "row end" }, [element("button", { textContent: "Close", className: "main" })]),
    ]),
  );
  dialog.showModal();
}
