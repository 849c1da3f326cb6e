// Sends the requests of the page. The browser stores the session cookies and the gateway refreshes them, so that no
// script handles a token.

/** Dispatches "response" with the result of every request. */
export const requests = new EventTarget();

/**
 * Sends a request and reads its response.
 *
 * `status` is 0 without a response. `event` is the session event, such as "rotated", or null. Members of `init` other
 * than `method` and `body` are members of the result.
 */
export async function send(path, init = {}) {
  const { method = "GET", body, ...more } = init;
  const result = { ...more, at: new Date(), method, path, status: 0, event: null, text: "" };
  const started = performance.now();
  try {
    const response = await fetch(path, { cache: "no-store", method, body });
    result.status = response.status;
    result.event = response.headers.get("X-Session-Event");
    result.text = await response.text();
  } catch {
    result.status = 0;
  }
  result.ms = performance.now() - started;
  requests.dispatchEvent(new CustomEvent("response", { detail: result }));
  return result;
}
