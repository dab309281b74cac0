"use strict";
// Draws the report from the facts in the page. Nothing is fetched; all names are set as text.
const facts = JSON.parse(document.getElementById("facts").textContent);
const main = document.querySelector("main");
const SHOWN_CURVES = 9;  // the others are folded away

function make(name, options = {}, ...children) {
  const { text, ...rest } = options;
  const element = document.createElement(name);
  Object.entries(rest).forEach(([key, value]) => element.setAttribute(key, value));
  if (text !== undefined) element.textContent = text;
  element.append(...children.filter((child) => child !== null));
  return element;
}

function section(title, ...children) {
  const id = title.toLowerCase().replace(/[^a-z]+/g, "-");
  document.querySelector("nav").append(make("a", { href: "#" + id, text: title }));
  const part = make("section", { id }, make("h2", { text: title }), ...children);
  main.append(part);
  return part;
}

const isShare = (value) => typeof value === "number" && value >= 0 && value <= 1;

function number(value) {
  if (value === null || value === undefined) return "–";
  if (typeof value !== "number") return String(value);
  if (Number.isInteger(value)) return value.toLocaleString("en");
  return Math.abs(value) >= 100 ? value.toFixed(1) : Math.abs(value) < 1e-3 ? value.toExponential(2) : value.toFixed(4);
}

// ---- summary ----
function cards(pairs) {
  const box = make("div", { class: "cards" });
  pairs.filter(([, value]) => value !== null && value !== undefined).forEach(([name, value, note]) => {
    box.append(make("div", {}, make("span", { class: "soft", text: name }), make("b", { text: number(value) }),
      note ? make("span", { class: "soft", text: note }) : null));
  });
  return box;
}

// ---- curves ----
const SVG = "http://www.w3.org/2000/svg";
function draw(name, attributes, parent) {
  const element = document.createElementNS(SVG, name);
  Object.entries(attributes).forEach(([key, value]) => element.setAttribute(key, value));
  parent.append(element);
  return element;
}

function ticks(low, high) {
  const rough = (high - low) / 5 || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((f) => f * power).find((s) => s >= rough);
  const found = [];
  for (let at = Math.ceil(low / step) * step; at <= high + step * 1e-6; at += step) found.push(at);
  return found;
}

// of an axis of logarithms: those of 1, 10, 100, and where these are few of 2 and 5 as well
function logTicks(low, high) {
  const powers = [];
  for (let power = Math.floor(low); power <= high; power++) powers.push(power);
  const within = (factors) => powers.flatMap((p) => factors.map((f) => p + Math.log10(f))).filter((v) => v >= low && v <= high);
  return within([1]).length > 2 ? within([1]) : within([1, 2, 5]);
}

function short(value) {
  const rounded = Number(value.toPrecision(3));
  return rounded && Math.abs(rounded) < 1e-3 ? rounded.toExponential() : String(rounded);
}

// lines: [{name, colour, points: [[x, y]], dots}]; marks: [[x, label]]
function chart(title, lines, { xLabel = "epoch", marks = [], box = null, diagonal = false } = {}) {
  const [width, height, left, bottom, top, right] = [360, 220, 46, 30, 12, 10];
  const heights = lines.flatMap((line) => line.points.map((p) => p[1]));
  const steep = !box && Math.min(...heights) > 0 && Math.max(...heights) > 20 * Math.min(...heights) && /loss/i.test(title);
  if (steep) lines = lines.map((line) => ({ ...line, points: line.points.map((p) => [p[0], Math.log10(p[1])]) }));
  const real = (v) => steep ? 10 ** v : v;
  const all = lines.flatMap((line) => line.points);
  let [x0, x1] = [Math.min(...all.map((p) => p[0])), Math.max(...all.map((p) => p[0]))];
  let [y0, y1] = [Math.min(...all.map((p) => p[1])), Math.max(...all.map((p) => p[1]))];
  if (box) [x0, x1, y0, y1] = box;
  if (x0 === x1) { x0 -= 0.5; x1 += 0.5; }
  if (y0 === y1) {
    const share = !steep && isShare(y0);
    y0 -= 0.5 * Math.abs(y0) || (share ? 0 : 0.5);
    y1 = share ? 1 : y1 + (0.5 * Math.abs(y1) || 0.5);
  }
  const x = (v) => left + (v - x0) / (x1 - x0) * (width - left - right);
  const y = (v) => height - bottom - (v - y0) / (y1 - y0) * (height - bottom - top);
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", title);
  (steep ? logTicks : ticks)(y0, y1).forEach((v) => {
    draw("line", { class: "axis", x1: left, x2: width - right, y1: y(v), y2: y(v) }, svg);
    draw("text", { x: left - 5, y: y(v) + 4, "text-anchor": "end" }, svg).textContent = short(real(v));
  });
  ticks(x0, x1).filter((v) => box || Math.abs(v - Math.round(v)) < 1e-6).forEach((v) => {
    draw("text", { x: x(v), y: height - bottom + 14, "text-anchor": "middle" }, svg).textContent = Number(v.toPrecision(3));
  });
  draw("text", { x: (left + width) / 2, y: height - 3, "text-anchor": "middle" }, svg).textContent = xLabel;
  if (diagonal) draw("line", { class: "axis", x1: x(0), y1: y(0), x2: x(1), y2: y(1), "stroke-dasharray": "4 3", style: "stroke: var(--soft)" }, svg);
  lines.forEach((line) => {
    const path = line.points.map((p, i) => `${i ? "L" : "M"}${x(p[0]).toFixed(1)} ${y(p[1]).toFixed(1)}`).join("");
    draw("path", { d: path, fill: "none", "stroke-width": 1.8, style: `stroke: ${line.colour}` }, svg);
    if (line.dots || line.points.length < 30) {
      line.points.forEach((p) => draw("circle", { cx: x(p[0]), cy: y(p[1]), r: p[2] || 2.2, "fill-opacity": 0.75, style: `fill: ${line.colour}` }, svg));
    }
  });
  marks.filter(([at]) => at >= x0 && at <= x1).forEach(([at, label]) => {
    draw("line", { x1: x(at), x2: x(at), y1: top, y2: height - bottom, "stroke-dasharray": "3 3", style: "stroke: var(--soft)" }, svg);
    const anchor = x(at) > width * 0.7 ? "end" : "start";
    draw("text", { x: x(at) + (anchor === "end" ? -4 : 4), y: top + 9, "text-anchor": anchor }, svg).textContent = label;
  });
  const legend = make("figcaption", {}, make("b", { text: title + "  " }));
  lines.filter((line) => line.name).forEach((line) => legend.append(
    make("span", { class: "legend" }, make("i", { style: `background: ${line.colour}` }), line.name)));
  const reading = make("span", {});
  legend.append(reading);
  svg.addEventListener("pointermove", (event) => {
    const area = svg.getBoundingClientRect();
    const at = x0 + ((event.clientX - area.left) / area.width * width - left) / (width - left - right) * (x1 - x0);
    const near = (line) => line.points.reduce((a, b) => Math.abs(b[0] - at) < Math.abs(a[0] - at) ? b : a);
    reading.textContent = `${xLabel} ${Number(near(lines[0])[0].toPrecision(3))}: ` + lines.map((line) => number(real(near(line)[1]))).join(", ");
  });
  return make("figure", {}, legend, svg);
}

// ---- classes ----
function classTable(classes) {
  const { names, columns, scores, key } = classes;
  const rows = scores.map((row, place) => ({ place, name: names[place], row }));
  const body = make("tbody");
  const heads = ["class", ...columns].map((title) => make("th", { scope: "col" }, make("button", { type: "button", text: title })));
  const filter = make("input", { type: "search", placeholder: "find a class", "aria-label": "find a class" });
  let sorted = [columns.indexOf(key), 1];

  function fill() {
    const [column, way] = sorted;
    const wanted = filter.value.toLowerCase();
    const value = (r) => column < 0 ? r.name : r.row[column];
    const order = rows.filter((r) => r.name.toLowerCase().includes(wanted)).sort((a, b) => {
      const [one, two] = [value(a), value(b)];
      if (one === null || two === null) return (one === null) - (two === null);
      return way * (typeof one === "string" ? one.localeCompare(two, "en", { numeric: true }) : one - two);
    });
    body.replaceChildren(...order.map((r) => {
      const line = make("tr", {}, make("td", { text: r.name }));
      r.row.forEach((v, i) => {
        const cell = make("td", { text: number(v) });
        if (columns[i] === key && isShare(v)) cell.append(make("span", { class: "bar" }, make("i", { style: `width: ${100 * v}%` })));
        line.append(cell);
      });
      return line;
    }));
    heads.forEach((head, i) => i - 1 === column ? head.setAttribute("aria-sort", way > 0 ? "ascending" : "descending") : head.removeAttribute("aria-sort"));
  }
  heads.forEach((head, i) => head.firstChild.addEventListener("click", () => {
    sorted = [i - 1, sorted[0] === i - 1 ? -sorted[1] : 1];
    fill();
  }));
  filter.addEventListener("input", fill);
  fill();
  const table = make("table", {}, make("thead", {}, make("tr", {}, ...heads)), body);
  const controls = make("div", { class: "controls" }, filter, make("span", { class: "soft", text: `${rows.length.toLocaleString("en")} classes; click a title to sort` }));
  return make("div", {}, rows.length > 12 ? controls : make("p", { class: "soft", text: "Click a title to sort." }), make("div", { class: "wide", tabindex: 0 }, table));
}

// ---- matrix ----
function matrix(classes) {
  const { names, cells, unit, scores, columns, key } = classes;
  const count = names.length;
  const sums = new Float64Array(count);
  cells.forEach(([row, , n]) => { sums[row] += n; });
  const found = new Map(cells.map(([row, column, n]) => [row * count + column, n]));
  const quality = names.map((_, i) => scores[i] ? scores[i][columns.indexOf(key)] ?? 2 : 3);
  const orders = {
    "as numbered": () => 0,
    "by name": (a, b) => names[a].localeCompare(names[b], "en", { numeric: true }),
    "the worst first": (a, b) => quality[a] - quality[b],
    "the largest first": (a, b) => sums[b] - sums[a],
  };
  const named = count <= 30;
  const canvas = make("canvas", { tabindex: 0, "aria-label": "confusion matrix" });
  const pen = canvas.getContext("2d");
  const frame = make("div", { class: "cells", tabindex: 0 }, canvas);
  const select = make("select", { "aria-label": "order" }, ...Object.keys(orders).map((text) => make("option", { text })));
  const only = make("input", { type: "checkbox", id: "only" });
  const told = make("p", { id: "cell", class: "soft", text: "Point at a cell, or tap it." });
  let [order, cell, side, margin] = [[], 1, 1, 0];  // pixels of the page

  // The names have a line of text each, however narrow the page is: it scrolls then.
  function measure() {
    const room = frame.clientWidth;
    pen.font = letters(12);
    const widest = named ? Math.max(...names.map((name) => pen.measureText(name).width)) : 0;
    margin = named ? Math.ceil(Math.min(widest + 12, 0.3 * room)) : 0;
    cell = (room - margin) / count;
    if (named) cell = Math.max(16, Math.min(120, cell));
    if (cell >= 2) cell = Math.floor(cell);
    side = cell * count;
    const sharp = window.devicePixelRatio || 1;
    [canvas.width, canvas.height] = [Math.round((side + margin) * sharp), Math.round((side + margin) * sharp)];
    [canvas.style.width, canvas.style.height] = [`${side + margin}px`, `${side + margin}px`];
    canvas.dataset.margin = margin;
    return sharp;
  }

  const letters = (size) => `${size}px system-ui, sans-serif`;

  // red, green, blue of a colour of the page
  function mixed(colour, below, share) {
    const parts = [colour, below].map((text) => {
      pen.fillStyle = text;
      return [1, 3, 5].map((at) => parseInt(pen.fillStyle.slice(at, at + 2), 16));
    });
    return parts[0].map((v, i) => share * v + (1 - share) * parts[1][i]);
  }

  function paint() {
    const sharp = measure();
    order = names.map((_, i) => i).sort((a, b) => orders[select.value](a, b) || a - b);
    const place = new Int32Array(count);
    order.forEach((name, at) => { place[name] = at; });
    const style = getComputedStyle(document.documentElement);
    const colour = Object.fromEntries(["card", "good", "bad", "ink"].map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
    pen.setTransform(sharp, 0, 0, sharp, 0, 0);
    pen.clearRect(0, 0, side + margin, side + margin);
    pen.translate(margin, 0);
    pen.fillStyle = colour.card;
    pen.fillRect(0, 0, side, side);
    pen.textBaseline = "middle";
    const size = Math.min(18, Math.max(8, cell / 2.6));
    cells.forEach(([row, column, n]) => {
      const right = row === column;
      if (right && only.checked) return;
      const share = n / sums[row];
      const dot = count > 100 ? Math.max(cell, 2) : cell;  // a mistake among a thousand classes shows
      const strong = right ? 0.12 + 0.88 * share : Math.min(1, (count > 100 ? 0.6 : 0.3) + 1.4 * share);
      const [red, green, blue] = mixed(right ? colour.good : colour.bad, colour.card, strong);
      pen.fillStyle = `rgb(${red}, ${green}, ${blue})`;
      pen.fillRect(place[column] * cell, place[row] * cell, dot, dot);
      if (cell < 16) return;
      pen.fillStyle = 0.3 * red + 0.59 * green + 0.11 * blue > 125 ? "#111" : "#fff";
      pen.font = letters(size);
      pen.textAlign = "center";
      const text = unit === "pixels" ? (100 * share).toFixed(share < 0.1 ? 1 : 0) : n >= 10000 ? (n / 1000).toFixed(0) + "k" : String(n);
      pen.fillText(text, (place[column] + 0.5) * cell, (place[row] + 0.5) * cell, cell - 2);
    });
    if (!named) return;
    pen.fillStyle = colour.ink;
    pen.font = letters(12);
    pen.textAlign = "right";
    order.forEach((name, at) => pen.fillText(shortened(names[name], margin - 10), -6, (at + 0.5) * cell));
    pen.rotate(-Math.PI / 2);
    order.forEach((name, at) => pen.fillText(shortened(names[name], margin - 10), -side - 6, (at + 0.5) * cell));
  }

  function shortened(text, width) {
    while (text.length > 2 && pen.measureText(text).width > width) text = text.slice(0, -2) + "…";
    return text;
  }

  function tell(event) {
    const area = canvas.getBoundingClientRect();
    const at = (offset) => Math.min(count - 1, Math.max(0, Math.floor(offset / cell)));
    let [column, row] = [at(event.clientX - area.left - margin), at(event.clientY - area.top)];
    const reach = Math.ceil(4 / cell);  // of many classes a cell is less than a finger
    let best = [-1, row, column];
    if (count > 100) {
      for (let r = Math.max(0, row - reach); r <= Math.min(count - 1, row + reach); r++) {
        for (let c = Math.max(0, column - reach); c <= Math.min(count - 1, column + reach); c++) {
          const n = found.get(order[r] * count + order[c]) || 0;
          if (n > best[0] && !(only.checked && order[r] === order[c])) best = [n, r, c];
        }
      }
    }
    [row, column] = [order[best[1]], order[best[2]]];
    const n = found.get(row * count + column) || 0;
    const share = sums[row] ? ` (${(100 * n / sums[row]).toFixed(1)} %)` : "";
    told.textContent = `${n.toLocaleString("en")} of ${sums[row].toLocaleString("en")} ${unit} of “${names[row]}” were answered “${names[column]}”${share}`;
  }
  canvas.addEventListener("pointermove", tell);
  canvas.addEventListener("pointerdown", tell);
  select.addEventListener("change", paint);
  only.addEventListener("change", paint);
  addEventListener("resize", paint);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
  requestAnimationFrame(paint);
  return make("div", {},
    make("div", { class: "controls" }, make("label", {}, "order ", select), make("label", {}, only, " only the mistakes")), told,
    make("div", { class: "matrix" }, make("span", { class: "true soft", text: "true" }), frame, make("span", { class: "said soft", text: "answered" })));
}

// ---- pictures ----
function group({ title, images, picture }) {
  const box = make("div", {}, make("h3", { text: title }));
  if (picture) box.append(make("img", { class: "sheet", src: picture, alt: title }));
  if (!images.length) return box;
  box.append(make("div", { class: "images" }, ...images.map((image) => make("figure", {},
    make("img", { src: image.picture, alt: image.name }),
    image.why ? make("img", { src: image.why, alt: "where the network looked" }) : null,
    make("figcaption", {}, make("b", { text: image.name }), make("br"), image.caption)))));
  return box;
}

function table(titles, rows, plain = "") {
  return make("div", { class: "wide", tabindex: 0 }, make("table", { class: plain },
    make("thead", {}, make("tr", {}, ...titles.map((text) => make("th", { scope: "col", text })))),
    make("tbody", {}, ...rows.map((row) => make("tr", {}, ...row.map((value) => make("td", { text: number(value) })))))));
}

// ---- the page ----
document.querySelector("h1").textContent = facts.title;
document.getElementById("about").textContent = facts.about;
section("Summary", cards(facts.cards), ...facts.notes.map((text) => make("p", { text })));

if (facts.curves.length) {
  const colours = { train: "var(--accent)", eval: "var(--bad)" };
  const marks = facts.best ? [[facts.best.epoch, "best"]] : [];
  const charts = facts.curves.map(({ name, lines }) => chart(name,
    Object.entries(lines).map(([split, points]) => ({ name: split, colour: colours[split] || "var(--third)", points })), { marks }));
  const more = charts.splice(SHOWN_CURVES);
  section("Curves", make("div", { class: "charts" }, ...charts), more.length
    ? make("details", {}, make("summary", { text: `${more.length} more curves` }), make("div", { class: "charts" }, ...more)) : null);
}
if (facts.classes) {
  const words = facts.confused.length ? [make("h3", { text: "Taken for each other" }), make("ul", {}, ...facts.confused.map((text) => make("li", { text })))] : [];
  section("Classes", classTable(facts.classes), ...words);
  if (facts.classes.cells.length) section("Matrix", make("p", { class: "soft", text: facts.matrix_note }), matrix(facts.classes));
}
if (facts.groups.length) section("Mistakes", ...facts.groups.map(group));
if (facts.calibration) {
  const { as_is: asIs, fitted, cuts, images } = facts.calibration;
  const points = ({ bins }) => bins.map((b) => [b.confidence, b.accuracy, 2 + 8 * Math.sqrt(b.count / images)]);
  const lines = [{ name: "as it is", colour: "var(--accent)", points: points(asIs), dots: true }];
  if (fitted) lines.push({ name: "with temperature", colour: "var(--bad)", points: points(fitted), dots: true });
  const rejection = [
    { name: "right among the answers", colour: "var(--accent)", points: cuts.map((c) => [c.coverage, c.precision]) },
  ];
  section("Calibration", make("p", { text: facts.calibration_words }), make("div", { class: "charts" },
    chart("Share of right answers by confidence", lines, { xLabel: "confidence", box: [0, 1, 0, 1], diagonal: true }),
    chart("What it costs to answer only when certain", rejection, { xLabel: "share of the images that are answered", box: [0, 1, Math.min(...cuts.map((c) => c.precision)) - 0.01, 1] })));
}
if (facts.pictures.length) section("Data", ...facts.pictures.map(([title, picture]) => make("figure", {}, make("h3", { text: title }), make("img", { class: "sheet", src: picture, alt: title }))));
if (facts.files.length || facts.latencies.length) {
  section("Size and speed", make("p", { class: "soft", text: facts.export_note }),
    facts.latencies.length ? table(["engine", "ms an image (median, batch 1)"], facts.latencies.map(([name, ms]) => [name, ms.toFixed(2)])) : null,
    facts.files.length ? table(["file", "MB"], facts.files.map(([name, size]) => [name, short(size)])) : null);
}
section("How to repeat it", make("pre", { text: facts.repeat }), table(["what", "version"], facts.versions, "plain"),
  make("details", {}, make("summary", { text: "The whole recipe" }), make("pre", { text: facts.recipe })));
