// The list of films: filter, order, pages.

import { send } from "./requests.js";

const LIMIT = 12;

const filter = document.getElementById("filter");
const rows = document.getElementById("films-rows");
const hint = document.getElementById("films-hint");
const range = document.getElementById("films-range");
const previous = document.getElementById("films-previous");
const next = document.getElementById("films-next");
const headers = [...document.querySelectorAll("[data-sort]")];

let sort = "title";
let offset = 0;
let latest = 0;
let typing = null;

/** Shows the first page, in the order of titles, without a filter. */
export function begin() {
  filter.reset();
  sort = "title";
  return turnTo(0);
}

filter.addEventListener("submit", (event) => {
  event.preventDefault();
  turnTo(0);
});
filter.addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(() => turnTo(0), 250);
});
previous.addEventListener("click", () => turnTo(offset - LIMIT));
next.addEventListener("click", () => turnTo(offset + LIMIT));
for (const header of headers) {
  header.firstElementChild.addEventListener("click", () => {
    const field = header.dataset.sort;
    sort = sort === field ? `-${field}` : field;
    turnTo(0);
  });
}

async function turnTo(start) {
  clearTimeout(typing);
  showOrder();
  const year = filter.elements.year.value.trim();
  if (year && !/^\d{4}$/.test(year)) {
    hint.textContent = "A year has four digits.";
    return;
  }
  const asked = ++latest;
  const answer = await send("GET", `/movies?${query(Math.max(0, start))}`);
  // A later request has been sent meanwhile: its answer counts.
  if (asked !== latest) return;
  if (answer.ok) show(answer.data);
  else if (answer.status !== 401) hint.textContent = answer.detail;
}

function query(start) {
  const query = new URLSearchParams({ limit: LIMIT, offset: start, sort });
  for (const name of ["title", "director", "year"]) {
    const value = filter.elements[name].value.trim();
    if (value) query.set(name, value);
  }
  return query;
}

function show({ items, total, offset: start }) {
  offset = start;
  rows.replaceChildren(...items.map(row));
  hint.textContent = total === 0 ? "No film matches. Take something out of the filter." : "";
  range.textContent = total === 0 ? "0 films" : `${start + 1}–${start + items.length} of ${total}`;
  previous.disabled = start === 0;
  next.disabled = start + items.length >= total;
}

function showOrder() {
  for (const header of headers) {
    const field = header.dataset.sort;
    if (sort === field) header.setAttribute("aria-sort", "ascending");
    else if (sort === `-${field}`) header.setAttribute("aria-sort", "descending");
    else header.removeAttribute("aria-sort");
  }
}

function row(film) {
  const line = document.createElement("tr");
  line.setAttribute("role", "row");
  line.append(
    cell("film-title", film.title),
    cell("film-director", film.director),
    cell("film-year number", film.year),
    cell("film-minutes number", film.runtime_minutes ?? "–"),
  );
  return line;
}

function cell(name, text) {
  const cell = document.createElement("td");
  cell.setAttribute("role", "cell");
  cell.className = name;
  cell.textContent = text;
  return cell;
}
