// Numbers and places as a person reads them, and elements made of them.

export const metres = (value) =>
  value === null || value === undefined ? "no data" : `${Number(value.toFixed(2)).toLocaleString("en", { maximumFractionDigits: 2 })} m`;

export const degrees = ({ lng, lat }, digits = 5) =>
  `${Math.abs(lat).toFixed(digits)}° ${lat < 0 ? "S" : "N"}, ${Math.abs(lng).toFixed(digits)}° ${lng < 0 ? "W" : "E"}`;

// An element with attributes and children; text stays text.
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

// A name, as a link where there is a web address to go to.
export function linked(name, website) {
  return /^https?:\/\//.test(website ?? "")
    ? element("a", { href: website, target: "_blank", rel: "noopener noreferrer" }, name)
    : document.createTextNode(name);
}

// Credits may hold HTML; here only their text is of interest.
export const plain = (html) => new DOMParser().parseFromString(html ?? "", "text/html").body.textContent;
