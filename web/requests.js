// The one place that sends requests. Cookies are the browser's business, and renewing them the
// gateway's: there is nothing about tokens here.

/** Tells of every answer ("answer") and of a session that is over ("over"). */
export const requests = new EventTarget();

/** The events with which an answer carried a fresh pass. */
export const RENEWALS = new Set(["rotated", "replayed", "caught_up"]);

// Counts sign-ins and sign-outs: a late 401 of an earlier session says nothing about this one.
let session = 0;

/** Says that a session began or ended. */
export function sessionChanged() {
  session += 1;
}

/**
 * Sends a request and reads its answer.
 *
 * `status` is 0 if no answer came. `detail` says what went wrong, for people.
 */
export async function send(method, path, body) {
  const sentIn = session;
  const at = new Date();
  const started = performance.now();
  const answer = { at, method, path, status: 0, event: null, data: null, detail: null };
  try {
    const response = await fetch(path, asked(method, body));
    answer.status = response.status;
    answer.event = response.headers.get("X-Session-Event");
    answer.date = response.headers.get("Date");
    answer.data = await json(response);
  } catch {
    answer.status = 0;
  }
  answer.ms = performance.now() - started;
  answer.ok = answer.status >= 200 && answer.status < 300;
  answer.detail = answer.ok ? null : answer.data?.detail ?? fallback(answer.status);
  requests.dispatchEvent(new CustomEvent("answer", { detail: answer }));
  if (answer.status === 401 && sentIn === session && path !== "/auth/login") {
    requests.dispatchEvent(new CustomEvent("over", { detail: answer }));
  }
  return answer;
}

function asked(method, body) {
  const headers = { Accept: "application/json" };
  if (body === undefined) return { method, headers };
  headers["Content-Type"] = "application/json";
  return { method, headers, body: JSON.stringify(body) };
}

async function json(response) {
  const type = response.headers.get("Content-Type") ?? "";
  return /^application\/(problem\+)?json\b/.test(type) ? response.json() : null;
}

function fallback(status) {
  return status === 0 ? "The server did not answer." : `The server answered with status ${status}.`;
}
