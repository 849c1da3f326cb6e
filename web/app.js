// Signing in and out, and which of the two views is shown.

import * as films from "./films.js";
import { forgetPass, showPass } from "./pass.js";
import { RENEWALS, requests, send, sessionChanged } from "./requests.js";
import * as watch from "./watch.js";

const status = document.getElementById("status");
const who = document.getElementById("who");
const whoName = document.getElementById("who-name");
const signOut = document.getElementById("sign-out");
const signIn = document.getElementById("sign-in");
const form = document.getElementById("sign-in-form");
const button = document.getElementById("sign-in-button");
const error = document.getElementById("sign-in-error");
const desk = document.getElementById("desk");

let sample = null;

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  error.textContent = "";
  const missing = [form.elements.email, form.elements.password].find((input) => input.value === "");
  if (missing) {
    error.textContent = missing === form.elements.email ? "Enter your email address." : "Enter your password.";
    missing.focus();
    return;
  }
  button.disabled = true;
  const answer = await send("POST", "/auth/login", { email: form.elements.email.value, password: form.elements.password.value });
  button.disabled = false;
  if (answer.ok) {
    enter(answer);
  } else {
    error.textContent = answer.detail;
    form.elements.password.focus();
  }
});

signOut.addEventListener("click", async () => {
  watch.stop();
  signOut.disabled = true;
  const answer = await send("POST", "/auth/logout");
  signOut.disabled = false;
  if (answer.ok) leave("You have signed out.");
  else say(answer.detail, true);
});

requests.addEventListener("over", ({ detail: answer }) => {
  // Without cookies: whoever comes for the first time has no session that could be over, and whoever
  // was signed in here has signed out elsewhere.
  const missing = desk.hidden ? "" : "You have signed out, in another tab or window.";
  leave(answer.event === "missing" ? missing : answer.detail, answer.event !== "missing");
});

requests.addEventListener("answer", ({ detail: answer }) => {
  if (RENEWALS.has(answer.event)) say(`Renewed at ${answer.at.toLocaleTimeString(undefined, { hourCycle: "h23" })}.`);
});

const first = await send("GET", "/auth/session");
if (first.ok) enter(first);
else if (first.status !== 401) leave(first.detail, true);

function enter(answer) {
  sessionChanged();
  const { user } = answer.data;
  whoName.textContent = user.name ?? user.email;
  who.hidden = false;
  signIn.hidden = true;
  desk.hidden = false;
  form.elements.password.value = "";
  watch.clear();
  showPass(answer);
  say("");
  films.begin();
  document.getElementById("gate-title").focus();
}

async function leave(reason, isError = false) {
  sessionChanged();
  watch.stop();
  forgetPass();
  who.hidden = true;
  desk.hidden = true;
  signIn.hidden = false;
  error.textContent = "";
  say(reason, isError);
  await offerSample();
  form.elements.email.focus();
}

async function offerSample() {
  sample ??= await fetch("/demo/sample.json").then((answer) => (answer.ok ? answer.json() : null)).catch(() => null);
  if (!sample) return;
  form.elements.email.value ||= sample.email;
  form.elements.password.value ||= sample.password;
  document.getElementById("sample-email").textContent = sample.email;
  document.getElementById("sample-password").textContent = sample.password;
  document.getElementById("sample").hidden = false;
}

function say(text, isError = false) {
  status.textContent = text;
  status.classList.toggle("is-error", isError && text !== "");
}
