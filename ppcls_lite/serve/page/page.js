// The page to try a network on: files become cards, a few at a time are sent, answers fill them.
// Read next: answer.js (what is in a card), files.js (where files come from).

import { lay, namesOf, show } from "./answer.js";
import { layBoxes, showFrom } from "./boxes.js";
import { dropped, isImage, pasted } from "./files.js";

const AT_ONCE = 4;  // requests
const MOST = 200;  // images of one drop; a command does more
const TRIES = 5;  // of an image, while the service is full
const part = (id) => document.getElementById(id);
const waiting = [];
let running = 0, done = 0, failed = 0, total = 0;

function say(text, isError) {
  part("message").textContent = text;
  part("message").className = isError ? "error" : "";
}

function take(images) {
  const kept = images.slice(0, MOST);
  if (!kept.length) {
    say("There is no image.", true);
    return;
  }
  if (!running) done = failed = total = 0;
  total += kept.length;
  part("left-out")?.remove();
  if (images.length > MOST) {
    const note = document.createElement("p");
    note.id = "left-out";
    note.textContent = `The first ${MOST} of ${images.length} images; ppcls-lite predict does all of a folder.`;
    part("tools").after(note);
  }
  const cards = kept.map(cardOf);
  part("answers").prepend(...cards);
  arrange();
  waiting.push(...cards.map((card, place) => [card, kept[place]]));
  while (running < AT_ONCE && waiting.length) work();
}

function cardOf(file) {
  const card = part("card").content.firstElementChild.cloneNode(true);
  const preview = card.querySelector(".preview");
  preview.src = URL.createObjectURL(file);
  preview.addEventListener("error", () => preview.remove());  // this browser cannot show it
  card.querySelector("h2").textContent = file.webkitRelativePath || file.name;
  state(card, "…");
  return card;
}

function state(card, text, kind) {
  card.querySelector(".state").textContent = text;
  card.querySelector(".state").className = "state " + (kind || "");
}

async function work() {
  running += 1;
  while (waiting.length) {
    const [card, file] = waiting.shift();
    if (!card.isConnected) continue;  // cleared
    await answer(card, file);
    done += 1;
    say(`${done - failed} of ${total} answered` + (failed ? `, ${failed} refused` : ""), failed === total);
  }
  running -= 1;
}

async function answer(card, file) {
  const start = performance.now();
  try {
    const response = await post(file);
    const found = await response.json();
    if (!response.ok) throw new Error(found.error);
    show(card, found);
    offerMap(card, file, found.guess ?? found);
    if (found.boxes && found.size) {
      layBoxes(card, found);
      if (part("from").hidden) part("score").value = found.draw_threshold ?? part("score").value;
      part("from").hidden = false;
    } else if (found.layer) lay(card, found.layer);
    const time = Math.round(performance.now() - start) + " ms";
    if (found.guess) state(card, "Not sure enough to answer; perhaps:", "unsure");
    else if (found.unsure) state(card, "Not sure about: " + namesOf(found.unsure).join(", "), "unsure");
    else state(card, time);
    card.classList.toggle("unsure", Boolean(found.guess || found.unsure));
  } catch (error) {
    failed += 1;
    const lost = error instanceof TypeError;  // fetch itself
    state(card, lost ? `The service does not answer (${error.message}).` : error.message, "error");
  }
  arrange();
}

// A button that lays over the image where it speaks for the answer's first class.
function offerMap(card, file, found) {
  const offered = document.documentElement.dataset.maps === "yes" && found.class_ids?.length > 0;
  const button = card.querySelector(".where"), layer = card.querySelector(".layer");
  button.hidden = !offered;
  button.addEventListener("click", async () => {
    const on = button.getAttribute("aria-pressed") === "false";
    button.disabled = true;
    try {
      if (on && layer.hidden && !layer.src) {
        const response = await post(file, "map=" + found.class_ids[0]);
        const answer = await response.json();
        if (!response.ok) throw new Error(answer.error);
        lay(card, answer.layer);
        layer.classList.add("smooth");
      }
      layer.hidden = !on;
      button.setAttribute("aria-pressed", String(on));
    } catch (error) {
      state(card, error.message, "error");
    }
    button.disabled = false;
    arrange();
  });
}

async function post(file, asked = "layer=1") {  // a full service says when to come back
  for (let attempt = 1; ; attempt += 1) {
    const response = await fetch("predict?" + asked, { method: "POST", body: file });
    if (response.status !== 429 || attempt === TRIES) return response;
    const pause = Number(response.headers.get("Retry-After")) || 1;
    await new Promise((goOn) => setTimeout(goOn, 1000 * pause));
  }
}

function arrange() {
  const cards = part("answers").children;
  part("answers").classList.toggle("one", cards.length === 1);
  part("clear").hidden = !cards.length;
  const layers = part("answers").querySelectorAll(".layer:not([hidden])");
  part("strength").hidden = !layers.length;
  for (const layer of layers) layer.style.opacity = part("opacity").value;
  if (!part("answers").querySelector(".boxes")) part("from").hidden = true;
  part("from").querySelector("output").textContent = Number(part("score").value).toFixed(2);
  showFrom(part("answers"), Number(part("score").value));
  part("only").hidden = !part("answers").querySelector(".unsure");
}

function clear() {
  waiting.length = 0;
  for (const image of part("answers").querySelectorAll("img")) URL.revokeObjectURL(image.src);
  part("answers").replaceChildren();
  part("left-out")?.remove();
  part("only-unsure").checked = false;
  part("answers").classList.remove("only-unsure");
  say("");
  arrange();
}

for (const id of ["file", "folder"]) {
  part(id).addEventListener("change", (event) => {
    const files = [...event.target.files];
    take(id === "folder" ? files.filter(isImage) : files);
    event.target.value = "";  // the same file again is a change, too
  });
}
for (const id of ["opacity", "score"]) part(id).addEventListener("input", arrange);
part("only-unsure").addEventListener("change", (event) => {
  part("answers").classList.toggle("only-unsure", event.target.checked);
});
part("clear").addEventListener("click", clear);
document.addEventListener("paste", (event) => {
  take(pasted(event.clipboardData));
});
for (const name of ["dragover", "dragleave", "drop"]) {  // anywhere on the page
  document.addEventListener(name, async (event) => {
    event.preventDefault();
    part("drop").classList.toggle("over", name === "dragover");
    if (name === "drop") take(await dropped(event.dataTransfer));
  });
}
const curl = `curl --data-binary @image.jpg ${new URL("predict", location.href)}`;
part("curl").textContent = curl;
part("copy").hidden = !navigator.clipboard;  // browsers have it on this machine and over TLS only
part("copy").addEventListener("click", async () => {
  await navigator.clipboard.writeText(curl);
  say("Copied.");
});
