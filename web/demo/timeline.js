// The timeline of the page's requests, newest first, and the buttons that send some.
//
// Requests that were sent together are one entry, and so are successive ones with the same outcome. The requests that
// refreshed the session stand out, whatever their number is.

import { requests, send } from "./requests.js";

const PATH = "/movies?limit=1";
const BATCH_SIZE = 20;
const MAX_ENTRIES = 100;

/** The outcomes by session event. Responses with other events failed. */
const OUTCOMES = { rotated: "refreshed", caught_up: "refreshed", replayed: "shared" };

const list = document.getElementById("entries");
const texts = list.dataset;
const language = document.documentElement.lang;
const time = new Intl.DateTimeFormat(language, { timeStyle: "medium" });
const conjunction = new Intl.ListFormat(language);
const announcement = document.getElementById("announcement");
const repeatButton = document.getElementById("repeat");
const manyButton = document.getElementById("send-many");

/** The newest entry, to which further requests with the same outcome are added. */
let newest = null;
const batches = new Map();
let timer = null;

requests.addEventListener("response", ({ detail: response }) => {
  const entry = entryFor(response);
  entry.outcomes.push(outcomeOf(response));
  entry.last = response;
  draw(entry);
  // A button was pressed. On a small screen the entry may be below it.
  if (response.isShown) entry.element.scrollIntoView({ block: "nearest" });
  if (outcomeOf(response) === "refreshed") announcement.textContent = `${texts.refreshed}: ${time.format(response.at)}`;
});

document.getElementById("send-one").addEventListener("click", () => send(PATH, { isShown: true }));
repeatButton.addEventListener("click", () => (timer === null ? startRepeating() : stop()));
manyButton.addEventListener("click", async () => {
  manyButton.disabled = true;
  const batch = Symbol("batch");
  await Promise.all(Array.from({ length: BATCH_SIZE }, () => send(PATH, { batch, isShown: true })));
  batches.delete(batch);
  manyButton.disabled = false;
});

/** Stops the requests that are sent every second. */
export function stop() {
  clearInterval(timer);
  timer = null;
  repeatButton.setAttribute("aria-pressed", "false");
}

function startRepeating() {
  send(PATH, { isShown: true });
  timer = setInterval(() => send(PATH), 1000);
  repeatButton.setAttribute("aria-pressed", "true");
}

function outcomeOf({ status, event }) {
  if (status === 0) return "lost";
  if (status >= 400) return "failed";
  return OUTCOMES[event] ?? "valid";
}

/** Returns the entry of a response: that of its batch, the newest one if it is of the same kind, or a new one. */
function entryFor(response) {
  if (batches.has(response.batch)) return batches.get(response.batch);
  const kind = `${outcomeOf(response)} ${response.status}`;
  if (!response.batch && newest?.kind === kind && !kind.startsWith("refreshed")) return newest;
  const entry = { kind: response.batch ? null : kind, first: response, outcomes: [], element: createEntry() };
  if (response.batch) batches.set(response.batch, entry);
  list.querySelector(".empty")?.remove();
  list.prepend(entry.element);
  while (list.childElementCount > MAX_ENTRIES) list.lastElementChild.remove();
  newest = entry;
  return entry;
}

function createEntry() {
  const element = document.createElement("li");
  for (const name of ["time", "outcome", "request", "explanation", "dots"]) {
    const part = document.createElement("span");
    part.className = name;
    element.append(part);
  }
  element.querySelector(".dots").setAttribute("aria-hidden", "true");
  return element;
}

function draw({ element, first, last, outcomes }) {
  const part = (name) => element.querySelector(`.${name}`);
  const outcome = outcomes.find((one) => one === "refreshed") ?? outcomes.find(isFailure) ?? outcomes[0];
  const isBatch = first.batch !== undefined;
  element.className = isFailure(outcome) ? "is-failure" : `is-${outcome}`;
  part("time").textContent = time.format(last.at);
  part("outcome").textContent = texts[outcome];
  part("request").textContent = describeRequests(first, last, outcomes.length);
  part("explanation").textContent = isBatch ? countOutcomes(outcomes) : explain(outcome, last);
  if (outcomes.length === 1) return;
  while (part("dots").childElementCount < outcomes.length) part("dots").append(document.createElement("i"));
  outcomes.forEach((one, index) => (part("dots").children[index].className = one));
}

function describeRequests(first, last, count) {
  if (first.batch) return fill(texts.countTogether, { count });
  if (count > 1) return fill(texts.count, { count });
  return `${last.method} ${last.path} · ${Math.round(last.ms)} ms`;
}

/** Returns the numbers of outcomes in a sentence: "1 refreshed the session and 19 shared the result". */
function countOutcomes(outcomes) {
  const numbers = { refreshed: 0, shared: 0, valid: 0, failed: 0 };
  for (const outcome of outcomes) numbers[isFailure(outcome) ? "failed" : outcome] += 1;
  const template = { refreshed: texts.countRefreshed, shared: texts.countShared, valid: texts.countValid, failed: texts.countFailed };
  const parts = Object.entries(numbers).filter(([, count]) => count > 0);
  return conjunction.format(parts.map(([outcome, count]) => fill(template[outcome], { count })));
}

function explain(outcome, { status }) {
  return fill(texts[`${outcome}Text`], { status });
}

function isFailure(outcome) {
  return outcome === "failed" || outcome === "lost";
}

function fill(text, values) {
  return text.replace(/\{(\w+)\}/g, (_, name) => values[name]);
}
