// Shows nothing personal once the session has ended, for example in another tab, and says why it ended.

import { waitForSignIn, watchSession } from "../session-events.js";

/**
 * Replaces the page by its template "ended" when its session ends.
 *
 * `address` is opened when there is another session. It is not a reload, which would send the form again if the page is
 * the response to one. Returns a function that shows the end by an event that was noticed otherwise.
 */
export function watchEnd(address) {
  const openAgain = () => location.replace(address);
  const showEnd = (event) => {
    const ended = document.getElementById("ended");
    // A template of the operator may lack it.
    if (!ended) return openAgain();
    const content = ended.content.cloneNode(true);
    for (const text of content.querySelectorAll("[data-events]")) {
      if (!text.dataset.events.split(" ").includes(event)) text.remove();
    }
    const main = document.querySelector("main");
    main.className = "narrow";
    main.replaceChildren(content);
    main.querySelector("h1").focus();
    waitForSignIn(openAgain);
  };
  watchSession(({ event, signedIn }) => (signedIn ? openAgain() : showEnd(event)));
  return showEnd;
}
