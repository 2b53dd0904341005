// Small things that every part of the page needs: elements, words that come and go, questions.
import { Refused } from "./api.js";

export function element(name, properties = {}, children = []) {
  const node = document.createElement(name);
  Object.assign(node, properties);
  node.append(...children);
  return node;
}

export function says(text, kind = "") {
  const toasts = document.getElementById("toasts");
  const toast = element("p", { className: `toast ${kind}`, textContent: text });
  toasts.append(toast);
  while (toasts.children.length > 4) toasts.firstChild.remove();
  setTimeout(() => toast.remove(), kind === "bad" ? 12000 : 4000);
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
