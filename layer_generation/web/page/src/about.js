// What is known of the quadrant under the cursor.
import { get } from "./api.js";
import { BITS, has, key, on, state } from "./state.js";
import { element, isolated } from "./page.js";

const place = document.getElementById("about");
let asked = 0;

const NAMES = { render: "Render", generation: "Generation" };
const degrees = (value, [plus, minus]) => `${Math.abs(value).toFixed(5)}° ${value < 0 ? minus : plus}`;

function madeBy(picture) {
  const made = picture?.made;
  if (!made) return "";
  const model = state.facts.models.find((one) => one.model_id === made.model)?.name ?? made.model;
  return [isolated(model), made.seed != null ? `seed ${made.seed}` : "", made.seconds != null ? `${made.seconds} s` : ""].filter(Boolean).join(" · ");
}

async function show() {
  const [x, y] = state.cursor;
  const number = ++asked;
  if (!state.quadrants.has(key(x, y))) {
    place.replaceChildren(element("p", { className: "faint", textContent: `${x}, ${y} is not on the map.` }));
    return;
  }
  let known;
  try {
    known = await get(`/api/quadrants/${x}/${y}`);
  } catch {
    return;
  }
  if (number !== asked || !known) return;
  const lines = [element("h2", { textContent: `Quadrant ${x}, ${y}` })];
  if (known.corners) {
    const [lat, lon] = [0, 1].map((axis) => known.corners.reduce((sum, corner) => sum + corner[axis], 0) / 4);
    lines.push(element("p", { className: "faint", textContent: `${degrees(lat, "NS")}, ${degrees(lon, "EW")}` }));
  }
  if (!Object.keys(known.pictures).length) lines.push(element("p", { className: "faint", textContent: "No picture yet." }));
  for (const [kind, picture] of Object.entries(known.pictures)) {
    const by = madeBy(picture);
    lines.push(
      element("p", {}, [
        element("a", { href: `/pictures/${kind}/${x}/${y}.png`, target: "_blank", rel: "noopener", textContent: NAMES[kind] ?? kind }),
        element("span", { className: "faint", textContent: ` ${Math.round(picture.bytes / 1024)} kB${by ? ` · ${by}` : ""}` }),
      ]),
    );
    if (picture.made?.prompt) lines.push(element("p", { className: "quote", textContent: picture.made.prompt }));
  }
  if (known.flags.length) lines.push(element("p", { textContent: known.flags.map((flag) => flag.replace("is_", "")).join(", ") }));
  if (known.notes) lines.push(element("p", { className: "quote", textContent: known.notes }));
  place.replaceChildren(...lines);
}

// For those who hear the map: what the cursor is at.
const spoken = document.getElementById("spoken");
export function speak() {
  const [x, y] = state.cursor;
  const bits = state.quadrants.get(key(x, y));
  if (bits === undefined) return (spoken.textContent = `${x}, ${y}: not on the map`);
  const marks = Object.entries(WORDS).filter(([name]) => bits & BITS[name]).map(([, word]) => word);
  const isChosen = state.selected.has(key(x, y)) || isInBox(x, y);
  spoken.textContent = `Quadrant ${x}, ${y}: ${marks.join(", ") || "no picture"}${isChosen ? ", selected" : ""}`;
}
const WORDS = { render: "render", generation: "generation", flagged: "flagged", starred: "starred", is_water: "water", is_reference: "reference", note: "a note" };
const isInBox = (x, y) => Boolean(state.box) && x >= state.box[0] && x <= state.box[2] && y >= state.box[1] && y <= state.box[3];

let later;
const soon = () => {
  clearTimeout(later);
  later = setTimeout(show, 120);
};
on("cursor", soon);
on("cursor", () => state.keyed && speak());
on("selection", () => state.keyed && speak());
on("quadrants", (names) => {
  if (names.includes(key(...state.cursor))) soon();
});
on("layer", () => has(...state.cursor) && soon());
