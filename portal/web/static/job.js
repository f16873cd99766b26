// Keeps the page of a job up to date: asks for its state, and when that has changed, for the page itself, of which it
// takes over the parts that differ. What the visitor reads, has scrolled to or has in focus stays where it is.

import { showTimes } from "./times.js";

const USUAL_MS = 2000;
const SLOWEST_MS = 30000;
const REDRAW_MS = 15000; // the line of time grows even where nothing else changes
const PARTS = ["job-banner", "job-head", "job-now", "job-results", "job-texts", "job-evidence", "scheduler"];

const byId = (id) => document.getElementById(id);
const job = () => byId("job");
const isSettled = () => job().dataset.settled === "yes";

let failures = 0;
let lostSince = null;
let drawnAt = Date.now();
let timer = null;
let shown = {};

// What the server sent for each part; the token of a form is another one each time and says nothing.
function partsOf(root) {
  const text = (id) => root.getElementById(id)?.outerHTML.replace(/(name="csrf_token" value=)"[^"]*"/g, "$1") ?? "";
  return Object.fromEntries(PARTS.map((id) => [id, text(id)]));
}

function keepScroll(root) {
  const logs = [...root.querySelectorAll("pre.log")].map((log) => ({
    id: log.id,
    top: log.scrollTop,
    follows: log.scrollTop + log.clientHeight >= log.scrollHeight - 4,
  }));
  return () => {
    for (const { id, top, follows } of logs) {
      const log = byId(id);
      if (log) log.scrollTop = follows ? log.scrollHeight : top;
    }
  };
}

function replace(id, fresh) {
  const [present, next] = [byId(id), fresh.getElementById(id)];
  const restoreScroll = keepScroll(present);
  const focused = present.contains(document.activeElement) ? document.activeElement.id : "";
  present.replaceWith(document.adoptNode(next));
  restoreScroll();
  if (focused) (byId(focused) ?? byId("main")).focus({ preventScroll: true });
}

async function redraw() {
  const answer = await fetch(location.href, { cache: "no-store" });
  if (!answer.ok) throw new Error(`page: ${answer.status}`);
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  if (!fresh.getElementById("job")) throw new Error("page: not a job's");
  const parts = partsOf(fresh);
  const { tag, settled } = fresh.getElementById("job").dataset;
  if (PARTS.some((id) => !parts[id] !== !byId(id))) {
    replace("job", fresh); // a part came or went
  } else {
    for (const id of PARTS) if (parts[id] !== shown[id] && parts[id]) replace(id, fresh);
  }
  Object.assign(job().dataset, { tag, settled });
  shown = parts;
  document.title = fresh.title;
  document.querySelector("link[rel=icon]").href = fresh.querySelector("link[rel=icon]").href;
  showTimes(document);
  drawnAt = Date.now();
}

function showContact() {
  const note = byId("job-contact");
  note.hidden = lostSince === null;
  if (lostSince === null) return;
  const time = lostSince.toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" });
  const text = `No contact with the portal since ${time}. This page tries again by itself; your job goes on without it.`;
  if (note.textContent !== text) note.textContent = text;
}

async function look() {
  const answer = await fetch(job().dataset.stateUrl, {
    headers: { "If-None-Match": `"${job().dataset.tag}"` },
    cache: "no-store", // or the browser would answer with what it has kept
  });
  if (answer.status !== 304 && !answer.ok) throw new Error(`state: ${answer.status}`);
  if (answer.ok) {
    const { summary } = await answer.json();
    await redraw();
    if (byId("job-news").textContent !== summary) byId("job-news").textContent = summary;
  } else if (Date.now() - drawnAt > REDRAW_MS) {
    await redraw();
  }
}

async function tick() {
  timer = null;
  if (document.hidden) return;
  try {
    await look();
    failures = 0;
    lostSince = null;
  } catch {
    failures += 1;
    if (failures > 1) lostSince ??= new Date();
  }
  showContact();
  if (!isSettled()) schedule(Math.min(SLOWEST_MS, USUAL_MS * 2 ** Math.min(failures, 5)));
}

function schedule(milliseconds) {
  timer ??= setTimeout(tick, milliseconds);
}

document.addEventListener("visibilitychange", () => {
  if (!document.hidden && !isSettled()) schedule(0);
});
for (const log of document.querySelectorAll("pre.log")) log.scrollTop = log.scrollHeight;
if (!isSettled()) schedule(USUAL_MS);
