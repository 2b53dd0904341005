// The keyboard: everything that a pointer can do.
import { element } from "./page.js";

const KEYS = [
  [["← ↑ ↓ →"], "Move the cursor; with Shift, stretch a rectangle"],
  [["Space", "Enter"], "Select the quadrant under the cursor"],
  [["B"], "Select a rectangle by two corners"],
  [["Esc"], "Clear the selection; leave a field for the map"],
  [["G"], "Generate what is selected"],
  [["R"], "Render what is selected"],
  [["E"], "Notes, marks, PNG out and in, colours"],
  [["Delete"], "Delete generations of what is selected"],
  [["F", "S"], "Flag for review, star"],
  [["N", "Shift N"], "Next, previous flagged"],
  [["]", "["], "Next, previous starred"],
  [["1 … 9", "D"], "A layer, the next layer"],
  [["V"], "The render, while held"],
  [["L", "C"], "Lines, coordinates"],
  [["+", "−", "0"], "Zoom in, zoom out, show all"],
  [["P"], "Fold the panel"],
  [["?"], "This help"],
];

export function openHelp() {
  const dialog = document.getElementById("help");
  dialog.replaceChildren(
    element("form", { method: "dialog" }, [
      element("h2", { id: "helpTitle", textContent: "Keys" }),
      element("dl", {}, KEYS.flatMap(([keys, meaning]) => [element("dt", {}, keys.map((one) => element("kbd", { textContent: one }))), element("dd", { textContent: meaning })])),
      element("p", { className: "faint", textContent: "With a pointer: a click selects, up to four; dragging moves the map; Shift and drag selects a rectangle." }),
      element("div", { className: "row end" }, [element("button", { textContent: "Close", className: "main" })]),
    ]),
  );
  dialog.showModal();
}

// `run` takes the name of an action; typing in a field is left alone.
export function listenKeys(run) {
  const plain = { g: "generate", r: "render", f: "flag", s: "star", e: "edit", b: "box", d: "nextLayer", l: "lines", c: "coords", p: "fold", "?": "help", "+": "zoomIn", "=": "zoomIn", "-": "zoomOut", 0: "fit", "]": "nextStarred", "[": "previousStarred", Delete: "remove", Backspace: "remove", Escape: "clear" };
  const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    if (event.target.closest?.("input, textarea, select")) {
      if (event.key === "Escape") document.getElementById("map").focus();
      return;
    }
    const onButton = event.target.closest?.("button, a, summary");
    let action;
    if (arrows[event.key]) action = ["move", arrows[event.key], event.shiftKey];
    else if ((event.key === " " || event.key === "Enter") && !onButton) action = ["select"];
    else if (event.key.toLowerCase() === "n") action = [event.shiftKey ? "previousFlagged" : "nextFlagged"];
    else if (/^[1-9]$/.test(event.key)) action = ["layer", Number(event.key) - 1];
    else if (event.key.toLowerCase() === "v") action = event.repeat ? null : ["peek", true];
    else if (plain[event.key] ?? plain[event.key.toLowerCase()]) action = [plain[event.key] ?? plain[event.key.toLowerCase()]];
    if (!action) return;
    event.preventDefault();
    run(...action);
  });
  addEventListener("keyup", (event) => {
    if (event.key.toLowerCase() === "v") run("peek", false);
  });
}
