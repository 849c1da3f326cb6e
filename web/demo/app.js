// The demo page: requests with their timeline, movies, and the end of the session.

/** Time after a 401 in which the event stream may tell the reason. */
const REASON_MS = 1_500;

const signedIn = document.getElementById("signed-in");
const ended = document.getElementById("ended");

// Loaded once the stylesheets are there, which this script waits for: on a slow network the page is shown before.
const [{ waitForSignIn, watchSession }, { requests }, { stop }] = await Promise.all([
  import(signedIn.dataset.sessionEvents),
  import("./requests.js"),
  import("./timeline.js"),
  import("./movies.js"),
]);

watchSession(({ event, signedIn: isSignedIn }) => {
  // Another session has begun in another tab.
  if (isSignedIn) location.reload();
  else showEnd(event);
});

requests.addEventListener("response", ({ detail: { status, event } }) => {
  if (status === 401) setTimeout(showEnd, REASON_MS, event);
});

/** Removes what belongs to the user, and shows the reason. */
function showEnd(event) {
  if (!signedIn.isConnected) return;
  stop();
  signedIn.remove();
  ended.closest("main").className = "narrow";
  ended.append(document.getElementById("ended-content").content.cloneNode(true));
  const reason = document.getElementById("ended-reason");
  reason.textContent = reason.dataset[event] ?? reason.dataset.other;
  waitForSignIn(() => location.reload());
}
