// Small things that every part of the page needs: elements, words that come and go, questions.
import { Refused } from "./api.js";

export function element(name, properties = {}, children = []) {
  const node = document.createElement(name);
  Object.assign(node, properties);
  node.append(...children);
  return node;
}

// Words from elsewhere within a sentence, whichever way they are written: the rest keeps its direction.
export const isolated = (text) => `\u2068${String(text).replace(/[\u2066-\u2069]/g, "")}\u2069`;

// A message that comes and goes. At most four are there, errors last; the same again is counted, and one of a
// `topic` takes the place of the one before.
const MOST_SAID = 4;
const SHOWN_MS = { bad: 12000, "": 4500 };
export function says(text, kind = "", topic = text) {
  const place = document.getElementById("toasts");
  const said = [...place.children];
  let toast = said.find((one) => one.topic === topic && one.kind === kind);
  const times = toast && toast.text === text ? toast.times + 1 : 1;
  if (!toast) {
    toast = element("p", { className: `toast ${kind}`, title: "Click to dismiss", onclick: () => toast.remove() });
    if (kind === "bad") toast.setAttribute("role", "alert");
    place.append(toast);
  }
  Object.assign(toast, { topic, kind, text, times, textContent: times > 1 ? `${text} (${times} times)` : text });
  clearTimeout(toast.end);
  const leave = () => (toast.matches(":hover") ? (toast.end = setTimeout(leave, 1000)) : toast.remove());
  toast.end = setTimeout(leave, SHOWN_MS[kind]);
  while (place.children.length > MOST_SAID) ([...place.children].find((one) => one.kind !== "bad" && one !== toast) ?? place.firstChild).remove();
  return toast;
}

export async function attempt(run) {
  try {
    return await run();
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    says(error.message, "bad");
    return undefined;
  }
}

// Each question has a dialog of its own: a browser tells that one was closed only with its next frame, by
// which time another may be open. The answer is taken where it is given, from the button.
export function ask(question, yes) {
  return new Promise((answer) => {
    const dialog = element("dialog", { className: "sure", ariaLabel: question });
    const settle = (isYes) => {
      dialog.close(); // gives the focus back
      dialog.remove();
      answer(isYes);
    };
    dialog.append(
      element("p", { textContent: question }),
      element("div", { className: "row" }, [
        element("button", { type: "button", textContent: "No", onclick: () => settle(false) }),
        element("button", { type: "button", textContent: yes, className: "main", onclick: () => settle(true) }),
      ]),
    );
    dialog.onclose = () => settle(false); // Escape
    document.body.append(dialog);
    dialog.showModal();
  });
}
