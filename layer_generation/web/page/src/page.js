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

export function ask(question, yes) {
  const dialog = document.getElementById("sure");
  return new Promise((answer) => {
    dialog.replaceChildren(
      element("form", { method: "dialog" }, [
        element("p", { textContent: question }),
        element("div", { className: "row" }, [
          element("button", { value: "", textContent: "No" }),
          element("button", { value: "yes", textContent: yes, className: "main" }),
        ]),
      ]),
    );
    dialog.onclose = () => answer(dialog.returnValue === "yes");
    dialog.returnValue = "";
    dialog.showModal();
  });
}
