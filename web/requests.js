// Sends all requests of the page. The browser stores the session cookies and the gateway refreshes
// them, so that no script handles a token.

/** Dispatches "response" for every response, and "signed-out" when the session is no longer valid. */
export const requests = new EventTarget();

/** Session events of responses that set new cookies. */
export const REFRESH_EVENTS = new Set(["rotated", "replayed", "caught_up"]);

// Number of the current session. A late 401 for a previous session is ignored.
let session = 0;

/** Records that a session began or ended. */
export function sessionChanged() {
  session += 1;
}

/**
 * Sends a request and reads its response.
 *
 * `status` is 0 if there was no response. `detail` describes an error for the user.
 */
export async function send(method, path, body) {
  const sentIn = session;
  const at = new Date();
  const started = performance.now();
  const result = { at, method, path, status: 0, event: null, data: null, detail: null };
  try {
    const response = await fetch(path, options(method, body));
    result.status = response.status;
    result.event = response.headers.get("X-Session-Event");
    result.date = response.headers.get("Date");
    result.data = await readJson(response);
  } catch {
    result.status = 0;
  }
  result.ms = performance.now() - started;
  result.ok = result.status >= 200 && result.status < 300;
  result.detail = result.ok ? null : result.data?.detail ?? defaultDetail(result.status);
  requests.dispatchEvent(new CustomEvent("response", { detail: result }));
  if (result.status === 401 && sentIn === session && path !== "/auth/login") {
    requests.dispatchEvent(new CustomEvent("signed-out", { detail: result }));
  }
  return result;
}

function options(method, body) {
  const headers = { Accept: "application/json" };
  if (body === undefined) return { method, headers };
  headers["Content-Type"] = "application/json";
  return { method, headers, body: JSON.stringify(body) };
}

async function readJson(response) {
  const type = response.headers.get("Content-Type") ?? "";
  return /^application\/(problem\+)?json\b/.test(type) ? response.json() : null;
}

function defaultDetail(status) {
  return status === 0 ? "The server did not respond." : `The server responded with status ${status}.`;
}
