// The demo page: requests with their timeline, movies, and the end of the session.

import "./movies.js";
import { requests } from "./requests.js";
import { stop } from "./timeline.js";

/** Time after a 401 in which the event stream may tell the reason. */
const REASON_MS = 1_500;

const signedIn = document.getElementById("signed-in");
const ended = document.getElementById("ended");
const { waitForSignIn, watchSession } = await import(signedIn.dataset.sessionEvents);

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
