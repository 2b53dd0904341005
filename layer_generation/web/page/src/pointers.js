// Pointers on the map: a click selects, Shift and drag or two corners select a rectangle.
import { map, quadrantAt } from "./grid.js";
import { move, stretch } from "./draw.js";
import { selectBox, state, tell, toggle } from "./state.js";

let firstCorner = null;
let suppressed = -1e9; // when a drag ended, whose click is none

export function setBoxMode(isOn) {
  firstCorner = null;
  stretch(null);
  state.boxMode = isOn;
  map.getContainer().classList.toggle("boxing", isOn);
  tell("mode");
}

// What a click does, or Space with the cursor there. Tells whether there was something to choose.
export function choose(place) {
  if (!state.boxMode) return toggle(...place);
  if (!firstCorner) {
    firstCorner = place;
    stretch([...place, ...place]);
    tell("mode");
    return true;
  }
  const from = firstCorner;
  setBoxMode(false);
  selectBox(from, place);
  return true;
}

// The second corner follows the pointer, or the cursor.
export function follow(place) {
  if (firstCorner) stretch([...firstCorner, ...place]);
}

export const hasCorner = () => firstCorner !== null;

function shiftDrag(container) {
  let from = null;
  let box = null;
  container.addEventListener("pointerdown", (event) => {
    if (!event.shiftKey || event.button !== 0) return;
    from = quadrantAt(event);
    map.dragging.disable();
    container.setPointerCapture(event.pointerId);
  });
  container.addEventListener("pointermove", (event) => {
    if (from) stretch((box = [...from, ...quadrantAt(event)]));
    else follow(quadrantAt(event));
  });
  const over = (event) => {
    if (!from) return;
    if (box && event.type === "pointerup") {
      state.cursor = box.slice(2);
      selectBox(box.slice(0, 2), box.slice(2));
      tell("cursor");
    }
    from = box = null;
    stretch(null);
    map.dragging.enable();
    suppressed = performance.now();
  };
  container.addEventListener("pointerup", over);
  container.addEventListener("pointercancel", over);
}

export function beginPointers() {
  map.on("click", (event) => {
    if (performance.now() - suppressed < 250) return;
    state.cursor = quadrantAt(event.originalEvent);
    state.keyed = false;
    tell("cursor");
    choose(state.cursor);
    move();
  });
  shiftDrag(map.getContainer());
}
