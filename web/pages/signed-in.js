// Goes on to the requested page once another tab has signed in.
//
// The session is checked when the page becomes visible, and for a minute after another tab sent its form. An idle
// page sends no requests.

const form = document.querySelector("form[data-next]");
const channel = "BroadcastChannel" in window ? new BroadcastChannel("sekisho-sign-in") : null;

async function goOnIfSignedIn() {
  let response;
  try {
    response = await fetch(form.dataset.session, { cache: "no-store", headers: { Accept: "application/json" } });
  } catch {
    return; // Offline. The next check may succeed.
  }
  if (response.ok) {
    location.replace(form.dataset.next + location.hash);
  }
}

function checkRepeatedly(remaining) {
  if (remaining === 0) return;
  goOnIfSignedIn();
  setTimeout(checkRepeatedly, 1000, remaining - 1);
}

if (form) {
  form.addEventListener("submit", () => channel?.postMessage("submitted"));
  channel?.addEventListener("message", () => checkRepeatedly(60));
  document.addEventListener("visibilitychange", () => {
    if (document.visibilityState === "visible") goOnIfSignedIn();
  });
  // The page comes out of the back-forward cache.
  addEventListener("pageshow", (event) => {
    if (event.persisted) goOnIfSignedIn();
  });
}
