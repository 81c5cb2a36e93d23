"use strict";
// The page keeps its whole state here and in the storage of its tab. The server keeps nothing of a visitor.

const find = (id) => document.getElementById(id);
const KEPT = "lace_lightning";
// Milliseconds without a further change after which a slider asks for pictures.
const PAUSE = 120;
let about = null;
let state = null;

function make(tag, options = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(options)) {
    if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

// ---- requests -------------------------------------------------------------------------------------------------

async function ask(path, content, options = {}) {
  // A page without a program computes its answers itself.
  if (window.laceStatic) return window.laceStatic.answer(path, content);
  const answer = await fetch(path, {
    method: content === undefined ? "GET" : "POST",
    headers: { "X-Lace-Lightning": "page", ...options.headers },
    body: content === undefined || content instanceof Blob ? content : JSON.stringify(content),
    signal: options.signal,
  });
  if (options.raw && answer.ok) return answer;
  const result = await answer.json();
  if (!answer.ok) throw new Error(result.error);
  return result;
}

// Of several requests of one kind the last one alone is shown.
const latest = {};
async function askLast(kind, path, content) {
  latest[kind]?.abort();
  const own = (latest[kind] = new AbortController());
  document.body.setAttribute("aria-busy", "true");
  try {
    const result = await ask(path, content, { signal: own.signal });
    return own.signal.aborted ? null : result;
  } catch (error) {
    if (own.signal.aborted) return null;
    showError(error);
    return null;
  } finally {
    if (latest[kind] === own) document.body.removeAttribute("aria-busy");
  }
}

function showError(error) {
  const lost = error instanceof TypeError;
  find("error").textContent = lost ? "The program behind this page does not answer: is it still running?" : error.message;
  find("error").hidden = false;
}

function say(text) {
  find("error").hidden = true;
  find("status").textContent = text;
}

function keep() {
  try {
    sessionStorage.setItem(KEPT, JSON.stringify({ ...state, name: about.name }));
  } catch {
    // Without storage a reload begins anew.
  }
}

function debounced(work) {
  let timer = 0;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(work, PAUSE);
  };
}

// ---- controls of attributes -----------------------------------------------------------------------------------

const number = (value) => Number(value).toFixed(2);

function slider(id, label, value, changed) {
  const output = make("output", { for: id, textContent: number(value) });
  const input = make("input", { id, type: "range", min: 0, max: 1, step: 0.01, value, "aria-label": label });
  input.addEventListener("input", () => {
    output.textContent = number(input.value);
    changed();
  });
  return make("div", { className: "slider" }, input, output);
}

const WORDS = { free: "leave free", each: "every value in turn", is: "about", between: "between" };

// A control of the form "New pictures": its `read` returns what is asked for, and `show` shows it.
function pictureControl(attribute, changed) {
  const id = `ask-${attribute.name.replaceAll(" ", "-")}`;
  const select = make("select", { id, "aria-label": `${attribute.name}: what to ask for` });
  const parts = make("div", {}, select);
  const isDiscrete = attribute.kind === "discrete";
  select.append(make("option", { value: "free", textContent: WORDS.free }));
  if (isDiscrete) for (const name of attribute.classes) select.append(make("option", { value: `is ${name}`, textContent: name }));
  else for (const mode of ["is", "between"].filter((one) => attribute.modes.includes(one))) select.append(make("option", { value: mode, textContent: WORDS[mode] }));
  if (attribute.modes.includes("each")) select.append(make("option", { value: "each", textContent: WORDS.each }));
  let ends = {};
  if (!isDiscrete) {
    ends = {
      is: [slider(`${id}-value`, `${attribute.name}: value`, 0.5, changed)],
      between: [
        slider(`${id}-low`, `${attribute.name}: lower end`, 0.25, changed),
        slider(`${id}-high`, `${attribute.name}: upper end`, 0.75, changed),
      ],
    };
    parts.append(...ends.is, ...ends.between);
  }
  const arrange = () => {
    for (const [mode, rows] of Object.entries(ends)) for (const row of rows) row.hidden = select.value !== mode;
  };
  const value = (end) => Number(find(`${id}-${end}`).value);
  const set = (end, given) => {
    find(`${id}-${end}`).value = given;
    find(`${id}-${end}`).nextElementSibling.textContent = number(given);
  };
  select.addEventListener("change", () => {
    arrange();
    changed();
  });
  arrange();
  return {
    element: make("fieldset", {}, make("legend", { textContent: attribute.name }), parts),
    read() {
      const mode = select.value;
      if (mode === "is") return { mode, value: value("value") };
      if (mode === "between") return { mode, low: value("low"), high: value("high") };
      return mode.startsWith("is ") ? { mode: "is", value: mode.slice(3) } : { mode };
    },
    show(control) {
      select.value = !control ? "free" : control.mode === "is" && isDiscrete ? `is ${control.value}` : control.mode;
      if (control?.mode === "is" && !isDiscrete) set("value", control.value);
      if (control?.mode === "between") {
        set("low", control.low);
        set("high", control.high);
      }
      arrange();
    },
  };
}

// A control of the form "Edit": a button for each class, or a slider that applies an edit when it is let go.
function editControl(attribute) {
  const parts = make("div");
  const add = (control) => edit({ add: { [attribute.name]: control } });
  const buttons = {};
  let range = null;
  if (attribute.kind === "discrete") {
    const choices = make("div", { className: "choices" });
    for (const name of attribute.classes) {
      buttons[name] = make("button", { type: "button", textContent: name, "aria-label": `${attribute.name}: ${name}`, "aria-pressed": "false" });
      buttons[name].addEventListener("click", () => add({ mode: "is", value: name }));
      choices.append(buttons[name]);
    }
    parts.append(choices);
  } else {
    const row = slider(`edit-${attribute.name.replaceAll(" ", "-")}`, `${attribute.name}: value`, 0.5, () => {});
    range = row.firstChild;
    range.addEventListener("change", () => add({ mode: "is", value: Number(range.value) }));
    parts.append(row);
  }
  return {
    element: make("fieldset", {}, make("legend", { textContent: attribute.name }), parts),
    show(control) {
      for (const [name, button] of Object.entries(buttons)) button.setAttribute("aria-pressed", String(control?.value === name));
      if (range) {
        range.value = control?.mode === "is" ? control.value : 0.5;
        range.nextElementSibling.textContent = control?.mode === "is" ? number(control.value) : "free";
      }
    },
  };
}

// ---- figures --------------------------------------------------------------------------------------------------

const percent = (value) => `${(100 * value).toFixed(value > 0.0995 ? 0 : 1)} %`;

function showFigures(list, figures, more = [], holds) {
  const rows = [];
  if (figures.share !== null) {
    const words = figures.share > 0 ? `${percent(figures.share)} (1 in ${Math.max(1, Math.round(1 / figures.share)).toLocaleString("en")})` : "none of 4096";
    rows.push(["Share of the generator's own pictures", words]);
    if (figures.log_share !== null) rows.push(["log P(query)", figures.log_share.toFixed(2)]);
  }
  for (const [name, value] of Object.entries(figures.expected)) {
    const known = about.accuracy[name];
    const isDiscrete = about.attributes.find((one) => one.name === name).kind === "discrete";
    const right = isDiscrete ? `is right in ${percent(known)} of` : `has a mean error of ${(1 - known).toFixed(3)} on`;
    rows.push([`ACC to expect, ${name}`, `${value.toFixed(3)} by the classifier${known === undefined ? "" : `, which ${right} pictures it was not trained on`}`]);
  }
  if (holds !== undefined && !rows.some(([name]) => name.startsWith("ACC"))) rows.push(["Share that holds, to expect", `${holds.toFixed(3)} by the classifier`]);
  rows.push(...more, ["Gradients for each picture", figures.evaluations.toFixed(0)], ["Seconds", figures.seconds.toFixed(2)]);
  list.replaceChildren(...rows.flatMap(([name, value]) => [make("dt", { textContent: name }), make("dd", { textContent: value })]));
}

const picture = (png, alt) => make("img", { src: `data:image/png;base64,${png}`, alt });

// ---- new pictures ---------------------------------------------------------------------------------------------

let pictureControls = {};

async function draw(source) {
  const { strength, method, seeds } = state.pictures;
  const began = performance.now();
  const answer = await askLast("pictures", "/api/pictures", { ...source, strength, method, seeds });
  if (!answer) return;
  state.pictures.query = answer.query;
  keep();
  find("query").value = answer.query;
  find("beyond").hidden = answer.controls !== null;
  for (const [name, control] of Object.entries(pictureControls)) control.show(answer.controls?.[name]);
  find("grid").replaceChildren(
    ...answer.pictures.map((one) => {
      const seen = one.p === null ? "" : `p ${one.p.toFixed(2)}`;
      const button = make("button", { type: "button" }, picture(one.png, "Edit the picture of"),
        make("span", { textContent: `seed ${one.seed}` }), make("span", { textContent: seen }));
      button.addEventListener("click", () => {
        state.edits.steps = [];
        state.edits.start = one.start;
        state.edits.label = `seed ${one.seed} of '${answer.query}'`;
        openTab("edits");
      });
      return make("li", {}, button);
    }),
  );
  const seen = answer.pictures.map((one) => one.p).filter((p) => p !== null);
  showFigures(find("picture-figures"), answer.figures, [], seen.length ? seen.reduce((sum, p) => sum + p, 0) / seen.length : undefined);
  find("picture-command").textContent = answer.command || "Nothing is asked for: these are the generator's own pictures.";
  say(`${answer.pictures.length} pictures of '${answer.query}' in ${((performance.now() - began) / 1000).toFixed(2)} s`);
}

const drawControls = () => draw({ controls: Object.fromEntries(Object.entries(pictureControls).map(([name, one]) => [name, one.read()])) });
const drawQuery = () => draw({ query: find("query").value });
const drawAgain = () => draw({ query: state.pictures.query });

// ---- edits ----------------------------------------------------------------------------------------------------

let editControls = {};

async function edit(change = {}) {
  const { start, strength, method, keeps_identity } = state.edits;
  const content = { start, strength, method, keeps_identity, edits: change.steps ?? state.edits.steps, add: change.add };
  const began = performance.now();
  const answer = await askLast("edits", "/api/edits", content);
  if (!answer) return false;
  if (change.add !== undefined) state.edits.undone = [];
  state.edits.steps = answer.steps;
  keep();
  const last = answer.pictures.length - 1;
  const figure = (png, title, text) => make("figure", {}, picture(png, title), make("figcaption", { textContent: text }));
  find("pair").replaceChildren(
    figure(answer.pictures[0], "The picture before all edits", `before (${state.edits.label})`),
    figure(answer.pictures[last], "The picture after all edits", last ? `after ${last} edit${last > 1 ? "s" : ""}` : "after: no edits yet"),
    ...(state.edits.photograph ? [figure(state.edits.photograph, "The photograph", "photograph")] : []),
  );
  find("steps").replaceChildren(
    ...answer.steps.map((text, index) => {
      const back = make("button", { type: "button", textContent: "Take back", "aria-label": `Take back ${text}` });
      back.addEventListener("click", () => edit({ steps: state.edits.steps.filter((_, other) => other !== index) }));
      const replaced = answer.edits.includes(text) ? "" : " (replaced)";
      return make("li", {}, figure(answer.pictures[index + 1], `The picture after ${text}`, `${index + 1}. ${text}${replaced}`), back);
    }),
  );
  for (const [name, control] of Object.entries(editControls)) control.show(answer.controls[name]);
  const identity = answer.identity === null ? [] : [["Distance of identity", `${answer.identity.toFixed(2)} (0 is the same picture)`]];
  showFigures(find("edit-figures"), answer.figures, identity);
  find("edit-command").textContent = answer.command || "No edits yet.";
  find("undo").disabled = find("clear").disabled = !answer.steps.length;
  find("redo").disabled = !state.edits.undone.length;
  say(`${last ? answer.steps[last - 1] : "No edits"}, in ${((performance.now() - began) / 1000).toFixed(2)} s`);
  return true;
}

async function begin(start, label, photograph = null) {
  const before = { ...state.edits };
  Object.assign(state.edits, { start, label, photograph, steps: [], undone: [] });
  if (!(await edit())) state.edits = before;
}

async function project(file) {
  const bar = find("projection");
  bar.hidden = false;
  bar.value = 0;
  say("The photograph is projected ...");
  const began = performance.now();
  try {
    const answer = await ask("/api/photograph", file, { raw: true, headers: { "X-Name": encodeURIComponent(file.name) } });
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let rest = ""; ; ) {
      const { done, value } = await reader.read();
      if (done) break;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines.map((text) => JSON.parse(text))) {
        if (line.error) throw new Error(line.error);
        if (line.steps) {
          const share = line.step / line.steps;
          bar.value = share;
          const left = share > 0.1 ? `, about ${Math.ceil((((performance.now() - began) / 1000) * (1 - share)) / share)} s left` : "";
          find("status").textContent = `Projection: step ${line.step} of ${line.steps}${left}`;
        }
        if (line.result) {
          await begin(line.result.start, "projected", line.result.photograph);
          find("photograph-note").textContent = `Root mean squared difference of pixels: ${line.result.rmse.toFixed(3)} in [-1, 1] (${line.result.cut}).`;
        }
      }
    }
  } catch (error) {
    showError(error);
  } finally {
    bar.hidden = true;
    find("photograph").value = "";
  }
}

async function download(kind, name) {
  say("The files are written ...");
  const content = kind === "edits" ? { ...state.edits, edits: state.edits.steps, photograph: undefined } : state.pictures;
  try {
    const answer = await ask("/api/zip", { ...content, kind }, { raw: true });
    const address = URL.createObjectURL(await answer.blob());
    const link = make("a", { href: address, download: name });
    document.body.append(link);
    link.click();
    link.remove();
    URL.revokeObjectURL(address);
    say(`${name} is in your downloads.`);
  } catch (error) {
    showError(error);
  }
}

// ---- the whole ------------------------------------------------------------------------------------------------

function openTab(name) {
  for (const other of ["pictures", "edits"]) {
    find(`tab-${other}`).setAttribute("aria-selected", String(other === name));
    find(`tab-${other}`).tabIndex = other === name ? 0 : -1;
    find(`panel-${other}`).hidden = other !== name;
  }
  state.tab = name;
  keep();
  find("error").hidden = true;
  if (name === "edits") edit();
  else drawAgain();
}

function range(id, group, key, again) {
  const input = find(id);
  // A strength above the end of the slider lengthens it.
  input.max = Math.max(20, group[key]);
  const show = () => (find(`${id}-value`).textContent = input.value);
  input.value = group[key];
  show();
  const later = debounced(again);
  input.addEventListener("input", () => {
    group[key] = Number(input.value);
    show();
    later();
  });
}

function methods(id, group, again, names) {
  const select = find(id);
  for (const { name, text } of names) select.append(make("option", { value: name, textContent: `${name}: ${text}`.replace(/\.$/, "") }));
  select.value = group.method;
  select.addEventListener("change", () => {
    group.method = select.value;
    again();
  });
}

async function start() {
  about = await ask("/api/page");
  find("name").textContent = `of '${about.name}'`;
  if (about.shape[1] < 64) document.body.classList.add("small");
  const first = {
    tab: "pictures",
    pictures: { ...about.pictures, method: about.method },
    edits: { start: { seed: 0 }, label: "seed 0", photograph: null, steps: [], undone: [], strength: about.edits.strength, keeps_identity: true, method: about.method },
  };
  let kept = null;
  try {
    kept = JSON.parse(sessionStorage.getItem(KEPT));
  } catch {
    // What cannot be read is not used.
  }
  state = kept?.name === about.name ? kept : first;

  const later = debounced(drawControls);
  for (const attribute of about.attributes) {
    pictureControls[attribute.name] = pictureControl(attribute, later);
    editControls[attribute.name] = editControl(attribute);
    find("picture-controls").append(pictureControls[attribute.name].element);
    find("edit-controls").append(editControls[attribute.name].element);
  }
  const flows = about.methods.filter(({ name }) => name.startsWith("lace_"));
  range("strength", state.pictures, "strength", drawAgain);
  range("edit-strength", state.edits, "strength", () => edit());
  methods("method", state.pictures, drawAgain, about.methods);
  methods("edit-method", state.edits, () => edit(), flows);
  find("seeds").value = state.pictures.seeds;
  find("query").value = state.pictures.query;
  find("seed").value = state.edits.start.seed ?? 0;
  find("keep").checked = state.edits.keeps_identity;
  find("classifier").textContent = [about.classifier.what, about.classifier.known_weaknesses && `Known weaknesses: ${about.classifier.known_weaknesses}`].filter(Boolean).join(". ") || "No card says more of it.";

  find("picture-form").addEventListener("submit", (event) => event.preventDefault());
  find("edit-form").addEventListener("submit", (event) => event.preventDefault());
  find("query").addEventListener("change", drawQuery);
  find("seeds").addEventListener("change", () => {
    state.pictures.seeds = find("seeds").value;
    drawAgain();
  });
  find("next-seeds").addEventListener("click", () => {
    const numbers = find("seeds").value.match(/\d+/g) ?? [0];
    const next = Math.max(...numbers.map(Number)) + 1;
    find("seeds").value = state.pictures.seeds = `${next}-${next + 15}`;
    drawAgain();
  });
  find("picture-zip").addEventListener("click", () => download("pictures", `${about.name}_pictures.zip`));
  find("edit-zip").addEventListener("click", () => download("edits", `${about.name}_edits.zip`));
  find("begin").addEventListener("click", () => begin({ seed: Number(find("seed").value || NaN) }, `seed ${find("seed").value}`));
  find("photograph").addEventListener("change", () => find("photograph").files.length && project(find("photograph").files[0]));
  const apply = () => edit({ add: find("edit-query").value });
  find("apply").addEventListener("click", apply);
  find("edit-query").addEventListener("keydown", (event) => event.key === "Enter" && apply());
  find("keep").addEventListener("change", () => {
    state.edits.keeps_identity = find("keep").checked;
    edit();
  });
  find("undo").addEventListener("click", () => {
    state.edits.undone.push(state.edits.steps.at(-1));
    edit({ steps: state.edits.steps.slice(0, -1) });
  });
  find("redo").addEventListener("click", () => edit({ steps: [...state.edits.steps, state.edits.undone.pop()] }));
  find("clear").addEventListener("click", () => {
    state.edits.undone = [...state.edits.undone, ...state.edits.steps.toReversed()];
    edit({ steps: [] });
  });
  for (const name of ["pictures", "edits"]) {
    const tab = find(`tab-${name}`);
    tab.addEventListener("click", () => openTab(name));
    tab.addEventListener("keydown", (event) => {
      if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
      const other = name === "pictures" ? "edits" : "pictures";
      openTab(other);
      find(`tab-${other}`).focus();
    });
  }
  openTab(state.tab);
}

document.addEventListener("DOMContentLoaded", () => start().catch(showError));
