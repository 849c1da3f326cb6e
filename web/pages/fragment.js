// Carries the fragment of the address over the redirects after the form: a server never receives it, but a
// browser adds that of the form's action to each of them. And sends the form once: a double click would sign in twice.

/** Time after which the form can be sent again, for a user who has stopped loading. */
const PAUSE_MS = 5_000;

const form = document.querySelector("form[data-next]");
if (form && location.hash) {
  form.setAttribute("action", form.getAttribute("action") + location.hash);
}

let isSent = false;
form?.addEventListener("submit", (event) => {
  if (isSent) {
    event.preventDefault();
    return;
  }
  isSent = true;
  setTimeout(() => (isSent = false), PAUSE_MS);
});
