// Sign-in and sign-out, and the switch between the two views.

import * as movies from "./movies.js";
import { clearLog, stopPolling } from "./request-log.js";
import { REFRESH_EVENTS, requests, send, sessionChanged } from "./requests.js";
import { resetExpiry, showExpiry } from "./token-timer.js";

const status = document.getElementById("status");
const user = document.getElementById("user");
const userName = document.getElementById("user-name");
const signOutButton = document.getElementById("sign-out");
const signInView = document.getElementById("sign-in");
const form = document.getElementById("sign-in-form");
const signInButton = document.getElementById("sign-in-button");
const error = document.getElementById("sign-in-error");
const sessionView = document.getElementById("session-view");

let demoCredentials = null;

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  error.textContent = "";
  const { email, password } = form.elements;
  const missing = [email, password].find((input) => input.value === "");
  if (missing) {
    error.textContent = missing === email ? "Enter your email address." : "Enter your password.";
    missing.focus();
    return;
  }
  signInButton.disabled = true;
  const response = await send("POST", "/auth/login", { email: email.value, password: password.value });
  signInButton.disabled = false;
  if (response.ok) {
    showSession(response);
  } else {
    error.textContent = response.detail;
    password.focus();
  }
});

signOutButton.addEventListener("click", async () => {
  stopPolling();
  signOutButton.disabled = true;
  const response = await send("POST", "/auth/logout");
  signOutButton.disabled = false;
  if (response.ok) showSignIn("You have signed out.");
  else showStatus(response.detail, true);
});

requests.addEventListener("signed-out", ({ detail: response }) => {
  if (response.event !== "missing") {
    showSignIn(response.detail, true);
  } else {
    // There are no cookies: either this is the first visit, or the user has signed out elsewhere.
    showSignIn(sessionView.hidden ? "" : "You have signed out in another tab or window.");
  }
});

requests.addEventListener("response", ({ detail: response }) => {
  if (REFRESH_EVENTS.has(response.event)) {
    showStatus(`Session refreshed at ${response.at.toLocaleTimeString(undefined, { hourCycle: "h23" })}.`);
  }
});

const current = await send("GET", "/auth/session");
if (current.ok) showSession(current);
else if (current.status !== 401) showSignIn(current.detail, true);

function showSession(response) {
  sessionChanged();
  userName.textContent = response.data.user.name ?? response.data.user.email;
  user.hidden = false;
  signInView.hidden = true;
  sessionView.hidden = false;
  form.elements.password.value = "";
  clearLog();
  showExpiry(response);
  showStatus("");
  movies.reset();
  document.getElementById("session-title").focus();
}

async function showSignIn(reason, isError = false) {
  sessionChanged();
  stopPolling();
  resetExpiry();
  user.hidden = true;
  sessionView.hidden = true;
  signInView.hidden = false;
  error.textContent = "";
  showStatus(reason, isError);
  await fillDemoCredentials();
  form.elements.email.focus();
}

async function fillDemoCredentials() {
  demoCredentials ??= await fetch("/demo/sample.json")
    .then((response) => (response.ok ? response.json() : null))
    .catch(() => null);
  if (!demoCredentials?.password) return;
  form.elements.email.value ||= demoCredentials.email;
  form.elements.password.value ||= demoCredentials.password;
  document.getElementById("demo-email").textContent = demoCredentials.email;
  document.getElementById("demo-password").textContent = demoCredentials.password;
  document.getElementById("demo-credentials").hidden = false;
}

function showStatus(text, isError = false) {
  status.textContent = text;
  status.classList.toggle("is-error", isError && text !== "");
}
