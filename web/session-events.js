// Tells a page that its session has ended, with one event stream for all tabs of the browser.
//
// One tab holds a Web Lock and reads the stream. It passes what it learns to the others by a BroadcastChannel.
// Neither cookies nor the session's idle expiry change by it.

const PATH = new URL("events", import.meta.url).href;

/** Time without a byte after which a stream is lost. The gateway sends a comment every 15 s. */
const SILENCE_MS = 45_000;
const MIN_DELAY_MS = 1_000;
const MAX_DELAY_MS = 60_000;

/** Time that a sign-in in another tab gets to store its cookies after it has ended the session before. */
const SIGN_IN_MS = 250;

/** Time in which the tab that reads the stream answers the others. A suspended one doesn't. */
const ANSWER_MS = 2_000;

/**
 * Calls `onEnded` when the session ends, once for each session of the page.
 *
 * Its argument has the members
 * - `event`: the reason, as in `X-Session-Event`: "logged_out", "revoked", "idle_expired"; "missing" if there was none;
 * - `signedIn`: true if another session has begun in this browser. Reload the page then. Otherwise watching has ended;
 * - `signInUrl`: the page to sign in, if the gateway has one.
 *
 * Returns a function that stops.
 */
export function watchSession(onEnded, url = PATH) {
  return new SessionWatch(url, onEnded).stop;
}

/**
 * Calls `onSignedIn` once when this browser has a session: another tab reads the stream of one, or this tab becomes
 * visible again. Returns a function that stops.
 */
export function waitForSignIn(onSignedIn, url = PATH) {
  const end = new AbortController();
  const channel = openChannel(url, end.signal);
  const found = () => {
    if (end.signal.aborted) return;
    end.abort();
    onSignedIn();
  };
  const check = async () => {
    if (!document.hidden && (await statusOf(url, end.signal)) === 200) found();
  };
  channel.addEventListener("message", ({ data }) => data.type === "open" && found());
  document.addEventListener("visibilitychange", check, { signal: end.signal });
  return () => end.abort();
}

class SessionWatch {
  #url;
  #onEnded;
  #channel = null;
  #reading = false;
  #answered = false;
  #active = null;
  #listening = new AbortController();

  constructor(url, onEnded) {
    this.#url = url;
    this.#onEnded = onEnded;
    // An open stream would keep the page out of the back/forward cache.
    const listening = { signal: this.#listening.signal };
    addEventListener("pagehide", () => this.#active?.abort(), listening);
    addEventListener("pageshow", ({ persisted }) => persisted && this.#start(true), listening);
    document.addEventListener("visibilitychange", () => document.hidden || this.#check(), listening);
    this.#start(false);
  }

  stop = () => {
    this.#listening.abort();
    this.#active?.abort();
  };

  #start(wasHidden) {
    this.#active = new AbortController();
    const { signal } = this.#active;
    this.#channel = openChannel(this.#url, signal);
    this.#channel.addEventListener("message", ({ data }) => this.#receive(data));
    this.#lead(signal);
    if (wasHidden) this.#check();
  }

  /** Reads the stream once no other tab does. */
  async #lead(signal) {
    if (!navigator.locks) return this.#read(signal);
    try {
      await navigator.locks.request(this.#channel.name, { signal }, () => this.#read(signal));
    } catch {
      // The page was left.
    }
  }

  /** Reads streams until the session has ended. */
  async #read(signal) {
    this.#reading = true;
    let ended = null;
    let delay = MIN_DELAY_MS;
    while (!signal.aborted) {
      const result = await readStream(this.#url, signal, () => {
        delay = MIN_DELAY_MS;
        this.#channel.postMessage({ type: "open" });
        // The stream of another session.
        if (ended) this.#tell({ event: ended, signedIn: true, signInUrl: null });
        ended = null;
      });
      if (signal.aborted) break;
      if (result.status === 401) {
        this.#tell({ event: ended ?? result.event, signedIn: false, signInUrl: result.signInUrl });
        break;
      }
      ended = result.ended ?? ended;
      await sleep(result.ended ? SIGN_IN_MS : (result.retry ?? delay * (0.5 + Math.random())), signal);
      delay = Math.min(2 * delay, MAX_DELAY_MS);
    }
    this.#reading = false;
  }

  /** Tells all tabs. */
  #tell(reason) {
    this.#channel.postMessage({ type: "ended", reason });
    this.#report(reason);
  }

  #report(reason) {
    if (!reason.signedIn) this.stop();
    this.#onEnded(reason);
  }

  #receive({ type, reason }) {
    if (type === "ended") this.#report(reason);
    else if (type === "ping" && this.#reading) this.#channel.postMessage({ type: "pong" });
    else if (type === "pong") this.#answered = true;
  }

  /** Checks the session when the user returns to this tab. The tab that reads the stream may be suspended. */
  async #check() {
    const { signal } = this.#active;
    if (signal.aborted) return;
    const status = await statusOf(this.#url, signal);
    if (signal.aborted || this.#reading) return;
    this.#answered = false;
    this.#channel.postMessage({ type: "ping" });
    if (status !== 401) await sleep(ANSWER_MS, signal);
    if (!signal.aborted && !this.#answered && !this.#reading) this.#read(signal);
  }
}

/** Requests one stream and reads it to its end. Calls `onOpen` when it begins. */
async function readStream(url, signal, onOpen) {
  const stream = new AbortController();
  const abort = () => stream.abort();
  signal.addEventListener("abort", abort);
  let timer = null;
  const restartTimer = () => {
    clearTimeout(timer);
    timer = setTimeout(abort, SILENCE_MS);
  };
  restartTimer();
  try {
    const response = await fetch(url, options({ signal: stream.signal }));
    if (response.status === 401) return readRejection(response);
    if (!response.ok) return { status: response.status };
    onOpen();
    return await readEvents(response.body, restartTimer);
  } catch {
    // The network or the gateway is down.
    return { status: 0 };
  } finally {
    clearTimeout(timer);
    signal.removeEventListener("abort", abort);
  }
}

async function readRejection(response) {
  const problem = await response.json().catch(() => null);
  return { status: 401, event: problem?.code ?? "missing", signInUrl: problem?.sign_in_url ?? null };
}

async function readEvents(body, onChunk) {
  const result = { status: 200, ended: null, retry: null };
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return result;
    onChunk();
    const blocks = (text + value).split("\n\n");
    text = blocks.pop();
    for (const block of blocks) readBlock(block, result);
  }
}

function readBlock(block, result) {
  const fields = new Map(block.split("\n").map((line) => line.split(/: ?(.*)/s, 2)));
  if (fields.has("retry")) result.retry = Number(fields.get("retry"));
  if (fields.get("event") === "ended") result.ended = JSON.parse(fields.get("data")).event;
}

/** Returns the status of a request for the stream, or 0 without a response. */
async function statusOf(url, signal) {
  const response = await fetch(url, options({ method: "HEAD", signal })).catch(() => null);
  return response?.status ?? 0;
}

function options(own) {
  return { credentials: "include", cache: "no-store", headers: { Accept: "text/event-stream" }, ...own };
}

function openChannel(url, signal) {
  const channel = new BroadcastChannel(`sekisho ${url}`);
  signal.addEventListener("abort", () => channel.close());
  return channel;
}

/** Waits, but not longer than until the network is back. */
function sleep(ms, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    const wake = () => (clearTimeout(timer), resolve());
    signal.addEventListener("abort", wake, { once: true });
    addEventListener("online", wake, { once: true });
  });
}
