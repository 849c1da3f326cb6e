// Shows nothing personal once the session has ended, for example in another tab, and says why it ended.

import { waitForSignIn, watchSession } from "../session-events.js";

const account = new URL("../account", import.meta.url).href;

// Not a reload, which would send the form again if the page is the response to one.
const openAgain = () => location.replace(account);

function showEnd(event) {
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
}

watchSession(({ event, signedIn }) => (signedIn ? openAgain() : showEnd(event)));
