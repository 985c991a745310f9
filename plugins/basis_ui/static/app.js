"use strict";
const $ = (id) => document.getElementById(id);
const make = (tag, given = {}, ...inside) => {
  const { dataset, ...plain } = given, element = Object.assign(document.createElement(tag), plain);
  Object.assign(element.dataset, dataset);
  element.append(...inside.filter((each) => each !== null && each !== undefined));
  return element;
};
const aria = (element, given) => {
  for (const [name, value] of Object.entries(given)) element.setAttribute(`aria-${name}`, value);
  return element;
};

// ---- asking the server

async function ask(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    trouble("The server does not answer. Start basis ui again: nothing is lost, and this page goes on.");
    throw new Error("no answer");
  }
  const said = await answer.json().catch(() => ({}));
  if (answer.status === 403 || answer.status === 421) trouble(`${said.error || "This page may not ask any more"}: ${said.hint || "open the address that basis ui printed"}.`);
  else trouble("");
  if (!answer.ok) throw new Error([said.error, said.hint].filter(Boolean).join(": ") || `error ${answer.status}`);
  return said;
}
function trouble(words) {
  if ($("trouble").textContent !== words) $("trouble").textContent = words;
  $("trouble").hidden = !words;
}
const refuse = (words) => { $("refused").textContent = words; };

// ---- pictures

let offered, uploads = [], current = null, task;

async function take(files) {
  refuse("");
  for (const file of files) {
    try {
      if (file.size > offered.largest) throw new Error(`a file may have ${offered.largest / 2 ** 20} MB`);
      const upload = await ask("/api/uploads", { method: "POST", body: file, headers: { "X-Name": encodeURIComponent(file.name || "pasted.png") } });
      uploads.push(upload);
      show(upload);
    } catch (error) {
      refuse(`${file.name || "The picture"}: ${error.message}`);
    }
  }
}

function show(upload) {
  current = upload;
  $("shown").src = `/api/uploads/${upload.id}`;
  $("shown").alt = upload.name;
  $("shown").classList.toggle("pixels", Math.max(upload.width, upload.height) <= 160);
  $("tray").replaceChildren(...uploads.map((each) => {
    const image = make("img", { src: `/api/uploads/${each.id}`, alt: each.name });
    const button = aria(make("button", { type: "button" }, image), { pressed: each === upload });
    button.addEventListener("click", () => show(each));
    return make("li", {}, button);
  }));
  board();
}

$("choose").addEventListener("click", () => $("file").click());
$("more").addEventListener("click", () => $("file").click());
$("file").addEventListener("change", () => { take([...$("file").files]); $("file").value = ""; });
for (const [kind, over] of [["dragover", true], ["dragleave", false], ["drop", false]])
  addEventListener(kind, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", over);
    if (kind === "drop") take([...event.dataTransfer.files]);
  });
addEventListener("paste", (event) => {
  const files = [...event.clipboardData.files];
  if (files.length) take(files);
});

// ---- painting

const canvas = $("canvas"), pen = canvas.getContext("2d", { willReadFrequently: true });
let painted = false, last = null, before = [], colour = "#ffffff";
const painting = () => task && (task.mask || layout());
const layout = () => Object.keys(task.palette).length > 0;

function board() {
  const layouts = task && layout();
  $("empty").hidden = Boolean(current) || layouts;
  $("board").hidden = !current && !layouts;
  $("several").hidden = !uploads.length || layouts;
  $("tools").hidden = !painting() || $("board").hidden;
  canvas.hidden = !painting();
  $("board").className = `board ${layouts ? "layout" : "mask"}`;
  $("region-row").hidden = layouts;
  $("all").hidden = uploads.length < 2 || painting();
  $("all").textContent = `Run on all ${uploads.length}`;
  const [width, height] = layouts ? [256, 256] : current ? [current.width, current.height] : [1, 1];
  if (canvas.width !== width || canvas.height !== height || canvas.dataset.of !== (layouts ? "layout" : current?.id)) {
    [canvas.width, canvas.height] = [width, height];
    canvas.dataset.of = layouts ? "layout" : current?.id;
    wipe();
  }
  sizes();
}
function wipe() {
  painted = false;
  before = [];
  pen.clearRect(0, 0, canvas.width, canvas.height);
  if (task && layout()) {
    pen.fillStyle = Object.values(task.palette)[0];
    pen.fillRect(0, 0, canvas.width, canvas.height);
  }
}
// Discs of whole pixels: a blended edge would be no colour of a layout, and no mask.
function dab(x, y) {
  const radius = Math.max(0.5, ($("brush").value / 400) * Math.min(canvas.width, canvas.height));
  const erase = $("erase").getAttribute("aria-pressed") === "true";
  pen.fillStyle = layout() ? (erase ? Object.values(task.palette)[0] : colour) : "#ff4d5e";
  for (let row = Math.floor(y - radius); row <= y + radius; row++) {
    const half = Math.sqrt(Math.max(0, radius * radius - (row + 0.5 - y) ** 2));
    const left = Math.round(x - half), width = Math.max(1, Math.round(x + half) - left);
    if (erase && !layout()) pen.clearRect(left, row, width, 1);
    else pen.fillRect(left, row, width, 1);
  }
  painted = true;
}
function stroke(event) {
  const box = canvas.getBoundingClientRect();
  const x = ((event.clientX - box.left) * canvas.width) / box.width, y = ((event.clientY - box.top) * canvas.height) / box.height;
  const from = last ?? [x, y], steps = Math.max(1, Math.ceil(Math.hypot(x - from[0], y - from[1])));
  for (let i = 1; i <= steps; i++) dab(from[0] + ((x - from[0]) * i) / steps, from[1] + ((y - from[1]) * i) / steps);
  last = [x, y];
}
canvas.addEventListener("pointerdown", (event) => {
  before.push(pen.getImageData(0, 0, canvas.width, canvas.height));
  before = before.slice(-12);
  canvas.setPointerCapture(event.pointerId);
  $("region").value = "";
  last = null;
  stroke(event);
});
canvas.addEventListener("pointermove", (event) => { if (event.buttons && last) stroke(event); });
canvas.addEventListener("pointerup", () => { last = null; });
$("erase").addEventListener("click", () => aria($("erase"), { pressed: $("erase").getAttribute("aria-pressed") !== "true" }));
$("undo").addEventListener("click", () => { if (before.length) pen.putImageData(before.pop(), 0, 0); });
$("clear").addEventListener("click", wipe);

async function paintedFile() {
  const copy = make("canvas", { width: canvas.width, height: canvas.height }), out = copy.getContext("2d");
  const pixels = pen.getImageData(0, 0, canvas.width, canvas.height);
  if (!layout())
    for (let i = 0; i < pixels.data.length; i += 4) {
      pixels.data.fill(pixels.data[i + 3] ? 255 : 0, i, i + 3);
      pixels.data[i + 3] = 255;
    }
  out.putImageData(pixels, 0, 0);
  const blob = await new Promise((done) => copy.toBlob(done, "image/png"));
  return ask("/api/uploads", { method: "POST", body: blob, headers: { "X-Name": layout() ? "layout.png" : "mask.png" } });
}

// ---- the form

// What answers unless something else is chosen.
function usual() {
  return task.model ? `model:${task.model}` : `prior:${task.prior}`;
}
function choose(name) {
  task = offered.tasks.find((each) => each.name === name);
  for (const radio of document.querySelectorAll("#tasks input")) radio.checked = radio.value === name;
  $("about").textContent = task.about;
  const options = (kind, each) => each.map((one) => make("option", { value: `${kind}:${one.name}`, textContent: one.name, title: one.summary }));
  $("by").replaceChildren(
    ...(task.priors.length ? [make("optgroup", { label: "a prior, and a sampler" }, ...options("prior", task.priors))] : []),
    ...(task.models.length ? [make("optgroup", { label: "a network for this task" }, ...options("model", task.models))] : []),
  );
  $("by").value = usual();
  const first = (about) => about.kind === "whole";
  $("fields").replaceChildren(...task.fields.filter(first).map(field));
  $("more-fields").replaceChildren(...task.fields.filter((about) => !first(about)).map(field));
  $("region").replaceChildren(make("option", { value: "", textContent: "what is painted" }), ...task.regions.map((each) => make("option", { value: each, textContent: each === "center" ? "the center" : `the ${each} half` })));
  const colours = Object.entries(task.palette);
  colour = colours[1]?.[1] ?? "#ffffff";
  $("colours").replaceChildren(...colours.map(([label, value], i) => {
    const radio = make("input", { type: "radio", name: "colour", value, checked: i === 1 }), patch = make("i");
    patch.style.background = value;
    radio.addEventListener("change", () => { colour = value; });
    return make("label", {}, radio, patch, label);
  }));
  board();
}
function field(about) {
  const label = about.option.replace(/^-+/, "").replaceAll("-", " "), id = `f-${about.name}`;
  let input;
  if (about.kind === "choice")
    input = make("select", { id }, ...(about.default === null ? [""] : []).concat(about.choices).map((value) => make("option", { value, textContent: value || "as it is" })));
  else if (about.kind === "flag") input = make("input", { id, type: "checkbox" });
  else if (about.kind === "text") input = make("input", { id, type: "text", placeholder: about.default ?? "", pattern: "[\\w.,+ \\-]{1,64}" });
  else input = make("input", { id, type: "number", step: about.kind === "whole" ? 1 : "any", placeholder: about.default ?? "" });
  if (about.least !== null && input.type === "number") input.min = about.least;
  input.dataset.field = about.name;
  const help = make("small", { id: `${id}-help`, textContent: about.help });
  aria(input, { describedby: help.id });
  return make("div", { className: "row" }, make("label", { htmlFor: id, textContent: label === "k" ? "Components" : label[0].toUpperCase() + label.slice(1) }), input, help);
}
function chosenBy() {
  const [kind, name] = $("by").value.split(/:(.*)/s);
  return [kind, name, task[`${kind}s`].find((each) => each.name === name)];
}
// A prior of one size: say so, and offer to fit.
function sizes() {
  if (!task || !$("by").value) return;
  const [, name, spec] = chosenBy(), fit = document.querySelector("[data-field=fit]");
  const differs = current && !layout() && !spec.any && task.name !== "upscale" && (spec.shape[1] !== current.height || spec.shape[2] !== current.width);
  $("size").hidden = !current || layout();
  $("size").textContent = current ? `${current.name}: ${current.width} × ${current.height}. ${name} ${spec.any ? "takes any size." : `knows ${spec.shape[2]} × ${spec.shape[1]}.`}` : "";
  if (fit) fit.value = differs ? "resize" : "";
}
$("by").addEventListener("change", sizes);
$("samples").addEventListener("input", () => { $("select-row").hidden = !(Number($("samples").value) > 1); });

function filled(upload, mask) {
  const [kind, name] = chosenBy(), options = {}, number = (id) => ($(id).value === "" ? null : Number($(id).value));
  for (const input of document.querySelectorAll("[data-field]")) {
    const value = input.type === "checkbox" ? input.checked : input.type === "number" ? (input.value === "" ? null : Number(input.value)) : input.value;
    if (value !== null && value !== "" && value !== false) options[input.dataset.field] = value;
  }
  const preset = document.querySelector("[name=preset]:checked").value;
  return {
    upload, mask, task: task.name, preset, options, samples: number("samples"), seed: number("seed"),
    select: $("select-row").hidden ? null : $("select").value, region: mask ? null : $("region").value,
    ...($("by").value === usual() ? {} : { [kind]: name }),
  };
}
async function run(pictures) {
  refuse("");
  try {
    let mask = null;
    if (layout()) pictures = [await paintedFile()];
    else if (!pictures.length) throw new Error("choose a picture first");
    else if (task.mask && !$("region").value) {
      if (!painted) throw new Error("paint over what is unknown, or choose a part of the picture");
      mask = (await paintedFile()).id;
    }
    for (const picture of pictures) {
      const job = await ask("/api/jobs", { method: "POST", body: JSON.stringify(filled(picture.id, mask)) });
      $("said").textContent = `${job.input} is queued`;
    }
    await look();
    $("list").firstElementChild?.scrollIntoView({ block: "nearest", behavior: "smooth" });
  } catch (error) {
    refuse(error.message);
  }
}
$("form").addEventListener("submit", (event) => { event.preventDefault(); run(current ? [current] : []); });
$("all").addEventListener("click", () => run(uploads));

// ---- jobs

const cards = new Map();
const time = (seconds) => (seconds < 90 ? `${Math.max(1, Math.round(seconds))} s` : seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`);
const base = (name) => name.split(/[\\/]/).pop();

function card(job) {
  const known = cards.get(job.id);
  if (known && known.state === job.state) {
    if (job.state === "running") advance(known.element, job);
    return known.element;
  }
  if (known) $("said").textContent = `${job.input}: ${job.state}`;
  const element = known?.element ?? make("article", { className: "job card", id: `job-${job.id}` });
  cards.set(job.id, { element, state: job.state });
  const action = (words, path, method) => {
    const button = make("button", { type: "button", textContent: words });
    aria(button, { label: `${words} ${job.input}` });
    button.addEventListener("click", async () => {
      button.disabled = true;
      await ask(path, { method }).catch((error) => refuse(error.message));
      await look();
    });
    return button;
  };
  const active = job.state === "queued" || job.state === "running";
  const title = make("h3", { id: `title-${job.id}`, textContent: job.input });
  aria(element, { labelledby: title.id });
  element.replaceChildren(
    make("header", {}, title, make("span", { textContent: job.task }), make("span", { className: "state", textContent: job.state }),
      job.note && active ? make("span", { textContent: job.note }) : null,
      make("div", { className: "buttons" }, active ? action("Cancel", `/api/jobs/${job.id}/cancel`, "POST") : action("Delete", `/api/jobs/${job.id}`, "DELETE"))),
    ...(job.warnings ?? []).map((words) => make("p", { className: "warning", textContent: words })),
  );
  if (job.state === "running") {
    const bar = aria(make("progress", { max: 1, value: 0 }), { label: `progress of ${job.input}` });
    element.append(make("div", { className: "now" }, make("img", { className: "forming", src: `/api/jobs/${job.id}/preview.png`, alt: "the picture as it forms" }), make("div", {}, bar, make("p", { className: "soft how" }))));
    advance(element, job);
  }
  if (job.state === "failed") element.append(make("p", { className: "error", textContent: job.error }));
  if (job.state === "done" && job.record) done(element, job);
  element.append(commandLine(job));
  return element;
}
function advance(element, job) {
  const { fraction = 0, sigma, left, estimate } = job.progress ?? {};
  element.querySelector("progress").value = fraction;
  element.querySelector(".how").textContent = sigma === undefined
    ? (estimate ? `about ${time(estimate)}` : "loading")
    : `${Math.round(100 * fraction)} %, noise level ${sigma.toPrecision(2)}${fraction < 1 ? `, ${time(left)} left` : ""}`;
  if (job.files.includes("forming.png")) element.querySelector(".forming").src = `/api/jobs/${job.id}/forming.png?${fraction}`;
}
function done(element, job) {
  const at = (name) => `/api/jobs/${job.id}/${encodeURIComponent(base(name))}`, record = job.record;
  const after = make("img", { className: "after", src: at(record.answers[0].components[0]), alt: "the answer" });
  const seen = make("img", { className: "before", src: at("preview.png"), alt: "what was given" });
  after.addEventListener("load", () => { for (const each of [after, seen]) each.classList.toggle("pixels", after.naturalWidth <= 160); });
  const range = aria(make("input", { type: "range", min: 0, max: 100, value: 50 }), { label: `How much of ${job.input} is shown as given, in percent` });
  const stage = make("div", { className: "stage" }, after, seen, range), what = make("span", { textContent: "answer" });
  range.addEventListener("input", () => stage.style.setProperty("--cut", `${range.value}%`));
  const several = record.answers[0].components.length > 1, tiles = [];
  const tile = (name, title, note) => {
    const image = make("img", { src: at(name), alt: title });
    image.addEventListener("load", () => image.classList.toggle("pixels", image.naturalWidth <= 160));
    const button = aria(make("button", { type: "button" }, image), { label: `Compare ${title} with what was given`, pressed: !tiles.length });
    button.addEventListener("click", () => {
      after.src = at(name);
      what.textContent = title;
      for (const other of element.querySelectorAll(".tile button")) aria(other, { pressed: other === button });
    });
    tiles.push(make("figure", { className: "tile" }, button, make("figcaption", {}, title, note ? make("br") : null, note ?? "", " ", make("a", { href: at(name), download: base(name), textContent: "save" }))));
    aria(tiles.at(-1).querySelector("a"), { label: `save ${title} of ${job.input}` });
  };
  record.answers.forEach((answer, sample) => answer.components.forEach((name, i) => {
    const words = [record.answers.length > 1 ? `sample ${sample + 1}` : several ? "" : "answer", several ? `component ${i + 1}` : ""].filter(Boolean).join(", ");
    tile(name, words, sample === 0 || !record.log_likelihood_nats ? `residual ${(answer.residual_8bit_rms ?? NaN).toFixed(2)}` : `${(record.log_likelihood_nats[sample] - record.log_likelihood_nats[0]).toFixed(1)} nats`);
  }));
  (record.uncertainty?.files ?? []).forEach((name, i) => tile(name, several ? `uncertainty ${i + 1}` : "uncertainty", "white: 0.25 or more"));
  element.append(
    make("div", { className: "result" },
      make("figure", { className: "compare" }, stage, make("figcaption", {}, make("span", { textContent: "given" }), what)),
      make("div", { className: "strip" }, ...tiles)),
    make("div", { className: "links" },
      make("a", { className: "button", href: at("report.html"), target: "_blank", rel: "noopener", textContent: "Report" }),
      make("a", { className: "button", href: `/api/jobs/${job.id}/all.zip`, download: "", textContent: "All files" }),
      make("a", { className: "button", href: at(`${job.input.replace(/\.[^.]*$/, "")}.json`), download: "", textContent: "Record" }),
      ...job.files.filter((name) => name.includes(".mask.")).map((name) => make("a", { className: "button", href: at(name), download: name, textContent: "Mask" })),
      make("span", { className: "soft", textContent: `${time(record.seconds)}, ${Math.round(record.evaluations)} evaluations, seed ${record.settings.seed}` })),
  );
}
function commandLine(job) {
  const code = make("code", { textContent: job.command, tabIndex: 0 }), button = make("button", { type: "button", textContent: "Copy" });
  aria(button, { label: `Copy the command of ${job.input}` });
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(job.command).then(() => { button.textContent = "Copied"; }, () => getSelection().selectAllChildren(code));
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
  return make("div", { className: "copy" }, code, button);
}

let looking = null;
async function look() {
  clearTimeout(looking);
  let active = false;
  try {
    const jobs = await ask("/api/jobs");
    active = jobs.some((job) => job.state === "queued" || job.state === "running");
    const elements = jobs.map(card), list = $("list");
    for (const [id, { element }] of cards)
      if (!elements.includes(element)) { element.remove(); cards.delete(id); }
    elements.forEach((element, i) => { if (list.children[i] !== element) list.insertBefore(element, list.children[i] ?? null); });
    $("none").hidden = jobs.length > 0;
  } catch { /* said already */ }
  looking = setTimeout(look, active ? 500 : 3000);
}

async function begin() {
  offered = await ask("/api/offered");
  $("tasks").replaceChildren(...offered.tasks.map((each) => {
    const radio = make("input", { type: "radio", name: "task", value: each.name });
    radio.addEventListener("change", () => choose(each.name));
    return make("label", {}, radio, each.name);
  }));
  $("examples").replaceChildren(...Object.entries(offered.examples).map(([name, what]) => {
    const button = aria(make("button", { type: "button" }, make("img", { src: `/examples/${name}`, alt: "" })), { label: `${name}, to ${what}` });
    button.addEventListener("click", async () => {
      choose(what);
      await take([new File([await (await fetch(`/examples/${name}`)).blob()], name)]);
    });
    return make("li", {}, button);
  }));
  choose("separate");
  await look();
}
begin().catch((error) => trouble($("trouble").textContent || error.message));
