// The live log of this page's requests, and the buttons that send some.

import { RENEWALS, requests, send } from "./requests.js";

const PATH = "/movies?limit=1";
const ROWS = 200;

const rows = document.getElementById("log-rows");
const watchButton = document.getElementById("watch");
const burstButton = document.getElementById("burst");
const counts = { requests: 0, renewals: 0, failures: 0 };

let timer = null;

requests.addEventListener("answer", ({ detail }) => {
  counts.requests += 1;
  // Requests that were sent together share one renewal: the others are answered with it again.
  if (kind(detail) === "is-renewed") counts.renewals += 1;
  if (!detail.ok) counts.failures += 1;
  for (const [name, count] of Object.entries(counts)) {
    document.getElementById(`count-${name}`).textContent = count.toLocaleString();
  }
  rows.prepend(row(detail));
  while (rows.childElementCount > ROWS) rows.lastElementChild.remove();
});

watchButton.addEventListener("click", () => (timer === null ? start() : stop()));
burstButton.addEventListener("click", async () => {
  burstButton.disabled = true;
  await Promise.all(Array.from({ length: 20 }, () => send("GET", PATH)));
  burstButton.disabled = false;
});

/** Stops sending. */
export function stop() {
  clearInterval(timer);
  timer = null;
  show();
}

/** Empties the log, for the next session. */
export function clear() {
  rows.replaceChildren();
  for (const name of Object.keys(counts)) {
    counts[name] = 0;
    document.getElementById(`count-${name}`).textContent = "0";
  }
}

function start() {
  send("GET", PATH);
  timer = setInterval(() => send("GET", PATH), 1000);
  show();
}

function show() {
  watchButton.setAttribute("aria-pressed", String(timer !== null));
  watchButton.textContent = timer === null ? "Watch" : "Stop watching";
}

function row(answer) {
  const line = document.createElement("tr");
  line.className = kind(answer);
  line.append(
    cell("log-time", answer.at.toLocaleTimeString(undefined, { hourCycle: "h23" })),
    cell("log-request", `${answer.method} ${answer.path}`),
    cell("log-event", ""),
    cell("log-status", answer.status === 0 ? "none" : String(answer.status)),
    cell("log-ms", `${Math.round(answer.ms)} ms`),
  );
  if (answer.event) {
    const stamp = document.createElement("span");
    stamp.className = "stamp";
    stamp.textContent = answer.event;
    line.children[2].append(stamp);
  }
  return line;
}

function kind(answer) {
  if (!answer.ok) return "is-failure";
  if (answer.event === "replayed") return "is-replayed";
  return RENEWALS.has(answer.event) ? "is-renewed" : "";
}

function cell(name, text) {
  const cell = document.createElement("td");
  cell.className = name;
  cell.textContent = text;
  return cell;
}
