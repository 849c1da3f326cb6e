// Log of this page's requests, and the buttons that send some.

import { REFRESH_EVENTS, requests, send } from "./requests.js";

const PATH = "/movies?limit=1";
const MAX_ROWS = 200;

const rows = document.getElementById("log-rows");
const pollButton = document.getElementById("poll");
const burstButton = document.getElementById("burst");
const counts = { requests: 0, refreshes: 0, failures: 0 };

let timer = null;

requests.addEventListener("response", ({ detail }) => {
  counts.requests += 1;
  // Concurrent requests share one refresh: all but its leader get `replayed`, and are not counted.
  if (rowClass(detail) === "is-refreshed") counts.refreshes += 1;
  if (!detail.ok) counts.failures += 1;
  for (const [name, count] of Object.entries(counts)) {
    document.getElementById(`count-${name}`).textContent = count.toLocaleString();
  }
  rows.prepend(createRow(detail));
  while (rows.childElementCount > MAX_ROWS) rows.lastElementChild.remove();
});

pollButton.addEventListener("click", () => (timer === null ? startPolling() : stopPolling()));
burstButton.addEventListener("click", async () => {
  burstButton.disabled = true;
  await Promise.all(Array.from({ length: 20 }, () => send("GET", PATH)));
  burstButton.disabled = false;
});

/** Stops the requests that are sent every second. */
export function stopPolling() {
  clearInterval(timer);
  timer = null;
  updateButton();
}

/** Empties the log for the next session. */
export function clearLog() {
  rows.replaceChildren();
  for (const name of Object.keys(counts)) {
    counts[name] = 0;
    document.getElementById(`count-${name}`).textContent = "0";
  }
}

function startPolling() {
  send("GET", PATH);
  timer = setInterval(() => send("GET", PATH), 1000);
  updateButton();
}

function updateButton() {
  pollButton.setAttribute("aria-pressed", String(timer !== null));
  pollButton.textContent = timer === null ? "Start requests" : "Stop requests";
}

function createRow(response) {
  const row = document.createElement("tr");
  row.className = rowClass(response);
  row.append(
    createCell("log-time", response.at.toLocaleTimeString(undefined, { hourCycle: "h23" })),
    createCell("log-request", `${response.method} ${response.path}`),
    createCell("log-event", ""),
    createCell("log-status", response.status === 0 ? "none" : String(response.status)),
    createCell("log-ms", `${Math.round(response.ms)} ms`),
  );
  if (response.event) {
    const badge = document.createElement("span");
    badge.className = "event-badge";
    badge.textContent = response.event;
    row.children[2].append(badge);
  }
  return row;
}

function rowClass(response) {
  if (!response.ok) return "is-failure";
  if (response.event === "replayed") return "is-replayed";
  return REFRESH_EVENTS.has(response.event) ? "is-refreshed" : "";
}

function createCell(name, text) {
  const cell = document.createElement("td");
  cell.className = name;
  cell.textContent = text;
  return cell;
}
