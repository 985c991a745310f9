"use strict";
const $ = (id) => document.getElementById(id);

// A picture that is shown twice is in the file once; its second place gets it when it comes into view.
const fill = (image) => {
  const from = $(image.dataset.from);
  if (!from || image.src) return;
  image.decoding = "async";
  image.src = from.src;
  if (from.classList.contains("pixels")) image.classList.add("pixels");
};
const twice = [...document.querySelectorAll("img[data-from]")];
const near = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries)
    if (isIntersecting) {
      fill(target);
      near.unobserve(target);
    }
}, { rootMargin: "100%" });
for (const image of twice) near.observe(image);
addEventListener("beforeprint", () => twice.forEach(fill));

for (const range of document.querySelectorAll(".stage input"))
  range.addEventListener("input", () => range.parentElement.style.setProperty("--cut", `${range.value}%`));

for (const button of document.querySelectorAll(".put"))
  button.addEventListener("click", () => {
    const article = button.closest("article"), after = article.querySelector(".after");
    if (!after) return;
    const caption = button.parentElement.querySelector("figcaption").firstChild.textContent.trim();
    after.src = $(button.dataset.of).src;
    after.alt = caption;
    article.querySelector(".what").textContent = caption;
    for (const other of article.querySelectorAll(".put")) other.setAttribute("aria-pressed", other === button);
  });

for (const button of document.querySelectorAll("[data-copy]"))
  button.addEventListener("click", async () => {
    const code = $(button.dataset.copy);
    try {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(code);
      button.textContent = "Selected";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });

// Tables of settings are made when they are looked at: a report may have hundreds.
let records;
const setting = (value) => {
  if (Array.isArray(value))
    return value.length > 6 ? `${value.length} values, ${setting(value[0])} to ${setting(value.at(-1))}` : value.map(setting).join(", ");
  if (typeof value === "number" && !Number.isInteger(value)) return String(Number(value.toPrecision(4)));
  return value === null ? "–" : typeof value === "object" ? JSON.stringify(value) : String(value);
};
for (const details of document.querySelectorAll(".made"))
  details.addEventListener("toggle", () => {
    const table = details.querySelector("table");
    if (table.rows.length) return;
    records ??= JSON.parse($("records").textContent);
    const record = records[details.closest("article").dataset.number - 1];
    const rows = [["evaluations", `${setting(record.evaluations)} of each component's network`], ...Object.entries(record.settings)];
    for (const [name, sha256] of Object.entries(record.weights_sha256)) rows.push([`weights of ${name}, SHA-256`, sha256]);
    for (const [name, sha256] of Object.entries(record.inputs_sha256)) rows.push([`${name}, SHA-256`, sha256]);
    for (const [name, value] of rows) {
      const row = table.insertRow(), head = document.createElement("th");
      head.scope = "row";
      head.textContent = name;
      row.append(head);
      row.insertCell().textContent = setting(value);
    }
  });

$("save").addEventListener("click", () => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([$("records").textContent], { type: "application/json" }));
  link.download = "records.json";
  link.click();
});

if ($("index")) {
  const main = $("answers"), articles = [...main.children], items = [...$("index").children];
  const falling = { rms: -1 };
  const arrange = () => {
    const key = $("sort").value, words = $("find").value.trim().toLowerCase(), sign = falling[key] || 1;
    const value = (article) => article.dataset[key] === "" ? Infinity * sign * sign : sign * Number(article.dataset[key]);
    const compare = key === "name"
      ? (a, b) => a.dataset.name.localeCompare(b.dataset.name, undefined, { numeric: true })
      : (a, b) => value(a) - value(b) || a.dataset.number - b.dataset.number;
    let left = 0;
    for (const article of [...articles].sort(compare)) {
      const item = items[article.dataset.number - 1];
      article.hidden = item.hidden = !article.dataset.name.toLowerCase().includes(words);
      left += !article.hidden;
      main.append(article);
      $("index").append(item);
    }
    $("left").textContent = words ? `${left} of ${articles.length}` : "";
  };
  $("sort").addEventListener("change", arrange);
  $("find").addEventListener("input", arrange);
  for (const key of ["psnr", "nats"])
    if (articles.every((article) => article.dataset[key] === "")) $("sort").querySelector(`[value=${key}]`).remove();
}
