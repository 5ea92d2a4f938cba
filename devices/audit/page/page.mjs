// What the page shows. All of it came from outside, so it is put in as text, never as markup.

import { shownText } from "./bytes.mjs";
import { verifyReceipt } from "./verify.mjs";

const SIGNS = { attested: "◇", missing: "?", invalid: "✗", "bad file": "✗" };
const LARGEST = 512 * 1024 * 1024;
const [DRAWN, WIDTH, HEIGHT, ACROSS, DOWN, ROW] = [150, 218, 48, 26, 34, 4];
const SVG = "http://www.w3.org/2000/svg";

function make(tag, attributes = {}, ...children) {
  const svg = ["svg", "rect", "text", "path"].includes(tag) || attributes.svg;
  const made = svg ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) if (name !== "svg") made.setAttribute(name, value);
  made.append(...children.filter((one) => one !== null && one !== ""));
  return made;
}

const shown = (text, width = 400) => {
  const found = shownText(text);
  return found.length > width ? found.slice(0, width) + "…" : found;
};
const css = (verdict) => "v-" + verdict.replace(/ /g, "-");
const title = (step) => `${shown(step.device, 60) || "no device"} ${shown(step.key, 60)}` + (step.slot === undefined ? "" : `, slot ${step.slot}`);

function headline(report) {
  const at = report.steps.findIndex((step) => step.verdict === report.verdict);
  const first = report.findings[0] ?? report.steps[at]?.findings[0];
  if (report.verdict === "attested") return `attested by ${report["attested-by"].map((one) => shown(one, 60)).join(", ") || "nobody who is named"}`;
  const where = report.findings.length || at < 0 ? "" : ` at step ${at + 1} of ${report.total}: ${title(report.steps[at])}`;
  return `${report.verdict}${where}${first ? `: ${shown(first.rule, 60)}: ${shown(first.text)}` : ""}`;
}

const ADVICE = {
  attested: "The receipt is consistent, and these keys stand by it. Nothing was computed again here.",
  missing: "What is here holds, but not all of it could be checked in a browser.",
  invalid: "Do not rely on it. Get the receipt again, from another source if you can.",
  "bad file": "This is no receipt, or it was damaged on the way.",
};

function findingBox(one, verdict) {
  const made = make("div", { class: `finding ${css(verdict)}` }, make("b", {}, shown(one.rule, 60)), ": " + shown(one.text, 1000));
  if (one.expected || one.got) {
    const side = (name) => make("div", {}, make("span", {}, name), make("code", {}, shown(one[name] || "(nothing)")));
    made.append(make("div", { class: "sides" }, side("expected"), side("got")));
  }
  return made;
}

function fill(list, step, report) {
  const fields = ["status", "process", "base", "request", "result", "hashpath-before", "hashpath-after", "record", "parent"];
  for (const name of fields) {
    if (!step[name]) continue;
    const told = make("dd", {}, make("code", {}, shown(step[name])));
    if (["base", "request", "result"].includes(name)) told.append(make("pre", {}, shown(report.read(step[name]).slice(0, 20000), 4000)));
    list.append(make("dt", {}, name), told);
  }
  return list;
}

function stepEntry(step, at, report) {
  const list = make("dl");
  const badge = make("span", { class: `badge ${css(step.verdict)}` }, `${SIGNS[step.verdict]} ${step.verdict}`);
  const head = make("summary", {}, make("span", { class: "n" }, `${at + 1} `), title(step) + " ", badge);
  const inside = make("div", { class: "inside" }, ...step.findings.map((one) => findingBox(one, step.verdict)));
  const made = make("details", { class: `step ${css(step.verdict)}`, id: `s-${at + 1}` }, head, inside);
  // What is inside is made when it is opened: there may be thousands.
  made.addEventListener("toggle", () => made.open && !list.isConnected && inside.append(fill(list, step, report)));
  if (step.findings.length) made.open = true;
  return made;
}

function drawing(report) {
  // Each step below those it needs; a layer that is too wide goes on below.
  const number = new Map(report.steps.map((step, at) => [step.record, at]));
  const layer = report.steps.map(() => 0);
  const edges = report.edges.map((one) => [number.get(one.source), number.get(one.target), one.kind]);
  const known = edges.filter(([source, target]) => source !== undefined && target !== undefined && source < target);
  known.sort((a, b) => a[1] - b[1]);
  for (const [source, target] of known) layer[target] = Math.max(layer[target], layer[source] + 1);
  const place = [];
  let row = 0;
  for (let level = 0; level <= Math.max(0, ...layer); level++) {
    const members = layer.map((found, at) => (found === level ? at : -1)).filter((at) => at >= 0);
    members.forEach((at, n) => (place[at] = [(n % ROW) * (WIDTH + ACROSS) + 6, (row + Math.floor(n / ROW)) * (HEIGHT + DOWN) + 6]));
    row += Math.ceil(members.length / ROW);
  }
  const width = Math.max(...place.map(([x]) => x)) + WIDTH + 60;
  const made = make("svg", { width, height: row * (HEIGHT + DOWN), role: "group", "aria-label": "the steps, from the first downwards" });
  for (const [source, target, kind] of known) made.append(edgePath(place[source], place[target], kind));
  report.steps.forEach((step, at) => made.append(box(step, at, place[at])));
  return make("div", { class: "graph" }, made);
}

function edgePath([x1, y1], [x2, y2], kind) {
  const known = ["part", "input", "cached", "slot"].includes(kind) ? kind : "next";
  const far = x1 === x2 && y2 - y1 > HEIGHT + DOWN;
  const [from, to, out] = [x1 + WIDTH, x2 + WIDTH, x1 + WIDTH + 30];
  const d = far
    ? `M${from} ${y1 + HEIGHT / 2}C${out} ${y1 + HEIGHT / 2} ${out} ${y2 + HEIGHT / 2} ${to} ${y2 + HEIGHT / 2}`
    : `M${x1 + WIDTH / 2} ${y1 + HEIGHT}C${x1 + WIDTH / 2} ${y1 + HEIGHT + 22} ${x2 + WIDTH / 2} ${y2 - 22} ${x2 + WIDTH / 2} ${y2}`;
  return make("path", { class: `edge ${known}`, d });
}

function box(step, at, [x, y]) {
  const name = title(step);
  const short = name.length > 28 ? name.slice(0, 27) + "…" : name;
  const link = make("a", { svg: true, class: `node ${css(step.verdict)}`, href: `#s-${at + 1}`, "aria-label": `step ${at + 1}: ${name}: ${step.verdict}` });
  link.append(
    make("rect", { x, y, width: WIDTH, height: HEIGHT, rx: 7 }),
    make("text", { x: x + 10, y: y + 20 }, short),
    make("text", { class: "what", x: x + 10, y: y + 37 }, `${SIGNS[step.verdict]} ${step.verdict} · step ${at + 1}`),
  );
  link.addEventListener("click", () => (document.getElementById(`s-${at + 1}`).open = true));
  return link;
}

function show(report, name) {
  const verdict = make("div", { class: `verdict ${css(report.verdict)}`, id: "verdict", "data-verdict": report.verdict });
  verdict.append(make("strong", {}, `${SIGNS[report.verdict]} ${headline(report)}`));
  verdict.append(make("p", {}, ADVICE[report.verdict]), make("p", { class: "soft" }, `${shown(name, 120)}, ${report.total} steps`));
  const parts = [verdict, ...report.findings.slice(0, 50).map((one) => findingBox(one, report.verdict))];
  if (report.unchecked.length) {
    const listed = report.unchecked.map((one) => make("li", {}, shown(one)));
    parts.push(make("div", { class: "note v-missing", id: "unchecked" }, "Not checked in this browser:", make("ul", {}, ...listed)));
  }
  if (report.steps.length) {
    parts.push(make("h2", {}, "Steps"));
    if (report.steps.length <= DRAWN) parts.push(drawing(report));
    parts.push(make("p", { class: "soft" }, "in the order in which they were computed; open one for what it took and gave"));
    parts.push(...report.steps.map((step, at) => stepEntry(step, at, report)));
  }
  return parts;
}

async function take(file) {
  const outcome = document.getElementById("outcome");
  outcome.hidden = false;
  outcome.replaceChildren(make("p", { class: "soft" }, "checking…"));
  await new Promise((go) => setTimeout(go));
  try {
    if (file.size > LARGEST) throw new Error("the file is too large for a browser");
    const report = await verifyReceipt(new Uint8Array(await file.arrayBuffer()));
    outcome.replaceChildren(...show(report, file.name));
  } catch (error) {
    const told = make("div", { class: "verdict v-invalid", id: "verdict", "data-verdict": "invalid" });
    told.append(make("strong", {}, `✗ it could not be checked: ${shown(String(error.message))}`));
    outcome.replaceChildren(told);
  }
}

function start() {
  const drop = document.getElementById("drop");
  const input = document.getElementById("file");
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    if (event.dataTransfer?.files.length) take(event.dataTransfer.files[0]);
  });
  drop.addEventListener("dragenter", () => drop.classList.add("over"));
  drop.addEventListener("dragleave", () => drop.classList.remove("over"));
  input.addEventListener("change", () => input.files.length && take(input.files[0]));
}

start();
