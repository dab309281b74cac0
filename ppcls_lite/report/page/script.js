"use strict";
// Draws the report from the facts in the page. Nothing is fetched; all names are set as text.
const facts = JSON.parse(document.getElementById("facts").textContent);
const main = document.querySelector("main");

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
  if (y0 === y1) { y0 -= 0.5 * Math.abs(y0) || 0.5; y1 += 0.5 * Math.abs(y1) || 0.5; }
  const x = (v) => left + (v - x0) / (x1 - x0) * (width - left - right);
  const y = (v) => height - bottom - (v - y0) / (y1 - y0) * (height - bottom - top);
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", title);
  ticks(y0, y1).forEach((v) => {
    draw("line", { class: "axis", x1: left, x2: width - right, y1: y(v), y2: y(v) }, svg);
    draw("text", { x: left - 5, y: y(v) + 4, "text-anchor": "end" }, svg).textContent = Number(real(v).toPrecision(3));
  });
  ticks(x0, x1).filter((v) => box || Number.isInteger(v)).forEach((v) => {
    draw("text", { x: x(v), y: height - bottom + 14, "text-anchor": "middle" }, svg).textContent = Number(v.toPrecision(3));
  });
  draw("text", { x: (left + width) / 2, y: height - 3, "text-anchor": "middle" }, svg).textContent = xLabel;
  if (diagonal) draw("line", { class: "axis", x1: x(0), y1: y(0), x2: x(1), y2: y(1), "stroke-dasharray": "4 3", style: "stroke: var(--soft)" }, svg);
  marks.filter(([at]) => at >= x0 && at <= x1).forEach(([at, label]) => {
    draw("line", { x1: x(at), x2: x(at), y1: top, y2: height - bottom, "stroke-dasharray": "3 3", style: "stroke: var(--soft)" }, svg);
    const anchor = x(at) > width * 0.7 ? "end" : "start";
    draw("text", { x: x(at) + (anchor === "end" ? -4 : 4), y: top + 9, "text-anchor": anchor }, svg).textContent = label;
  });
  lines.forEach((line) => {
    const path = line.points.map((p, i) => `${i ? "L" : "M"}${x(p[0]).toFixed(1)} ${y(p[1]).toFixed(1)}`).join("");
    draw("path", { d: path, fill: "none", "stroke-width": 1.8, style: `stroke: ${line.colour}` }, svg);
    if (line.dots || line.points.length < 30) {
      line.points.forEach((p) => draw("circle", { cx: x(p[0]), cy: y(p[1]), r: p[2] || 2.2, "fill-opacity": 0.75, style: `fill: ${line.colour}` }, svg));
    }
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
  const cell = count <= 300 ? Math.max(1, Math.floor((named ? 1160 : 1280) / count)) : 1;
  const margin = named ? 240 : 0;  // for the names, left and below
  const side = cell * count;
  const canvas = make("canvas", { width: side + margin, height: side + margin, tabindex: 0, "aria-label": "confusion matrix" });
  const select = make("select", { "aria-label": "order" }, ...Object.keys(orders).map((text) => make("option", { text })));
  const only = make("input", { type: "checkbox", id: "only" });
  const told = make("p", { id: "cell", class: "soft", text: "Point at a cell, or tap it." });
  let order = [];

  function paint() {
    order = names.map((_, i) => i).sort((a, b) => orders[select.value](a, b) || a - b);
    const place = new Int32Array(count);
    order.forEach((name, at) => { place[name] = at; });
    const style = getComputedStyle(document.documentElement);
    const pen = canvas.getContext("2d");
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.clearRect(0, 0, side + margin, side + margin);
    pen.translate(margin, 0);
    pen.fillStyle = style.getPropertyValue("--card");
    pen.fillRect(0, 0, side, side);
    cells.forEach(([row, column, n]) => {
      const right = row === column;
      if (right && only.checked) return;
      const share = n / sums[row];
      const dot = count > 100 ? Math.max(cell, 3) : cell;  // a mistake among a thousand classes shows
      pen.globalAlpha = right ? 0.12 + 0.88 * share : Math.min(1, (count > 100 ? 0.6 : 0.3) + 1.4 * share);
      pen.fillStyle = style.getPropertyValue(right ? "--good" : "--bad");
      pen.fillRect(place[column] * cell, place[row] * cell, dot, dot);
      if (count <= 16) {
        pen.globalAlpha = 1;
        pen.fillStyle = style.getPropertyValue(right && share > 0.5 ? "--paper" : "--ink");
        pen.font = `${Math.min(count > 6 ? 36 : 60, cell / 2.8)}px system-ui, sans-serif`;
        pen.textAlign = "center";
        pen.textBaseline = "middle";
        const text = unit === "pixels" ? (100 * share).toFixed(share < 0.1 ? 1 : 0) : n >= 10000 ? (n / 1000).toFixed(0) + "k" : String(n);
        pen.fillText(text, (place[column] + 0.5) * cell, (place[row] + 0.5) * cell);
      }
    });
    pen.globalAlpha = 1;
    if (!named) return;
    pen.fillStyle = style.getPropertyValue("--ink");
    const write = (size) => { pen.font = `${Math.min(size, 0.7 * cell)}px system-ui, sans-serif`; };
    write(Math.max(30, Math.min(44, 0.45 * cell)));
    const widest = Math.max(...order.map((name) => pen.measureText(names[name]).width));
    write(Math.max(30, Math.min(44, 0.45 * cell) * Math.min(1, (margin - 16) / widest)));
    pen.textBaseline = "middle";
    pen.textAlign = "right";
    order.forEach((name, at) => pen.fillText(shortened(pen, names[name], margin - 16), -10, (at + 0.5) * cell));
    pen.rotate(-Math.PI / 2);
    order.forEach((name, at) => pen.fillText(shortened(pen, names[name], margin - 16), -side - 10, (at + 0.5) * cell));
  }

  function shortened(pen, text, width) {
    while (text.length > 2 && pen.measureText(text).width > width) text = text.slice(0, -2) + "…";
    return text;
  }

  function tell(event) {
    const area = canvas.getBoundingClientRect();
    const at = (offset, size) => Math.min(count - 1, Math.max(0, Math.floor(offset / size * count)));
    const scale = (side + margin) / area.width;
    let [column, row] = [at((event.clientX - area.left) * scale - margin, side), at((event.clientY - area.top) * scale, side)];
    const reach = Math.ceil(4 * count / area.width);  // of many classes a cell is less than a finger
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
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
  requestAnimationFrame(paint);
  return make("div", {},
    make("div", { class: "controls" }, make("label", {}, "order ", select), make("label", {}, only, " only the mistakes")), told,
    make("div", { class: "matrix" }, make("span", { class: "true soft", text: "true" }), canvas, make("span", { class: "said soft", text: "answered" })));
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
  section("Curves", make("div", { class: "charts" }, ...facts.curves.map(({ name, lines }) => chart(name,
    Object.entries(lines).map(([split, points]) => ({ name: split, colour: colours[split], points })), { marks }))));
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
    facts.latencies.length ? table(["engine", "ms an image (median, batch 1)"], facts.latencies) : null,
    facts.files.length ? table(["file", "MB"], facts.files) : null);
}
section("How to repeat it", make("pre", { text: facts.repeat }), table(["what", "version"], facts.versions, "plain"),
  make("details", {}, make("summary", { text: "The whole recipe" }), make("pre", { text: facts.recipe })));
