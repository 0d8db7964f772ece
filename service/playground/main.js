// The page: puts the parts together and passes on what changes.

import { Api } from "./api.js";
import { showCurve, showPoints } from "./curve.js";
import { byId, element, tell } from "./dom.js";
import { drawExample, examplesOf, titleOf } from "./examples.js";
import { listen, imageOf } from "./image.js";
import { difference, spoken } from "./results.js";
import { Setting } from "./setting.js";
import { curl, python } from "./snippet.js";

const QUIET_MS = 700; // a screen reader is told of results once they stay

const api = new Api();
/** @type {import("./setting.js").Shared} */
const shared = {
  model: null, image: null, layer: "", opacity: 0.8, changed: showCode,
  answered() {
    showTogether();
    announce();
  },
  failed(error) {
    showTogether();
    if (error.status === 401) askForKey();
  },
  chooseLayer(name) {
    shared.layer = name;
    redraw();
  },
};
let models = [];
let announcing = 0;
let choices = 0; // of images
let drawn = null; // the example that is the image, if one is
const settings = [new Setting("A", 0.4, api, shared), new Setting("B", 0.6, api, shared)];

const comparing = () => byId("compare").getAttribute("aria-pressed") === "true";
const shown = () => (comparing() ? settings : settings.slice(0, 1));
const redraw = () => shown().forEach((one) => one.draw());
const chosen = (name) => document.querySelector(`input[name=${name}]:checked`).value;

function showCode() {
  const { model, image } = shared;
  if (!model || !image) return;
  const alone = models.filter((one) => one.name === model.name).length === 1;
  const version = alone ? "" : `/versions/${encodeURIComponent(model.version)}`;
  const setting = settings[comparing() && chosen("whose") === "B" ? 1 : 0];
  const url = new URL(`v1/models/${encodeURIComponent(model.name)}${version}/classify`, document.baseURI);
  url.search = new URLSearchParams(setting.quality).toString();
  const request = { url: url.href, file: image.name, type: image.type || "application/octet-stream", keyed: Boolean(api.key) };
  byId("code").textContent = (chosen("language") === "curl" ? curl : python)(request);
}

/** What settings show together: where they lie on the curve, and how they differ. */
function showTogether() {
  const answered = shown().filter((one) => one.answer);
  const marks = answered.map(({ key, answer: { operating_point: point, prediction } }) => (
    { key, cost: prediction.macs.gated, accuracy: point.expected_accuracy, interval: point.accuracy_interval }
  ));
  showCurve(byId("curve"), shared.model, marks, (ratio) => settings[0].chooseSparsity(ratio));
  const [a, b] = answered.map((one) => one.answer);
  tell(byId("difference"), b ? difference(a, b) : "");
}

function announce() {
  clearTimeout(announcing);
  announcing = setTimeout(() => {
    const texts = shown().filter((one) => one.answer).map((one) => spoken(one.answer, comparing() ? `Setting ${one.key}: ` : ""));
    byId("status").textContent = texts.join(" ");
  }, QUIET_MS);
}

/** False where another image was chosen while this one was decoded. */
async function showImage(blob, name) {
  const turn = ++choices;
  const image = await imageOf(blob, name);
  if (turn !== choices) return false;
  shared.image = image;
  drawn = null;
  byId("chosen").textContent = `${name} · ${shared.image.note}`;
  const save = byId("save");
  URL.revokeObjectURL(save.href);
  Object.assign(save, { href: URL.createObjectURL(blob), download: name, hidden: blob instanceof File });
  showCode();
  return true;
}

async function showExample(example) {
  const blob = await new Promise((done) => drawExample(example, 256).toBlob(done, "image/png"));
  if (await showImage(blob, `${example.name}.png`)) drawn = example;
}

/** Ask about the image that is shown. */
function ask() {
  if (!shared.model) return;
  shown().forEach((one) => {
    one.forget();
    one.ask();
  });
}

/** Offer what a model knows, and show the first of it in the place of an example that it does not know. */
async function offerExamples(labels) {
  const examples = examplesOf(labels);
  byId("examples").replaceChildren(...examples.map((example) => element(
    "button", { type: "button", class: "example", click: () => showExample(example).then(ask) },
    drawExample(example, 48), titleOf(example),
  )));
  if (!shared.image || (drawn && !examples.includes(drawn))) await showExample(examples[0]);
}

async function useModel(number) {
  await offerExamples(models[number].labels);
  if (byId("model").value !== String(number)) return; // another was chosen meanwhile
  shared.model = models[number];
  shared.layer = "";
  for (const part of document.querySelectorAll(".asking")) part.hidden = false;
  shown().forEach((one) => one.forget());
  showPoints(byId("points"), shared.model);
  showTogether();
  shown().forEach((one) => one.useModel());
}

async function load() {
  let found;
  try {
    found = await api.models();
  } catch (error) {
    if (error.status === 401) askForKey(api.key && error.message);
    else tell(byId("page-error"), error.message);
    return;
  }
  tell(byId("page-error"), "");
  byId("key-form").hidden = true;
  models = found.models;
  const several = new Set(models.map((one) => one.name)).size < models.length;
  byId("model").replaceChildren(
    ...models.map((one, number) => element("option", { value: number }, several ? `${one.name}, version ${one.version}` : one.name)),
  );
  byId("model").value = String(Math.max(0, models.findIndex((one) => one.name === found.default)));
  await useModel(Number(byId("model").value));
}

function askForKey(refusal = "") {
  tell(byId("page-error"), refusal);
  byId("key-form").hidden = false;
  byId("key").focus();
}

function compare() {
  const on = !comparing();
  byId("compare").setAttribute("aria-pressed", String(on));
  byId("settings").classList.toggle("two", on);
  byId("whose").hidden = !on;
  if (on) {
    byId("settings").append(settings[1].root);
    settings[1].forget();
    settings[1].useModel();
  } else settings[1].root.remove();
  showTogether();
  showCode();
}

async function copy() {
  const code = byId("code"), button = byId("copy");
  try {
    await navigator.clipboard.writeText(code.textContent);
    button.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(code); // pages without TLS may not write to the clipboard, people may
    button.textContent = "Selected";
  }
  byId("status").textContent = button.textContent;
  setTimeout(() => (button.textContent = "Copy"), 1500);
}

byId("settings").append(settings[0].root);
listen(byId("drop"), byId("file"), (file) => showImage(file, file.name || "image.png").then((isShown) => isShown && ask()));
byId("model").addEventListener("change", (event) => useModel(Number(event.target.value)));
byId("opacity").addEventListener("input", ({ target }) => {
  shared.opacity = target.value / 100;
  target.style.setProperty("--at", `${target.value}%`);
  redraw();
});
byId("compare").addEventListener("click", compare);
for (const id of ["language", "whose"]) byId(id).addEventListener("change", showCode);
byId("copy").addEventListener("click", copy);
byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  api.key = byId("key").value;
  load();
});
new ResizeObserver(() => shared.model && showTogether()).observe(byId("curve"));
await offerExamples([]);
await load();
