// Bundles the page into ../static: `node build.mjs`. Installs the locked packages first where that was not done.
import { execFileSync } from "node:child_process";
import { copyFileSync, mkdirSync, readFileSync, renameSync, rmSync, statSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const page = dirname(fileURLToPath(import.meta.url));
const bundle = join(page, "..", "static");
const scratch = `${bundle}.part`;
const packages = join(page, "node_modules");

const changed = (path) => statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? 0;

if (changed(join(packages, ".package-lock.json")) < changed(join(page, "package-lock.json"))) {
  const options = ["--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"];
  try {
    execFileSync("npm", ["ci", ...options], { cwd: page, stdio: ["ignore", "ignore", "inherit"] });
  } catch (error) {
    console.error(`app: npm did not install the packages of package-lock.json: ${error.message}`);
    process.exit(1);
  }
}

const esbuild = await import("esbuild");
rmSync(scratch, { recursive: true, force: true });
mkdirSync(scratch);
await esbuild.build({
  entryPoints: [join(page, "src", "app.js"), join(page, "src", "app.css")],
  outdir: scratch,
  bundle: true,
  minify: true,
  format: "esm",
  target: "es2022",
  legalComments: "none",
  loader: { ".png": "dataurl" },
  logLevel: "warning",
});
const leaflet = join(packages, "leaflet");
copyFileSync(join(leaflet, "LICENSE"), join(scratch, "leaflet-LICENSE.txt"));
copyFileSync(join(page, "index.html"), join(scratch, "index.html"));
copyFileSync(join(page, "icon.svg"), join(scratch, "icon.svg"));
rmSync(bundle, { recursive: true, force: true });
renameSync(scratch, bundle);

const { version } = JSON.parse(readFileSync(join(leaflet, "package.json"), "utf8"));
console.log(`app: built with Leaflet ${version}`);
