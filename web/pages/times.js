// Shows times relative to now, in the language of the page. The exact local time is in the tooltip, and in print.

const language = document.documentElement.lang;
const relative = new Intl.RelativeTimeFormat(language, { numeric: "auto" });
const exact = new Intl.DateTimeFormat(language, { dateStyle: "long", timeStyle: "short" });
const units = [
  ["year", 31_536_000],
  ["month", 2_592_000],
  ["day", 86_400],
  ["hour", 3_600],
  ["minute", 60],
];

function describe(date) {
  const seconds = Math.min(0, Math.round((date - Date.now()) / 1000));
  const [unit, length] = units.find(([, length]) => -seconds >= length) ?? ["minute", 60];
  return relative.format(Math.trunc(seconds / length), unit);
}

function show(format) {
  for (const element of document.querySelectorAll("time[datetime]")) {
    const date = new Date(element.dateTime);
    if (Number.isNaN(date.getTime())) continue;
    element.title = exact.format(date);
    element.textContent = format(date);
  }
}

show(describe);
setInterval(show, 60_000, describe);
// Paper does not age with the page.
addEventListener("beforeprint", () => show((date) => exact.format(date)));
addEventListener("afterprint", () => show(describe));
