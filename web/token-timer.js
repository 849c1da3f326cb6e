// Shows the remaining lifetime of the access token, from the times that the server reports.

import { REFRESH_EVENTS, requests, send } from "./requests.js";

const remaining = document.getElementById("token-remaining");
const meter = document.getElementById("token-meter");
const bar = document.getElementById("token-bar");
const sessionExpiry = document.getElementById("session-expiry");

let expiresAt = 0;
let lifetime = 1;
let pendingUpdate = null;

/** Shows the expiry times of a session response. */
export function showExpiry(response) {
  const skew = response.date ? Date.parse(response.date) - Date.now() : 0;
  const correction = Math.abs(skew) > 5000 ? skew : 0;
  expiresAt = Date.parse(response.data.access_expires_at) - correction;
  lifetime = Math.max(lifetime, expiresAt - Date.now());
  sessionExpiry.textContent = formatDate(new Date(Date.parse(response.data.session_expires_at) - correction));
  draw();
}

/** Resets the timer when a session ends. */
export function resetExpiry() {
  expiresAt = 0;
  lifetime = 1;
}

requests.addEventListener("response", ({ detail }) => {
  if (REFRESH_EVENTS.has(detail.event) && detail.path !== "/auth/session") scheduleUpdate();
});

setInterval(draw, 250);

// Sends one request for all responses that arrive together.
function scheduleUpdate() {
  pendingUpdate ??= setTimeout(async () => {
    pendingUpdate = null;
    const response = await send("GET", "/auth/session");
    if (response.ok) showExpiry(response);
  }, 150);
}

function draw() {
  const rest = Math.max(0, expiresAt - Date.now());
  const seconds = Math.ceil(rest / 1000);
  remaining.textContent = rest > 0 ? `${formatDuration(seconds)} left` : "expired; the next request refreshes it";
  bar.style.transform = `scaleX(${Math.min(1, rest / lifetime)})`;
  bar.classList.toggle("is-low", rest < lifetime / 10);
  meter.setAttribute("aria-valuemax", String(Math.ceil(lifetime / 1000)));
  meter.setAttribute("aria-valuenow", String(seconds));
  meter.setAttribute("aria-valuetext", remaining.textContent);
}

function formatDuration(seconds) {
  if (seconds < 60) return `${seconds} s`;
  return `${Math.floor(seconds / 60)} min ${String(seconds % 60).padStart(2, "0")} s`;
}

function formatDate(date) {
  return date.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
}
