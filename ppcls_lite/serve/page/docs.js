// Shows openapi.json: each address with a line for curl, its parameters, answers and an example.

const part = (id) => document.getElementById(id);

function row(table, ...cells) {
  const line = table.insertRow();
  for (const text of cells) line.insertCell().textContent = text;
}

function compact(example) {  // lists of plain values on one line
  const text = JSON.stringify(example, null, 2);
  return text.replace(/\[[^[\]{}]*\]/g, (list) => list.replace(/\s+/g, " "));
}

function section(path, verb, operation) {
  const shown = part("operation").content.firstElementChild.cloneNode(true);
  const inside = (name) => shown.querySelector(name);
  inside(".verb").textContent = verb.toUpperCase();
  inside(".path").textContent = path;
  inside(".about").textContent = [operation.summary, operation.description].filter(Boolean).join(". ");
  const address = new URL("." + path, location.href);
  const sends = operation.requestBody ? "--data-binary @image.jpg " : "";
  inside(".curl").textContent = `curl ${sends}${address}`;
  for (const parameter of operation.parameters || []) {
    row(inside(".parameters"), "?" + parameter.name + "=", parameter.description);
  }
  for (const [status, response] of Object.entries(operation.responses)) {
    row(inside(".responses"), status, response.description);
  }
  const example = operation.responses["200"].content?.["application/json"]?.example;
  if (example) {
    inside(".example").hidden = false;
    inside(".example pre").textContent = compact(example);
  }
  return shown;
}

try {
  const { paths } = await (await fetch("openapi.json")).json();
  for (const [path, operations] of Object.entries(paths)) {
    for (const [verb, operation] of Object.entries(operations)) {
      part("operations").append(section(path, verb, operation));
    }
  }
} catch (error) {
  part("message").textContent = `The service does not answer (${error.message}).`;
  part("message").className = "error";
}
