// Carries the fragment of the address over the redirects after the form: a server never receives it, but a
// browser adds that of the form's action to each of them.

const form = document.querySelector("form[data-next]");
if (form && location.hash) {
  form.setAttribute("action", form.getAttribute("action") + location.hash);
}
