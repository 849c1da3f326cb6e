// List of movies with a filter, sorting and pages.

import { send } from "./requests.js";

const PAGE_SIZE = 12;
const FILTER_DELAY_MS = 250;

const filter = document.getElementById("filter");
const rows = document.getElementById("movies-rows");
const hint = document.getElementById("movies-hint");
const range = document.getElementById("movies-range");
const previous = document.getElementById("movies-previous");
const next = document.getElementById("movies-next");
const headers = [...document.querySelectorAll("[data-sort]")];

let sort = "title";
let offset = 0;
let lastRequest = 0;
let filterTimer = null;

/** Shows the first page, sorted by title, without a filter. */
export function reset() {
  filter.reset();
  sort = "title";
  return load(0);
}

filter.addEventListener("submit", (event) => {
  event.preventDefault();
  load(0);
});
filter.addEventListener("input", () => {
  clearTimeout(filterTimer);
  filterTimer = setTimeout(() => load(0), FILTER_DELAY_MS);
});
previous.addEventListener("click", () => load(offset - PAGE_SIZE));
next.addEventListener("click", () => load(offset + PAGE_SIZE));
for (const header of headers) {
  header.firstElementChild.addEventListener("click", () => {
    const field = header.dataset.sort;
    sort = sort === field ? `-${field}` : field;
    load(0);
  });
}

async function load(start) {
  clearTimeout(filterTimer);
  showSort();
  const year = filter.elements.year.value.trim();
  if (year && !/^\d{4}$/.test(year)) {
    hint.textContent = "Enter a year with four digits.";
    return;
  }
  const request = ++lastRequest;
  const response = await send("GET", `/movies?${buildQuery(Math.max(0, start))}`);
  // A newer request supersedes this one.
  if (request !== lastRequest) return;
  if (response.ok) showPage(response.data);
  else if (response.status !== 401) hint.textContent = response.detail;
}

function buildQuery(start) {
  const query = new URLSearchParams({ limit: PAGE_SIZE, offset: start, sort });
  for (const name of ["title", "director", "year"]) {
    const value = filter.elements[name].value.trim();
    if (value) query.set(name, value);
  }
  return query;
}

function showPage({ items, total, offset: start }) {
  offset = start;
  rows.replaceChildren(...items.map(createRow));
  hint.textContent = total === 0 ? "No movie matches. Try a broader filter." : "";
  range.textContent = total === 0 ? "0 movies" : `${start + 1}–${start + items.length} of ${total}`;
  previous.disabled = start === 0;
  next.disabled = start + items.length >= total;
}

function showSort() {
  for (const header of headers) {
    const field = header.dataset.sort;
    if (sort === field) header.setAttribute("aria-sort", "ascending");
    else if (sort === `-${field}`) header.setAttribute("aria-sort", "descending");
    else header.removeAttribute("aria-sort");
  }
}

function createRow(movie) {
  const row = document.createElement("tr");
  row.setAttribute("role", "row");
  row.append(
    createCell("movie-title", movie.title),
    createCell("movie-director", movie.director),
    createCell("movie-year number", movie.year),
    createCell("movie-minutes number", movie.runtime_minutes ?? "–"),
  );
  return row;
}

function createCell(name, text) {
  const cell = document.createElement("td");
  cell.setAttribute("role", "cell");
  cell.className = name;
  cell.textContent = text;
  return cell;
}
