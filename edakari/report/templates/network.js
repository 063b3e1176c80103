"use strict";
// Highlights a group while the pointer is on it; a click pins the highlight, Escape removes it.
const groups = JSON.parse(document.getElementById("groups").textContent);
const panel = document.getElementById("panel");
let pinned = null, shown = null;

function element(tag, text, parent) {
  const made = document.createElement(tag);
  made.textContent = text;
  parent.append(made);
  return made;
}

function show(number) {
  if (number === shown) return;
  shown = number;
  document.querySelectorAll(".on").forEach((found) => found.classList.remove("on"));
  document.body.classList.toggle("picking", number !== null);
  panel.hidden = number === null;
  if (number === null) return;
  document.querySelectorAll(`[data-g="${number}"]`).forEach((found) => found.classList.add("on"));
  const group = groups[number];
  panel.replaceChildren();
  element("b", group.name, panel);
  const percent = (part) => `${(part * 100).toFixed(1)} %`;
  element("p", `${group.kind}, ${group.size} positions · ${percent(group.macs)} of MACs, ${percent(group.params)} of parameters`, panel);
  const list = element("ul", "", panel);
  group.members.forEach((member) => element("li", member, list));
}

const numberOf = (event) => {
  const found = event.target.closest && event.target.closest("[data-g]");
  return found ? Number(found.dataset.g) : null;
};
document.addEventListener("pointerover", (event) => show(numberOf(event) ?? pinned));
document.addEventListener("click", (event) => {
  if (panel.contains(event.target) || event.target.closest("summary")) return;
  pinned = numberOf(event);
  show(pinned);
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") show(pinned = null);
});
