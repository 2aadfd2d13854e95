// Bundles the viewer into one script, and collects the licences of what is in it.
import { build } from "esbuild";
import { readFile, readdir, writeFile } from "node:fs/promises";
import path from "node:path";
import { fileURLToPath } from "node:url";

const here = path.dirname(fileURLToPath(import.meta.url));
const target = path.join(here, "..", "gadgets", "mri2qmap", "report");

const result = await build({
  absWorkingDir: here,
  entryPoints: ["src/viewer.js"],
  bundle: true,
  minify: true,
  format: "iife",
  target: "es2022",
  charset: "ascii",
  legalComments: "none",
  metafile: true,
  write: false,
  logLevel: "warning",
});

const packages = new Set();
for (const input of Object.keys(result.metafile.inputs)) {
  const found = input.match(/^(.*node_modules\/((?:@[^/]+\/)?[^/]+))\//);
  if (found) packages.add(found[1]);
}

const licences = [];
for (const folder of [...packages].sort()) {
  const about = JSON.parse(await readFile(path.join(here, folder, "package.json"), "utf8"));
  const file = (await readdir(path.join(here, folder))).find((name) => /^licen[cs]e/i.test(name));
  const own = path.join(here, "licences", `${about.name.replace("/", "+")}.txt`);
  const text = await readFile(file ? path.join(here, folder, file) : own, "utf8");
  licences.push(`${about.name} ${about.version} (${about.license})\n\n${text.trim()}\n`);
}

// "</script" within a string would end the element of the page that holds the script.
const script = result.outputFiles[0].text.replaceAll("</script", "<\\/script").replaceAll("<!--", "<\\!--");
await writeFile(path.join(target, "viewer.js"), script);
await writeFile(path.join(target, "viewer.licences.txt"), licences.join(`\n${"-".repeat(72)}\n\n`));
