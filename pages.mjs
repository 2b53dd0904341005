// Bundles the project's pages, each from its folder `page` into `static` beside it: `node pages.mjs [NAME]...`, all by default.
// Installs the locked packages of a page first where that was not done. One that fails leaves its last bundle as it was.
import { execFileSync } from "node:child_process";
import { copyFileSync, mkdirSync, readFileSync, renameSync, rmSync, statSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { createRequire } from "node:module";
import { fileURLToPath, pathToFileURL } from "node:url";

const ROOT = dirname(fileURLToPath(import.meta.url));

// entries: what esbuild bundles; copies: further files, from the page's folder; library: whose version is told and whose license goes along.
const PAGES = {
  viewer: {
    folder: "fusi_pipeline/viewer/page",
    entries: ["src/viewer.js", "src/viewer.css"],
    copies: ["index.html", "node_modules/maplibre-gl/dist/maplibre-gl-worker.mjs"],
    library: { name: "maplibre-gl", title: "MapLibre GL", license: "LICENSE.txt" },
    without: "fusi serve works without its map",
  },
  "layer-page": {
    folder: "layer_generation/page",
    entries: [],
    copies: ["node_modules/leaflet/dist/leaflet.js", "node_modules/leaflet/dist/leaflet.css"],
    library: { name: "leaflet", title: "Leaflet", license: "LICENSE" },
    without: "fusi layer debug-map draws its map without Leaflet",
  },
  "renderer-page": {
    folder: "layer_generation/renderer/page",
    entries: ["src/renderer.js"],
    copies: ["index.html"],
    library: { name: "three", title: "three.js", license: "LICENSE" },
    without: "isometric maps cannot be drawn",
  },
  "app-page": {
    folder: "layer_generation/web/page",
    entries: ["src/app.js", "src/app.css"],
    copies: ["index.html", "icon.svg"],
    library: { name: "leaflet", title: "Leaflet", license: "LICENSE" },
    without: "fusi app answers programs but shows no page",
  },
};

const changed = (path) => statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? 0;

function install(page) {
  if (changed(join(page, "node_modules", ".package-lock.json")) >= changed(join(page, "package-lock.json"))) return;
  const options = ["--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"];
  execFileSync("npm", ["ci", ...options], { cwd: page, stdio: ["ignore", "ignore", "inherit"] });
}

async function bundle(page, entries, outdir) {
  if (!entries.length) return;
  const { build } = await import(pathToFileURL(createRequire(join(page, "package.json")).resolve("esbuild")));
  await build({
    absWorkingDir: page,
    entryPoints: entries,
    outdir,
    bundle: true,
    minify: true,
    format: "esm",
    target: "es2022",
    loader: { ".png": "dataurl" },
    legalComments: "none",
    logLevel: "warning",
  });
}

async function make({ folder, entries, copies, library }) {
  const page = join(ROOT, folder);
  const [made, scratch] = [join(page, "..", "static"), join(page, "..", "static.part")];
  install(page);
  rmSync(scratch, { recursive: true, force: true });
  mkdirSync(scratch);
  await bundle(page, entries, scratch);
  for (const path of copies) copyFileSync(join(page, path), join(scratch, basename(path)));
  const home = join(page, "node_modules", library.name);
  copyFileSync(join(home, library.license), join(scratch, `${library.name}-LICENSE.txt`));
  rmSync(made, { recursive: true, force: true });
  renameSync(scratch, made);
  return JSON.parse(readFileSync(join(home, "package.json"), "utf8")).version;
}

const names = process.argv.length > 2 ? process.argv.slice(2) : Object.keys(PAGES);
for (const name of names) {
  if (!(name in PAGES)) {
    console.error(`${name}: there is no such page; there are ${Object.keys(PAGES).join(", ")}`);
    process.exitCode = 2;
    continue;
  }
  const page = PAGES[name];
  try {
    console.log(`${name}: has ${page.library.title} ${await make(page)}`);
  } catch (error) {
    console.error(`${name}: not built (${error.message}); until it is, ${page.without}`);
    process.exitCode ||= 1;
  }
}
