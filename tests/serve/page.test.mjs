// What a person does with the page of `instructblip serve`, in Chromium; page.sh starts it. The first thing that fails ends
// it, with a picture of the page as it was.

import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { createHash } from "node:crypto";
import fs from "node:fs";
import { createRequire } from "node:module";
import net from "node:net";
import path from "node:path";

const [program, folder] = process.argv.slice(2).map((name) => path.resolve(name));
const { chromium } = createRequire(`${folder}/`)("playwright-core");
const samples = path.resolve("tests/shapes/samples");
const questions = fs.readFileSync("tests/shapes/samples.jsonl", "utf8").trim().split("\n").map((line) => JSON.parse(line));
const sample = (number) => path.join(samples, `${number}.png`);
/** The reference's answer to a question about a sample. */
const expected = (number, prompt) => {
  return questions.find((row) => row.image.endsWith(`${number}.png`) && row.prompt === prompt).hf_greedy;
};

// ---- The server, the browser ----------------------------------------------------------------------------------------

const servers = [];

/** Starts a server with the embedded model, or takes one that runs (SERVER=URL), and waits until it answers. */
async function serve(...options) {
  if (process.env.SERVER && options.length === 0) return process.env.SERVER;
  const probe = net.createServer().listen(0, "127.0.0.1");
  await new Promise((ready) => probe.once("listening", ready));
  const { port } = probe.address();
  await new Promise((closed) => probe.close(closed));
  // Answers are long enough to be stopped.
  const server = spawn(program, ["serve", "--port", String(port), "--max-new-tokens", "450", ...options], { stdio: ["ignore", "ignore", "pipe"] });
  servers.push(server);
  let said = "";
  server.stderr.on("data", (text) => { said += text; });
  const url = `http://127.0.0.1:${port}`;
  for (let i = 0; i < 600; i += 1) {
    if (server.exitCode !== null) throw new Error(`the server ended with ${server.exitCode}: ${said}`);
    if (await fetch(`${url}/health`).then((reply) => reply.ok, () => false)) return url;
    await pause(200);
  }
  throw new Error(`the server was not ready after 2 minutes: ${said}`);
}

const pause = (ms) => new Promise((later) => setTimeout(later, ms));

async function until(what, holds, seconds = 30) {
  const end = Date.now() + 1000 * seconds;
  for (;;) {
    const value = await holds();
    if (value) return value;
    if (Date.now() > end) throw new Error(`${what}, after ${seconds} s`);
    await pause(50);
  }
}

/** Errors that the browser tells and no test expects; refused scripts and styles are among them. */
const told = [];

/** Takes away the errors that a test has caused. */
async function expectErrors(pattern) {
  await until(`no error like ${pattern}`, () => told.some((text) => pattern.test(text)), 5);
  told.splice(0, told.length, ...told.filter((text) => !pattern.test(text)));
}

/** A page in a profile of its own. */
async function open(url, options = {}) {
  const permissions = ["clipboard-read", "clipboard-write"];
  const context = await browser.newContext({ viewport: { width: 1280, height: 860 }, permissions, ...options });
  const opened = await context.newPage();
  opened.setDefaultTimeout(15000);
  opened.on("console", (message) => ["error", "warning"].includes(message.type()) && told.push(message.text()));
  opened.on("pageerror", (error) => told.push(String(error)));
  await opened.goto(url);
  return opened;
}

const ready = (of) => until("the page is not ready", () => of.locator("#about").textContent());
const side = (of, number) => {
  const result = of.locator("#results > article").nth(number);
  return {
    text: of.locator("#instructions .text").nth(number), task: of.locator("#instructions .task").nth(number),
    result, answer: result.locator(".answer"), figures: result.locator(".figures"), wrong: result.locator(".wrong"),
    canvas: result.locator("canvas"),
  };
};
const status = (of) => of.locator("#status").textContent();
const done = (of) => until("the question is not done", async () => /^(Done|Stopped|That did not work)/.test(await status(of)), 120);

async function choose(of, file) {
  const name = file.name ?? path.basename(file);
  await of.setInputFiles("#file", file);
  await until("the picture is not told", async () => (await of.locator("#picture-facts").textContent()).startsWith(`${name}, `));
}

/** Types an instruction, asks with Enter, and gives the answer. */
async function ask(of, prompt, number = 0) {
  const { text, answer } = side(of, number);
  await text.fill("");
  await text.pressSequentially(prompt);
  await text.press("Enter");
  await until("nothing was asked", async () => (await status(of)) !== "");
  await done(of);
  return answer.textContent();
}

let shots = 0;
async function shot(of, name) {
  const file = path.join(folder, `${name}.png`);
  await of.screenshot({ path: file, fullPage: true });
  shots += 1;
}

/** What a canvas shows, or what it would show of the picture alone. It is copied first: a canvas that is read often becomes
    another kind of canvas. */
const pixels = (canvas, isPictureAlone = false) => canvas.evaluate((shown, isPictureAlone) => {
  const copy = Object.assign(document.createElement("canvas"), { width: shown.width, height: shown.height });
  const context = copy.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(isPictureAlone ? document.getElementById("thumbnail") : shown, 0, 0, shown.width, shown.height);
  return Array.from(context.getImageData(0, 0, shown.width, shown.height).data);
}, isPictureAlone);
/** The mean difference of two pictures' channels. */
const difference = (a, b) => a.reduce((sum, value, i) => sum + Math.abs(value - b[i]), 0) / a.length;
const noSidewaysScrolling = async (of) => {
  const [page, window] = await of.evaluate(() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]);
  assert.ok(page <= window, `the page is ${page} wide in a window of ${window}`);
};

// ---- What is looked at by figures: contrast, names, rings of focus ---------------------------------------------------

/** Every text whose contrast with what is behind it is below 4.5 (3 for large letters), and every edge of a field below 3. */
const lowContrast = (of) => of.evaluate(() => {
  const parse = (color) => {
    const [r, g, b, a = 1] = color.match(/[\d.]+/g).map(Number);
    return { r, g, b, a };
  };
  const light = ({ r, g, b }) => {
    const [x, y, z] = [r, g, b].map((c) => (c / 255 <= 0.03928 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const ratio = (a, b) => (Math.max(light(a), light(b)) + 0.05) / (Math.min(light(a), light(b)) + 0.05);
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const color = parse(getComputedStyle(at).backgroundColor);
      if (color.a === 1) return color;
    }
    return { r: 255, g: 255, b: 255 };
  };
  const low = [];
  for (const element of document.querySelectorAll("body *")) {
    if (!element.checkVisibility() || element.matches("script, option, :disabled, .out-of-sight")) continue;
    const style = getComputedStyle(element);
    const isField = element.matches("input, textarea, select");
    const texts = [...element.childNodes].filter((node) => node.nodeType === Node.TEXT_NODE).map((node) => node.data);
    const own = isField ? element.value || element.placeholder || "" : texts.join("");
    if (own.trim() !== "") {
      const least = parseFloat(style.fontSize) >= 24 ? 3 : 4.5;
      const is = ratio(parse(style.color), behind(element));
      if (is < least) low.push(`${own.trim().slice(0, 30)}: ${is.toFixed(2)}`);
    }
    if (element.matches("select, textarea, input:not([type=checkbox], [type=range], [type=file]), button")) {
      const is = ratio(parse(style.borderTopColor), behind(element.parentElement));
      if (is < 3) low.push(`edge of ${element.id || element.className || element.name}: ${is.toFixed(2)}`);
    }
  }
  return low;
});

/** Every control that has no name for a screen reader, as the browser works it out. */
async function unnamed(of) {
  const session = await of.context().newCDPSession(of);
  const { nodes } = await session.send("Accessibility.getFullAXTree");
  const roles = [
    "button", "textbox", "searchbox", "combobox", "checkbox", "slider", "spinbutton", "DisclosureTriangle", "image", "progressbar",
  ];
  const controls = nodes.filter((node) => !node.ignored && roles.includes(node.role?.value));
  assert.ok(controls.length > 10, `${controls.length} controls`);
  return controls.filter((node) => !node.name?.value).map((node) => node.role.value);
}

/** Walks through the page with Tab; gives the names of what had focus. Each must show that it has. */
async function walk(of) {
  // Tab goes on from where the last click was.
  await of.evaluate(() => scrollTo(0, 0));
  await of.mouse.click(2, 2);
  const names = [];
  for (let i = 0; i < 80; i += 1) {
    await of.keyboard.press("Tab");
    const at = await of.evaluate(() => {
      const element = document.activeElement;
      if (element === document.body) return null;
      const shown = element.id === "file" ? element.parentElement : element;
      const { outlineStyle, outlineWidth } = getComputedStyle(shown);
      const { width, height } = shown.getBoundingClientRect();
      const name = element.id || element.name || element.className || element.textContent.trim().slice(0, 30);
      return { name, isRinged: outlineStyle !== "none" && parseFloat(outlineWidth) >= 2, isSeen: width > 5 && height > 5 };
    });
    if (at === null) break;
    assert.ok(at.isRinged && at.isSeen, `${at.name} does not show that it has the focus`);
    names.push(at.name);
  }
  return names;
}

// ---- The tests -------------------------------------------------------------------------------------------------------

const tests = [];
const test = (name, run) => tests.push([name, run]);
let browser, server, page;

test("the policy allows the page's one script and one style, and no other", async () => {
  const reply = await fetch(server);
  const html = await reply.text();
  const hash = (tag) => {
    const found = [...html.matchAll(new RegExp(`<${tag}>([^]*?)</${tag}>`, "g"))];
    assert.equal(found.length, 1, `one ${tag}`);
    return `'sha256-${createHash("sha256").update(found[0][1]).digest("base64")}'`;
  };
  const policy = reply.headers.get("content-security-policy");
  for (const part of [
    "default-src 'none'", `script-src ${hash("script")}`, `style-src ${hash("style")}`, "img-src 'self' data: blob:",
    "connect-src 'self'", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'",
  ]) assert.ok(policy.split("; ").includes(part), `${part} is not in ${policy}`);
  page = await open(server);
  await ready(page);
  assert.deepEqual(told, []);
  const ran = await page.evaluate(() => {
    document.body.append(Object.assign(document.createElement("script"), { textContent: "window.strange = true" }));
    return window.strange === true;
  });
  assert.equal(ran, false);
  await expectErrors(/Content.Security.Policy|inline script/);
  await shot(page, "start");
});

test("a question without picture or words says what is missing", async () => {
  await page.keyboard.press("/");
  assert.ok(await side(page, 0).text.evaluate((text) => text === document.activeElement));
  await page.keyboard.type("What is it?");
  await page.keyboard.press("Enter");
  assert.equal(await status(page), "Choose a picture first.");
});

test("a picture comes by drop, by paste and by choice", async () => {
  const facts = () => page.locator("#picture-facts").textContent();
  const session = await page.context().newCDPSession(page);
  const box = await page.locator("#drop").boundingBox();
  const drag = (type) => session.send("Input.dispatchDragEvent", {
    type, x: box.x + 20, y: box.y + 20, data: { items: [], files: [sample("10")], dragOperationsMask: 1 },
  });
  for (const type of ["dragEnter", "dragOver", "drop"]) await drag(type);
  await until("the drop did nothing", async () => (await facts()).startsWith("10.png"));
  assert.match(await facts(), /^10\.png, \d+ kB, 96 × 96$/);
  assert.equal(await page.locator("#thumbnail").getAttribute("alt"), "10.png");

  const bytes = fs.readFileSync(sample("03")).toString("base64");
  await page.evaluate(async (base64) => {
    const data = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
    await navigator.clipboard.write([new ClipboardItem({ "image/png": new Blob([data], { type: "image/png" }) })]);
  }, bytes);
  await side(page, 0).text.focus();
  await page.keyboard.press("Control+v");
  await until("the paste did nothing", async () => (await facts()).startsWith("image.png"));

  const chooser = page.waitForEvent("filechooser");
  await page.locator("#file").focus();
  await page.keyboard.press("Enter");
  await (await chooser).setFiles(sample("10"));
  await until("the choice did nothing", async () => (await facts()).startsWith("10.png"));
});

test("a picture is shown as it is stored, not as its camera was held", async () => {
  const jpeg = Buffer.from(await page.evaluate(() => {
    const canvas = Object.assign(document.createElement("canvas"), { width: 40, height: 20 });
    canvas.getContext("2d").fillRect(0, 0, 20, 20);
    return canvas.toDataURL("image/jpeg").split(",")[1];
  }), "base64");
  // An Exif block with one entry: orientation 6, a quarter turn.
  const exif = Buffer.from("ffe1002245786966000049492a0008000000010012010300010000000600000000000000", "hex");
  const turned = Buffer.concat([jpeg.subarray(0, 2), exif, jpeg.subarray(2)]);
  await choose(page, { name: "turned.jpg", mimeType: "image/jpeg", buffer: turned });
  assert.match(await page.locator("#picture-facts").textContent(), /40 × 20/);
  await choose(page, sample("10"));
});

test("a picture that the browser cannot show is asked about, and drawn by the server", async () => {
  // Half red, half blue, as TIFF: nine tags of 12 bytes, then the pixels.
  const [width, height, start] = [32, 16, 200];
  const tags = [
    [256, 3, width], [257, 3, height], [258, 3, 8], [259, 3, 1], [262, 3, 2], [273, 4, start], [277, 3, 3], [278, 3, height],
    [279, 4, 3 * width * height],
  ];
  const tiff = Buffer.alloc(start + 3 * width * height);
  tiff.write("II*\0\x08\0\0\0", "latin1");
  tiff.writeUInt16LE(tags.length, 8);
  tags.forEach(([tag, kind, value], i) => {
    tiff.writeUInt16LE(tag, 10 + 12 * i);
    tiff.writeUInt16LE(kind, 12 + 12 * i);
    tiff.writeUInt32LE(1, 14 + 12 * i);
    tiff.writeUInt32LE(value, 18 + 12 * i);
  });
  for (let i = 0; i < width * height; i += 1) tiff[start + 3 * i + (i % width < width / 2 ? 0 : 2)] = 255;
  await choose(page, { name: "halves.tif", mimeType: "image/tiff", buffer: tiff });
  assert.match(await page.locator("#picture-facts").textContent(), /this browser cannot show it/);
  console.log(`    ${await ask(page, "What color is the left?")}`);
  await until("where it looks is not shown", () => side(page, 0).canvas.isVisible());
});

test("what is no picture is told, and names are text alone", async () => {
  const wrong = page.locator("#picture-wrong");
  await page.setInputFiles("#file", { name: "notes.txt", mimeType: "text/plain", buffer: Buffer.from("notes") });
  assert.equal(await wrong.textContent(), "notes.txt is no picture.");
  await choose(page, { name: "<img src=x onerror=strange()>.png", mimeType: "image/png", buffer: Buffer.from("no picture") });
  assert.equal(await page.locator("img").count(), 1);
  const answer = await ask(page, "<b>What</b> is it?");
  assert.equal(answer, "");
  assert.equal(await status(page), "That did not work.");
  assert.match(await side(page, 0).wrong.textContent(), /\(request .+\)$/);
  assert.equal(await page.locator("#results b").count(), 0);
  console.log(`    ${await side(page, 0).wrong.textContent()}`);
  await expectErrors(/status of 4\d\d/);
  await shot(page, "wrong");
});

test("text is dragged into fields as text, and Enter twice asks once", async () => {
  await choose(page, sample("10"));
  const { text } = side(page, 0);
  await text.fill("");
  const session = await page.context().newCDPSession(page);
  const box = await text.boundingBox();
  for (const type of ["dragEnter", "dragOver", "drop"]) {
    const data = { items: [{ mimeType: "text/plain", data: "How many things?" }], dragOperationsMask: 1 };
    await session.send("Input.dispatchDragEvent", { type, x: box.x + 20, y: box.y + 20, data });
  }
  await until("no text came", async () => (await text.inputValue()) === "How many things?");
  let asked = 0;
  const count = (request) => { asked += /chat/.test(request.url()) ? 1 : 0; };
  page.on("request", count);
  await text.press("Enter");
  await text.press("Enter");
  await done(page);
  page.off("request", count);
  assert.equal(asked, 1);
  assert.ok(await text.evaluate((field) => field === document.activeElement));
});

test("the answers are the reference's, and Shift+Enter asks nothing", async () => {
  await choose(page, sample("00"));
  await choose(page, sample("10"));
  const { text, result, figures } = side(page, 0);
  await text.fill("");
  await text.press("Shift+Enter");
  assert.equal(await text.inputValue(), "\n");
  assert.equal(await result.isVisible(), false);
  const prompt = questions.find((row) => row.image.endsWith("10.png")).prompt;
  assert.equal(await ask(page, prompt), expected("10", prompt));
  const line = await figures.textContent();
  assert.match(line, / on .+ · \d+ tokens? · [\d.]+ tokens\/s · first token after [\d.]+ m?s · [\d.]+ m?s in all$/);
  console.log(`    ${line}`);
  await until("where it looks is not shown", () => side(page, 0).canvas.isVisible());
  await shot(page, "answer");
});

test("a long answer comes in pieces", async () => {
  const prompt = "Describe everything you see in the image.";
  await choose(page, sample("07"));
  await page.evaluate(() => {
    window.lengths = new Set();
    const answer = document.querySelector(".answer");
    const note = () => window.lengths.add(answer.textContent.length);
    new MutationObserver(note).observe(answer, { childList: true, characterData: true, subtree: true });
  });
  assert.equal(await ask(page, prompt), expected("07", prompt));
  const lengths = await page.evaluate(() => [...window.lengths]);
  assert.ok(lengths.length > 5, `${lengths.length} pieces`);
});

test("Escape stops an answer in the middle", async () => {
  const metrics = async () => {
    const reply = await fetch(`${server}/metrics`);
    const lines = reply.ok ? (await reply.text()).split("\n").filter((line) => /^[^#]/.test(line)) : [];
    return new Map(lines.map((line) => [line.slice(0, line.lastIndexOf(" ")), line.slice(line.lastIndexOf(" ") + 1)]));
  };
  const before = await metrics();
  await page.locator("#settings-fold summary").click();
  // This says the same word again and again.
  await page.fill("[name=repetition_penalty]", "0.1");
  await page.fill("[name=max_tokens]", "450");
  const { text, answer, figures } = side(page, 0);
  await text.fill("Describe everything you see in the image.");
  await text.press("Enter");
  await page.waitForFunction(() => document.querySelector(".answer[aria-busy=true]")?.textContent.length > 0);
  await page.keyboard.press("Escape");
  await until("it did not stop", async () => (await status(page)) === "Stopped.", 3);
  const stopped = await answer.textContent();
  assert.equal(await answer.getAttribute("aria-busy"), "false");
  assert.match(await figures.textContent(), /^stopped after/);
  await pause(1500);
  assert.equal(await answer.textContent(), stopped);
  const after = await metrics();
  const changed = [...after].filter(([name, value]) => before.get(name) !== value && !name.includes("bucket"));
  changed.forEach(([name, value]) => console.log(`    ${name} ${before.get(name) ?? "-"} -> ${value}`));
  const cancelled = "instructblip_answers_cancelled_total";
  if (after.has(cancelled)) {
    assert.equal(Number(after.get(cancelled)), Number(before.get(cancelled)) + 1);
    assert.deepEqual(["queue", "slots_taken"].map((name) => after.get(`instructblip_${name}`)), ["0", "0"]);
  }
  await page.locator("#empty").click();
  await page.locator("#settings-fold summary").click();
});

test("two instructions are answered side by side, each with its own look", async () => {
  await choose(page, sample("10"));
  await page.check("#compare");
  const [first, second] = [side(page, 0), side(page, 1)];
  await first.text.fill("Where is the blue cross?");
  await ask(page, "Where is the green triangle?", 1);
  await until("two looks are not shown", async () => (await first.canvas.isVisible()) && (await second.canvas.isVisible()));
  console.log(`    ${await first.answer.textContent()} | ${await second.answer.textContent()}`);
  assert.notEqual(await first.answer.textContent(), await second.answer.textContent());
  const [a, b] = [await pixels(first.canvas), await pixels(second.canvas)];
  assert.ok(difference(a, b) > 1, `the looks differ by ${difference(a, b)}`);
  await shot(page, "compare");
  // Another layer is another look; no fading is the picture itself.
  const layers = await page.locator("#layer option").allTextContents();
  await page.selectOption("#layer", { label: layers[1] });
  await until("the layer changed nothing", async () => difference(await pixels(first.canvas), a) > 0.5);
  await page.selectOption("#head", "1");
  await page.selectOption("#query", "3");
  await until("the caption is not that of the query", async () => /head 1, query 3/.test(await first.result.locator("figcaption").textContent()));
  await page.locator("#opacity").fill("0");
  assert.equal(difference(await pixels(first.canvas), await pixels(first.canvas, true)), 0);
  await page.locator("#opacity").fill("0.7");
  for (const id of ["layer", "head", "query"]) await page.selectOption(`#${id}`, id === "layer" ? { index: layers.length - 1 } : "");
  await until("the first look does not come back", async () => difference(await pixels(first.canvas), a) === 0);
});

test("candidates are ranked, the likeliest first", async () => {
  const prompt = "Can you count the things?";
  await side(page, 0).text.fill(prompt);
  await page.locator("#rank-fold summary").click();
  await page.locator("#candidates").fill("1\n4\n2\n3\n");
  await page.locator("#candidates").press("Control+Enter");
  await until("nothing was ranked", async () => (await side(page, 0).result.locator(".bars li").count()) === 4);
  await done(page);
  const bars = await side(page, 0).result.locator(".bars li").evaluateAll((rows) => rows.map((row) => ({
    text: row.firstElementChild.textContent,
    percent: parseFloat(row.children[1].textContent),
    width: row.querySelector(".bar span").getBoundingClientRect().width / row.querySelector(".bar").getBoundingClientRect().width,
  })));
  console.log(`    ${bars.map(({ text, percent }) => `${text}: ${percent} %`).join(", ")}`);
  assert.equal(bars[0].text, expected("10", prompt));
  for (const [i, { percent, width }] of bars.entries()) {
    assert.ok(Math.abs(percent / 100 - width) < 0.01, `a bar of ${width} for ${percent} %`);
    assert.ok(i === 0 || percent <= bars[i - 1].percent);
  }
  await shot(page, "rank");
  await page.locator("#rank-fold summary").click();
});

test("the commands send what the page sends, and get its answer", async () => {
  await page.uncheck("#compare");
  const strange = "It's \"$HOME\" `id` \\n \\\\ 'x' é 花 — $(id)\nEND\nWhat colour is the cross?";
  const sent = page.waitForRequest(/chat\/completions/);
  const { text, result, answer } = side(page, 0);
  await text.fill(strange);
  await text.press("Enter");
  const body = (await sent).postDataJSON();
  await done(page);
  assert.equal(body.messages[0].content[1].text, strange);
  await result.locator("details.plain summary").click();
  const command = await result.locator("[data-path='/v1/chat/completions'] pre").textContent();
  const bash = (script) => execFileSync("bash", ["-c", script], { cwd: samples, encoding: "utf8" });
  assert.deepEqual(JSON.parse(bash(`curl() { cat; }\n${command}`)), body);
  const events = bash(command.replace("curl ", "curl --silent ")).split("\n").filter((line) => line.startsWith("data: {"));
  const words = events.map((line) => JSON.parse(line.slice(6)).choices?.[0]?.delta?.content ?? "").join("");
  assert.equal(words, await answer.textContent());
  await result.locator("[data-path='/v1/chat/completions'] button").click();
  assert.equal(await page.evaluate(() => navigator.clipboard.readText()), command);
  await shot(page, "command");
  await result.locator("details.plain summary").click();
});

test("a task words the instruction", async () => {
  await side(page, 0).task.selectOption("caption");
  assert.equal(await side(page, 0).text.isVisible(), false);
  const sent = page.waitForRequest(/chat\/completions/);
  await page.locator("#ask").click();
  const { task, messages } = (await sent).postDataJSON();
  assert.deepEqual([task, messages[0].content[1].text], ["caption", ""]);
  await done(page);
  console.log(`    ${await side(page, 0).answer.textContent()}`);
  await side(page, 0).task.selectOption("vqa-short");
  await side(page, 0).text.fill("What color is the cross?");
  const isLook = (reply) => /attention/.test(reply.url()) && reply.request().postDataJSON().task === "vqa-short";
  const looked = page.waitForResponse(isLook);
  await page.locator("#ask").click();
  await done(page);
  assert.equal(await side(page, 0).answer.textContent(), "blue");
  assert.equal((await looked).status(), 200);
  await side(page, 0).task.selectOption("");
});

test("the history has all that was asked about this picture, and gives it back", async () => {
  const asked = () => page.locator("#history li").allTextContents();
  const here = await asked();
  assert.ok(here.some((row) => row.includes("Where is the blue cross?")) && !here.some((row) => row.includes("Describe everything")));
  await page.getByRole("button", { name: "Use again: Where is the blue cross?" }).click();
  assert.equal(await side(page, 0).text.inputValue(), "Where is the blue cross?");
  await choose(page, sample("07"));
  await until("the history is that of another picture", async () => (await asked()).some((row) => row.includes("stopped after")));
  await choose(page, sample("10"));
  await until("the history is lost", async () => (await asked()).length === here.length);
});

test("settings are sent, are kept, and are checked first", async () => {
  await page.locator("#settings-fold summary").click();
  await page.fill("[name=max_tokens]", "2");
  await page.fill("[name=num_beams]", "3");
  await page.fill("[name=stop]", "zebra\nlion");
  await page.fill("#key", "not-needed");
  await page.locator("#key").blur();
  await ready(page);
  const sent = page.waitForRequest(/chat\/completions/);
  await ask(page, "Describe everything you see in the image.");
  const { max_tokens, num_beams, stop } = (await sent).postDataJSON();
  assert.deepEqual([max_tokens, num_beams, stop], [2, 3, ["zebra", "lion"]]);
  assert.match(await side(page, 0).figures.textContent(), /2 tokens.*cut at max tokens/);
  await page.fill("[name=temperature]", "3");
  await page.locator("#ask").click();
  assert.equal(await status(page), "A setting is out of its range.");
  await page.fill("[name=temperature]", "");
  await page.locator("[name=temperature]").blur();
  await shot(page, "settings");
  const kept = await page.evaluate(() => [JSON.stringify(localStorage), JSON.stringify(sessionStorage)]);
  assert.ok(!kept[0].includes("not-needed") && kept[1].includes("not-needed") && !kept[0].includes("base64"));
  await page.reload();
  await ready(page);
  assert.equal(await page.inputValue("[name=max_tokens]"), "2");
  assert.equal(await page.inputValue("[name=stop]"), "zebra\nlion");
  assert.equal(await page.inputValue("#key"), "not-needed");
  await page.locator("#settings-fold summary").click();
  await page.locator("#empty").click();
  assert.equal(await page.inputValue("[name=max_tokens]"), "");
  await page.locator("#settings-fold summary").click();
});

test("everything can be done by keys alone, and shows the focus", async () => {
  await page.keyboard.press("/");
  await page.keyboard.press("Shift+Tab");
  await page.keyboard.press("Shift+Tab");
  const chooser = page.waitForEvent("filechooser");
  await page.locator("#file").focus();
  await page.keyboard.press("Space");
  await (await chooser).setFiles(sample("10"));
  await until("the picture is not shown", async () => (await page.locator("#picture-facts").textContent()).startsWith("10.png"));
  await page.keyboard.press("/");
  await page.keyboard.type("Can you count the things?");
  await page.keyboard.press("Enter");
  await until("nothing was asked", async () => (await status(page)) !== "");
  await done(page);
  assert.equal(await side(page, 0).answer.textContent(), expected("10", "Can you count the things?"));
  await until("where it looks is not shown", () => side(page, 0).canvas.isVisible());
  const names = await walk(page);
  for (const name of ["theme", "file", "task", "text", "ask", "compare", "look", "layer", "head", "query", "opacity"]) {
    assert.ok(names.includes(name), `Tab does not lead to ${name}: ${names.join(", ")}`);
  }
});

test("names and contrast, light and dark, by the system and by the switch", async () => {
  await page.check("#compare");
  await page.locator("#settings-fold summary").click();
  await page.locator("#rank-fold summary").click();
  await page.locator("details.plain summary").first().click();
  const background = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  const seen = [];
  for (const scheme of ["light", "dark"]) {
    await page.emulateMedia({ colorScheme: scheme });
    assert.deepEqual(await lowContrast(page), []);
    assert.deepEqual(await unnamed(page), []);
    seen.push(await background());
  }
  assert.notEqual(seen[0], seen[1]);
  await shot(page, "dark");
  await page.selectOption("#theme", "light");
  assert.equal(await background(), seen[0]);
  await page.emulateMedia({ colorScheme: "light" });
  await page.selectOption("#theme", "dark");
  assert.equal(await background(), seen[1]);
  await page.reload();
  await ready(page);
  assert.equal(await background(), seen[1]);
  await page.selectOption("#theme", "");
});

test("at 360 pixels and at 200 % nothing is cut", async () => {
  const narrow = ["narrow", { width: 360, height: 740 }, 1];
  const zoomed = ["zoomed", { width: 640, height: 430 }, 2];
  for (const [title, viewport, scale] of [narrow, zoomed]) {
    const small = await open(server, { viewport, deviceScaleFactor: scale });
    await ready(small);
    await noSidewaysScrolling(small);
    const name = `${"a-long-name-without-end".repeat(6)}.png`;
    await choose(small, { name, mimeType: "image/png", buffer: fs.readFileSync(sample("10")) });
    await small.check("#compare");
    await side(small, 0).text.fill("Can you count the things?");
    await ask(small, "a".repeat(80), 1);
    for (const fold of ["#settings-fold > summary", "#rank-fold > summary", "details.plain summary"]) {
      await small.locator(fold).first().click();
    }
    await until("where it looks is not shown", () => side(small, 1).canvas.isVisible());
    await noSidewaysScrolling(small);
    const cut = await small.evaluate(() => {
      const shown = [...document.querySelectorAll("button, input, select, textarea, canvas, summary")]
        .filter((element) => element.checkVisibility() && !element.matches(".out-of-sight"));
      const isCut = ({ left, right }) => left < 0 || right > innerWidth;
      return shown.filter((element) => isCut(element.getBoundingClientRect())).map((element) => element.id || element.className);
    });
    assert.deepEqual(cut, []);
    await shot(small, title);
    await small.context().close();
  }
});

test("a server that loads, is gone, or wants less is told in words", async () => {
  const other = await open("about:blank");
  let health = { status: 503, json: { status: "loading", done: 0.4 } };
  await other.route("**/health", (route) => route.fulfill(health));
  await other.goto(server);
  const notice = other.locator("#notice");
  await until("loading is not told", async () => /The model is being loaded/.test(await notice.textContent()));
  assert.equal(await other.locator("#notice-bar").evaluate((bar) => bar.value), 0.4);
  assert.ok(await other.locator("#ask").isDisabled());
  await shot(other, "loading");
  health = { status: 503, json: { status: "draining" } };
  await until("draining is not told", async () => /is shutting down/.test(await notice.textContent()));
  await other.route("**/props", async (route) => {
    const reply = await route.fetch();
    await route.fulfill({ json: { ...(await reply.json()), body_limit_bytes: 12_000 } });
  });
  health = { status: 200, json: { status: "ok" } };
  await ready(other);
  await expectErrors(/status of 503/);
  assert.equal(await notice.isVisible(), false);
  const large = Buffer.concat([fs.readFileSync(sample("10")), Buffer.alloc(9000)]);
  await choose(other, { name: "large.png", mimeType: "image/png", buffer: large });
  assert.match(await other.locator("#picture-wrong").textContent(), /large\.png takes .* this server takes 12 kB/);
  await side(other, 0).text.fill("What is it?");
  await side(other, 0).text.press("Enter");
  assert.equal(await status(other), "The picture is too large for this server.");
  await shot(other, "too-large");
  await choose(other, sample("00"));
  // A server that was ready, and is not when it is asked what it is.
  const notYet = { status: 503, json: { error: { message: "the model is being loaded" } } };
  await other.route("**/props", (route) => route.fulfill(notYet), { times: 1 });
  await other.reload();
  await ready(other);
  await expectErrors(/status of 503/);
  await choose(other, sample("00"));
  await side(other, 0).text.fill("What is it?");
  // A connection that ends in the middle, then none at all.
  const half = 'data: {"choices":[{"index":0,"delta":{"content":"half an"}}]}\n\n';
  await other.route("**/v1/chat/completions", (route) => route.fulfill({ contentType: "text/event-stream", body: half }));
  await ask(other, "What is it?");
  assert.match(await side(other, 0).wrong.textContent(), /ended in the middle/);
  await other.unroute("**/v1/chat/completions");
  health = { status: 200, json: { status: "ok" } };
  await other.route("**/v1/chat/completions", (route) => route.abort());
  await ask(other, "What is it?");
  assert.match(await side(other, 0).wrong.textContent(), /The server does not answer/);
  await expectErrors(/ERR_FAILED/);
  await other.unrouteAll({ behavior: "ignoreErrors" });
  await other.context().close();
});

test("a server with a key asks for it, and the page keeps it for the tab", async () => {
  const guarded = await serve("--api-key", "a-secret");
  const other = await open(guarded);
  await until("the key is not asked for", async () => /API key/.test(await other.locator("#notice").textContent()));
  assert.ok(await other.locator("#key").evaluate((field) => field === document.activeElement));
  await shot(other, "key");
  await other.keyboard.type("a-secret");
  await other.keyboard.press("Enter");
  await ready(other);
  await expectErrors(/status of 401/);
  await choose(other, sample("10"));
  assert.equal(await ask(other, "Can you count the things?"), expected("10", "Can you count the things?"));
  const { result } = side(other, 0);
  await result.locator("details.plain summary").click();
  const command = await result.locator("pre").first().textContent();
  assert.ok(command.includes("Bearer $API_KEY") && !command.includes("a-secret"));
  await other.context().close();
});

// ---- One after another -----------------------------------------------------------------------------------------------

let name = "start";
try {
  server = await serve();
  browser = await chromium.launch({
    executablePath: process.env.CHROMIUM,
    args: [
      "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
      "--disable-component-update", "--disable-sync",
    ],
  });
  for (const [title, run] of tests) {
    name = title;
    await run();
    assert.deepEqual(told, [], "the browser told errors");
    console.log(`ok  ${name}`);
  }
  console.log(`all ${tests.length}; ${shots} pictures of the page in ${folder}`);
} catch (error) {
  console.error(`FAILED  ${name}: ${error.stack}\n${told.join("\n")}`);
  for (const open of browser?.contexts().flatMap((context) => context.pages()) ?? []) await shot(open, "failed").catch(() => {});
  process.exitCode = 1;
} finally {
  await browser?.close();
  servers.forEach((each) => each.kill());
}
