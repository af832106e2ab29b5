"use strict";
// Adds comfort only: everything on the page can be read without it.
for (const element of document.querySelectorAll("[data-needs-script]")) element.hidden = false;

for (const box of document.querySelectorAll("input[data-filters]")) {
  const rows = document.querySelectorAll("#" + box.dataset.filters + " tbody tr");
  box.addEventListener("input", () => {
    const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
    }
  });
}

const drawing = document.querySelector(".canvas svg");
if (drawing) {
  const natural = Number(drawing.getAttribute("width"));
  const canvas = drawing.closest(".canvas");
  let zoom = 1;
  const apply = (value) => {
    zoom = Math.min(8, Math.max(0.05, value));
    drawing.setAttribute("width", natural * zoom);
    drawing.removeAttribute("height");
  };
  const actions = {
    in: () => apply(zoom * 1.3),
    out: () => apply(zoom / 1.3),
    fit: () => apply((canvas.clientWidth - 34) / natural),
    actual: () => apply(1),
  };
  for (const button of document.querySelectorAll("button[data-zoom]"))
    button.addEventListener("click", () => actions[button.dataset.zoom]());
  // Begin with the whole width where that stays readable, at a node that is wrong or at the first parameter.
  apply(Math.max(0.5, Math.min(1, (canvas.clientWidth - 34) / natural)));
  const places = [...drawing.querySelectorAll(".node")].map((node) => [node, node.getBoundingClientRect()]);
  const top = places.sort((one, other) => one[1].top - other[1].top)[0];
  const start = drawing.querySelector(".v-disagree") || drawing.querySelector(".v-inconclusive") || (top && top[0]);
  if (start) {
    const place = start.getBoundingClientRect(), frame = canvas.getBoundingClientRect();
    canvas.scrollTop += place.top - frame.top - canvas.clientHeight / 2;
    canvas.scrollLeft += place.left - frame.left - canvas.clientWidth / 2;
  }
}

function openTarget() {
  const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!target) return;
  target.hidden = false;
  for (let outer = target.parentElement; outer; outer = outer.parentElement)
    if (outer.tagName === "DETAILS") outer.open = true;
  for (const inner of target.querySelectorAll("details")) inner.open = true;
  target.scrollIntoView({ block: "center" });
}
addEventListener("hashchange", openTarget);
openTarget();
