// Loads the page again by its whole address. A link to the same page would drop the fragment.

const link = document.querySelector('main a[href=""]');
link?.addEventListener("click", (event) => {
  if (event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  location.reload();
});
