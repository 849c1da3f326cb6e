// The demo page: requests with their timeline, movies, and the end of the session.

/** Time after a 401 in which the event stream may tell the reason. */
const REASON_MS = 1_500;

const signedIn = document.getElementById("signed-in");

// Loaded once the stylesheets are there, which this script waits for: on a slow network the page is shown before.
const [{ watchEnd }, { requests }, { stop }] = await Promise.all([
  import(signedIn.dataset.ended),
  import("./requests.js"),
  import("./timeline.js"),
  import("./movies.js"),
]);

const showEnd = watchEnd("/");

requests.addEventListener("response", ({ detail: { status, event } }) => {
  if (status !== 401) return;
  stop();
  setTimeout(() => signedIn.isConnected && showEnd(event), REASON_MS);
});
