// Shows the state of a service. Texts get into the page as text only, never as HTML.
"use strict";

const SILENT = 15000; // ms without a message after which the connection is taken for lost
const AGAIN = 2000; // ms between two attempts to connect
const TOLD_AFTER = 1500; // ms: a short interruption, as when events begin anew, is not told
const UNSEEN = 60000; // ms for which a page that nobody sees keeps its connection

const byId = (id) => document.getElementById(id);
const clock = { server: 0, here: 0 }; // the same moment on the clocks of the service and the page
let source = null;
let heard = performance.now(); // when the last message came
let lostSince = null;
let reason = "";
let about = null;
let known = null; // numbers of the scans that were seen, by where they were
let hiding = null; // since when nobody sees the page
let attempted = 0; // when the last attempt to connect began
const cards = new Map();
const rows = { waiting: new Map(), done: new Map(), failed: new Map() };

function element(name, classes, ...children) {
  const made = document.createElement(name);
  if (classes) made.className = classes;
  made.append(...children.filter((child) => child !== null));
  return made;
}

function setText(where, text) {
  if (where.textContent !== text) where.textContent = text;
}

// Words and numbers

function duration(seconds) {
  const s = Math.max(0, Math.floor(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

const short = (seconds) => (seconds < 60 ? `${seconds.toFixed(1)} s` : duration(seconds));

function bytes(count) {
  const units = ["KiB", "MiB", "GiB", "TiB"];
  let value = count / 1024;
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${value >= 100 || value === 0 ? value.toFixed(0) : value.toPrecision(2)} ${units[unit]}`;
}

const grouped = (number) => String(number).replace(/\B(?=(\d{3})+$)/g, "\u202f");
const plural = (number, noun) => `${grouped(number)} ${noun}${number === 1 ? "" : "s"}`;

function now() {
  return clock.server + (performance.now() - clock.here) / 1000;
}

// The time since a moment on the clock of the service; goes on by itself, see `tick`.
function age(since, after = "") {
  const made = element("span", "age");
  made.dataset.since = since;
  made.dataset.after = after;
  setText(made, `${duration(now() - since)}${after}`);
  return made;
}

function tick() {
  for (const each of document.querySelectorAll(".age")) {
    setText(each, `${duration(now() - Number(each.dataset.since))}${each.dataset.after}`);
  }
  showConnection();
}

// The words of a name may stand on two lines.
function breakable(name) {
  return name.split(/(?<=_)/).flatMap((part) => [part, element("wbr")]);
}

// Parts of a scan

function title(scan) {
  const words = [`Scan ${scan.number}`];
  if (scan.pipeline) words.push(`pipeline ${scan.pipeline}`);
  return words.join(" · ");
}

function measures(scan) {
  if (!scan.matrix) return null;
  return element("span", "faint", `${scan.matrix.join(" × ")}, ${plural(scan.frames, "frame")}`);
}

function gadgetList(gadgets) {
  const items = gadgets.map((gadget) => {
    const state = gadget.active ? "active" : gadget.seconds > 0 ? "worked" : "";
    const item = element("li", state, element("span", "", ...breakable(gadget.name)));
    item.append(element("span", "time", state ? short(gadget.seconds) : ""));
    if (gadget.active) item.setAttribute("aria-current", "step");
    return item;
  });
  const list = element("ol", "gadgets", ...items);
  list.setAttribute("aria-label", "Computing time of the gadgets");
  return list;
}

function facts(scan) {
  const words = [];
  if (scan.peer) words.push(`from ${scan.peer}`);
  if (scan.memory) words.push(`${bytes(scan.memory)} planned`);
  if (scan.received) words.push(`${plural(scan.received, "readout")} and waveforms received`);
  if (scan.results) words.push(`${plural(scan.results, "result")} sent`);
  return element("p", "facts", ...words.map((text) => element("span", "", text)));
}

function stage(scan) {
  const active = scan.gadgets.filter((gadget) => gadget.active);
  const stepping = active.filter((gadget) => gadget.step).pop();
  if (stepping) {
    const { name, done, total } = stepping.step;
    return { text: name, count: total ? `${done} of ${total}` : `step ${done}`, done, total };
  }
  if (active.length) return { text: active.pop().name, count: "" };
  if (!scan.running) return { text: "waiting for its first data", count: "" };
  if (!scan.gadgets.length) return { text: "starting", count: "" };
  if (scan.results) return { text: "sending results", count: "" };
  return { text: "waiting for data", count: "" };
}

function makeCard(scan) {
  const bar = document.createElement("progress");
  const parts = {
    heading: element("h3"), measures: element("span"), bar,
    text: element("span"), count: element("span", "faint"), rest: element("div"),
  };
  const head = element("div", "head", parts.heading, parts.measures, element("span", "faint end", age(scan.since)));
  const item = element("li", "", head, element("p", "stage", parts.text, parts.count), bar, parts.rest);
  return { item, parts };
}

function updateCard({ parts }, scan) {
  const at = stage(scan);
  setText(parts.heading, title(scan));
  parts.measures.replaceChildren(...[measures(scan)].filter(Boolean));
  setText(parts.text, at.text);
  setText(parts.count, at.count);
  parts.bar.setAttribute("aria-label", `${title(scan)}: ${at.text}`);
  if (at.total) {
    parts.bar.max = at.total;
    parts.bar.value = at.done;
  } else {
    parts.bar.removeAttribute("value");
  }
  parts.rest.replaceChildren(gadgetList(scan.gadgets), facts(scan));
}

function tag(text) {
  return element("span", `tag ${text}`, text);
}

function waitingRow(scan) {
  const head = element("p", "head", element("span", "number", `${scan.place}. ${title(scan)}`), measures(scan));
  head.append(element("span", "faint end", `needs ${bytes(scan.memory)}, connected for `, age(scan.since)));
  return element("li", "", head, facts({ peer: scan.peer }));
}

function doneRow(scan) {
  const end = element("span", "faint end", `took ${duration(scan.seconds)}, `, age(scan.ended, " ago"));
  const number = element("span", "number", title(scan));
  const summary = element("summary", "", element("span", "head", tag(scan.light || scan.outcome), number, end));
  const findings = element("ul", "findings", ...scan.findings.map((text) => element("li", "", text)));
  const ended = element("p", "faint small", `ended ${scan.ended_utc}`);
  const parts = [measures(scan), scan.findings.length ? findings : null, gadgetList(scan.gadgets), facts(scan), ended];
  return element("li", "", element("details", "", summary, ...parts));
}

function failedRow(scan) {
  const head = element("p", "head", tag(scan.outcome), element("span", "number", title(scan)), measures(scan));
  const end = element("span", "faint end", age(scan.ended, " ago"));
  end.title = scan.ended_utc;
  head.append(end);
  return element("li", "", head, element("p", "reason", scan.reason), facts({ peer: scan.peer }));
}

// Lists: an entry is made once and stays, so that what is open or selected stays so

function place(list, items) {
  const wanted = new Set(items);
  for (const item of [...list.children]) if (!wanted.has(item)) item.remove();
  items.forEach((item, index) => {
    if (list.children[index] !== item) list.insertBefore(item, list.children[index] || null);
  });
}

function showRows(name, scans, make) {
  const made = rows[name];
  const keys = scans.map((scan) => `${scan.number} ${scan.place || ""} ${scan.ended || ""}`);
  keys.forEach((key, index) => {
    if (!made.has(key)) made.set(key, make(scans[index]));
  });
  for (const key of [...made.keys()]) if (!keys.includes(key)) made.delete(key);
  place(byId(name), keys.map((key) => made.get(key)));
}

function showCards(scans) {
  for (const scan of scans) {
    if (!cards.has(scan.number)) cards.set(scan.number, makeCard(scan));
    updateCard(cards.get(scan.number), scan);
  }
  const numbers = scans.map((scan) => scan.number);
  for (const number of [...cards.keys()]) if (!numbers.includes(number)) cards.delete(number);
  place(byId("running"), numbers.map((number) => cards.get(number).item));
}

// Messages

function showService(service) {
  setText(byId("connections"), `${service.connections} of ${service.most_connections}`);
  const { memory_total: total, memory_reserved: reserved, memory_received: received } = service;
  const more = received ? `, ${bytes(received)} received` : "";
  setText(byId("memory"), `${bytes(reserved)} of ${bytes(total)}${more}`);
  const percent = (part) => Math.min(100, total ? (100 * part) / total : 0);
  const meter = byId("meter");
  meter.setAttribute("aria-valuenow", percent(reserved + received).toFixed(0));
  meter.querySelector(".reserved").style.width = `${percent(reserved)}%`;
  meter.querySelector(".received").style.width = `${percent(received)}%`;
  const notice = byId("not-ready");
  notice.hidden = !service.not_ready;
  setText(notice, service.not_ready ? `New scans may be refused: ${service.not_ready}.` : "");
}

function showNow({ service, running, waiting }) {
  showService(service);
  setText(byId("count-running"), String(running.length));
  setText(byId("count-waiting"), String(waiting.length));
  showCards(running);
  showRows("waiting", waiting, waitingRow);
  byId("running-empty").hidden = running.length > 0;
  byId("queue").hidden = waiting.length === 0;
  document.title = `${running.length ? `(${running.length}) ` : ""}${about ? about.name : "MRI2Qmap"}`;
}

function showPast({ done, failed }) {
  showRows("done", done, doneRow);
  showRows("failed", failed, failedRow);
  byId("done-empty").hidden = done.length > 0;
  byId("failed-empty").hidden = failed.length > 0;
  byId("about-lights").hidden = !done.some((scan) => scan.light);
}

// Another start of the service counts its scans from the beginning.
function meet(service) {
  if (about && about.page !== service.page) location.reload();
  if (about && about.started !== service.started) {
    cards.clear();
    Object.values(rows).forEach((made) => made.clear());
    known = null;
  }
  about = service;
  setText(byId("name"), service.name);
  const words = [`version ${service.version}`, service.address, `device ${service.device}`, "up for "];
  const up = age(0);
  up.title = `since ${service.started}`;
  byId("about").replaceChildren(words.join(" · "), up);
}

// What a screen reader says: that scans begin and end, not every step.
function announce(now, past) {
  const seen = { begun: new Set(now.running.map((s) => s.number)), ended: new Set() };
  const texts = [];
  for (const scan of [...past.done, ...past.failed]) {
    seen.ended.add(scan.number);
    if (known && !known.ended.has(scan.number)) {
      const light = scan.light ? `, ${scan.light}` : "";
      texts.push(`Scan ${scan.number} ${scan.outcome}${light}${scan.reason ? `: ${scan.reason}` : ""}`);
    }
  }
  for (const number of seen.begun) if (known && !known.begun.has(number)) texts.push(`Scan ${number} in progress`);
  known = seen;
  if (texts.length) setText(byId("news"), texts.slice(0, 3).join(". "));
}

const last = { now: null, past: null };

function receive(event) {
  const message = JSON.parse(event.data);
  clock.server = message.clock;
  clock.here = heard = performance.now();
  lostSince = null;
  reason = "";
  if (message.past) {
    meet(message.past.about);
    showPast(message.past);
    last.past = message.past;
  }
  if (message.now) {
    showNow(message.now);
    last.now = message.now;
  }
  if (message.now || message.past) announce(last.now, last.past);
  tick();
}

// The connection

function showConnection() {
  const lost = lostSince !== null && performance.now() - lostSince > TOLD_AFTER;
  const state = lost ? "lost" : about ? "live" : "connecting";
  byId("connection").dataset.state = state;
  setText(byId("connection").lastChild, state === "lost" ? "connection lost" : state);
  const notice = byId("lost");
  notice.hidden = !lost;
  const old = about ? ` What is shown is ${duration((performance.now() - heard) / 1000)} old.` : "";
  setText(notice, lost ? `${reason || "The connection to the service is lost."}${old} Trying again …` : "");
  byId("main").classList.toggle("old", lost);
  if (lost && byId("news").dataset.lost !== "yes") setText(byId("news"), "Connection lost");
  if (!lost && byId("news").dataset.lost === "yes") setText(byId("news"), "Connected again");
  byId("news").dataset.lost = lost ? "yes" : "no";
}

async function whyRefused() {
  try {
    const answer = await fetch("/events", { method: "HEAD", cache: "no-store" });
    return answer.status === 503 ? "The dashboard is open too often: close one of its pages." : "";
  } catch {
    return "";
  }
}

function disconnect() {
  if (source) source.close();
  source = null;
}

function connect() {
  disconnect();
  const opened = new EventSource("/events");
  source = opened;
  opened.addEventListener("message", (event) => {
    if (source === opened) receive(event);
  });
  opened.addEventListener("error", async () => {
    if (source !== opened) return;
    lostSince = lostSince ?? performance.now();
    if (opened.readyState !== EventSource.CLOSED) return; // the browser tries again by itself
    source = null;
    reason = await whyRefused();
  });
  attempted = performance.now();
}

function watch() {
  tick();
  if (hiding !== null && performance.now() - hiding > UNSEEN) {
    disconnect();
    return;
  }
  const silent = performance.now() - Math.max(heard, attempted) > SILENT;
  if (silent) lostSince = lostSince ?? performance.now();
  if ((source === null && performance.now() - attempted > AGAIN) || silent) connect();
}

document.addEventListener("visibilitychange", () => {
  hiding = document.hidden ? performance.now() : null;
  if (!document.hidden && source === null) connect();
});
setInterval(watch, 1000);
connect();
