// Turns the UTC times of a page into the visitor's own, and keeps ages and durations going.

const pad = (number) => String(number).padStart(2, "0");
const isToday = (date) => date.toDateString() === new Date().toDateString();

function day(date) {
  return date.toLocaleDateString("en-GB", { day: "numeric", month: "short", year: "numeric" });
}

export function duration(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  const units = [
    ["d", Math.floor(whole / 86400)],
    ["h", Math.floor(whole / 3600) % 24],
    ["min", Math.floor(whole / 60) % 60],
    ["s", whole % 60],
  ];
  const first = units.findIndex(([, number]) => number > 0);
  if (first < 0) return "0 s";
  return units
    .slice(first, first + 2)
    .filter(([, number]) => number > 0)
    .map(([unit, number]) => `${number} ${unit}`)
    .join(" ");
}

const forms = {
  clock: (date) => {
    const time = `${pad(date.getHours())}:${pad(date.getMinutes())}:${pad(date.getSeconds())}`;
    return isToday(date) ? time : `${day(date)}, ${time}`;
  },
  moment: (date) => {
    const time = `${pad(date.getHours())}:${pad(date.getMinutes())}`;
    return isToday(date) ? time : `${day(date)}, ${time}`;
  },
  now: () => forms.clock(new Date()),
  ago: (date) => `${duration((Date.now() - date) / 1000)} ago`,
  since: (date) => duration((Date.now() - date) / 1000),
};

export function showTimes(root) {
  for (const element of root.querySelectorAll("time[data-form]")) {
    const date = new Date(element.dateTime);
    const text = forms[element.dataset.form](date);
    if (!Number.isNaN(date.getTime()) && element.textContent !== text) element.textContent = text;
  }
}

showTimes(document);
setInterval(() => showTimes(document), 1000);
