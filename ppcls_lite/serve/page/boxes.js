// Objects over their image: each a box in the colour of its class, from a score on that the page's
// slider chooses. The image's own pixels are the unit. Read next: answer.js, page.js.

const SVG = "http://www.w3.org/2000/svg";
const TEXT = 0.035;  // of the image's shorter edge
const TURN = 137.5;  // degrees from a class's hue to the next one's

export function layBoxes(card, answer) {
  const [height, width] = answer.size, letters = Math.max(9, TEXT * Math.min(width, height));
  const svg = made("svg", { viewBox: `0 0 ${width} ${height}`, class: "boxes" });
  const order = answer.scores.map((_, place) => place).sort((a, b) => answer.scores[a] - answer.scores[b]);
  for (const place of order) {  // the surest on top
    const [left, top, right, bottom] = answer.boxes[place], id = answer.class_ids[place];
    const name = (answer.label_names || [])[place] || "class " + id;
    const group = made("g", {});
    group.dataset.score = answer.scores[place];
    group.style.setProperty("--hue", (id * TURN) % 360);
    group.append(made("rect", { x: left, y: top, width: right - left, height: bottom - top }));
    const text = made("text", { x: left, y: Math.max(top - 3, letters), "font-size": letters });
    text.textContent = `${name} ${answer.scores[place].toFixed(2)}`;
    group.append(text);
    svg.append(group);
  }
  card.querySelector(".picture").append(svg);
}

export function showFrom(cards, score) {  // boxes, and rows of the tables
  for (const part of cards.querySelectorAll("[data-score]")) {
    part.classList.toggle("below", Number(part.dataset.score) < score);
  }
  for (const svg of cards.querySelectorAll(".boxes")) {
    const shown = svg.querySelectorAll("g:not(.below)").length;
    svg.closest("article").querySelector(".count").textContent = `${shown} of ${svg.childElementCount} objects`;
  }
}

function made(name, attributes) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}
