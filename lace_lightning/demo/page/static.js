"use strict";
// Answers to the requests of the page where no program is behind it: the browser computes the networks.
// The flow and its control of the error are those of lace_lightning.samplers.RungeKutta with the Heun-Euler pair.

window.laceStatic = (() => {
  const data = window.laceData;
  const { solver, size } = data;
  const attributes = data.about.attributes;
  let sessions = null;

  // ---- files --------------------------------------------------------------------------------------------------

  function bytes(text) {
    const raw = atob(text);
    const result = new Uint8Array(raw.length);
    for (let place = 0; place < raw.length; place++) result[place] = raw.charCodeAt(place);
    return result;
  }

  const floats = (text) => new Float32Array(bytes(text).buffer);

  async function unpacked(text) {
    const stream = new Blob([bytes(text)]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }

  async function load() {
    // One thread: more need headers that a page from a disk does not have.
    ort.env.wasm.numThreads = 1;
    ort.env.wasm.wasmBinary = (await unpacked(window.laceEngine.module)).buffer;
    const glue = new Blob([await unpacked(window.laceEngine.glue)], { type: "text/javascript" });
    ort.env.wasm.wasmPaths = { mjs: URL.createObjectURL(glue) };
    const result = {};
    for (const [name, text] of Object.entries(window.laceNetworks)) result[name] = await ort.InferenceSession.create(await unpacked(text));
    data.z = floats(data.latents);
    data.prior = floats(data.priorLogits);
    // The packed texts are not needed again.
    window.laceNetworks = window.laceEngine = data.latents = data.priorLogits = null;
    return result;
  }

  // Sessions of onnxruntime compute one request at a time.
  let turn = Promise.resolve();
  function inTurn(work) {
    const result = turn.then(work);
    turn = result.catch(() => {});
    return result;
  }

  const tensor = (values, ...shape) => new ort.Tensor("float32", values, shape);

  // A graph from which an input was dropped, because nothing depends on it, does not take that input.
  async function compute(name, inputs) {
    const session = sessions[name];
    return session.run(Object.fromEntries(session.inputNames.map((input) => [input, inputs[input]])));
  }

  // ---- the flow -----------------------------------------------------------------------------------------------

  const rows = (values, chosen) => {
    const result = new Float32Array(chosen.length * size);
    chosen.forEach((row, place) => result.set(values.subarray(row * size, (row + 1) * size), place * size));
    return result;
  };

  const rms = (values, row) => {
    let sum = 0;
    for (let place = row * size; place < (row + 1) * size; place++) sum += values[place] * values[place];
    return Math.sqrt(sum / size);
  };

  // Returns latents after the flow from `start`, and the gradients that each sample took on average.
  // wish: wanted, weights and kept for each attribute, proximity, and the latents `origin` of an edit.
  async function flow(start, wish) {
    const count = start.length / size;
    const origin = wish.origin ?? start;
    const shared = {
      wanted: tensor(Float32Array.from(wish.wanted), attributes.length),
      weights: tensor(Float32Array.from(wish.weights), attributes.length),
      kept: tensor(Float32Array.from(wish.kept), attributes.length),
      proximity: tensor(Float32Array.of(wish.proximity), 1),
    };
    const step = (z, slope, lengths, chosen) =>
      compute("step", {
        ...shared,
        z: tensor(z, chosen.length, size),
        slope: tensor(slope, chosen.length, size),
        lengths: tensor(lengths, chosen.length, 1),
        origin: tensor(rows(origin, chosen), chosen.length, size),
      });
    const z = start.slice();
    let going = Array.from({ length: count }, (_, row) => row);
    // A step of length 0 has the slope where it begins.
    const slope = (await step(z, new Float32Array(z.length), new Float32Array(count), going)).slope_out.data.slice();
    const limit = (value, low, high) => Math.min(Math.max(value, low), high);
    const next = going.map((row) =>
      limit((solver.firstStep * (rms(z, row) + solver.atol)) / Math.max(rms(slope, row), 1e-12), 1e-4 * solver.length, solver.length));
    const reached = going.map(() => 0);
    let evaluations = count;
    for (let steps = 0; going.length; steps++) {
      const lengths = going.map((row) => Math.min(next[row], solver.length - reached[row]));
      if (steps >= solver.mostSteps || lengths.some((one) => !(one > 1e-9 * solver.length)))
        throw new Error("The steps of the flow became too short: lower the strength.");
      const answer = await step(rows(z, going), rows(slope, going), Float32Array.from(lengths), going);
      const still = [];
      going.forEach((row, place) => {
        const error = answer.error.data[place];
        const growth = Number.isNaN(error) ? 0.2 : limit(0.9 * Math.max(error, 1e-12) ** solver.exponent, 0.2, solver.largestGrowth);
        next[row] = lengths[place] * growth;
        evaluations += 1;
        const isGood = error <= 1;
        if (isGood) {
          z.set(answer.z_out.data.subarray(place * size, (place + 1) * size), row * size);
          slope.set(answer.slope_out.data.subarray(place * size, (place + 1) * size), row * size);
          reached[row] += lengths[place];
        }
        if (reached[row] < solver.length - 1e-9) {
          still.push(row);
          evaluations += isGood;
        }
      });
      going = still;
    }
    return { z, evaluations: evaluations / count };
  }

  // ---- conditions ---------------------------------------------------------------------------------------------

  const PART = /^\s*(?:"([^"]+)"|'([^']+)'|([^\s=]+))\s*==\s*(?:"([^"]+)"|'([^']+)'|(\S+))\s*$/;
  const quoted = (word) => (/^[\p{L}_][\p{L}\p{N}_]*$/u.test(word) || /^\d+$/.test(word) ? word : JSON.stringify(word));
  const textOf = (name, value) => `${quoted(name)} == ${typeof value === "number" ? value : quoted(value)}`;
  const ONLY = "This page has no program behind it, and takes comparisons with == that are joined by and";

  // Returns what is asked of each attribute: a class or a number by name. A later value replaces an earlier one.
  function parse(text) {
    const asked = {};
    if (text.trim() === "anything") return asked;
    for (const part of text.split(/\s+and\s+/)) {
      const found = PART.exec(part);
      if (!found) throw new Error(`${ONLY}, received '${part.trim()}': lace-lightning demo takes every query.`);
      const [name, value] = [found[1] ?? found[2] ?? found[3], found[4] ?? found[5] ?? found[6]];
      const attribute = attributes.find((one) => one.name === name);
      if (!attribute) throw new Error(`There is no attribute '${name}': the attributes are ${attributes.map((one) => one.name).join(", ")}.`);
      asked[name] = checked(attribute, value);
    }
    return asked;
  }

  function checked(attribute, value) {
    if (attribute.kind === "discrete") {
      const known = attribute.classes.includes(String(value)) ? String(value) : attribute.classes[/^\d+$/.test(value) ? Number(value) : -1];
      if (known === undefined) throw new Error(`'${attribute.name}' has the classes ${attribute.classes.join(", ")}, received '${value}'.`);
      return known;
    }
    const number = Number(value);
    if (value === "" || !(number >= 0 && number <= 1)) throw new Error(`'${attribute.name}' has values from 0 to 1, received '${value}'.`);
    return number;
  }

  function ofControls(controls) {
    const asked = {};
    for (const attribute of attributes) {
      const control = controls[attribute.name];
      if (control && control.mode === "is") asked[attribute.name] = checked(attribute, control.value);
    }
    return asked;
  }

  const query = (asked) => Object.entries(asked).map(([name, value]) => textOf(name, value)).join(" and ") || "anything";
  const controls = (asked) => Object.fromEntries(Object.entries(asked).map(([name, value]) => [name, { mode: "is", value }]));
  const wanted = (asked) => attributes.map((one) => (one.name in asked ? (one.kind === "discrete" ? one.classes.indexOf(asked[one.name]) : asked[one.name]) : 0));

  // ---- figures and pictures -----------------------------------------------------------------------------------

  const mean = (values) => values.reduce((sum, one) => sum + one, 0) / values.length;

  // Returns p(c|w) of each row of logits, and the score in ACC to expect by attribute.
  async function judged(logits, asked) {
    const count = logits.length / data.numLogits;
    const answer = await compute("terms", {
      logits: tensor(logits, count, data.numLogits),
      wanted: tensor(Float32Array.from(wanted(asked)), attributes.length),
    });
    const places = Object.keys(asked).map((name) => attributes.findIndex((one) => one.name === name));
    const at = (values, row, place) => values[row * attributes.length + place];
    const each = Array.from({ length: count }, (_, row) => row);
    return {
      p: each.map((row) => Math.exp(places.reduce((sum, place) => sum + at(answer.log_p.data, row, place), 0))),
      expected: Object.fromEntries(places.map((place) => [attributes[place].name, mean(each.map((row) => at(answer.expected.data, row, place)))])),
    };
  }

  const logitsOf = async (z) => (await compute("logits", { z: tensor(z, z.length / size, size) })).logits.data;

  const share = async (asked) => mean((await judged(data.prior, asked)).p);

  async function figures(asked, z, evaluations, began) {
    const isAsked = Object.keys(asked).length > 0;
    const known = isAsked ? await share(asked) : null;
    const seen = isAsked ? await judged(await logitsOf(z), asked) : { p: null, expected: {} };
    const seconds = (performance.now() - began) / 1000;
    return { p: seen.p, figures: { evaluations, seconds, share: known, log_share: known ? Math.log(known) : null, expected: seen.expected } };
  }

  // Returns pictures as the base64 of PNG files.
  async function drawn(z) {
    const count = z.length / size;
    const { images } = await compute("pictures", { z: tensor(z, count, size) });
    const [, channels, height, width] = images.dims;
    const area = height * width;
    const canvas = Object.assign(document.createElement("canvas"), { width, height });
    const context = canvas.getContext("2d");
    return Array.from({ length: count }, (_, row) => {
      const shown = context.createImageData(width, height);
      for (let place = 0; place < area; place++) {
        for (let channel = 0; channel < 3; channel++)
          shown.data[4 * place + channel] = images.data[(row * channels + Math.min(channel, channels - 1)) * area + place];
        shown.data[4 * place + 3] = 255;
      }
      context.putImageData(shown, 0, 0);
      return canvas.toDataURL("image/png").split(",")[1];
    });
  }

  // ---- requests -----------------------------------------------------------------------------------------------

  function seedsOf(text) {
    const seeds = [];
    for (const part of text.split(",")) {
      const found = /^\s*(\d+)\s*(?:-\s*(\d+)\s*)?$/.exec(part);
      const [first, last] = found ? [Number(found[1]), Number(found[2] ?? found[1])] : [1, 0];
      if (first > last) throw new Error(`Seeds are numbers and ranges, such as 0-15 or 3, 250, received '${text}'.`);
      if (last >= data.seeds) throw new Error(`This page has the seeds 0 to ${data.seeds - 1}, received ${last}: lace-lightning demo has all, and --static writes more with --seeds.`);
      for (let seed = first; seed <= last && seeds.length <= data.mostPictures; seed++) seeds.push(seed);
    }
    if (seeds.length > data.mostPictures) throw new Error(`The page shows at most ${data.mostPictures} pictures, and '${text}' are more: name fewer.`);
    return seeds;
  }

  const strengthOf = (value) => {
    if (!(value >= 0 && value <= data.largestStrength)) throw new Error(`The strength must be a number from 0 to ${data.largestStrength}, received ${value}.`);
    return value;
  };

  const encoded = (z) => btoa(String.fromCharCode(...new Uint8Array(z.buffer, z.byteOffset, z.byteLength)));
  const typed = (word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'"'"'`)}'`);

  async function pictures(content) {
    const began = performance.now();
    const asked = content.controls ? ofControls(content.controls) : parse(content.query);
    const [seeds, strength] = [seedsOf(content.seeds), strengthOf(content.strength)];
    const start = rows(data.z, seeds);
    const none = attributes.map(() => 0);
    const isAsked = Object.keys(asked).length > 0;
    const weights = attributes.map((one) => (one.name in asked ? strength : 0));
    const { z, evaluations } = isAsked
      ? await flow(start, { wanted: wanted(asked), weights, kept: none, proximity: 0 })
      : { z: start, evaluations: 0 };
    const pngs = await drawn(z);
    const seen = await figures(asked, z, evaluations, began);
    const filled = { "{query}": query(asked), "{seeds}": content.seeds.replaceAll(" ", "") };
    const command = data.command.map((word) => typed((filled[word] ?? word).replace("{strength}", strength))).join(" ");
    return {
      query: query(asked),
      controls: controls(asked),
      pictures: seeds.map((seed, row) => ({ seed, png: pngs[row], p: seen.p ? seen.p[row] : null, start: { space: "z", values: encoded(z.subarray(row * size, (row + 1) * size)) } })),
      figures: seen.figures,
      command: isAsked ? command : "",
    };
  }

  async function edits(content) {
    const began = performance.now();
    const strength = strengthOf(content.strength);
    let list = content.edits.map(parse);
    if (content.add !== undefined) {
      const added = typeof content.add === "string" ? parse(content.add) : ofControls(content.add);
      if (!Object.keys(added).length) throw new Error("An edit asks for a value, such as smile == yes.");
      const names = (one) => Object.keys(one).sort().join();
      // A slider that is moved again is no further step.
      list = [...(list.length && names(list.at(-1)) === names(added) ? list.slice(0, -1) : list), added];
    }
    const start = content.start.values ? floats(content.start.values) : rows(data.z, seedsOf(String(content.start.seed)));
    const states = [{ z: start, evaluations: 0 }];
    for (let last = 1; last <= list.length; last++) {
      const asked = inForce(list.slice(0, last));
      const isHeld = content.keeps_identity;
      states.push(
        await flow(start, {
          wanted: wanted(asked),
          weights: attributes.map((one) => (one.name in asked ? strength : 0)),
          kept: attributes.map((one) => (one.name in asked || !isHeld ? 0 : data.edit.keep)),
          proximity: isHeld ? data.edit.proximity : 0,
          origin: start,
        }),
      );
    }
    const whole = new Float32Array(states.length * size);
    states.forEach((state, place) => whole.set(state.z, place * size));
    const pngs = await drawn(whole);
    const asked = inForce(list);
    const last = states.at(-1);
    const seen = await figures(asked, last.z, last.evaluations, began);
    return { pictures: pngs, steps: list.map(query), edits: kept(list).map(query), controls: controls(asked), identity: null, figures: seen.figures, command: "" };
  }

  // Edits of which no later one has an attribute.
  const kept = (list) => list.filter((edit, place) => !list.slice(place + 1).some((later) => Object.keys(later).some((name) => name in edit)));
  const inForce = (list) => Object.assign({}, ...kept(list));

  return {
    answer: (path, content) =>
      inTurn(async () => {
        if (path === "/api/page") {
          sessions ??= await load();
          return data.about;
        }
        return path === "/api/edits" ? edits(content) : pictures(content);
      }),
  };
})();
