// How long the pass in use is still good, as the server tells it.

import { RENEWALS, requests, send } from "./requests.js";

const left = document.getElementById("pass-left");
const meter = document.getElementById("pass-meter");
const bar = document.getElementById("pass-bar");
const until = document.getElementById("pass-session");

let expiresAt = 0;
let lifetime = 1;
let asking = null;

/** Shows the times of a session that the server has just told of. */
export function showPass(answer) {
  const skew = answer.date ? Date.parse(answer.date) - Date.now() : 0;
  const ours = Math.abs(skew) > 5000 ? skew : 0;
  expiresAt = Date.parse(answer.data.access_expires_at) - ours;
  lifetime = Math.max(lifetime, expiresAt - Date.now());
  until.textContent = when(new Date(Date.parse(answer.data.session_expires_at) - ours));
  draw();
}

/** Forgets the lifetime seen, for the next session. */
export function forgetPass() {
  expiresAt = 0;
  lifetime = 1;
}

requests.addEventListener("answer", ({ detail }) => {
  if (RENEWALS.has(detail.event) && detail.path !== "/auth/session") askSoon();
});

setInterval(draw, 250);

// Once for all answers that arrive together.
function askSoon() {
  asking ??= setTimeout(async () => {
    asking = null;
    const answer = await send("GET", "/auth/session");
    if (answer.ok) showPass(answer);
  }, 150);
}

function draw() {
  const rest = Math.max(0, expiresAt - Date.now());
  const seconds = Math.ceil(rest / 1000);
  left.textContent = rest > 0 ? `${duration(seconds)} left` : "expired until the next request";
  bar.style.transform = `scaleX(${Math.min(1, rest / lifetime)})`;
  bar.classList.toggle("is-low", rest < lifetime / 10);
  meter.setAttribute("aria-valuemax", String(Math.ceil(lifetime / 1000)));
  meter.setAttribute("aria-valuenow", String(seconds));
  meter.setAttribute("aria-valuetext", left.textContent);
}

function duration(seconds) {
  if (seconds < 60) return `${seconds} s`;
  return `${Math.floor(seconds / 60)} min ${String(seconds % 60).padStart(2, "0")} s`;
}

function when(date) {
  return date.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
}
