// Shows the movies without leaving the page. The section's links and forms are requested by this script, and the
// section is replaced by that of the response. Without scripts they load the whole page.

import { send } from "./requests.js";

const FILTER_DELAY_MS = 250;

let latestRequest = 0;
let filterTimer = null;

document.addEventListener("click", (event) => {
  const link = event.target.closest("#movies a[href]");
  if (!link || event.button !== 0 || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
  event.preventDefault();
  load(link.getAttribute("href"), { isStep: true });
});

document.addEventListener("submit", (event) => {
  const form = event.target.closest("#movies form");
  if (!form) return;
  event.preventDefault();
  if (form.method === "post") load(form.getAttribute("action"), { isStep: true, body: fields(form) });
  else load(filterPath(form), {});
});

document.addEventListener("input", (event) => {
  const form = event.target.closest("#filter");
  clearTimeout(filterTimer);
  filterTimer = form && setTimeout(() => form.isConnected && form.checkValidity() && load(filterPath(form), {}), FILTER_DELAY_MS);
});

addEventListener("popstate", () => load(location.pathname + location.search, { isBack: true }));

/** Requests a page and shows its section of movies: all of it for a step, otherwise the list alone. */
async function load(path, { isStep = false, isBack = false, body }) {
  clearTimeout(filterTimer);
  const request = ++latestRequest;
  const response = await send(path, body ? { method: "POST", body } : {});
  // A newer request supersedes this one.
  if (request !== latestRequest) return;
  const page = new DOMParser().parseFromString(response.text, "text/html");
  const section = page.getElementById("movies");
  if (!section) return showProblem(response);
  if (body && response.status < 400) history.pushState(null, "", "/");
  else if (isStep && !body) history.pushState(null, "", path);
  else if (!isBack && !body) history.replaceState(null, "", path);
  if (isStep || isBack) replaceSection(section);
  else replaceList(section);
}

function replaceSection(section) {
  const current = document.getElementById("movies");
  const hadFocus = document.activeElement?.closest("#movies");
  current.replaceWith(document.adoptNode(section));
  if (hadFocus) document.getElementById("movies-title").focus();
}

/** Replaces the list and the number of movies. The filter stays as it is typed. */
function replaceList(section) {
  const current = document.getElementById("movies");
  for (const id of ["list", "count"]) {
    current.querySelector(`#${id}`)?.replaceChildren(...section.querySelector(`#${id}`).childNodes);
  }
  document.getElementById("problem").hidden = true;
}

/** Shows that there is no list. The end of the session is shown elsewhere. */
function showProblem({ status }) {
  if (status === 401) return;
  const problem = document.getElementById("problem");
  problem.textContent = document.getElementById("movies").dataset.problem;
  problem.hidden = false;
}

function filterPath(form) {
  const query = new URLSearchParams([...new FormData(form)].filter(([, value]) => value.trim() !== ""));
  return `/?${query}`;
}

function fields(form) {
  return new URLSearchParams([...new FormData(form)]);
}
