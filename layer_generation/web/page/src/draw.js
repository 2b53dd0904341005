// What is drawn by hand: the quadrants' ground under the pictures; over them lines, marks and what waits;
// over that what moves: selection, cursor, what is being made. Three canvases, so that what moves is little.
import { cornerOf, map, side as sideOf, view } from "./grid.js";
import { BITS, has, key, on, placeOf, rowsOfMap, state } from "./state.js";

const ground = layer("ground");
const still = layer("still");
const live = layer("live");
let wanted = 0;
let isStill = true; // whether only what moves is to be drawn
let colors = {};
let rubber = null; // a rectangle that is being drawn

function layer(name) {
  const canvas = document.createElement("canvas");
  canvas.className = `drawn ${name}`;
  canvas.ariaHidden = "true";
  return { canvas, pen: canvas.getContext("2d") };
}

export function stretch(box) {
  rubber = box;
  move();
}

// All of it, with the next frame.
export function redraw() {
  isStill = false;
  move();
}

// Only what moves.
export function move() {
  if (!wanted) wanted = requestAnimationFrame(draw);
}

function draw(now) {
  wanted = 0;
  const frame = { side: sideOf(), view: view(), origin: cornerOf(0, 0) };
  if (!isStill) {
    isStill = true;
    drawGround(cleared(ground), frame);
    const pen = cleared(still);
    drawQuadrants(pen, frame);
    drawItems(pen, frame, now, (item) => item.status !== "processing");
  }
  const pen = cleared(live);
  const moving = drawItems(pen, frame, now, (item) => item.status === "processing");
  drawSelection(pen, frame);
  if (moving && !matchMedia("(prefers-reduced-motion: reduce)").matches) setTimeout(move, 40);
}

function cleared({ canvas, pen }) {
  const { x: width, y: height } = map.getSize();
  const ratio = devicePixelRatio || 1;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
  }
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, height);
  return pen;
}

// Runs of quadrants beside each other that are in view: y, first x, x behind the last.
function* runs([left, top, right, bottom]) {
  for (const [y, row] of rowsOfMap()) {
    if (y < top || y > bottom) continue;
    let from = null;
    let last = null;
    for (const x of row) {
      if (x < left) continue;
      if (x > right) break;
      if (from !== null && x !== last + 1) {
        yield [y, from, last + 1];
        from = null;
      }
      from ??= x;
      last = x;
    }
    if (from !== null) yield [y, from, last + 1];
  }
}

function drawGround(pen, { side, view: seen, origin }) {
  pen.fillStyle = colors.sheet;
  const across = (x) => Math.round(origin.x + x * side);
  const down = (y) => Math.round(origin.y + y * side);
  for (const [y, from, to] of runs(seen)) pen.fillRect(across(from), down(y), Math.max(1, across(to) - across(from)), Math.max(1, down(y + 1) - down(y)));
}

function drawQuadrants(pen, frame) {
  const { side, view: seen, origin } = frame;
  if (state.lines && side >= 6) drawLines(pen, frame);
  if (side < 10) return;
  pen.textBaseline = "top";
  for (const [y, from, to] of runs(seen)) {
    for (let x = from; x < to; x++) {
      const at = { x: origin.x + x * side, y: origin.y + y * side };
      const bits = state.quadrants.get(key(x, y));
      if (bits & ~3) drawMarks(pen, bits, at, side);
      if (state.coords && side >= 34) drawPlace(pen, x, y, at, side);
    }
  }
}

// In one line, or one below the other, or not at all, as it fits.
function drawPlace(pen, x, y, at, side) {
  pen.font = "11px ui-monospace, monospace";
  const fits = (text) => pen.measureText(text).width + 12 <= side;
  if (fits(`${x}, ${y}`)) label(pen, `${x}, ${y}`, at.x + 6, at.y + side - 18);
  else if (fits(`${x}`) && fits(`${y}`)) {
    label(pen, `${x}`, at.x + 6, at.y + side - 32);
    label(pen, `${y}`, at.x + 6, at.y + side - 16);
  }
}

function drawLines(pen, { side, view: seen, origin }) {
  const across = (x) => Math.round(origin.x + x * side) + 0.5;
  const down = (y) => Math.round(origin.y + y * side) + 0.5;
  pen.beginPath();
  for (const [y, from, to] of runs(seen)) {
    pen.moveTo(across(from), down(y));
    pen.lineTo(across(to), down(y));
    for (let x = from; x < to; x++) {
      if (state.quadrants.has(key(x, y + 1))) continue; // whose own upper edge it is
      pen.moveTo(across(x), down(y + 1));
      pen.lineTo(across(x + 1), down(y + 1));
    }
    for (let x = from; x <= to; x++) {
      pen.moveTo(across(x), down(y));
      pen.lineTo(across(x), down(y + 1));
    }
  }
  pen.lineWidth = 1;
  pen.strokeStyle = colors.grid;
  pen.stroke();
}

function drawMarks(pen, bits, at, side) {
  const signs = [];
  if (bits & BITS.flagged) signs.push(["⚑", colors.flag]);
  if (bits & BITS.starred) signs.push(["★", colors.star]);
  if (bits & BITS.is_water) signs.push(["≈", colors.water]);
  if (bits & BITS.is_reference) signs.push(["◆", "#fff"]);
  if (bits & BITS.note) signs.push(["✎", "#fff"]);
  const size = Math.max(8, Math.min(18, side / 5));
  pen.font = `${size}px system-ui, sans-serif`;
  pen.lineJoin = "round";
  signs.forEach(([sign, fill], number) => {
    pen.lineWidth = 3;
    pen.strokeStyle = "rgb(0 0 0 / 0.65)";
    const x = at.x + side - (number + 1) * (size + 3);
    pen.strokeText(sign, x, at.y + 4);
    pen.fillStyle = fill;
    pen.fillText(sign, x, at.y + 4);
  });
}

function label(pen, text, x, y) {
  const { width } = pen.measureText(text);
  pen.fillStyle = "rgb(0 0 0 / 0.62)";
  pen.beginPath();
  pen.roundRect(x - 4, y - 2, width + 8, 16, 3);
  pen.fill();
  pen.fillStyle = "#fff";
  pen.fillText(text, x, y);
}

const isDone = (item) => item.quadrants.every(([x, y]) => has(x, y, item.item_type === "render" ? "render" : "generation"));

function drawItems(pen, { side, view: [left, top, right, bottom], origin }, now, isWanted) {
  let some = false;
  pen.textBaseline = "top";
  for (const item of state.items.values()) {
    if (!["pending", "processing", "error"].includes(item.status) || !isWanted(item) || !item.quadrants.length) continue;
    some = true;
    if (item.status === "error" && isDone(item)) continue;
    const xs = item.quadrants.map(([x]) => x);
    const ys = item.quadrants.map(([, y]) => y);
    const [x, y, columns, rows] = [Math.min(...xs), Math.min(...ys), Math.max(...xs) - Math.min(...xs) + 1, Math.max(...ys) - Math.min(...ys) + 1];
    if (x > right || y > bottom || x + columns < left || y + rows < top) continue;
    const running = item.status === "processing";
    const shade = item.status === "error" || item.isHeld ? colors.bad : running ? colors.running : colors.waiting;
    pen.globalAlpha = 0.3;
    pen.fillStyle = shade;
    for (const [column, row] of item.quadrants) pen.fillRect(origin.x + column * side, origin.y + row * side, side, side);
    pen.globalAlpha = 1;
    if (item.quadrants.length > 4 || side < 5) continue;
    const at = { x: origin.x + x * side, y: origin.y + y * side };
    pen.strokeStyle = shade;
    pen.lineWidth = 2;
    pen.setLineDash(running ? [8, 6] : []);
    pen.lineDashOffset = running ? -now / 40 : 0;
    pen.strokeRect(at.x + 1, at.y + 1, columns * side - 2, rows * side - 2);
    pen.setLineDash([]);
    if (Math.min(columns, rows) * side >= 26) {
      pen.font = "bold 12px system-ui, sans-serif";
      label(pen, item.status === "error" ? "failed" : item.isHeld ? "held" : running ? "…" : `${item.place ?? ""}`, at.x + 8, at.y + 8);
    }
  }
  return some;
}

function drawSelection(pen, { side, origin }) {
  const outline = (x, y, columns, rows) => {
    const at = { x: origin.x + x * side, y: origin.y + y * side };
    pen.fillStyle = colors.selected;
    pen.fillRect(at.x, at.y, columns * side, rows * side);
    for (const [width, shade] of [[5, "rgb(0 0 0 / 0.55)"], [2.5, colors.select]]) {
      pen.lineWidth = width;
      pen.strokeStyle = shade;
      pen.strokeRect(at.x, at.y, columns * side, rows * side);
    }
  };
  for (const name of state.selected) outline(...placeOf(name), 1, 1);
  const box = rubber ?? state.box;
  if (box) outline(Math.min(box[0], box[2]), Math.min(box[1], box[3]), Math.abs(box[2] - box[0]) + 1, Math.abs(box[3] - box[1]) + 1);
  if (document.activeElement !== map.getContainer() && !state.keyed) return;
  const [x, y] = state.cursor;
  const inset = Math.min(5, side / 6);
  for (const [width, shade] of [[4, "rgb(0 0 0 / 0.5)"], [2, "#fff"]]) {
    pen.lineWidth = width;
    pen.strokeStyle = shade;
    pen.strokeRect(origin.x + x * side + inset, origin.y + y * side + inset, side - 2 * inset, side - 2 * inset);
  }
}

function readColors() {
  const styles = getComputedStyle(document.documentElement);
  const names = ["sheet", "grid", "flag", "star", "water", "bad", "running", "waiting", "select", "selected"];
  colors = Object.fromEntries(names.map((name) => [name, styles.getPropertyValue(`--${name}`).trim()]));
  redraw();
}

export function beginDrawing() {
  map.getContainer().append(ground.canvas, still.canvas, live.canvas);
  map.on("move zoom zoomanim viewreset resize", redraw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", readColors);
  on("selection", move);
  on("cursor", move);
  on("queue", redraw);
  readColors();
}
