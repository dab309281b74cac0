// What an answer looks like in its card. Whatever a network answers: parts with names where there
// are class ids, else the JSON. Read next: page.js, which makes the cards.

const SHOWN = 5;  // rows of a table, before "more"

export function show(card, answer) {
  const parts = answer.shares || answer.scores;  // of the pixels, or of certainty
  if (!answer.class_ids || !parts) {  // attributes or raw scores
    const { layer, mask, ...rest } = answer;  // what a picture shows better
    const text = card.querySelector("article > pre");
    text.textContent = JSON.stringify(rest, null, 2);
    text.hidden = false;
    return;
  }
  if (answer.guess) {  // not certain enough: what it would have said
    show(card, answer.guess);
    return;
  }
  const colours = answer.colours || [];  // of the classes in the layer
  const rows = answer.class_ids.map((id, place) => [nameOf(answer, place, id), parts[place], answer.boxes, colours[place]]);
  if (answer.boxes) rows.sort((one, other) => other[1] - one[1]);  // they come class by class
  const [table, rest] = card.querySelectorAll("table");
  rows.slice(0, SHOWN).forEach((row) => add(table, ...row));
  rows.slice(SHOWN).forEach((row) => add(rest, ...row));
  const more = card.querySelector(".more");
  more.hidden = rows.length <= SHOWN;
  more.querySelector("summary").textContent = rows.length - SHOWN + " more";
  if (!rows.length) table.insertRow().insertCell().textContent = "nothing found";
}

export function namesOf(answer) {
  return answer.class_ids.map((id, place) => nameOf(answer, place, id));
}

function nameOf(answer, place, id) {
  return (answer.label_names || [])[place] || "class " + id;
}

function add(table, name, share, isObject, colour) {
  const row = table.insertRow();
  if (isObject) row.dataset.score = share;  // the slider hides it
  const cell = row.insertCell();
  cell.textContent = name;
  if (colour) {
    const swatch = document.createElement("span");
    swatch.className = "swatch";
    swatch.style.background = colour;
    cell.prepend(swatch);
  }
  row.insertCell().textContent = (100 * share).toFixed(1) + " %";
  const bar = document.createElement("meter");
  bar.value = share;
  row.insertCell().append(bar);
}

export function lay(card, png) {  // over the image
  const bytes = Uint8Array.from(atob(png), (letter) => letter.charCodeAt(0));
  const layer = card.querySelector(".layer");
  layer.src = URL.createObjectURL(new Blob([bytes], { type: "image/png" }));
  layer.hidden = false;
}
